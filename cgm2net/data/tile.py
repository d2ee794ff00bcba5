"""Stage ``tile``: co-registered scenes split by region, then cut into square tiles in one sharded array store."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cgm2net import pictures, raster, sensors
from cgm2net.catalog import accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.cloudmask import COVER_THRESHOLD
from cgm2net.data.dataset import ARRAYS, BOUNDS, CLOUD_LEVELS, META_FILE, STORE, TABLE, TileDataset
from cgm2net.errors import DataError, SceneError
from cgm2net.files import sha256_file, sha256_json, write_json
from cgm2net.grids import bounds_degrees
from cgm2net.raster import Raster
from cgm2net.settings import TileSettings

SPLITS = ("train", "val", "test")
TILES_A_SHARD = 64
NUM_PICTURES = 6


@dataclass(frozen=True, kw_only=True)
class TileReport:
    """Counts of one run."""

    scenes: int
    "Scenes that gave tiles."
    scenes_refused: int
    "Scenes without reference or label, too small, or without a tile; rows of ``scenes.csv`` with the reason."
    train: int
    val: int
    test: int
    refused: int
    "Tiles with too little measured in them."
    from_cache: int


def tile(scenes: Path, out_dir: Path, *, settings: TileSettings, seed: int) -> TileReport:
    """Cut scenes into square tiles, split by region.

    Args:
        scenes: ``scenes.csv`` of the stage ``cloudmask``.
        out_dir: new folder; gets ``tiles.zarr``, ``samples.png``, ``scenes.csv``, ``meta.json`` and ``tiles.parquet``.
        settings: tile size and stride [px], shares of the splits, class names.
        seed: decides which regions go to which split.

    Raises:
        DataError: if no scene gives a tile, or a split would get none; names the split and the regions found.
    """
    table = read_scenes(scenes)
    cut_dir = out_dir / "cut"
    rows = [dict(row) for row in accepted_scenes(table).to_dict("records")]
    unlearnable = [facts for row in rows if (facts := _lacks(row))]
    jobs = [_job(row, settings) for row in rows if not _lacks(row)]
    results, hits = map_scenes(cut_scene, jobs, stage="tile", out_dir=cut_dir, num_workers=settings.num_workers)
    judged = merge_results(table, [*unlearnable, *results])
    going_on = accepted_scenes(judged)
    split_of = split_regions(sorted(set(going_on["region"])), settings=settings, seed=seed)
    parts = [_scene_tiles(cut_dir / row["scene_id"], row, split_of) for row in going_on.to_dict("records")]
    tiles = pd.concat(parts, ignore_index=True)
    _require_every_split(tiles, split_of)
    _write_store(out_dir / STORE, [cut_dir / scene_id for scene_id in going_on["scene_id"]], going_on)
    shutil.rmtree(cut_dir)
    write_scenes(judged, out_dir / "scenes.csv")
    tiles.to_parquet(out_dir / TABLE, index=False)
    _write_meta(out_dir, settings, going_on)
    _draw_samples(TileDataset(out_dir, split="train"), out_dir / "samples.png")
    counts = tiles["split"].value_counts()
    return TileReport(
        scenes=len(going_on), scenes_refused=len(rows) - len(going_on),
        train=int(counts["train"]), val=int(counts["val"]), test=int(counts["test"]),
        refused=int(judged["tiles_refused"].sum()), from_cache=hits,
    )  # fmt: skip


def split_regions(regions: Sequence[str], *, settings: TileSettings, seed: int) -> dict[str, str]:
    """Say which split each region belongs to.

    Regions are ranked by a hash of seed and name, so that one more region moves at most the ones at the borders and
    the order of the catalogue has no say.

    Raises:
        DataError: if there are fewer regions than splits.
    """
    if len(regions) < len(SPLITS):
        raise DataError(
            f"{len(regions)} regions ({', '.join(regions)}) cannot fill {', '.join(SPLITS)}: no region may stand on"
            " both sides of a split; add scenes of other regions"
        )
    ranked = sorted(regions, key=lambda region: hashlib.sha256(f"{seed}/{region}".encode()).hexdigest())
    num_test = max(1, round(settings.test_share * len(regions)))
    num_val = min(max(1, round(settings.val_share * len(regions))), len(regions) - 2)
    num_test = min(num_test, len(regions) - num_val - 1)
    names = ["test"] * num_test + ["val"] * num_val + ["train"] * (len(regions) - num_test - num_val)
    return dict(zip(ranked, names, strict=True))


def _lacks(row: dict[Any, Any]) -> Facts | None:
    if row["reference"]:
        return None
    return {"scene_id": row["scene_id"], "accepted": False, "reason": "no reference: no clear image to learn from"}


def _job(row: dict[Any, Any], settings: TileSettings) -> SceneJob:
    roles = ("optical", "sar", "reference", "label", "cloud")
    files = {role: Path(row[role]) for role in roles if row[role]}
    parameters: dict[str, object] = {
        "size_px": settings.size_px, "stride_px": settings.stride_px, "num_classes": len(settings.classes),
        "max_nodata_share": settings.max_nodata_share,
    }  # fmt: skip
    return SceneJob(scene_id=row["scene_id"], parameters=parameters, inputs=files)


def cut_scene(job: SceneJob, folder: Path) -> Facts:
    """Cut one scene; writes one ``.npy`` an array and ``tiles.csv``.

    The last tile of a row or column lies flush with the scene's edge, over the one before it where it must. A scene
    without a label has unknown classes everywhere.

    Raises:
        SceneError: if the scene is smaller than a tile.
    """
    layers = {role: raster.read(path) for role, path in job.inputs.items()}
    for role, layer in layers.items():
        raster.require_same_grid(layers["optical"], layer, what=f"scene {job.scene_id}, optical and {role}")
    size_px, stride_px = int(str(job.parameters["size_px"])), int(str(job.parameters["stride_px"]))
    height, width = layers["optical"].grid.shape
    if height < size_px or width < size_px:
        raise SceneError(
            job.scene_id, f"{width}x{height} px is smaller than a tile of {size_px} px; lower tile.size_px"
        )
    arrays = _stored(layers, num_classes=int(str(job.parameters["num_classes"])))
    rows, kept = [], {name: [] for name in arrays}  # type: ignore[var-annotated]
    refused = 0
    for top in starts(height, size_px=size_px, stride_px=stride_px):
        for left in starts(width, size_px=size_px, stride_px=stride_px):
            part = {name: array[..., top : top + size_px, left : left + size_px] for name, array in arrays.items()}
            nodata_share = 1.0 - float(part["valid"].mean())
            if nodata_share > float(str(job.parameters["max_nodata_share"])):
                refused += 1
                continue
            bounds = bounds_degrees(layers["optical"].grid[top : top + size_px, left : left + size_px])
            rows.append(
                {
                    "row_px": top, "column_px": left, **dict(zip(BOUNDS, bounds, strict=True)),
                    "nodata_share": nodata_share, **_counts(part, job),
                }
            )  # fmt: skip
            for name, array in part.items():
                kept[name].append(array)
    if not rows:
        reason = f"all {refused} tiles have too much nodata; see tile.max_nodata_share"
        return {"accepted": False, "reason": reason, "tiles_kept": 0, "tiles_refused": refused}
    for name, tiles in kept.items():
        np.save(folder / f"{name}.npy", np.stack(tiles))
    pd.DataFrame(rows).to_csv(folder / "tiles.csv", index=False)
    return {"tiles_kept": len(rows), "tiles_refused": refused}


def starts(length_px: int, *, size_px: int, stride_px: int) -> list[int]:
    """Return where tiles begin along an axis: every stride, and one flush with the end."""
    return sorted({*range(0, length_px - size_px + 1, stride_px), length_px - size_px})


def _stored(layers: dict[str, Raster], *, num_classes: int) -> dict[str, np.ndarray]:
    """Arrays of a whole scene in the types that the store has."""
    shape = tuple(layers["optical"].grid.shape)
    label, known = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    if "label" in layers:
        label = layers["label"].pixels_CHW[0]
        known = layers["label"].valid_HW & (label < num_classes)
    valid = layers["optical"].valid_HW & layers["sar"].valid_HW & layers["reference"].valid_HW
    return {
        "optical": _as_dn(layers["optical"]),
        "sar": np.where(layers["sar"].valid_HW, layers["sar"].pixels_CHW, np.nan).astype(np.float32),
        "reference": _as_dn(layers["reference"]),
        "cloud": np.rint(layers["cloud"].pixels_CHW[0] * CLOUD_LEVELS).astype(np.uint8),
        "label": np.where(known, label, sensors.LABEL_IGNORE).astype(np.uint8),
        "valid": valid,
    }


def _as_dn(image: Raster) -> np.ndarray:
    """Return DN as uint16, 0 where nothing was measured only: what lies below 1 (dark, offset removed) becomes 1."""
    dn_CHW = np.clip(np.rint(np.where(image.valid_HW, image.pixels_CHW, 1)), 1, np.iinfo(np.uint16).max)
    return np.asarray(np.where(image.valid_HW, dn_CHW, sensors.OPTICAL_NODATA), np.uint16)


def _counts(part: dict[str, np.ndarray], job: SceneJob) -> dict[str, float | int]:
    cloudy = part["cloud"] > COVER_THRESHOLD * CLOUD_LEVELS
    counts = np.bincount(part["label"].ravel(), minlength=256)
    num_classes = int(str(job.parameters["num_classes"]))
    return {"cloud_cover": float(cloudy.mean()), **{f"count_{code}": int(counts[code]) for code in range(num_classes)}}


def _scene_tiles(folder: Path, row: dict[Any, Any], split_of: dict[str, str]) -> pd.DataFrame:
    table = pd.read_csv(folder / "tiles.csv")
    names = [f"{row['scene_id']}_{top}_{left}" for top, left in zip(table["row_px"], table["column_px"], strict=True)]
    table.insert(0, "tile_id", names)
    table.insert(1, "scene_id", row["scene_id"])
    table.insert(2, "region", row["region"])
    table.insert(3, "split", split_of[row["region"]])
    return table


def _require_every_split(tiles: pd.DataFrame, split_of: dict[str, str]) -> None:
    for split in SPLITS:
        if not (tiles["split"] == split).any():
            regions = [region for region, name in split_of.items() if name == split]
            raise DataError(f"split {split} gets no tile from its regions {', '.join(regions)}; add scenes there")


def _write_store(path: Path, folders: Sequence[Path], going_on: pd.DataFrame) -> None:
    """Gather the scenes' tiles into one Zarr group, a shard at a time."""
    group = zarr.create_group(path, overwrite=True)
    for name in ARRAYS:
        parts = [np.load(folder / f"{name}.npy", mmap_mode="r") for folder in folders]
        shape = parts[0].shape[1:]
        odd = [i for i, part in enumerate(parts) if part.shape[1:] != shape]
        if odd:
            scene = going_on["scene_id"][odd[0]]
            raise DataError(f"scene {scene}: tiles of {name} have shape {parts[odd[0]].shape[1:]}, others {shape}")
        total = sum(len(part) for part in parts)
        array = group.create_array(
            name, shape=(total, *shape), dtype=parts[0].dtype, chunks=(1, *shape), shards=(TILES_A_SHARD, *shape)
        )
        _fill(array, parts, total)


def _fill(array: Any, parts: Sequence[np.ndarray], total: int) -> None:
    ends = np.cumsum([len(part) for part in parts])
    for start in range(0, total, TILES_A_SHARD):
        stop = min(start + TILES_A_SHARD, total)
        gathered = []
        for part, end in zip(parts, ends, strict=True):
            begin = end - len(part)
            if begin < stop and end > start:
                gathered.append(part[max(start - begin, 0) : stop - begin])
        array[start:stop] = np.concatenate(gathered)


def _write_meta(out_dir: Path, settings: TileSettings, going_on: pd.DataFrame) -> None:
    optical, sar = raster.read_names(Path(going_on["optical"][0])), raster.read_names(Path(going_on["sar"][0]))
    grid = raster.read_grid(Path(going_on["optical"][0]))
    files = sorted(path for path in (out_dir / STORE).rglob("*") if path.is_file())
    digests = {path.relative_to(out_dir).as_posix(): sha256_file(path) for path in [*files, out_dir / TABLE]}
    meta = {
        "optical_bands": list(optical), "sar_bands": list(sar), "classes": list(settings.classes),
        "gsd_m": abs(grid.transform.a), "size_px": settings.size_px, "data_hash": sha256_json(digests),
    }  # fmt: skip
    write_json(out_dir / META_FILE, meta)


def _draw_samples(dataset: TileDataset, path: Path) -> None:
    """Draw tiles from the least to the most clouded."""
    by_cover = dataset.table["cloud_cover"].sort_values(kind="stable").index
    chosen = by_cover[np.linspace(0, len(by_cover) - 1, min(NUM_PICTURES, len(by_cover))).astype(int)]
    pictures.draw_tiles(
        [dataset[int(index)] for index in chosen], path,
        optical_bands=dataset.optical_bands, sar_bands=dataset.sar_bands, classes=dataset.classes,
    )  # fmt: skip
