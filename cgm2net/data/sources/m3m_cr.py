"""M3M-CR (also M3R-CR, Planet-CR): PlanetScope 3 m, Sentinel-1, ESA WorldCover and cloud masks of 780 areas.

Bring your own copy: it is given out by its authors, for academic use. Xu, Shi, Ebel, Yang, Zhu 2024,
doi:10.1109/TGRS.2023.3337845. Layout::

    {train,test}/planet_cloudy_{season}/planet_cloudy_{season}_{aoi}/planet_cloudy_{season}_{aoi}_p_{k}.tif

and the same of ``planet_cloudfree``, ``S1``, ``landcover``, ``cloudmask`` (``.npy``). SAR and labels have pixels of
10 m on a grid of their own.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import rasterio
from rasterio.coords import BoundingBox, disjoint_bounds
from rasterio.errors import RasterioIOError

from cgm2net.compute import progress_bar
from cgm2net.data.reading import Reading, join
from cgm2net.data.sources.listing import Listing, Refusal, files_below, folders_in, safe_id
from cgm2net.data.sources.m3m_lists import read_lists, split_of_list
from cgm2net.data.sources.m3m_names import FOLDERS, ROLES, Key, parse, scene_id
from cgm2net.errors import DataError
from cgm2net.sensors import PLANETSCOPE, SENTINEL1

WORLDCOVER_CODES = ((10, 0), (20, 1), (30, 1), (40, 2), (50, 3), (60, 4), (80, 5), (90, 5))
"""WorldCover code -> forest 0, rangeland 1, agriculture 2, urban 3, barren 4, water 5 ("level 1" of the published
loaders). Snow 70, mangroves 95 and moss 100 become 255: published code calls them 6 and then scores six classes."""

_IMAGE = Reading(bands=tuple(band.name for band in PLANETSCOPE))
_READINGS = MappingProxyType({
    "optical": _IMAGE, "reference": _IMAGE, "sar": Reading(bands=tuple(band.name for band in SENTINEL1)),
    "label": Reading(codes=WORLDCOVER_CODES), "cloud": Reading(grid="optical"),
})  # fmt: skip


def list_m3m_cr(path: Path, *, split: str) -> Listing:
    """List a copy of the data set.

    Args:
        path: folder that holds ``train`` and ``test``, or the one above; or a folder such as ``train`` itself.
        split: ``given`` takes the folders and, where there are any, the lists (CSV, ``train``, ``val`` or ``test`` in
            their name); ``region`` says no split, so that the pipeline splits by region.

    Raises:
        DataError: if none of the folders is there.
    """
    root, folders = _folders(path)
    scenes, refused = _scenes(folders, root)
    splits, unlisted = read_lists(root, folders, scenes) if split == "given" else (dict.fromkeys(scenes, ""), [])
    refused += unlisted
    regions = _regions(scenes)
    rows = []
    with progress_bar() as progress:
        for key in progress.track(sorted(scenes), description="m3m_cr"):
            if key not in splits:
                continue
            missing = [start for start, role in ROLES.items() if role not in scenes[key]]
            if missing:
                reason, file = f"no {' and no '.join(missing)}", f"{key.folder}/{key.text}"
                refused.append(Refusal(scene_id=scene_id(key, scenes), file=file, reason=reason))
            else:
                rows.append(_row(key, scenes, split=splits[key], region=regions[key.season, key.aoi]))
    return Listing(where=path, rows=tuple(rows), refused=tuple(refused))


def _folders(path: Path) -> tuple[Path, dict[str, Path]]:
    """Return the data set's folder and those of its splits by name."""
    for root in (path, *folders_in(path)):
        if folders := {sub.name.lower(): sub for sub in folders_in(root) if sub.name.lower() in FOLDERS}:
            return root, folders
    name = path.name.lower() if path.name.lower() in FOLDERS else "train"
    if any(parse(file.name, folder=name) for file in files_below(path)):
        return path, {name: path}
    raise DataError(f"{path}: has none of the folders train and test; name the folder that holds them")


def _scenes(folders: Mapping[str, Path], root: Path) -> tuple[dict[Key, dict[str, Path]], list[Refusal]]:
    scenes: dict[Key, dict[str, Path]] = {}
    refused = []
    for folder, top in folders.items():
        for file in files_below(top):
            found, name = parse(file.name, folder=folder), file.relative_to(root).as_posix()
            if found is None:
                if split_of_list(file) is None:
                    refused.append(Refusal(file=name, reason="name not understood"))
            elif found[1] in scenes.setdefault(found[0], {}):
                refused.append(Refusal(file=name, reason="a second file of one scene and role"))
            else:
                scenes[found[0]][found[1]] = file
    return scenes, refused


def _row(key: Key, scenes: Mapping[Key, Mapping[str, Path]], *, split: str, region: str) -> dict[str, str]:
    files = {role: join(str(file.absolute()), _READINGS[role]) for role, file in scenes[key].items()}
    said = {"split": split} if split else {}
    return {
        "scene_id": scene_id(key, scenes), "region": region, **files, "license": "academic use only",
        "source": "m3m_cr", **said,
    }  # fmt: skip


def _regions(scenes: Mapping[Key, Mapping[str, Path]]) -> dict[tuple[str, str], str]:
    """Name the region of every season and area: one for all seasons of an area, unless they lie apart.

    Whether numbers of areas are counted anew in each season is not documented, so the ground decides.
    """
    images: dict[str, dict[str, list[Path]]] = {}
    for key, files in sorted(scenes.items()):
        images.setdefault(key.aoi, {}).setdefault(key.season, []).extend(
            file for role, file in files.items() if role == "optical"
        )
    regions = {}
    for aoi, seasons in images.items():
        apart = len(seasons) > 1 and _apart(list(seasons.values()))
        for season in seasons:
            regions[season, aoi] = "m3m-" + safe_id(f"{season}_{aoi}" if apart else aoi)
    return regions


def _apart(seasons: Sequence[Sequence[Path]]) -> bool:
    """Whether images of no two seasons show common ground; False where one does not tell."""
    try:
        places = [{_place(image) for image in images} for images in seasons]
    except RasterioIOError:
        return False
    return all(
        crs != other_crs or disjoint_bounds(bounds, other_bounds)
        for one, other in combinations(places, 2)
        for crs, bounds in one
        for other_crs, other_bounds in other
    )


def _place(image: Path) -> tuple[str, BoundingBox]:
    with rasterio.open(image) as file:
        return str(file.crs), file.bounds
