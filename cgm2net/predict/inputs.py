"""Scenes to predict, from where users keep them: a catalogue, a folder, STAC items."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pandas as pd

from cgm2net.catalog import COLUMNS, accepted_scenes, check_id, read_catalog, read_scenes
from cgm2net.data.fetch import PERMANENT, fetch, file_suffix, identity
from cgm2net.errors import CatalogError, ChecksumError, RasterError
from cgm2net.files import CACHE_DIR, sha256_json
from cgm2net.predict.scene import BandFile, SceneInputs, files_as_inputs
from cgm2net.sensors import BASELINE_OFFSET_DN, COMMON_NAMES

if TYPE_CHECKING:
    import pystac

FETCHED_DIR = CACHE_DIR / "scenes"
_OFFSET_SINCE = "04.00"


def from_catalog(path: Path) -> list[Mapping[str, str]]:
    """Return the rows of a catalogue, one a scene; files are fetched when :func:`row_as_inputs` is asked for them.

    Of a stage's ``scenes.csv``, the accepted scenes are returned.

    Raises:
        CatalogError: if it cannot be used.
        DataError: if no scene of it is accepted.
    """
    judged = path.is_file() and "accepted" in pd.read_csv(path, nrows=0).columns
    table = accepted_scenes(read_scenes(path))[[*COLUMNS]] if judged else read_catalog(path)
    return [{str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")]


def from_folder(folder: Path) -> list[Mapping[str, str]]:
    """Return rows as of a catalogue: of ``catalog.csv`` in the folder, or else of every sub-folder with the files
    ``optical.tif`` and ``sar.tif`` (and ``cloud.tif``, where there is one), named by the sub-folder.

    Raises:
        CatalogError: if there is no scene, a name is not safe as an id, or one of the two files is missing.
    """
    if (folder / "catalog.csv").is_file():
        return from_catalog(folder / "catalog.csv")
    rows: list[Mapping[str, str]] = []
    for sub in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        files = {role: sub / f"{role}.tif" for role in ("optical", "sar", "cloud")}
        there = {role: str(file.resolve()) for role, file in files.items() if file.is_file()}
        if not {"optical", "sar"} & set(there):
            continue
        if missing := {"optical", "sar"} - set(there):
            raise CatalogError(f"{sub}: has no {missing.pop()}.tif; a scene needs optical.tif and sar.tif")
        check_id(sub.name, what="scene_id", where=folder)
        rows.append({"scene_id": sub.name, "cloud": "", **there})
    if not rows:
        raise CatalogError(
            f"{folder}: no scene there; wanted catalog.csv, or SCENE_ID/optical.tif and SCENE_ID/sar.tif"
        )
    return rows


def row_as_inputs(row: Mapping[str, str], *, fetched_dir: Path = FETCHED_DIR) -> SceneInputs:
    """Make a row's files local, each fetched once, and return them.

    Raises:
        RasterError: if a file is not there, not given out or not the one that the catalogue names.
        FetchError: at a fault of the network.
    """
    local = {role: _local(row, role, fetched_dir) for role in ("optical", "sar", "cloud") if row.get(role)}
    return files_as_inputs(
        row["scene_id"], optical=local["optical"], sar=local["sar"], cloud=local.get("cloud"),
        acquired_optical=row.get("acquired_optical", ""), acquired_sar=row.get("acquired_sar", ""),
    )  # fmt: skip


def _local(row: Mapping[str, str], role: str, fetched_dir: Path) -> Path:
    uri, sha256 = row[role], row.get(f"{role}_sha256", "")
    parts = urlsplit(uri)
    if not parts.scheme and not sha256:
        return Path(uri)
    if parts.scheme == "file" and not sha256:
        return Path(unquote(parts.path))
    try:
        target = fetched_dir / sha256_json([sha256 or identity(uri)]) / f"{role}{file_suffix(uri)}"
        if not target.is_file():
            fetch(uri, target, sha256=sha256)
    except (*PERMANENT, ChecksumError) as error:
        raise RasterError(f"{role} cannot be had from {uri}: {error}") from error
    return target


def from_items(optical: str, sar: str, *, optical_bands: Sequence[str], sar_bands: Sequence[str]) -> SceneInputs:
    """Return the scene of two STAC items, an optical one (Sentinel-2) and a SAR one (Sentinel-1 RTC).

    Bands are found by asset key, band name or common name; DN offset and unit are read from the items: an offset that
    the item states, or that of processing baseline 04.00 where it states none. The scene classification (asset
    ``scl``) is the cloud mask where there is one.

    Args:
        optical: path or URL of the item's JSON.
        sar: path or URL of the item's JSON.
        optical_bands: names wanted.
        sar_bands: names wanted.

    Raises:
        CatalogError: if an item cannot be read.
        RasterError: if an asset is missing, or SAR is not calibrated backscatter.
    """
    first, second = _read_item(optical), _read_item(sar)
    check_id(first.id, what="item id", where=optical)
    kind = str(second.properties.get("sar:product_type", "RTC")).upper()
    if kind != "RTC":
        raise RasterError(f"{sar}: product type {kind} is not calibrated backscatter; take the RTC item of the scene")
    scl = first.assets.get("scl") or first.assets.get("SCL")
    return SceneInputs(
        scene_id=first.id,
        optical=tuple(_optical_band(first, name) for name in optical_bands),
        sar=tuple(_sar_band(second, name) for name in sar_bands),
        cloud=_href(scl) if scl else None,
        acquired_optical=_acquired(first),
        acquired_sar=_acquired(second),
    )


def _read_item(source: str) -> "pystac.Item":
    import pystac

    try:
        return pystac.Item.from_file(source)
    except (OSError, ValueError, KeyError, pystac.STACError, pystac.STACTypeError) as error:
        raise CatalogError(f"{source}: not a readable STAC item: {error}") from error


def _optical_band(item: "pystac.Item", name: str) -> BandFile:
    asset = _asset(item, name)
    scale, offset = _scaling(asset)
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        offset_dn = 0.0
    elif offset is not None:
        offset_dn = offset / scale
    else:
        baseline = str(item.properties.get("s2:processing_baseline", "00.00"))
        offset_dn = -float(BASELINE_OFFSET_DN) if baseline >= _OFFSET_SINCE else 0.0
    return BandFile(name=name, path=_href(asset), index=1, offset=offset_dn)


def _sar_band(item: "pystac.Item", name: str) -> BandFile:
    asset = _asset(item, name)
    units = {str(band.get("unit", "")).lower() for band in _bands(asset)}
    return BandFile(name=name, path=_href(asset), index=1, linear="db" not in units)


def _asset(item: "pystac.Item", name: str) -> "pystac.Asset":
    wanted = {name.lower(), COMMON_NAMES.get(name, name).lower()}
    for key, asset in item.assets.items():
        names = {str(band.get(field, "")).lower() for band in _bands(asset) for field in ("name", "common_name")}
        if wanted & {key.lower(), *(names if len(_bands(asset)) == 1 else ())}:
            return asset
    raise RasterError(f"item {item.id}: has no asset for band {name}; its assets are {', '.join(item.assets)}")


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


def _href(asset: "pystac.Asset") -> str:
    href = asset.get_absolute_href()
    if href is None:
        raise RasterError(f"asset {asset.title or asset.href}: its address is relative and the item says not to what")
    return href


def _acquired(item: "pystac.Item") -> str:
    moment = item.datetime or item.common_metadata.start_datetime
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""
