"""The names of M3M-CR's files, and what the files of one scene have in common."""

import re
from collections.abc import Container
from dataclasses import dataclass
from types import MappingProxyType

from cgm2net.data.sources.listing import safe_id

ROLES = MappingProxyType({
    "planet_cloudy": "optical", "S1": "sar", "planet_cloudfree": "reference", "landcover": "label",
    "cloudmask": "cloud",
})  # fmt: skip
"""What a file's name begins with -> role."""

FOLDERS = ("train", "val", "test")
_NAME = re.compile(rf"({'|'.join(ROLES)})_(spring|summer|fall|winter)_(.+)_p_(\d+)\.(tiff?|npy)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, order=True)
class Key:
    """What the files of one scene have in common."""

    folder: str
    "``train`` or ``test``."
    season: str
    aoi: str
    number: str

    @property
    def text(self) -> str:
        """Return the join key of the published lists."""
        return f"{self.season}_{self.aoi}_p_{self.number}"


def parse(name: str, *, folder: str) -> tuple[Key, str] | None:
    """Return whose file this is and its role; None where the name is not one of the set's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    start, season, aoi, number, _ = match.groups()
    role = next(role for name, role in ROLES.items() if name.lower() == start.lower())
    return Key(folder=folder, season=season.lower(), aoi=aoi, number=number), role


def scene_id(key: Key, scenes: Container[Key]) -> str:
    """Return the join key, with the folder's name where both folders hold it."""
    twice = any(Key(folder=other, season=key.season, aoi=key.aoi, number=key.number) in scenes
                for other in FOLDERS if other != key.folder)  # fmt: skip
    return safe_id(f"{key.text}_{key.folder}" if twice else key.text)
