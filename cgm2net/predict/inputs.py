"""Scenes to predict, from where users keep them: a catalogue, a folder, STAC items."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pandas as pd

from cgm2net.catalog import COLUMNS, accepted_scenes, check_id, read_catalog, read_scenes
from cgm2net.data.fetch import PERMANENT, fetch, file_suffix, identity
from cgm2net.data.reading import Reading, join, split
from cgm2net.data.rewriting import rewrite
from cgm2net.data.sources import stac_items
from cgm2net.data.sources.folder import scene_files, uri_of
from cgm2net.data.sources.listing import folders_in
from cgm2net.data.sources.stac_documents import is_stac
from cgm2net.errors import CatalogError, ChecksumError, RasterError
from cgm2net.files import CACHE_DIR, sha256_json, write_aside
from cgm2net.predict.scene import BandFile, SceneInputs, files_as_inputs

if TYPE_CHECKING:
    import pystac

FETCHED_DIR = CACHE_DIR / "scenes"

_ROLES = ("optical", "sar", "cloud")
_OF_BANDS = {"bands", "scale", "offset", "linear"}
"""Instructions that hold for bands read where they lie."""


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
    ``optical.tif`` and ``sar.tif`` (and ``cloud.tif`` or ``cloud.npy``, where there is one), named by the sub-folder.

    Raises:
        CatalogError: if there is no scene, a name is not safe as an id, or one of the two files is missing.
    """
    if (folder / "catalog.csv").is_file():
        return from_catalog(folder / "catalog.csv")
    rows: list[Mapping[str, str]] = []
    for sub in folders_in(folder):
        there = {role: file for role, file in scene_files(sub).items() if role in _ROLES}
        if not {"optical", "sar"} & set(there):
            continue
        if missing := {"optical", "sar"} - set(there):
            raise CatalogError(f"{sub}: has no {missing.pop()}.tif; a scene needs optical.tif and sar.tif")
        check_id(sub.name, what="scene_id", where=folder)
        files = {role: uri_of(file, Reading()) for role, file in there.items()}
        rows.append({"scene_id": sub.name, "cloud": "", **files})
    if not rows:
        raise CatalogError(
            f"{folder}: no scene there; wanted catalog.csv, or SCENE_ID/optical.tif and SCENE_ID/sar.tif"
        )
    return rows


def row_as_inputs(row: Mapping[str, str], *, fetched_dir: Path = FETCHED_DIR) -> SceneInputs:
    """Make a row's files local, each fetched once, and return them, to be read as their URIs say.

    Raises:
        RasterError: if a file is not there, not given out or not the one that the catalogue names, or its
            instructions are not understood or do not fit it.
        FetchError: at a fault of the network.
    """
    local: dict[str, Path] = {}
    readings = dict.fromkeys(_ROLES, Reading())
    for role in _ROLES:  # optical first: others may be laid over it
        if row.get(role):
            local[role], readings[role] = _told(row, role, fetched_dir, optical=local.get("optical"))
    optical, sar = readings["optical"], readings["sar"]
    inputs = files_as_inputs(
        row["scene_id"], optical=local["optical"], sar=local["sar"], cloud=local.get("cloud"),
        optical_bands=optical.bands, sar_bands=sar.bands, scale=optical.scale, offset=optical.offset,
        linear=sar.linear, acquired_optical=row.get("acquired_optical", ""), acquired_sar=row.get("acquired_sar", ""),
    )  # fmt: skip
    return replace(inputs, sar=tuple(replace(band, scale=sar.scale, offset=sar.offset) for band in inputs.sar))


def _told(row: Mapping[str, str], role: str, fetched_dir: Path, *, optical: Path | None) -> tuple[Path, Reading]:
    """Return a local file and how it is still to be read: one that bands cannot be told of is written anew."""
    try:
        uri, reading = split(row[role])
        reading.require_role(role, row[role])
    except CatalogError as error:
        raise RasterError(str(error)) from error
    file = _local({**row, role: uri}, role, fetched_dir)
    if file.suffix.lower() != ".npy" and set(reading.given) <= (set() if role == "cloud" else _OF_BANDS):
        return file, reading
    if not file.is_file():
        raise RasterError(f"{role} is not at {uri}")
    known = [join(identity(str(file)), reading), identity(str(optical)) if reading.grid else ""]
    target = fetched_dir / sha256_json(known) / f"{role}.tif"
    if not target.is_file():
        with write_aside(target) as aside:
            rewrite(file, aside, role=role, reading=reading, optical=optical, name=f"{role} {uri}")
    return target, Reading()


def _local(row: Mapping[str, str], role: str, fetched_dir: Path) -> Path:
    uri, sha256 = row[role], row.get(f"{role}_sha256", "")
    parts = urlsplit(uri)
    if not parts.scheme and not sha256 and not is_stac(uri):
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

    Bands, offset and unit are what :mod:`cgm2net.data.sources.stac_items` makes of the items. The scene classification
    (asset ``scl``) is the cloud mask where there is one.

    Args:
        optical: path or URL of the item's JSON.
        sar: path or URL of the item's JSON.
        optical_bands: names wanted.
        sar_bands: names wanted.

    Raises:
        CatalogError: if an item cannot be read.
        RasterError: if an asset is missing, or SAR is not calibrated backscatter.
    """
    first, second = stac_items.read_item(optical), stac_items.read_item(sar)
    check_id(first.id, what="item id", where=optical)
    stac_items.require_backscatter(second)
    scl = stac_items.classification_asset(first)
    return SceneInputs(
        scene_id=first.id,
        optical=tuple(_optical_band(first, name) for name in optical_bands),
        sar=tuple(_sar_band(second, name) for name in sar_bands),
        cloud=stac_items.href_of(scl) if scl else None,
        acquired_optical=stac_items.acquired(first),
        acquired_sar=stac_items.acquired(second),
    )


def _optical_band(item: "pystac.Item", name: str) -> BandFile:
    asset = stac_items.band_asset(item, name)
    return BandFile(name=name, path=stac_items.href_of(asset), index=1, offset=stac_items.offset_dn(item, asset))


def _sar_band(item: "pystac.Item", name: str) -> BandFile:
    asset = stac_items.band_asset(item, name)
    return BandFile(name=name, path=stac_items.href_of(asset), index=1, linear=stac_items.is_linear(asset))
