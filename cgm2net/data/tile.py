"""Stage ``tile``: co-registered scenes split by region, then cut into square tiles in one sharded array store."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cgm2net import pictures, raster
from cgm2net.catalog import accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.cut import RawTiles, cut_scene, label_share
from cgm2net.data.dataset import ARRAYS, META_FILE, STORE, TABLE, TileDataset
from cgm2net.data.split import SPLITS, split_scenes
from cgm2net.errors import DataError
from cgm2net.files import sha256_file, sha256_json, write_json
from cgm2net.settings import TileSettings

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
    learnable = [row for row in rows if not _lacks(row)]
    share = label_share(learnable, settings)
    jobs = [_job(row, settings, share) for row in learnable]
    results, hits = map_scenes(
        cut_scene, jobs, stage="tile", out_dir=cut_dir, num_workers=settings.num_workers, cluster=settings.cluster
    )
    judged = merge_results(table, [*unlearnable, *results])
    going_on = accepted_scenes(judged)
    split_of = split_scenes(going_on, settings=settings, seed=seed)
    parts = [_scene_tiles(cut_dir / row["scene_id"], row, split_of) for row in going_on.to_dict("records")]
    tiles = pd.concat(parts, ignore_index=True)
    _require_every_split(tiles)
    _write_store(out_dir / STORE, [cut_dir / scene_id for scene_id in going_on["scene_id"]], going_on)
    shutil.rmtree(cut_dir)
    write_scenes(judged, out_dir / "scenes.csv")
    tiles.to_parquet(out_dir / TABLE, index=False)
    _write_meta(out_dir, settings, going_on, share)
    _draw_samples(TileDataset(out_dir, split="train"), out_dir / "samples.png")
    counts = tiles["split"].value_counts()
    return TileReport(
        scenes=len(going_on), scenes_refused=len(rows) - len(going_on),
        train=int(counts["train"]), val=int(counts["val"]), test=int(counts["test"]),
        refused=int(judged["tiles_refused"].sum()), from_cache=hits,
    )  # fmt: skip


def _lacks(row: dict[Any, Any]) -> Facts | None:
    if row["reference"]:
        return None
    return {"scene_id": row["scene_id"], "accepted": False, "reason": "no reference: no clear image to learn from"}


def _job(row: dict[Any, Any], settings: TileSettings, share: Fraction) -> SceneJob:
    roles = ("optical", "sar", "reference", "label", "cloud")
    files = {role: Path(row[role]) for role in roles if row[role]}
    parameters: dict[str, object] = {
        "size_px": settings.size_px, "stride_px": settings.stride_px, "num_classes": len(settings.classes),
        "max_nodata_share": settings.max_nodata_share, "label_share": str(share),
    }  # fmt: skip
    return SceneJob(scene_id=row["scene_id"], parameters=parameters, inputs=files)


def _scene_tiles(folder: Path, row: dict[Any, Any], split_of: dict[str, str]) -> pd.DataFrame:
    table = pd.read_csv(folder / "tiles.csv")
    names = [f"{row['scene_id']}_{top}_{left}" for top, left in zip(table["row_px"], table["column_px"], strict=True)]
    table.insert(0, "tile_id", names)
    table.insert(1, "scene_id", row["scene_id"])
    table.insert(2, "region", row["region"])
    table.insert(3, "split", split_of[row["scene_id"]])
    return table


def _require_every_split(tiles: pd.DataFrame) -> None:
    for split in SPLITS:
        if not (tiles["split"] == split).any():
            regions = ", ".join(sorted(set(tiles["region"])))
            raise DataError(f"split {split} gets no tile; regions with tiles: {regions}; add scenes to it")


def _write_store(path: Path, folders: Sequence[Path], going_on: pd.DataFrame) -> None:
    """Gather the scenes' tiles into one Zarr group, a shard at a time."""
    group = zarr.create_group(path, overwrite=True)
    for name in ARRAYS:
        parts = [RawTiles(folder, name) for folder in folders]
        shape = parts[0].shape
        odd = [i for i, part in enumerate(parts) if part.shape != shape]
        if odd:
            scene = going_on["scene_id"][odd[0]]
            raise DataError(f"scene {scene}: tiles of {name} have shape {parts[odd[0]].shape}, others {shape}")
        total = sum(len(part) for part in parts)
        array = group.create_array(
            name, shape=(total, *shape), dtype=parts[0].dtype, chunks=(1, *shape), shards=(TILES_A_SHARD, *shape)
        )
        _fill(array, parts, total)


def _fill(array: Any, parts: Sequence[RawTiles], total: int) -> None:
    ends = np.cumsum([len(part) for part in parts])
    for start in range(0, total, TILES_A_SHARD):
        stop = min(start + TILES_A_SHARD, total)
        gathered = []
        for part, end in zip(parts, ends, strict=True):
            begin = end - len(part)
            if begin < stop and end > start:
                gathered.append(part.read(max(start - begin, 0), min(stop, end) - begin))
        array[start:stop] = np.concatenate(gathered)


def _write_meta(out_dir: Path, settings: TileSettings, going_on: pd.DataFrame, share: Fraction) -> None:
    optical, sar = raster.read_names(Path(going_on["optical"][0])), raster.read_names(Path(going_on["sar"][0]))
    grid = raster.read_grid(Path(going_on["optical"][0]))
    files = sorted(path for path in (out_dir / STORE).rglob("*") if path.is_file())
    digests = {path.relative_to(out_dir).as_posix(): sha256_file(path) for path in [*files, out_dir / TABLE]}
    meta = {
        "optical_bands": list(optical), "sar_bands": list(sar), "classes": list(settings.classes),
        "gsd_m": abs(grid.transform.a), "size_px": settings.size_px, "label_share": str(share),
        "data_hash": sha256_json(digests),
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
