"""Files rewritten by the conventions: named bands, DN and dB, codes, a grid; window by window."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.reading import Reading
from cgm2net.data.stored import require_codes, to_dn
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, describe_grid, part_of, whole
from cgm2net.raster import BLOCK_PX, Raster, band_names, read_grid, valid_mask
from cgm2net.streams import RasterWriter, small_cache

_COLUMNS_PX = 8 * BLOCK_PX  # of a window: with 13 bands of float64 some 50 MiB
_EVEN = 0.01  # share by which the pixels of a file that is laid over the optical image may be longer than wide


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """An open file, whatever its format."""

    name: str
    "What errors call it."
    names: tuple[str, ...]
    "One a band; made up where the file names none."
    shape: tuple[int, int]
    dtype: np.dtype
    nodata: float | None
    transform: Affine | None
    crs: rasterio.CRS | None
    read: Callable[[Window], np.ndarray]
    "Gives the stored values in a window, (C, H, W)."


def rewrite(
    source: Path, target: Path, *, role: str, reading: Reading, optical: Path | None = None, name: str = ""
) -> None:
    """Write a file anew, by the conventions.

    Args:
        source: a raster that GDAL opens, or a ``.npy`` array (H, W) or (C, H, W); pickled objects are not loaded.
        target: new GeoTIFF: optical and reference uint16 DN, nodata 0; SAR float32 dB, nodata NaN; label uint8 codes,
            255 unknown; cloud uint8 codes, or float32 0-1 with nodata NaN.
        role: of the file in its scene.
        reading: how the source is read.
        optical: the scene's optical file, for ``grid=optical``.
        name: what errors call the source; its path by default.

    Raises:
        RasterError: if the source cannot be read, or the instructions do not fit it.
    """
    with small_cache(), _opened(source, name or str(source)) as stored:
        grid = _grid(stored, reading, optical)
        bands = _bands(stored, role, reading)
        dtype, nodata, decode = _form(stored, role, reading)
        with RasterWriter(target, grid=grid, bands=bands, dtype=dtype, nodata=nodata) as writer:
            for window in blocks_in(grid, whole(grid), height_px=BLOCK_PX, width_px=_COLUMNS_PX):
                pixels_CHW = stored.read(window)
                valid_HW = valid_mask(pixels_CHW, None if reading.codes else stored.nodata)
                part = Raster(pixels_CHW=pixels_CHW, valid_HW=valid_HW, bands=bands, grid=part_of(grid, window))
                writer.write(decode(part, reading, stored.name), window)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[_Stored]:
    if path.suffix.lower() == ".npy":
        yield _array(path, name)
        return
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):  # what follows asks for a grid
            file = rasterio.open(path)
    except RasterioIOError as error:
        raise RasterError(f"{name}: cannot be read as a raster: {error.__cause__ or error}") from error
    with file:
        stored = _Stored(
            name=name, names=band_names(file), shape=file.shape, dtype=np.dtype(file.dtypes[0]), nodata=file.nodata,
            transform=file.transform, crs=file.crs, read=lambda window: _read(file, name, window),
        )  # fmt: skip
        yield _checked(stored)


def _read(file: rasterio.DatasetReader, name: str, window: Window) -> np.ndarray:
    try:
        return np.asarray(file.read(window=window))
    except RasterioIOError as error:
        raise RasterError(f"{name}: cannot be read to its end: {error.__cause__ or error}") from error


def _array(path: Path, name: str) -> _Stored:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RasterError(f"{name}: cannot be read as a NumPy array of numbers: {error}") from error
    if values.ndim not in (2, 3):
        raise RasterError(f"{name}: holds an array of shape {values.shape}, wanted (height, width), bands before")
    values_CHW = values if values.ndim == 3 else values[None]
    return _checked(
        _Stored(
            name=name, names=tuple(f"band{i}" for i in range(1, len(values_CHW) + 1)), shape=values_CHW.shape[1:],
            dtype=values.dtype, nodata=None, transform=None, crs=None,
            read=lambda window: np.array(values_CHW[:, *window.toslices()]),
        )
    )  # fmt: skip


def _checked(stored: _Stored) -> _Stored:
    if stored.dtype.kind not in "buif":
        raise RasterError(f"{stored.name}: holds {stored.dtype} values, wanted real numbers or True and False")
    return stored


def _bands(stored: _Stored, role: str, reading: Reading) -> tuple[str, ...]:
    names = reading.bands or stored.names
    if len(names) != len(stored.names):
        raise RasterError(
            f"{stored.name}: has {len(stored.names)} bands, {len(names)} names were given: {', '.join(names)};"
            " name all of them, in the order of the file"
        )
    if role in ("label", "cloud"):
        # Declared nodata 0 would drop the first code; where codes are mapped by hand, 0 means what the map says.
        require_codes(role, num_bands=len(names), nodata=None if reading.codes else stored.nodata, path=stored.name)
    return names


def _grid(stored: _Stored, reading: Reading, optical: Path | None) -> GeoBox:
    if reading.grid == "optical":
        assert optical is not None
        return _laid_over(stored, read_grid(optical))
    if stored.transform is None or not (reading.crs or stored.crs):
        raise RasterError(
            f"{stored.name}: does not say where on Earth it lies; add grid=optical, if it covers what the optical"
            " image covers, or crs=EPSG:…, if only its coordinate reference system is missing"
        )
    try:
        return GeoBox(stored.shape, stored.transform, reading.crs or stored.crs)
    except (CRSError, ValueError) as error:
        raise RasterError(f"{stored.name}: {reading.crs} is no coordinate reference system: {error}") from error


def _laid_over(stored: _Stored, optical: GeoBox) -> GeoBox:
    """Return the grid of a file that covers what the optical image covers, in pixels of its own size."""
    if optical.crs is None:
        raise RasterError(f"{stored.name}: grid=optical, but the optical file has no coordinate reference system")
    down, along = optical.shape[0] / stored.shape[0], optical.shape[1] / stored.shape[1]
    if abs(down / along - 1) > _EVEN:
        raise RasterError(
            f"{stored.name}: is {stored.shape[1]}x{stored.shape[0]} px and cannot cover the optical image evenly:"
            f" {describe_grid(optical)}"
        )
    return GeoBox(stored.shape, optical.transform @ Affine.scale(along, down), optical.crs)


def _form(stored: _Stored, role: str, reading: Reading) -> tuple[str, float, Callable[[Raster, Reading, str], Raster]]:
    """Return what a file becomes: type, nodata and the function that makes a part of it."""
    if role in ("optical", "reference"):
        return "uint16", sensors.OPTICAL_NODATA, _as_dn
    if role == "sar":
        return "float32", sensors.SAR_NODATA, _as_decibel
    scaled = reading.scale != 1 or reading.offset != 0
    if role == "label" or reading.codes or (stored.dtype.kind in "bui" and not scaled):
        return "uint8", sensors.LABEL_IGNORE, _as_codes
    return "float32", float("nan"), _as_probability


def _as_dn(image: Raster, reading: Reading, _name: str) -> Raster:
    # An optical image holds 0 in every band where nothing was measured, whatever it declares.
    valid_HW = image.valid_HW & ~(image.pixels_CHW == sensors.OPTICAL_NODATA).all(axis=0)
    return to_dn(_scaled(replace(image, valid_HW=valid_HW), reading))


def _as_decibel(image: Raster, reading: Reading, _name: str) -> Raster:
    sar = _scaled(image, reading)
    pixels_CHW, valid_HW = sar.pixels_CHW, sar.valid_HW
    if reading.linear:
        valid_HW = valid_HW & (pixels_CHW > 0).all(axis=0)
        pixels_CHW = 10 * np.log10(np.where(valid_HW, pixels_CHW, 1))
    return replace(sar, pixels_CHW=pixels_CHW.astype(np.float32), valid_HW=valid_HW)


def _as_probability(image: Raster, reading: Reading, _name: str) -> Raster:
    mask = _scaled(image, reading)
    return replace(mask, pixels_CHW=mask.pixels_CHW.astype(np.float32))


def _as_codes(image: Raster, reading: Reading, name: str) -> Raster:
    found_CHW = np.where(image.valid_HW, image.pixels_CHW, sensors.LABEL_IGNORE)
    if reading.codes:
        codes_CHW = np.full(found_CHW.shape, sensors.LABEL_IGNORE, np.uint8)
        for old, new in reading.codes:
            codes_CHW[(found_CHW == old) & image.valid_HW] = new
    elif found_CHW.min() < 0 or found_CHW.max() > sensors.LABEL_IGNORE or (found_CHW % 1 != 0).any():
        raise RasterError(
            f"{name}: holds values {found_CHW.min():g} to {found_CHW.max():g}, wanted whole codes 0 to 255; map"
            " them with codes=OLD:NEW,…"
        )
    else:
        codes_CHW = found_CHW.astype(np.uint8)
    return replace(image, pixels_CHW=codes_CHW)


def _scaled(image: Raster, reading: Reading) -> Raster:
    """Return stored values x scale + offset, float64; what needs neither stays as it is."""
    if reading.scale == 1 and reading.offset == 0:
        return image
    known_CHW = np.where(image.valid_HW, image.pixels_CHW, 0).astype(np.float64)
    return replace(image, pixels_CHW=known_CHW * reading.scale + reading.offset)
