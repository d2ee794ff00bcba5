"""Raster: pixels, valid mask, band names and grid as one immutable value; the only raster I/O."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what `reproject` raises of GDAL's errors; rasterio exports no other name
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.warp import reproject
from rasterio.windows import Window

from cgm2net.errors import GridError, RasterError
from cgm2net.grids import blocks_in, common, describe_grid, inside, part_of, pixels_per_step, under, unrelated, whole

BLOCK_PX = 256

# Longest line of pixels of which GDAL may project but a few and interpolate between: to a thousandth of a pixel. It
# would allow itself an eighth, and a crop of a scene would see other values.
_PROJECTED_PX = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Raster:
    """An image on a grid.

    Raises:
        RasterError: when made from parts whose shapes or names do not agree.
    """

    pixels_CHW: np.ndarray
    "Stored values, one band a name."
    valid_HW: np.ndarray
    "bool, True where every band holds a measurement."
    bands: tuple[str, ...]
    "Band names, in the order of the pixels."
    grid: GeoBox
    "Shape, affine transform and CRS."

    def __post_init__(self) -> None:
        if self.pixels_CHW.ndim != 3:
            raise RasterError(f"pixels have shape {self.pixels_CHW.shape}, expected (bands, height, width)")
        count, *shape = self.pixels_CHW.shape
        if tuple(shape) != tuple(self.grid.shape) or self.valid_HW.shape != tuple(shape):
            raise RasterError(
                f"pixels {tuple(shape)}, valid mask {self.valid_HW.shape} and grid {tuple(self.grid.shape)} differ"
            )
        if count != len(self.bands) or len(set(self.bands)) != count:
            raise RasterError(f"{count} bands of pixels for the names {self.bands}; names must be one each, unique")
        if self.valid_HW.dtype != bool:
            raise RasterError(f"valid mask has dtype {self.valid_HW.dtype}, expected bool")

    def select(self, bands: Sequence[str]) -> "Raster":
        """Return the named bands in the order asked for."""
        missing = [name for name in bands if name not in self.bands]
        if missing:
            raise RasterError(f"bands {', '.join(missing)} are not among {', '.join(self.bands)}")
        index = [self.bands.index(name) for name in bands]
        return replace(self, pixels_CHW=self.pixels_CHW[index], bands=tuple(bands))

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the pixels."""
        return self.pixels_CHW.dtype

    def part(self, window: Window) -> "Raster":
        """Return what lies in a window, which must not reach beyond."""
        rows, cols = window.toslices()
        return Raster(
            pixels_CHW=self.pixels_CHW[:, rows, cols], valid_HW=self.valid_HW[rows, cols],
            bands=self.bands, grid=self.grid[rows, cols],
        )  # fmt: skip


class Source(Protocol):
    """Bands on a grid that can be had in parts: a :class:`Raster`, or files that stay on disk."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def grid(self) -> GeoBox: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype: ...  # noqa: D102
    def part(self, window: Window) -> Raster: ...  # noqa: D102


def require_same_grid(first: Raster, second: Raster, *, what: str) -> None:
    """Refuse two rasters that do not share shape, affine and CRS.

    Raises:
        GridError: names ``what`` and both grids.
    """
    if first.grid != second.grid:
        raise GridError(f"{what}: grids differ: {describe_grid(first.grid)} against {describe_grid(second.grid)}")


def read(path: Path, *, bands: Sequence[str] | None = None, window: Window | None = None) -> Raster:
    """Read a raster file, or a window of it.

    Args:
        path: any file that GDAL opens, with band descriptions as names; a single unnamed band is named ``band1``.
        bands: names to read, in this order; all where none are given.
        window: part of the file; all where none is given.

    Raises:
        RasterError: if the file cannot be opened or read, has no CRS, lacks a band or does not hold the window.
    """
    with _opened(path) as file:
        names = band_names(file)
        chosen = tuple(bands) if bands is not None else names
        missing = [name for name in chosen if name not in names]
        if missing:
            raise RasterError(f"{path}: has bands {', '.join(names)}, lacks {', '.join(missing)}")
        if file.crs is None:
            raise RasterError(f"{path}: has no coordinate reference system; write one into the file")
        _require_inside(path, file, window)
        pixels = file.read([names.index(name) + 1 for name in chosen], window=window)
        all_of_it = GeoBox((file.height, file.width), file.transform, file.crs)
        grid = all_of_it if window is None else all_of_it[window.toslices()]
        nodata = file.nodata
    return Raster(pixels_CHW=pixels, valid_HW=valid_mask(pixels, nodata), bands=chosen, grid=grid)


def _require_inside(path: Path, file: rasterio.DatasetReader, window: Window | None) -> None:
    if window is None:
        return
    right, bottom = window.col_off + window.width, window.row_off + window.height
    if min(window.col_off, window.row_off) < 0 or right > file.width or bottom > file.height:
        raise RasterError(
            f"{path}: columns {window.col_off} to {right}, rows {window.row_off} to {bottom} asked for, the file has"
            f" {file.width}x{file.height} px"
        )


def read_grid(path: Path) -> GeoBox:
    """Return a file's grid without reading a pixel."""
    with _opened(path) as file:
        return GeoBox((file.height, file.width), file.transform, file.crs)


def read_names(path: Path) -> tuple[str, ...]:
    """Return a file's band names without reading a pixel."""
    with _opened(path) as file:
        return band_names(file)


def read_nodata(path: Path) -> float | None:
    """Return the nodata value that a file declares, or None."""
    with _opened(path) as file:
        return None if file.nodata is None else float(file.nodata)


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    try:
        with rasterio.open(path) as file:
            yield file
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error


def band_names(file: rasterio.DatasetReader) -> tuple[str, ...]:
    """Return the band descriptions of an open file; ``band1``, ``band2``, … where it has none."""
    return tuple(name or f"band{i}" for i, name in enumerate(file.descriptions, start=1))


def valid_mask(pixels_CHW: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return bool (H, W): True where no band holds nodata or a non-finite number.

    A pixel that is nodata in one band only (a true zero in a dark band) stays valid unless all bands are: sensors
    leave wedges in every band at once, while a single zero is a measurement.
    """
    finite = np.isfinite(pixels_CHW).all(axis=0)
    if nodata is None or np.isnan(nodata):
        return np.asarray(finite)
    return np.asarray(finite & ~(pixels_CHW == nodata).all(axis=0))


def write(path: Path, raster: Raster, *, nodata: float | None, tags: dict[str, str] | None = None) -> None:
    """Write a compressed, tiled GeoTIFF with band names; invalid pixels become ``nodata`` in every band."""
    pixels = raster.pixels_CHW
    if nodata is not None and not raster.valid_HW.all():
        pixels = np.where(raster.valid_HW, pixels, np.asarray(nodata, pixels.dtype))
    profile = {
        "driver": "GTiff", "count": pixels.shape[0], "height": pixels.shape[1], "width": pixels.shape[2],
        "dtype": pixels.dtype.name, "crs": str(raster.grid.crs), "transform": raster.grid.transform,
        "nodata": nodata, "compress": "deflate", "zlevel": 6, "tiled": True,
        "predictor": 3 if pixels.dtype.kind == "f" else 2,
        "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.descriptions = raster.bands
        if tags:
            file.update_tags(**tags)


def warp(raster: Raster, grid: GeoBox, *, resampling: Resampling, fill: float) -> Raster:
    """Resample onto another grid; see :class:`Warped`."""
    return raster if raster.grid == grid else Warped(raster, grid, resampling=resampling, fill=fill).part(whole(grid))


class Warped:
    """A source seen on another grid, part by part; on its own grid nothing is resampled.

    Work goes by whole blocks of the target, each made of the source pixels around it alone: every window gets to the
    bit what the whole holds there, and costs no more than the blocks that it touches.
    """

    def __init__(self, source: Source, grid: GeoBox, *, resampling: Resampling, fill: float, num_kept: int = 0) -> None:
        """Lay a source on a grid.

        Args:
            source: a raster, or what gives parts of one.
            grid: target.
            resampling: ``nearest`` for labels and masks; :func:`cgm2net.grids.smooth_resampling` for measurements.
            fill: value of pixels that the source does not cover or measure; they are marked invalid.
            num_kept: blocks kept in memory, the last used.

        Raises:
            RasterError: if the source cannot be projected to the target.
        """
        self.bands, self.grid, self.dtype = source.bands, grid, source.dtype
        self._source, self._resampling, self._fill = source, resampling, fill
        self._same = source.grid == grid
        self._steps = (1.0, 1.0) if self._same else pixels_per_step(source.grid, grid)
        self._block = lru_cache(maxsize=num_kept)(self._make)

    def part(self, window: Window) -> Raster:
        """Return what lies in a window; it may reach beyond the grid, where nothing is valid."""
        pixels = np.full((len(self.bands), window.height, window.width), self._fill, self.dtype)
        valid = np.zeros((window.height, window.width), bool)
        within = inside(self.grid, window)
        blocks = [] if within is None else [within] if self._same else blocks_in(self.grid, within)
        for block in blocks:
            made = self._source.part(block) if self._same else self._block(block.row_off, block.col_off)
            if made is not None:
                there, here = common(block, window)
                pixels[:, *here], valid[here] = made.pixels_CHW[:, *there], made.valid_HW[there]
        return Raster(pixels_CHW=pixels, valid_HW=valid, bands=self.bands, grid=part_of(self.grid, window))

    def _make(self, row: int, col: int) -> Raster | None:
        """Return the block that begins there; None where the source does not reach."""
        (block,) = blocks_in(self.grid, Window(col, row, 1, 1))
        target = self.grid[block.toslices()]
        beneath = under(self._source.grid, target)
        if beneath is None:
            return None
        part = self._source.part(beneath)
        return _warp_block(part, target, resampling=self._resampling, fill=self._fill, steps=self._steps)


def _warp_block(
    raster: Raster, grid: GeoBox, *, resampling: Resampling, fill: float, steps: tuple[float, float]
) -> Raster:
    height, width = grid.shape
    pixels = np.empty((len(raster.bands), height, width), raster.dtype)
    valid = np.empty((height, width), bool)
    # Filled first, so that interpolation near a wedge uses measured pixels only.
    filled = np.where(raster.valid_HW, raster.pixels_CHW, np.asarray(fill, raster.dtype))
    measured = raster.valid_HW.astype(np.uint8)
    side = width if raster.grid.crs == grid.crs else _PROJECTED_PX
    for left in range(0, width, side):
        cols = slice(left, min(left + side, width))
        lay = partial(_reprojected, source=raster.grid, target=grid[:, cols], steps=steps)
        for number, band in enumerate(filled):
            pixels[number, :, cols] = lay(band, resampling=resampling, fill=fill)
        # A target pixel is valid when its nearest source pixel is: bilinear masks would grow wedges inwards.
        valid[:, cols] = lay(measured, resampling=Resampling.nearest, fill=None) > 0
    valid &= np.isfinite(pixels).all(axis=0)
    pixels[:, ~valid] = fill
    return Raster(pixels_CHW=pixels, valid_HW=valid, bands=raster.bands, grid=grid)


def _reprojected(
    image_HW: np.ndarray,
    *,
    source: GeoBox,
    target: GeoBox,
    steps: tuple[float, float],
    resampling: Resampling,
    fill: float | None,
) -> np.ndarray:
    made = np.full(tuple(target.shape), 0 if fill is None else fill, image_HW.dtype)
    try:
        reproject(
            image_HW, made, src_transform=source.transform, src_crs=str(source.crs), src_nodata=fill,
            dst_transform=target.transform, dst_crs=str(target.crs), dst_nodata=fill, resampling=resampling,
            # Said, since GDAL would guess it from each block: at the source's edges it would filter otherwise.
            XSCALE=str(1 / max(steps[0], 1.0)), YSCALE=str(1 / max(steps[1], 1.0)),
        )  # fmt: skip
    except (RasterioError, CRSError, CPLE_BaseError) as error:
        raise unrelated(source, target, error) from error
    return made
