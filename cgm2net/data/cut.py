"""One scene cut into square tiles, read a tile at a time."""

import itertools
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rasterio.windows import Window

from cgm2net import raster, sensors
from cgm2net.compute import Facts, SceneJob
from cgm2net.data.cloud_methods import COVER_THRESHOLD
from cgm2net.data.dataset import ARRAYS, BOUNDS, CLOUD_LEVELS
from cgm2net.errors import DataError, GridError, SceneError
from cgm2net.files import write_json
from cgm2net.grids import bounds_degrees, coarser, describe_grid, part_of, pixel_share
from cgm2net.raster import Raster
from cgm2net.settings import TileSettings
from cgm2net.streams import RasterFile, small_cache

_SHAPES = "shapes.json"


def cut_scene(job: SceneJob, folder: Path) -> Facts:
    """Cut one scene, a tile at a time; writes one file of raw values an array, ``shapes.json`` and ``tiles.csv``.

    The last tile of a row or column lies flush with the scene's edge, over the one before it where it must. A scene
    without a label has unknown classes everywhere.

    Raises:
        SceneError: if the scene is smaller than a tile.
    """
    size_px, stride_px = int(str(job.parameters["size_px"])), int(str(job.parameters["stride_px"]))
    share = Fraction(str(job.parameters["label_share"]))
    rows: list[dict[str, object]] = []
    refused = 0
    with ExitStack() as stack, small_cache():
        layers = {role: stack.enter_context(RasterFile(path)) for role, path in job.inputs.items()}
        grid = layers["optical"].grid
        _require_grids(layers, share, job)
        height, width = grid.shape
        if height < size_px or width < size_px:
            raise SceneError(
                job.scene_id, f"{width}x{height} px is smaller than a tile of {size_px} px; lower tile.size_px"
            )
        store = _RawStore(folder, stack)
        for top, left in itertools.product(
            *(starts(length, size_px=size_px, stride_px=stride_px, step_px=share.denominator) for length in grid.shape)
        ):
            window = Window(left, top, size_px, size_px)
            part = _stored(layers, window, num_classes=int(str(job.parameters["num_classes"])), share=share)
            nodata_share = 1.0 - float(part["valid"].mean())
            if nodata_share > float(str(job.parameters["max_nodata_share"])):
                refused += 1
                continue
            bounds = bounds_degrees(part_of(grid, window))
            rows.append(
                {
                    "row_px": top, "column_px": left, **dict(zip(BOUNDS, bounds, strict=True)),
                    "nodata_share": nodata_share, **_counts(part, job),
                }
            )  # fmt: skip
            store.add(part)
    if not rows:
        reason = f"all {refused} tiles have too much nodata; see tile.max_nodata_share"
        return {"accepted": False, "reason": reason, "tiles_kept": 0, "tiles_refused": refused}
    store.close()
    pd.DataFrame(rows).to_csv(folder / "tiles.csv", index=False)
    return {"tiles_kept": len(rows), "tiles_refused": refused}


class _RawStore:
    """Arrays of tiles that grow in files of raw values."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._num_tiles = folder, 0
        self._files = {name: stack.enter_context((folder / f"{name}.raw").open("wb")) for name in ARRAYS}
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add(self, tile: dict[str, np.ndarray]) -> None:
        for name, array in tile.items():
            self._files[name].write(np.ascontiguousarray(array).data)
            self._kinds[name] = array.dtype.str, array.shape
        self._num_tiles += 1

    def close(self) -> None:
        kinds = {name: [dtype, [self._num_tiles, *shape]] for name, (dtype, shape) in self._kinds.items()}
        write_json(self._folder / _SHAPES, kinds)


class RawTiles:
    """A scene's tiles of one array, on disk; read, not mapped, so that what was read is no part of the memory."""

    def __init__(self, folder: Path, name: str) -> None:
        dtype, (self._num_tiles, *shape) = json.loads((folder / _SHAPES).read_text())[name]
        self._path, self.dtype, self.shape = folder / f"{name}.raw", np.dtype(dtype), tuple(shape)

    def __len__(self) -> int:
        return int(self._num_tiles)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tiles ``start`` to ``stop``, not included, (tiles, *shape)."""
        size = math.prod(self.shape)
        offset = start * size * self.dtype.itemsize
        values = np.fromfile(self._path, self.dtype, (stop - start) * size, offset=offset)
        return values.reshape(stop - start, *self.shape)


def _require_grids(layers: dict[str, RasterFile], share: Fraction, job: SceneJob) -> None:
    optical = layers["optical"].grid
    for role, layer in layers.items():
        wanted = optical if role != "label" or share == 1 else coarser(optical, gsd_m=abs(layer.grid.transform.a))
        if layer.grid != wanted:
            raise GridError(
                f"scene {job.scene_id}, optical and {role}: grids differ: {describe_grid(wanted)} against"
                f" {describe_grid(layer.grid)}"
            )


def starts(length_px: int, *, size_px: int, stride_px: int, step_px: int = 1) -> list[int]:
    """Return where tiles begin along an axis: every stride, and one flush with the end or less than a step before."""
    last = (length_px - size_px) // step_px * step_px
    return sorted({*range(0, last + 1, stride_px), last})


def _stored(
    layers: dict[str, RasterFile], window: Window, *, num_classes: int, share: Fraction
) -> dict[str, np.ndarray]:
    """Arrays of a tile in the types that the store has."""
    parts = {role: layer.part(window) for role, layer in layers.items() if role != "label"}
    of_label = Window(*(int(side * share) for side in (window.col_off, window.row_off, window.width, window.height)))
    label = np.full((of_label.height, of_label.width), sensors.LABEL_IGNORE, np.uint8)
    if "label" in layers:
        found = layers["label"].part(of_label)
        known = found.valid_HW & (found.pixels_CHW[0] < num_classes)
        label = np.where(known, found.pixels_CHW[0], sensors.LABEL_IGNORE).astype(np.uint8)
    return {
        "optical": _as_dn(parts["optical"]),
        "sar": np.where(parts["sar"].valid_HW, parts["sar"].pixels_CHW, np.nan).astype(np.float32),
        "reference": _as_dn(parts["reference"]),
        "cloud": np.rint(parts["cloud"].pixels_CHW[0] * CLOUD_LEVELS).astype(np.uint8),
        "label": label,
        "valid": parts["optical"].valid_HW & parts["sar"].valid_HW & parts["reference"].valid_HW,
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


def label_share(rows: Sequence[dict[Any, Any]], settings: TileSettings) -> Fraction:
    """Return the side of a pixel as a fraction of a label's, of all scenes alike.

    Raises:
        DataError: if scenes differ in it, or tiles do not begin and end with whole label pixels.
    """
    found: dict[Fraction, str] = {}
    for row in rows:
        if row["label"]:
            optical, label = (raster.read_grid(Path(row[role])) for role in ("optical", "label"))
            found.setdefault(pixel_share(optical, gsd_m=abs(label.transform.a)), row["scene_id"])
    if len(found) > 1:
        told = ", ".join(f"{scene_id} has {float(1 / share):g}" for share, scene_id in found.items())
        raise DataError(f"labels have different numbers of pixels a side: {told}; set coregister.label_gsd_m alike")
    share = next(iter(found), Fraction(1))
    for name in ("size_px", "stride_px"):
        if getattr(settings, name) % share.denominator:
            raise DataError(
                f"tile.{name} {getattr(settings, name)} must be a multiple of {share.denominator}: labels are"
                f" {float(1 / share):.3g} pixels a side, and tiles hold whole ones"
            )
    return share
