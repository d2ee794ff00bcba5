"""SEN12MS-CR: Sentinel-1 and Sentinel-2 (L1C, 13 bands), cloudy and clear, of four seasons; no masks, no labels.

CC BY 4.0. Ebel, Meraner, Schmitt, Zhu 2021, doi:10.1109/TGRS.2020.3024744. Layout, one archive a season and modality::

    ROIs1158_spring_s1/s1_{roi}/ROIs1158_spring_s1_{roi}_p{n}.tif

Regions are counted anew in each season. "Cloudy" is not always cloudy and "clear" not always clear.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cgm2net.compute import progress_bar
from cgm2net.data.reading import Reading, join
from cgm2net.data.sources.listing import Listing, Refusal, files_below
from cgm2net.errors import DataError
from cgm2net.sensors import SENTINEL1, SENTINEL2

SEASONS = MappingProxyType({
    "spring": "ROIs1158_spring", "summer": "ROIs1868_summer", "fall": "ROIs1970_fall", "winter": "ROIs2017_winter",
})  # fmt: skip
"""Season -> what its archives and files begin with."""

MODALITIES = MappingProxyType({"s1": "sar", "s2": "reference", "s2_cloudy": "optical"})

_VAL = {"winter": (22, 107, 130, 84), "summer": (19, 80, 127, 17), "fall": (65,), "spring": (17,)}
_TEST = {
    "spring": (106, 123, 140, 31, 44), "summer": (119, 73), "fall": (139,), "winter": (108, 63),
}  # fmt: skip
SPLIT_REGIONS = MappingProxyType({
    f"{SEASONS[season]}_{roi}": split
    for split, regions in (("val", _VAL), ("test", _TEST))
    for season, rois in regions.items()
    for roi in rois
})  # fmt: skip
"""Regions of the published validation and test splits; all others are learned from."""

_IMAGE = Reading(bands=tuple(band.name for band in SENTINEL2))
_READINGS = MappingProxyType({
    "optical": _IMAGE, "reference": _IMAGE, "sar": Reading(bands=tuple(band.name for band in SENTINEL1)),
})  # fmt: skip
_NAME = re.compile(rf"({'|'.join(SEASONS.values())})_(s1|s2|s2_cloudy)_(\d+)_p(\d+)\.tiff?", re.IGNORECASE)
_STARTS = MappingProxyType({start.lower(): start for start in SEASONS.values()})


@dataclass(frozen=True, kw_only=True, order=True)
class Key:
    """What the files of one scene have in common."""

    start: str
    roi: int
    number: int

    @property
    def region(self) -> str:
        """Return the name of the region, as the split knows it."""
        return f"{self.start}_{self.roi}"

    @property
    def scene_id(self) -> str:
        """Return the name of the scene."""
        return f"{self.region}_p{self.number}"


def list_sen12ms_cr(path: Path, *, split: str) -> Listing:
    """List an unpacked copy, at whatever depth its files lie.

    Args:
        path: folder with the unpacked archives.
        split: ``published`` by region, as the authors do; ``region`` says no split.

    Raises:
        DataError: if there is no file of the set.
    """
    scenes: dict[Key, dict[str, Path]] = {}
    refused = []
    for file in files_below(path) if path.is_dir() else []:
        match, name = _NAME.fullmatch(file.name), file.relative_to(path).as_posix()
        if match is None:
            refused.append(Refusal(file=name, reason="name not understood"))
            continue
        key = Key(start=_STARTS[match[1].lower()], roi=int(match[3]), number=int(match[4]))
        role = MODALITIES[match[2].lower()]
        if role in scenes.setdefault(key, {}):
            refused.append(Refusal(file=name, reason="a second file of one scene and modality"))
        scenes[key].setdefault(role, file)
    if not scenes:
        raise DataError(
            f"{path}: has no file such as ROIs1158_spring_s1/s1_1/ROIs1158_spring_s1_1_p30.tif; unpack the archives"
            " there, or let --download do it"
        )
    rows = []
    with progress_bar() as progress:
        for key in progress.track(sorted(scenes), description="sen12ms_cr"):
            missing = [modality for modality, role in MODALITIES.items() if role not in scenes[key]]
            if missing:
                reason = f"no {' and no '.join(missing)}"
                refused.append(Refusal(scene_id=key.scene_id, file=key.scene_id, reason=reason))
            else:
                rows.append(_row(key, scenes[key], split=split))
    return Listing(where=path, rows=tuple(rows), refused=tuple(refused))


def _row(key: Key, files: Mapping[str, Path], *, split: str) -> dict[str, str]:
    said = {"split": SPLIT_REGIONS.get(key.region, "train")} if split == "published" else {}
    return {
        "scene_id": key.scene_id, "region": key.region,
        **{role: join(str(file.absolute()), _READINGS[role]) for role, file in files.items()},
        "license": "CC-BY-4.0", "source": "sen12ms_cr", **said,
    }  # fmt: skip
