"""What STAC items say of Sentinel images: where a band lies, what offset its values carry, whether SAR is calibrated.

APIs differ: Earth Search v1 names assets ``red``, ``rededge1``, ``nir`` and has mostly taken the offset away already;
Planetary Computer names them ``B04``, ``B05``, ``B08`` and never has.
"""

import re
from typing import TYPE_CHECKING, Any

from cgm2net.errors import CatalogError, RasterError
from cgm2net.sensors import BASELINE_OFFSET_DN, COMMON_NAMES

if TYPE_CHECKING:
    import pystac

_OFFSET_SINCE = (4, 0)
_OTHER_KEYS = {"B05": "rededge1", "B06": "rededge2", "B07": "rededge3"}  # of Earth Search, beside the common names


def read_item(source: str) -> "pystac.Item":
    """Return the item at a path or URL.

    Raises:
        CatalogError: if there is none that can be read.
    """
    import pystac

    try:
        return pystac.Item.from_file(source)
    except (OSError, ValueError, KeyError, pystac.STACError, pystac.STACTypeError) as error:
        raise CatalogError(f"{source}: not a readable STAC item: {error}") from error


def band_asset(item: "pystac.Item", name: str) -> "pystac.Asset":
    """Return the asset that holds one band alone, by its key, or else by the band names that it states.

    Keys come first: Earth Search states the same names of ``red`` (a COG) and of ``red-jp2``.

    Raises:
        RasterError: if there is none; lists the assets.
    """
    wanted = {name.lower(), COMMON_NAMES.get(name, name).lower(), _OTHER_KEYS.get(name, name).lower()}
    for key, asset in item.assets.items():
        if key.lower() in wanted:
            return asset
    for field in ("name", "common_name"):  # a common name may be that of several bands: `rededge`
        for asset in item.assets.values():
            bands = _bands(asset)
            if len(bands) == 1 and str(bands[0].get(field, "")).lower() in wanted:
                return asset
    raise RasterError(f"item {item.id}: has no asset for band {name}; its assets are {', '.join(item.assets)}")


def classification_asset(item: "pystac.Item") -> "pystac.Asset | None":
    """Return the scene classification of a Sentinel-2 L2A item; None where it has none."""
    return item.assets.get("scl") or item.assets.get("SCL")


def href_of(asset: "pystac.Asset") -> str:
    """Return an asset's address.

    Raises:
        RasterError: if it is relative and the item does not say to what.
    """
    href = asset.get_absolute_href()
    if href is None:
        raise RasterError(f"asset {asset.title or asset.href}: its address is relative and the item says not to what")
    return href


def offset_dn(item: "pystac.Item", asset: "pystac.Asset") -> float:
    """Return what must be added to the stored DN: 0, or -1000 from processing baseline 04.00 on.

    What counts, in this order: that the API says to have applied it (Earth Search states the offset of such items
    all the same), that the baseline is too old to have one, the offset that the asset states, the baseline.
    """
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0
    number = re.match(r"0*(\d+)\.(\d+)", baseline(item))
    with_offset = number is not None and (int(number[1]), int(number[2])) >= _OFFSET_SINCE
    if number is not None and not with_offset:
        return 0.0
    scale, stated = _scaling(asset)
    if stated is not None:
        return stated / scale
    return -float(BASELINE_OFFSET_DN) if with_offset else 0.0


def baseline(item: "pystac.Item") -> str:
    """Return the processing baseline, such as ``05.10``; empty where the item does not say."""
    properties = item.properties
    return str(properties.get("s2:processing_baseline") or properties.get("processing:version") or "")


def require_backscatter(item: "pystac.Item") -> None:
    """Refuse SAR that is not calibrated and terrain-corrected.

    Items of Planetary Computer's ``sentinel-1-rtc`` name as product type the GRD that they were made from, so the
    collection and the id are asked first.

    Raises:
        RasterError: says what the item is instead.
    """
    kind = str(item.properties.get("sar:product_type", "")).upper()
    named = f"{item.collection_id or ''} {item.id}".lower()
    if "rtc" in re.split(r"[^a-z0-9]+", named) or (kind not in ("GRD", "SLC", "RAW", "OCN") and "-grd" not in named):
        return
    raise RasterError(
        f"item {item.id}: product type {kind or 'GRD'} is not calibrated backscatter (it lies in radar geometry); take"
        " the RTC item of the scene, such as those of Planetary Computer"
    )


def is_linear(asset: "pystac.Asset") -> bool:
    """Whether SAR is linear power, as RTC products are unless they say dB."""
    return "db" not in {str(band.get("unit", "")).lower() for band in _bands(asset)}


def acquired(item: "pystac.Item") -> str:
    """Return the time of acquisition in UTC, ``2024-06-01T10:30:00Z``; empty where the item does not say."""
    moment = item.datetime or item.common_metadata.start_datetime
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def _bands(asset: "pystac.Asset") -> list[dict[str, Any]]:
    fields = asset.extra_fields
    for key in ("bands", "eo:bands", "raster:bands"):
        if fields.get(key):
            return list(fields[key])
    return []


def _scaling(asset: "pystac.Asset") -> tuple[float, float | None]:
    fields = asset.extra_fields
    for band in [*fields.get("raster:bands", []), *fields.get("bands", []), fields]:
        for prefix in ("", "raster:"):
            if f"{prefix}offset" in band:
                return float(band.get(f"{prefix}scale", 1.0)), float(band[f"{prefix}offset"])
    return 1.0, None
