"""The split lists of M3M-CR: CSV without header, the five files of a scene a line."""

import csv
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from cgm2net.catalog import SPLITS
from cgm2net.data.sources.listing import Refusal
from cgm2net.data.sources.m3m_names import ROLES, Key, parse, scene_id

_DEPTHS = ("*", "*/*", "*/*/*")
_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])", re.IGNORECASE)


def read_lists(
    root: Path, folders: Container[str], scenes: Mapping[Key, object]
) -> tuple[dict[Key, str], list[Refusal]]:
    """Say the split of every scene.

    A list names the scenes of its split, ``val`` those of it in the train folder. Where a folder has no list of its
    own name, its scenes that no other list names belong to it.

    Args:
        root: the data set's folder; lists lie in it, or up to two folders below.
        folders: those that are there.
        scenes: those that are there, by key.

    Returns:
        Split by scene, and the refusals: scenes that are in no list, or in one and not there; lines not understood.
    """
    files = sorted(file for depth in _DEPTHS for file in root.glob(depth))
    lists = {split: [file for file in files if split_of_list(file) == split] for split in SPLITS}
    splits: dict[Key, str] = {}
    refused = []
    for split in sorted(SPLITS, key=lambda name: name == "val"):  # last: what validates is not learned from
        folder = "train" if split == "val" and "val" not in folders else split
        for file in lists[split]:
            for line, key in _lines(file, folder=folder):
                where = f"{file.relative_to(root).as_posix()}, line {line}"
                if key is None:
                    refused.append(Refusal(file=where, reason="line does not name the five files of one scene"))
                elif key not in scenes:
                    refused.append(Refusal(scene_id=scene_id(key, scenes), file=where, reason="listed, but not there"))
                else:
                    splits[key] = split
    for key in sorted(set(scenes) - set(splits)):
        if lists[key.folder]:
            reason = f"in no list of the {key.folder} folder"
            refused.append(Refusal(scene_id=scene_id(key, scenes), file=f"{key.folder}/{key.text}", reason=reason))
        else:
            splits[key] = key.folder
    return splits, refused


def split_of_list(file: Path) -> str | None:
    """Return the split whose list a file is, by its name; None where it is none."""
    word = _WORD.search(file.stem)
    return word[0].lower() if word and file.suffix.lower() == ".csv" else None


def _lines(file: Path, *, folder: str) -> Iterator[tuple[int, Key | None]]:
    """Yield number and scene of each line; None where its files are not five of one scene."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        for number, cells in enumerate(csv.reader(lines), start=1):
            if not cells:
                continue
            names = [re.split(r"[\\/]", cell.strip())[-1] for cell in cells]
            found = [known for name in names if (known := parse(name, folder=folder))]
            whole = {role for _, role in found} == set(ROLES.values()) and len({key for key, _ in found}) == 1
            yield number, found[0][0] if whole else None
