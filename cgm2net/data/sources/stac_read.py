"""Files made of STAC items: only the scene's window of their assets is read, block by block, and mosaicked.

Optical files are DN without offset, uint16, nodata 0, and at least 1 where something was measured; SAR is float32 dB,
nodata NaN; a cloud file is the scene classification, 0 where there is no data. Axes: N items, C bands, H, W.
"""

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from rasterio._err import CPLE_BaseError  # what warping raises of GDAL's errors; rasterio exports no other name
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cgm2net import sensors
from cgm2net.data.sources import stac_sign
from cgm2net.data.sources.stac_documents import ItemSource, RoleSource
from cgm2net.errors import FetchError
from cgm2net.files import write_aside
from cgm2net.grids import blocks_in, part_of, whole
from cgm2net.raster import Raster
from cgm2net.streams import RasterWriter

if TYPE_CHECKING:
    import pystac
    import xarray as xr

_BLOCK_PX = 2048  # a file's own blocks are often 1024 px: smaller windows would fetch each of them several times
_NUM_READERS = 8
_PATIENCE_SECONDS = 60.0
_GDAL = MappingProxyType({
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": "5", "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20", "GDAL_HTTP_TIMEOUT": "120", "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_CACHEMAX": 64 << 20,
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/",  # else it would remember for good that a server was once busy
})  # fmt: skip


class _Stored(NamedTuple):
    """How a role's values are read and kept."""

    dtype: str
    read_nodata: float
    "Of what is read, where no asset reaches or holds data; an asset's own nodata stands in its file."
    resampling: str
    nodata: float | None
    "That the file declares. A classification declares none: 0 is one of its codes."
    fill: float


_OPTICAL = _Stored("uint16", 0, "bilinear", sensors.OPTICAL_NODATA, sensors.OPTICAL_NODATA)
_ROLES = MappingProxyType({
    "optical": _OPTICAL,
    "reference": _OPTICAL,
    "sar": _Stored("float32", float("nan"), "bilinear", sensors.SAR_NODATA, sensors.SAR_NODATA),
    "cloud": _Stored("uint8", 0, "nearest", None, 0),
})  # fmt: skip


def write(role: str, source: RoleSource, grid: GeoBox, target: Path, *, kept_dir: Path) -> None:
    """Make the file of a role.

    Args:
        role: column of the catalogue.
        source: what it is made of.
        grid: of the new file.
        target: new GeoTIFF with band names.
        kept_dir: finished blocks wait here, so that an interrupted reading goes on where it stopped; removed at last.

    Raises:
        FileNotFoundError, PermissionError: if an asset is not at its address, or not given out.
        FetchError: at a fault of the network, after GDAL's own tries.
    """
    stored = _ROLES[role]
    bands = source.band_names
    kept_dir.mkdir(parents=True, exist_ok=True)
    with (
        write_aside(target) as aside,
        RasterWriter(aside, grid=grid, bands=bands, dtype=stored.dtype, nodata=stored.nodata) as file,
    ):
        for window in blocks_in(grid, whole(grid), height_px=_BLOCK_PX, width_px=_BLOCK_PX):
            block = part_of(grid, window)
            pixels = _kept_block(role, source, block, kept_dir / f"{window.row_off}_{window.col_off}.npy")
            everywhere = np.ones(pixels.shape[1:], bool)
            file.write(Raster(pixels_CHW=pixels, valid_HW=everywhere, bands=bands, grid=block), window)
    shutil.rmtree(kept_dir)


def _kept_block(role: str, source: RoleSource, grid: GeoBox, kept: Path) -> np.ndarray:
    if not kept.is_file():
        pixels = read(role, source, grid)
        with write_aside(kept) as aside, aside.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
    return np.asarray(np.load(kept, allow_pickle=False))


def read(role: str, source: RoleSource, grid: GeoBox) -> np.ndarray:
    """Return a role's pixels on a grid (C, H, W), as its file would hold them; it must fit into memory."""
    stored = _ROLES[role]
    bands = source.band_names
    made = np.full((len(bands), *grid.shape), stored.fill, stored.dtype)
    missing = np.ones(tuple(grid.shape), bool)
    for values, measured in _layers(role, source, grid, bands):
        new = measured & missing
        made[:, new] = values[:, new]
        missing &= ~new
    return made


def _layers(
    role: str, source: RoleSource, grid: GeoBox, bands: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield of each item that reaches the grid the converted values (C, H, W) and where it measured (H, W)."""
    decode = {"sar": _decibel, "cloud": _codes}.get(role, _dn)
    items = [item for item in source.items if _reaches(item, grid)]
    if not items:
        return
    loaded = _load(items, stac_sign.signer(source.sign), grid, _ROLES[role], bands)
    for number, item in enumerate(items):
        yield decode(np.stack([loaded[band].values[number] for band in bands]), item)


def _load(
    items: Sequence[ItemSource], sign: stac_sign.Sign, grid: GeoBox, stored: _Stored, bands: Sequence[str]
) -> "xr.Dataset":
    from odc import stac

    # It logs the address of what it could not read, which a signed one makes a secret.
    logging.getLogger("odc.loader").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), rasterio.Env(**_GDAL):
            # rasterio's own arrays have no georeference; that it silences this is undone by another thread now and then
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return stac.load(
                [_as_item(item, sign) for item in items], bands=list(bands), geobox=grid, groupby="id",
                preserve_original_order=True, dtype=stored.dtype, nodata=stored.read_nodata,
                resampling=stored.resampling, pool=_NUM_READERS,
            )  # fmt: skip
    except (RasterioError, CPLE_BaseError) as error:
        for item in items:
            for band in item.bands:
                _require_there(band.href, sign)
        said = re.sub(r"\?\S*", "?…", str(error.__cause__ or error))
        raise FetchError(f"item {' or '.join(item.id for item in items)}: cannot be read: {said}") from None


def _as_item(source: ItemSource, sign: stac_sign.Sign) -> "pystac.Item":
    """Return an item with nothing but what is to be read."""
    import pystac

    bounds = list(_footprint(source).boundingbox.bbox)
    item = pystac.Item(source.id, source.footprint, bounds, datetime.fromisoformat(source.acquired), {})
    for band in source.bands:
        item.add_asset(band.name, pystac.Asset(sign(band.href), media_type=pystac.MediaType.COG, roles=["data"]))
    return item


def _reaches(item: ItemSource, grid: GeoBox) -> bool:
    return bool(_footprint(item).intersects(grid.geographic_extent))


def _footprint(item: ItemSource) -> Geometry:
    return Geometry(item.footprint, "EPSG:4326")


def _dn(stored_CHW: np.ndarray, item: ItemSource) -> tuple[np.ndarray, np.ndarray]:
    # With the offset in it no measurement is 0, and the edges of bands differ by a pixel. Once an API has taken it away
    # (or where there never was one) a single 0 may be dark water, and only 0 in all bands is a gap.
    there = stored_CHW != sensors.OPTICAL_NODATA
    measured = there.all(axis=0) if all(band.offset_dn < 0 for band in item.bands) else there.any(axis=0)
    offset = np.array([round(band.offset_dn) for band in item.bands], np.int32)[:, None, None]
    return np.clip(stored_CHW + offset, 1, np.iinfo(np.uint16).max).astype(np.uint16), measured


def _decibel(stored_CHW: np.ndarray, item: ItemSource) -> tuple[np.ndarray, np.ndarray]:
    values = stored_CHW.copy()
    measured = np.isfinite(values).all(axis=0)
    for number, band in enumerate(item.bands):
        if band.linear:
            positive = measured & (values[number] > 0)
            values[number] = 10 * np.log10(np.where(positive, values[number], 1))
            measured &= positive
    return values, measured


def _codes(stored_CHW: np.ndarray, _item: ItemSource) -> tuple[np.ndarray, np.ndarray]:
    return stored_CHW, stored_CHW[0] != 0


def _require_there(href: str, sign: stac_sign.Sign) -> None:
    """Find out whether an asset is at its address; GDAL tells that from a fault of the network in words alone.

    Raises:
        FileNotFoundError, PermissionError: if it is not, or is not given out.
        FetchError: if the server does not answer.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("http", "https"):
        if parts.scheme in ("", "file") and not Path(unquote(parts.path)).exists():
            raise FileNotFoundError(href)
        return
    import requests

    shown = href.partition("?")[0]
    try:
        with requests.get(sign(href), headers={"Range": "bytes=0-0"}, stream=True, timeout=_PATIENCE_SECONDS) as answer:
            status = answer.status_code
    except requests.RequestException as error:
        raise FetchError(f"{shown}: no answer: {type(error).__name__}") from None
    if status in (404, 410):
        raise FileNotFoundError(f"{shown} (HTTP {status})")
    if status in (401, 403):
        raise PermissionError(f"{shown} (HTTP {status})")
