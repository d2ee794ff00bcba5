"""What a source found: rows of the catalogue, and what is left out with its reason; written, or only told."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cgm2net.catalog import COLUMNS, FILE_ROLES, SPLITS, read_catalog, with_checked_splits, write_catalog
from cgm2net.errors import DataError
from cgm2net.files import write_aside

_NUM_TOLD = 8  # regions and reasons that are named; the rest is counted


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A scene that is refused, or a file that is left out."""

    file: str
    "Path of the file at fault, below the source's folder."
    reason: str
    "The same words for the same fault, so that faults can be counted."
    scene_id: str = ""
    "The scene that is refused for it; empty where only the file is left out."


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All of a source: accepted + refused scenes = found."""

    where: Path
    "The source's folder."
    rows: tuple[Mapping[str, str], ...]
    "Accepted scenes; see :data:`cgm2net.catalog.COLUMNS`."
    refused: tuple[Refusal, ...]

    def words(self) -> str:
        """Return the counts, for a person."""
        scenes = {refusal.scene_id: refusal.reason for refusal in reversed(self.refused) if refusal.scene_id}
        files = [refusal.reason for refusal in self.refused if not refusal.scene_id]
        regions = {row["region"] for row in self.rows}
        lines = [
            f"{self.where}: {len(self.rows) + len(scenes)} scenes found = {len(self.rows)} accepted + {len(scenes)}"
            f" refused; {len(files)} files left out",
            *(f"  refused {count}: {reason}" for reason, count in _counted(scenes.values())),
            *(f"  left out {count}: {reason}" for reason, count in _counted(files)),
            f"  {len(regions)} regions: {_some(sorted(regions))}",
        ]
        return "\n".join([*lines, *self._splits()])

    def _splits(self) -> list[str]:
        splits = Counter(row["split"] for row in self.rows if row.get("split"))
        if not splits:
            return []
        pairs = {(row["region"], row["split"]) for row in self.rows}
        shared = [region for region, count in Counter(region for region, _ in pairs).items() if count > 1]
        counts = ", ".join(f"{name} {splits[name]}" for name in SPLITS)
        lines = [f"  splits: {counts}; tile.split `catalog` in params.yaml takes them, `region` makes its own"]
        if shared:
            lines.append(
                f"  {len(shared)} regions stand in several splits: what is scored was partly learned; `catalog` wants"
                " tile.shared_regions for it"
            )
        return lines


def write_listing(listing: Listing, out: Path, *, append: bool, dry_run: bool) -> str:
    """Write accepted scenes as a catalogue, and what is left out beside it.

    Args:
        listing: of a source.
        out: the catalogue; ``OUT.refused.csv`` beside it gets ``scene_id, file, reason``.
        append: keep the catalogue's other scenes.
        dry_run: write nothing.

    Returns:
        What to say of it.

    Raises:
        DataError: if no scene is accepted; the refusals are written all the same.
        CatalogError: if some scenes of the catalogue would have a split and others none, or it is no catalogue.
    """
    if dry_run:
        return f"{listing.words()}\n  nothing written, as asked"
    refused = out.with_suffix(".refused.csv")
    write_refused(listing, refused)
    if not listing.rows:
        raise DataError(f"{listing.words()}\n  no scene to write; the reasons stand in {refused}")
    table = _with_others(_table(listing, out), out) if append else _table(listing, out)
    write_catalog(with_checked_splits(table, out), out)
    return f"{listing.words()}\n  {out}: {len(table)} scenes, {refused.name}; pin them with `dvc add {out.parent}`"


def _table(listing: Listing, out: Path) -> pd.DataFrame:
    table = pd.DataFrame([{**dict.fromkeys(COLUMNS, ""), **row} for row in listing.rows])
    beside = f"{out.parent.absolute()}{os.sep}"
    for role in FILE_ROLES:  # what lies beside the catalogue moves with it
        table[role] = [uri.removeprefix(beside) for uri in table[role]]
    return table


def _with_others(table: pd.DataFrame, out: Path) -> pd.DataFrame:
    if not out.is_file():
        return table
    read_catalog(out)  # refuses what is no catalogue; the rows are taken as they stand, paths relative
    there = pd.read_csv(out, dtype=str, keep_default_na=False)
    others = there[~there["scene_id"].isin(table["scene_id"])]
    return pd.concat([others, table], ignore_index=True).fillna("")


def write_refused(listing: Listing, path: Path) -> None:
    """Write what is left out, and why, as a table."""
    rows = [(refusal.scene_id, refusal.file, refusal.reason) for refusal in listing.refused]
    with write_aside(path) as aside:
        pd.DataFrame(sorted(rows), columns=["scene_id", "file", "reason"]).to_csv(
            aside, index=False, lineterminator="\n"
        )


def _counted(reasons: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(reasons).items(), key=lambda pair: (-pair[1], pair[0]))


def _some(names: list[str]) -> str:
    rest = len(names) - _NUM_TOLD
    return ", ".join(names[:_NUM_TOLD]) + (f" and {rest} more" if rest > 0 else "")


def safe_id(text: str) -> str:
    """Return a text as an id that is safe as a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "x"


def files_below(folder: Path) -> list[Path]:
    """Return all files at any depth but hidden ones, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def folders_in(folder: Path) -> list[Path]:
    """Return the folders right below, sorted; none where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
