"""Raster: pixels, valid mask, band names and grid as one immutable value; the only raster I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what `reproject` raises of GDAL's errors; rasterio exports no other name
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError, RasterioIOError
from rasterio.warp import reproject
from rasterio.windows import Window

from cgm2net.errors import GridError, RasterError

BLOCK_PX = 256


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


def require_same_grid(first: Raster, second: Raster, *, what: str) -> None:
    """Refuse two rasters that do not share shape, affine and CRS.

    Raises:
        GridError: names ``what`` and both grids.
    """
    if first.grid != second.grid:
        raise GridError(f"{what}: grids differ: {describe_grid(first.grid)} against {describe_grid(second.grid)}")


def describe_grid(grid: GeoBox) -> str:
    """Return a grid in one line: size, pixel size, CRS and upper-left corner."""
    transform = grid.transform
    return (
        f"{grid.shape[1]}x{grid.shape[0]} px of {abs(transform.a):g}x{abs(transform.e):g}, {grid.crs},"
        f" upper left ({transform.c:.1f}, {transform.f:.1f})"
    )


def read(path: Path, *, bands: Sequence[str] | None = None, window: Window | None = None) -> Raster:
    """Read a raster file, or a window of it.

    Args:
        path: any file that GDAL opens, with band descriptions as names; a single unnamed band is named ``band1``.
        bands: names to read, in this order; all where none are given.
        window: part of the file, in pixels; all where none is given.

    Raises:
        RasterError: if the file cannot be opened or read, has no CRS, lacks a band or does not hold the window.
    """
    try:
        with rasterio.open(path) as file:
            names = band_names(file)
            chosen = tuple(bands) if bands is not None else names
            missing = [name for name in chosen if name not in names]
            if missing:
                raise RasterError(f"{path}: has bands {', '.join(names)}, lacks {', '.join(missing)}")
            if file.crs is None:
                raise RasterError(f"{path}: has no coordinate reference system; write one into the file")
            _require_inside(path, file, window)
            index = [names.index(name) + 1 for name in chosen]
            pixels = file.read(index, window=window)
            whole = GeoBox((file.height, file.width), file.transform, file.crs)
            grid = whole if window is None else whole[window.toslices()]
            nodata = file.nodata
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error
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
    try:
        with rasterio.open(path) as file:
            return GeoBox((file.height, file.width), file.transform, file.crs)
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error


def read_names(path: Path) -> tuple[str, ...]:
    """Return a file's band names without reading a pixel."""
    try:
        with rasterio.open(path) as file:
            return band_names(file)
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error


def read_nodata(path: Path) -> float | None:
    """Return the nodata value that a file declares, or None."""
    try:
        with rasterio.open(path) as file:
            return None if file.nodata is None else float(file.nodata)
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
    """Resample onto another grid.

    Args:
        raster: source.
        grid: target.
        resampling: ``nearest`` for labels and masks, ``bilinear`` or ``cubic`` for measurements.
        fill: value of pixels that the source does not cover or measure; they are marked invalid.

    Raises:
        RasterError: if the source cannot be projected to the target.
    """
    if raster.grid == grid:
        return raster
    shape = tuple(grid.shape)
    pixels = np.full((len(raster.bands), *shape), fill, raster.pixels_CHW.dtype)
    valid = np.zeros(shape, np.uint8)
    common = {
        "src_transform": raster.grid.transform, "src_crs": str(raster.grid.crs),
        "dst_transform": grid.transform, "dst_crs": str(grid.crs),
    }  # fmt: skip
    # Filled first, so that interpolation near a wedge uses measured pixels only.
    filled = np.where(raster.valid_HW, raster.pixels_CHW, np.asarray(fill, raster.pixels_CHW.dtype))
    try:
        for source, target in zip(filled, pixels, strict=True):
            reproject(source, target, resampling=resampling, src_nodata=fill, dst_nodata=fill, **common)
        # A target pixel is valid when its nearest source pixel is: bilinear masks would grow wedges inwards.
        reproject(raster.valid_HW.astype(np.uint8), valid, resampling=Resampling.nearest, **common)
    except (RasterioError, CRSError, CPLE_BaseError) as error:
        raise RasterError(f"cannot resample {describe_grid(raster.grid)} to {describe_grid(grid)}: {error}") from error
    valid_HW = (valid > 0) & np.isfinite(pixels).all(axis=0)
    pixels[:, ~valid_HW] = fill
    return Raster(pixels_CHW=pixels, valid_HW=valid_HW, bands=raster.bands, grid=grid)
