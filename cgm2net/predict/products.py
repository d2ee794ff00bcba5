"""Writer of a scene's products: one Cloud-Optimized GeoTIFF a layer, all of them complete or none there."""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what `rasterio.shutil.copy` raises of GDAL's errors
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from cgm2net.errors import RasterError
from cgm2net.pictures import true_colour_bands
from cgm2net.predict.layers import (
    CODE_NODATA,
    PROBABILITY_SCALE,
    UNCERTAINTY_NODATA,
    Block,
    Layer,
    Origin,
    layers,
)
from cgm2net.predict.styles import write_styles

__all__ = ["CODE_NODATA", "PROBABILITY_SCALE", "UNCERTAINTY_NODATA", "Block", "Origin", "Products"]

GDAL_CACHE_BYTES = 64 << 20
"""What GDAL may keep of the files; rasterio takes this setting in bytes."""
TILE_PX = 512

_RAW_TILE_PX = 64


class Products:
    """Writes one scene's products; a context manager.

    Blocks go into plain GeoTIFFs in a hidden folder beside the target. :meth:`finish`, or a clean end of the ``with``
    block, makes them Cloud-Optimized and reads them back; at the clean end the hidden folder takes the target's name,
    and what had it goes. After an exception nothing is left; what a killed process left goes when the scene is
    written again. GDAL's cache is small inside the block, so that memory does not depend on the scene's size. Equal
    pixels and tags give equal bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        grid: GeoBox,
        optical_bands: Sequence[str],
        classes: Sequence[str],
        tags: Mapping[str, str],
    ) -> None:
        """Make a writer; no file is touched before the ``with`` block starts.

        Args:
            folder: the scene's folder; older products in it are replaced.
            grid: grid of every layer.
            optical_bands: names of the network's optical bands.
            classes: name of each class code.
            tags: metadata that every file carries.
        """
        self.folder = folder
        self.layers = layers(optical_bands=optical_bands, classes=classes)
        self._grid = grid
        self._tags = dict(tags)
        self._sums = {layer.name: 0 for layer in self.layers}
        self._num_written_px = 0

    def __enter__(self) -> "Products":
        _require_replaceable(self.folder)
        with ExitStack() as stack:
            self._aside = stack.enter_context(_folder_aside(self.folder))
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES))
            self._files = {layer.name: stack.enter_context(self._create(layer)) for layer in self.layers}
            self._stack = stack.pop_all()
        return self

    def write(self, window: Window, block: Block) -> None:
        """Write the results for a rectangle; rectangles come in any order, do not overlap, and may leave gaps.

        Args:
            window: the rectangle, in whole pixels of the grid.
            block: its pixels.

        Raises:
            RasterError: if the rectangle leaves the grid, the block does not fit it, or a file cannot be written.
        """
        self._require_inside(window)
        for layer in self.layers:
            pixels_CHW = block.of(layer)
            wanted = (len(layer.bands), window.height, window.width)
            if pixels_CHW.shape != wanted or pixels_CHW.dtype != layer.dtype:
                raise RasterError(
                    f"{layer.file}: block is {pixels_CHW.shape} {pixels_CHW.dtype}, its window wants {wanted}"
                    f" {layer.dtype}"
                )
            with _raster_errors(self._raw(layer)):
                self._files[layer.name].write(pixels_CHW, window=window)
            self._sums[layer.name] += int(pixels_CHW.sum(dtype=np.uint64))
        self._num_written_px += window.height * window.width

    def finish(self) -> Path:
        """Make every layer its final file.

        Returns:
            The hidden folder that they lie in until the ``with`` block ends; what is put beside them moves with them.

        Raises:
            RasterError: if a file cannot be written, or does not read back as it was written.
        """
        # All of them first: GDAL looks for room in its cache past every block that is still to be written, and with
        # other files' blocks in it making one COG of 10,240 px took ten minutes instead of a third of one.
        done = list(self._files)
        while self._files:
            name, file = self._files.popitem()
            with _raster_errors(self._aside / f"{name}.raw.tif"):
                file.close()
        for layer in self.layers:
            if layer.name in done:
                self._finish(layer)
        return self._aside

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self.finish()
                _replace(self.folder, self._aside)

    def _raw(self, layer: Layer) -> Path:
        return self._aside / f"{layer.name}.raw.tif"

    def _create(self, layer: Layer) -> DatasetWriter:
        # Uncompressed, so that a tile can be written part by part without leaving its older self in the file.
        profile = {
            "driver": "GTiff", "count": len(layer.bands), "height": self._grid.shape[0], "width": self._grid.shape[1],
            "dtype": layer.dtype, "crs": str(self._grid.crs), "transform": self._grid.transform,
            "nodata": layer.nodata, "interleave": "pixel", "tiled": True, "blockxsize": _RAW_TILE_PX,
            "blockysize": _RAW_TILE_PX, "sparse_ok": True, "bigtiff": "if_safer",
        }  # fmt: skip
        path = self._raw(layer)
        with _raster_errors(path), ExitStack() as stack:
            file = stack.enter_context(rasterio.open(path, "w", **profile))
            _describe(file, layer, self._tags)
            stack.pop_all()
        return file

    def _finish(self, layer: Layer) -> None:
        raw, path = self._raw(layer), self._aside / layer.file
        with _raster_errors(path):
            rasterio.shutil.copy(raw, path, **_cog_options(layer))
            self._require_written(path, layer)
        raw.unlink()
        write_styles(path, layer)

    def _require_written(self, path: Path, layer: Layer) -> None:
        # GDAL makes a COG on a full disk without a word; sums of pixels find what is missing, whatever the order.
        height, width = self._grid.shape
        gaps = (height * width - self._num_written_px) * len(layer.bands) * int(layer.nodata)
        with rasterio.open(path) as file:
            found = sum(int(file.read(window=part).sum(dtype=np.uint64)) for _, part in file.block_windows(1))
        if found != self._sums[layer.name] + gaps:
            raise RasterError(f"{path}: does not hold what was written; is the disk full, or did windows overlap?")

    def _require_inside(self, window: Window) -> None:
        height, width = self._grid.shape
        right, bottom = window.col_off + window.width, window.row_off + window.height
        if min(window.col_off, window.row_off) < 0 or right > width or bottom > height:
            raise RasterError(
                f"{self.folder}: columns {window.col_off} to {right}, rows {window.row_off} to {bottom} to be written,"
                f" the scene has {width}x{height} px"
            )


def _describe(file: DatasetWriter, layer: Layer, tags: Mapping[str, str]) -> None:
    file.descriptions = layer.bands
    if layer.unit:
        file.scales = [layer.scale] * len(layer.bands)
        file.units = [layer.unit] * len(layer.bands)
    if colours := true_colour_bands(layer.bands):
        shown = dict(zip(colours, (ColorInterp.red, ColorInterp.green, ColorInterp.blue), strict=True))
        file.colorinterp = [shown.get(band, ColorInterp.undefined) for band in layer.bands]
    if layer.codes:
        file.write_colormap(1, {code: (*bytes.fromhex(colour[1:]), 255) for code, (_, colour) in layer.codes.items()})
        file.update_tags(1, CODES=json.dumps({code: name for code, (name, _) in layer.codes.items()}))
    file.update_tags(**tags)


def _cog_options(layer: Layer) -> dict[str, Any]:
    return {
        "driver": "COG", "BLOCKSIZE": TILE_PX, "COMPRESS": "DEFLATE", "PREDICTOR": "NO" if layer.codes else "YES",
        "OVERVIEW_RESAMPLING": "MODE" if layer.codes else "AVERAGE", "NUM_THREADS": 2, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip


@contextmanager
def _raster_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise RasterError(f"{path}: cannot be written: {error}") from error


def _require_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and ((folder / "restored.tif").is_file() or not any(folder.iterdir()))):
        raise RasterError(f"{folder}: is there already and holds no products of a scene; move it, or choose another")


@contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside ``folder``, locked while the block runs and removed after it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    aside = _hidden(folder)
    aside.mkdir()
    lock = os.open(aside, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then none is taken for abandoned either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield aside
    finally:
        os.close(lock)
        if aside.exists():
            shutil.rmtree(aside)


def _remove_abandoned(folder: Path) -> None:
    for path in sorted(folder.parent.iterdir()):
        if not (path.name.startswith(f".{folder.name}.") and path.name.endswith(".part") and path.is_dir()):
            continue
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except OSError:  # another process is at work in it
            continue
        finally:
            os.close(lock)


def _replace(folder: Path, aside: Path) -> None:
    old = _hidden(folder)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
