"""LuojiaSET-OSFCR: Sentinel-1 and Sentinel-2 (L1C, 13 bands) with cloud masks and land cover, in bins of cloud cover.

Bring your own copy: it is given out by its authors, who state no licence. Pan, Xu, Yu, Ye, Wang, Chen, Ma 2024,
doi:10.1016/j.isprsjprs.2024.10.026. Layout::

    {0-20%,20%-40%,…}/{s1,s2,s2_cloudy,cloud_detection_results,land_cover_maps}/ROIs_{rr}_…_p{n}.tif

Copies are known in which files stand under the wrong name, so every file is recognised by what it holds.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cgm2net.compute import progress_bar
from cgm2net.data.reading import Reading, join
from cgm2net.data.sources.contents import KINDS, Content, Kind, look_at
from cgm2net.data.sources.listing import Listing, Refusal, files_below, folders_in, safe_id
from cgm2net.data.sources.shares import split_groups
from cgm2net.errors import DataError, RasterError
from cgm2net.sensors import BASELINE_OFFSET_DN, SENTINEL1, SENTINEL2

NUM_CLASSES = 7
"""Codes 0 to 6; what they mean is not documented."""

SEED = 42
"""Of the published loaders' random split."""

Offset = Literal["auto", "0", "-1000"]

_NEAR = BASELINE_OFFSET_DN - 100
_CIRRUS = BASELINE_OFFSET_DN + 150
_NUM_READERS = 4
_BIN = re.compile(r"(\d+)%*-(\d+)%*")
_NAME = re.compile(r"ROIs_(.+)_(s1|s2|s2_cloudy)_p(\d+)\.tiff?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Role:
    folder: str
    name: str
    "What stands between region and number in the file's name."
    kind: Kind


_ROLES = MappingProxyType({
    "sar": _Role(folder="s1", name="s1", kind="sar"), "reference": _Role(folder="s2", name="s2", kind="image"),
    "optical": _Role(folder="s2_cloudy", name="s2_cloudy", kind="image"),
    "cloud": _Role(folder="cloud_detection_results", name="s2_cloudy", kind="mask"),
    "label": _Role(folder="land_cover_maps", name="s2", kind="label"),
})  # fmt: skip
_ESSENTIAL = ("sar", "reference", "optical", "label")


@dataclass(frozen=True, kw_only=True, order=True)
class Key:
    """What the files of one sample have in common."""

    cover: str
    "Bin of cloud cover, such as ``20-40``."
    region: str
    number: str

    @property
    def scene_id(self) -> str:
        """Return the sample's name, safe for folders."""
        return safe_id(f"luojia-{self.cover}-ROIs_{self.region}_p{self.number}")


def list_luojiaset_osfcr(path: Path, *, split: str, offset: Offset) -> Listing:
    """List a copy of the data set.

    Args:
        path: folder of the bins.
        split: ``random`` as the published loaders do (80/10/10, stratified by bin; neighbouring ground lands on both
            sides), equal places of different bins kept together; ``region`` says no split.
        offset: what is added to every DN of Sentinel-2; ``auto`` finds the +1000 of processing baseline 04.00 in each
            file.

    Raises:
        DataError: if no bin is there.
    """
    root, bins = _bins(path)
    scenes, refused = _scenes(bins, root)
    rows: dict[Key, dict[str, str]] = {}
    with progress_bar() as progress, ThreadPoolExecutor(_NUM_READERS) as pool:
        bar = progress.add_task("luojiaset_osfcr", total=len(scenes))
        looked = pool.map(lambda key: _look(scenes[key]), sorted(scenes))
        for key, contents in zip(sorted(scenes), looked, strict=True):
            faults = list(_faults(key, scenes[key], contents, root))
            refused += faults
            if not any(fault.scene_id for fault in faults):
                rows[key] = _row(key, scenes[key], contents, offset=offset)
            progress.advance(bar)
    said = _random_split(rows) if split == "random" else {}
    listed = [{**row, **({"split": said[key]} if said else {})} for key, row in sorted(rows.items())]
    return Listing(where=path, rows=tuple(listed), refused=tuple(refused))


def _bins(path: Path) -> tuple[Path, list[tuple[str, Path]]]:
    """Return the folder that holds the bins, this one or one right below, and the bins with their cover."""
    for root in (path, *folders_in(path)):
        if bins := [(cover, sub) for sub in folders_in(root) if (cover := _cover(sub.name))]:
            return root, bins
    raise DataError(f"{path}: has no folder such as 0-20%; name the folder that holds the bins of cloud cover")


def _cover(folder: str) -> str:
    match = _BIN.fullmatch(folder)
    return f"{int(match[1]):02d}-{int(match[2]):02d}" if match else ""


def _scenes(bins: Sequence[tuple[str, Path]], root: Path) -> tuple[dict[Key, dict[str, Path]], list[Refusal]]:
    roles = {role.folder: name for name, role in _ROLES.items()}
    scenes: dict[Key, dict[str, Path]] = {}
    refused = []
    for cover, top in bins:
        for file in files_below(top):
            role = roles.get(file.parent.name.lower())
            match = _NAME.fullmatch(file.name)
            if role is None or match is None or match[2].lower() != _ROLES[role].name:
                refused.append(Refusal(file=file.relative_to(root).as_posix(), reason="name or folder not understood"))
                continue
            files = scenes.setdefault(Key(cover=cover, region=match[1], number=match[3]), {})
            if role in files:
                reason = "a second file of one sample and role"
                refused.append(Refusal(file=file.relative_to(root).as_posix(), reason=reason))
            files.setdefault(role, file)
    return scenes, refused


def _look(files: Mapping[str, Path]) -> dict[str, Content | RasterError]:
    contents: dict[str, Content | RasterError] = {}
    for role, file in files.items():
        try:
            contents[role] = look_at(file, num_classes=NUM_CLASSES)
        except RasterError as error:
            contents[role] = error
    return contents


def _faults(
    key: Key, files: Mapping[str, Path], contents: Mapping[str, Content | RasterError], root: Path
) -> Iterator[Refusal]:
    """Name every file that is not what its name says, and every one that is missing.

    Without its mask a sample goes on, as a whole bin of a known copy lacks them; without another file it is refused.
    """
    for name, role in _ROLES.items():
        found, essential = contents.get(name), name in _ESSENTIAL
        after = "" if essential else "; the sample goes on without"
        if found is None:
            bin_folder = next(iter(files.values())).parent.parent
            file = bin_folder / role.folder / f"ROIs_{key.region}_{role.name}_p{key.number}.tif"
            reason = f"no file in {role.folder}"
        else:
            file, reason = files[name], _fault(name, found, contents)
        if reason:
            where = file.relative_to(root).as_posix()
            yield Refusal(scene_id=key.scene_id if essential else "", file=where, reason=reason + after)


def _fault(name: str, found: Content | RasterError, contents: Mapping[str, Content | RasterError]) -> str:
    role, clear = _ROLES[name], contents.get("reference")
    if isinstance(found, RasterError):
        return "cannot be read as a raster"
    if role.kind not in found.kinds:
        return f"{role.folder} holds {found.words}, wanted {KINDS[role.kind]}"
    if name == "optical" and isinstance(clear, Content) and clear.digest == found.digest:
        return "s2_cloudy holds the very pixels of s2"
    return ""


def _row(
    key: Key, files: Mapping[str, Path], contents: Mapping[str, Content | RasterError], *, offset: Offset
) -> dict[str, str]:
    good = {role: content for role, content in contents.items() if isinstance(content, Content)}
    good = {role: content for role, content in good.items() if _ROLES[role].kind in content.kinds}
    uris = {role: _uri(files[role], role, good, offset=offset) for role in _ROLES if role in good}
    return {
        "scene_id": key.scene_id, "region": f"luojia-{safe_id(key.region)}", **uris, "license": "not stated",
        "source": "luojiaset_osfcr",
    }  # fmt: skip


def _uri(file: Path, role: str, good: Mapping[str, Content], *, offset: Offset) -> str:
    uri = str(file.absolute())
    if role == "sar":  # its grid lies 0.4 px off, and says so
        return join(uri, Reading(bands=tuple(band.name for band in SENTINEL1)))
    if role in ("optical", "reference"):
        found = _offset_of(good, role) if offset == "auto" else int(offset)
        named = join(uri, Reading(bands=tuple(band.name for band in SENTINEL2), offset=found))
        return named if found else f"{named}&offset=0"  # said, so that the row tells what was found
    grid: Literal["", "optical"] = "" if good[role].lies_on(good["optical"]) else "optical"
    num_codes = NUM_CLASSES if role == "label" else 2
    return join(uri, Reading(codes=tuple((code, code) for code in range(num_codes)), grid=grid))


def _offset_of(good: Mapping[str, Content], role: str) -> int:
    """Tell the offset by B10, which is near 0 wherever there is no cirrus; the clear image tells where there is."""
    low = good[role].b10_low
    if low > _CIRRUS and role == "optical":
        low = good["reference"].b10_low
    return -BASELINE_OFFSET_DN if low >= _NEAR else 0


def _random_split(keys: Mapping[Key, object]) -> dict[Key, str]:
    bins: dict[tuple[str, str], list[str]] = {}
    for key in sorted(keys):
        bins.setdefault((key.region, key.number), []).append(key.cover)
    strata = {f"{region}/{number}": ",".join(covers) for (region, number), covers in bins.items()}
    said = split_groups(strata, val_share=0.1, test_share=0.1, seed=SEED)
    return {key: said[f"{key.region}/{key.number}"] for key in keys}
