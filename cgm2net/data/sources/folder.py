"""A user's own scenes: a folder each, named by the scene, with the files ``optical`` and ``sar``, and perhaps
``reference``, ``label`` and ``cloud``."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import rasterio
from rasterio.errors import RasterioIOError

from cgm2net.catalog import FILE_ROLES, check_id
from cgm2net.compute import progress_bar
from cgm2net.data.reading import Reading, join, split
from cgm2net.data.sources.listing import Listing, Refusal, folders_in
from cgm2net.errors import CatalogError, DataError

_SUFFIXES = (".tif", ".tiff", ".npy", ".jp2", ".img", ".vrt")
_TIME_TAGS = ("ACQUISITIONDATETIME", "ACQUIRED", "TIFFTAG_DATETIME")
_TIME_FORMS = ("%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")


def scene_files(folder: Path) -> dict[str, Path]:
    """Return the files of a scene by role: those called ``optical.tif``, ``cloud.npy``, …, in whatever case."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        role = file.stem.lower()
        if file.is_file() and role in FILE_ROLES and file.suffix.lower() in _SUFFIXES:
            files.setdefault(role, file)
    return files


def readings_of(
    *,
    optical_bands: str | None,
    sar_bands: str | None,
    scale: float,
    offset: float,
    linear: bool,
    label_codes: str | None,
) -> dict[str, Reading]:
    """Return how the files of each role are read, from the command's options.

    Raises:
        CatalogError: if one is not understood.
    """
    named = f"&bands={optical_bands}" if optical_bands else ""
    image = split(f"optical#scale={scale}&offset={offset}{named}")[1]
    sar = split(f"sar#linear={int(linear)}" + (f"&bands={sar_bands}" if sar_bands else ""))[1]
    label = split(f"label#codes={label_codes}")[1] if label_codes else Reading()
    return {"optical": image, "reference": image, "sar": sar, "label": label}


def list_folder(
    path: Path, *, readings: Mapping[str, Reading], region_pattern: str | None, license_name: str
) -> Listing:
    """List the scenes of a folder.

    Args:
        path: folder of the scenes' folders.
        readings: how the files of a role are read, where they do not follow the conventions; a ``.npy`` array lies on
            the optical image in any case.
        region_pattern: regular expression; what its first group (or all of it) finds in a scene's name is its region.
            Without one every scene is a region of its own.
        license_name: goes into every row.

    Raises:
        DataError: if there is no folder with such a file, or the pattern is no regular expression.
    """
    try:
        pattern = re.compile(region_pattern) if region_pattern else None
    except re.error as error:
        raise DataError(f"region pattern {region_pattern!r} is no regular expression: {error}") from error
    scenes = {sub: files for sub in folders_in(path) if (files := scene_files(sub))}
    if not scenes:
        raise DataError(f"{path}: no scene there; wanted SCENE_ID/optical.tif and SCENE_ID/sar.tif")
    rows, refused = [], _left_out(path, scenes)
    with progress_bar() as progress:
        for sub, files in progress.track(scenes.items(), description="folder"):
            region = _region(sub.name, pattern)
            reason = _fault(sub, files, region)
            if reason:
                refused.append(Refusal(scene_id=sub.name, file=sub.name, reason=reason))
            else:
                assert region is not None
                rows.append(_row(sub, files, readings, region=region, license_name=license_name))
    return Listing(where=path, rows=tuple(rows), refused=tuple(refused))


def _left_out(path: Path, scenes: Mapping[Path, Mapping[str, Path]]) -> list[Refusal]:
    files = [file for sub in folders_in(path) for file in sorted(sub.rglob("*")) if file.is_file()]
    files += sorted(file for file in path.iterdir() if file.is_file())
    used = {file for of_scene in scenes.values() for file in of_scene.values()}
    return [
        Refusal(file=file.relative_to(path).as_posix(), reason="no file of a scene")
        for file in files
        if file not in used and not file.name.startswith(".")
    ]


def _region(name: str, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        return name
    found = pattern.search(name)
    return (found[1] if pattern.groups else found[0]) if found else None


def _fault(sub: Path, files: Mapping[str, Path], region: str | None) -> str:
    missing = [role for role in ("optical", "sar") if role not in files]
    if missing:
        return f"no {' and no '.join(missing)}"
    if not region:
        return "the region pattern finds nothing in the scene's name"
    try:
        check_id(sub.name, what="scene_id", where=sub.parent)
        check_id(region, what="region", where=sub.parent)
    except CatalogError as error:
        return str(error)
    return ""


def _row(
    sub: Path, files: Mapping[str, Path], readings: Mapping[str, Reading], *, region: str, license_name: str
) -> dict[str, str]:
    return {
        "scene_id": sub.name, "region": region,
        **{f"acquired_{role}": acquired(files[role]) for role in ("optical", "sar")},
        **{role: uri_of(file, readings.get(role, Reading())) for role, file in files.items()},
        "license": license_name, "source": "folder",
    }  # fmt: skip


def uri_of(file: Path, reading: Reading) -> str:
    """Return a file's URI with what is told of it; an array lies on the optical image."""
    told = join(str(file.absolute()), reading)
    if file.suffix.lower() != ".npy" or reading.grid:
        return told
    return f"{told}{'&' if reading.given else '#'}grid=optical"


def acquired(path: Path) -> str:
    """Return when an image was taken, by its tags: RFC 3339, or empty where they do not tell."""
    if path.suffix.lower() == ".npy":
        return ""
    try:
        with rasterio.open(path) as file:
            tags = {key.upper(): value for key, value in {**file.tags(), **file.tags(ns="IMAGERY")}.items()}
    except RasterioIOError:  # validation will say more of it
        return ""
    for text in (tags[name] for name in _TIME_TAGS if name in tags):
        for form in _TIME_FORMS:
            try:
                return _in_utc(datetime.strptime(text.strip(), form))
            except ValueError:
                continue
    return ""


def _in_utc(time: datetime) -> str:
    return (time.astimezone(UTC) if time.tzinfo else time).strftime("%Y-%m-%dT%H:%M:%SZ")
