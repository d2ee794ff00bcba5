"""What a scene's files are made of: the items of an overflight as a document holds them, and how clouded they are."""

import json
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from odc.geo.geobox import GeoBox

from cgm2net.data.cloud_methods import COVER_THRESHOLD, find_cloud, version_of
from cgm2net.data.sources import stac_items, stac_read
from cgm2net.data.sources.stac_api import Service
from cgm2net.data.sources.stac_documents import BandSource, ItemSource, RoleSource, grid_source
from cgm2net.data.sources.stac_pairs import Pass
from cgm2net.errors import RasterError
from cgm2net.files import CACHE_DIR, sha256_json, write_json
from cgm2net.raster import Raster

if TYPE_CHECKING:
    import pystac

_LOOK_GSD_M = 60.0
"""Pixel size at which clouds are looked up; cloud-optimised files hold an overview of about that size."""


def optical_source(found: Pass, service: Service, bands: Sequence[str], *, crs: str) -> RoleSource:
    """Return the optical file of an overflight.

    Raises:
        RasterError: if an item lacks a band.
    """

    def of(item: "pystac.Item") -> tuple[BandSource, ...]:
        assets = {name: stac_items.band_asset(item, name) for name in bands}
        return tuple(
            BandSource(name=name, href=stac_items.href_of(asset), offset_dn=stac_items.offset_dn(item, asset))
            for name, asset in assets.items()
        )

    return _source(found, service, service.optical, of, crs=crs)


def sar_source(found: Pass, service: Service, bands: Sequence[str], *, crs: str) -> RoleSource:
    """Return the SAR file of an overflight.

    Raises:
        RasterError: if an item lacks a band, or is not calibrated backscatter.
    """

    def of(item: "pystac.Item") -> tuple[BandSource, ...]:
        stac_items.require_backscatter(item)
        assets = {name: stac_items.band_asset(item, name) for name in bands}
        return tuple(
            BandSource(name=name, href=stac_items.href_of(asset), linear=stac_items.is_linear(asset))
            for name, asset in assets.items()
        )

    return _source(found, service, service.sar, of, crs=crs)


def cloud_source(found: Pass, service: Service, *, crs: str) -> RoleSource | None:
    """Return the scene classification of an overflight; None where an item has none."""
    assets = {item.id: stac_items.classification_asset(item) for item in found.items}
    if None in assets.values():
        return None

    def of(item: "pystac.Item") -> tuple[BandSource, ...]:
        asset = assets[item.id]
        assert asset is not None
        return (BandSource(name="SCL", href=stac_items.href_of(asset)),)

    return _source(found, service, service.optical, of, crs=crs)


def cover_of(cloud: RoleSource, grid: GeoBox, *, cache_dir: Path = CACHE_DIR) -> tuple[float, float]:
    """Read a scene classification coarsely, once: what it said is kept, so that a search goes on where it stopped.

    Args:
        cloud: scene classification.
        grid: of the scene.
        cache_dir: of what was said.

    Returns:
        The share of the grid that is measured, and of it the share that cloud or shadow hides, by the rule of the
        stage `cloudmask`; 1 where nothing is measured.

    Raises:
        FileNotFoundError, PermissionError: if an asset is not at its address, or not given out.
        FetchError: at a fault of the network.
    """
    key = sha256_json([version_of("scl"), cloud.model_dump(), grid_source(grid).model_dump()])
    kept = cache_dir / "covers" / f"{key}.json"
    if not kept.is_file():
        measured, hidden = _look(cloud, grid)
        write_json(kept, {"measured": measured, "hidden": hidden})
    said = json.loads(kept.read_text())
    return float(said["measured"]), float(said["hidden"])


def _look(cloud: RoleSource, grid: GeoBox) -> tuple[float, float]:
    height, width = (max(1, ceil(length * abs(grid.transform.a) / _LOOK_GSD_M)) for length in grid.shape)
    coarse = grid.zoom_to((min(height, grid.shape[0]), min(width, grid.shape[1])))
    codes = stac_read.read("cloud", cloud, coarse)
    measured = codes[0] != 0
    if codes.max() <= 1:
        return float(measured.mean()), 1.0
    classes = Raster(pixels_CHW=codes, valid_HW=measured, bands=("SCL",), grid=coarse)
    hidden = find_cloud("scl", classes, classes, dilation_px=0) > COVER_THRESHOLD
    return float(measured.mean()), float(hidden[measured].mean())


def stated_cover(found: Pass) -> float:
    """Return the mean cloud cover that the items state of themselves, 0-1.

    Raises:
        RasterError: if one states none: nothing tells then whether it is clear.
    """
    shares = []
    for item in found.items:
        percent = item.properties.get("eo:cloud_cover")
        if percent is None:
            raise RasterError(f"item {item.id}: has neither a scene classification nor a cloud cover")
        shares.append(float(percent) / 100)
    return float(np.mean(shares))


def crs_of(item: "pystac.Item") -> str:
    """Return the projection of an item's assets, ``EPSG:32632``; empty where it does not say."""
    properties = item.properties
    code = properties.get("proj:code") or properties.get("proj:epsg")
    return f"EPSG:{code}" if isinstance(code, int) else str(code or "")


def _source(
    found: Pass,
    service: Service,
    collection: str,
    bands_of: Callable[["pystac.Item"], tuple[BandSource, ...]],
    *,
    crs: str,
) -> RoleSource:
    # Items in the scene's own projection come first: their pixels are taken as they are.
    ordered = sorted(found.items, key=lambda item: (crs_of(item) != crs, item.id))
    items = tuple(_item_source(item, collection, bands_of(item)) for item in ordered)
    return RoleSource(api=service.url, sign=service.sign, items=items)


def _item_source(item: "pystac.Item", collection: str, bands: tuple[BandSource, ...]) -> ItemSource:
    if item.geometry is None:
        raise RasterError(f"item {item.id}: has no footprint")
    stated = item.properties.get("eo:cloud_cover")
    return ItemSource(
        id=item.id, collection=item.collection_id or collection, link=item.get_self_href() or "",
        acquired=stac_items.acquired(item), baseline=stac_items.baseline(item),
        orbit=str(item.properties.get("sat:relative_orbit", "")),
        cloud_cover=None if stated is None else float(stated) / 100, footprint=item.geometry, bands=bands,
    )  # fmt: skip
