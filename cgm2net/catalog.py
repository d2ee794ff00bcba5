"""The catalogue and the scene tables that the stages hand on: one row a scene.

The catalogue is ``data/catalog.csv``. Stages write the same rows with local paths and what they found, as
``scenes.csv``; a scene that cannot go on stays in the table with ``accepted`` False and a ``reason``.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from cgm2net.errors import CatalogError, DataError
from cgm2net.files import write_aside

FILE_ROLES = ("optical", "sar", "reference", "label", "cloud")
"""Columns that hold a URI or path; ``optical`` and ``sar`` are always there, the others may be empty."""

MADE_FILES = ("extra",)
"""Columns of scene tables that hold files which a stage made of others: optical bands for the cloud mask alone."""

HASH_COLUMNS = tuple(f"{role}_sha256" for role in FILE_ROLES)
COLUMNS = ("scene_id", "region", "acquired_optical", "acquired_sar", *FILE_ROLES, "license", "source")

SPLITS = ("train", "val", "test")
"""What the optional column ``split`` may say: of every scene of a catalogue, or of none."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def read_catalog(path: Path) -> pd.DataFrame:
    """Read a catalogue; relative URIs are resolved against its folder.

    Args:
        path: CSV with the columns of :data:`COLUMNS` and, where known, ``ROLE_sha256`` and ``split``.

    Returns:
        One row a scene, all text, empty where unknown, sorted by ``scene_id``; ``split`` where the catalogue says it.

    Raises:
        CatalogError: if the file is absent, holds no scene, lacks a column, has an unsafe or repeated id, or says
            the split of some scenes only.
    """
    if not path.is_file():
        raise CatalogError(f"{path}: no catalogue there; `dvc pull` fetches the sample's, or write one")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: not a table of comma-separated values: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise CatalogError(f"{path}: rows have more values than the header has names; quote values that hold commas")
    missing = [name for name in COLUMNS if name not in table.columns]
    unknown = [name for name in table.columns if name not in (*COLUMNS, *HASH_COLUMNS, "split")]
    if missing or unknown:
        raise CatalogError(f"{path}: lacks columns {missing}, has unknown columns {unknown}; wanted {list(COLUMNS)}")
    if table.empty:
        raise CatalogError(f"{path}: no scene in it; append rows, one a scene")
    for name in HASH_COLUMNS:
        if name not in table.columns:
            table[name] = ""
    _check_ids(table, path)
    table = with_checked_splits(table, path)
    try:
        for role in FILE_ROLES:
            table[role] = [resolve_uri(uri, path.parent) for uri in table[role]]
    except ValueError as error:
        raise CatalogError(f"{path}: column {role} has a URI that cannot be parsed: {error}") from error
    for role in ("optical", "sar"):
        empty = table.loc[table[role] == "", "scene_id"].tolist()
        if empty:
            raise CatalogError(f"{path}: no {role} for scene {empty[0]}; every scene needs optical and sar")
    return table.sort_values("scene_id", ignore_index=True)


def _check_ids(table: pd.DataFrame, path: Path) -> None:
    for column in ("scene_id", "region"):
        for value in table[column]:
            check_id(value, what=column, where=path)
    repeated = table.loc[table["scene_id"].duplicated(), "scene_id"].tolist()
    if repeated:
        raise CatalogError(f"{path}: scene_id {repeated[0]!r} stands there twice; ids must be unique")


def with_checked_splits(table: pd.DataFrame, where: Path) -> pd.DataFrame:
    """Return a catalogue without its column ``split`` where that says nothing.

    Raises:
        CatalogError: if it says something else than :data:`SPLITS`, or of some scenes only.
    """
    said = set(table["split"]) if "split" in table.columns else {""}
    if said == {""}:
        return table.drop(columns="split", errors="ignore")
    if wrong := sorted(said - {*SPLITS, ""}):
        raise CatalogError(f"{where}: column split says {wrong[0]!r}; wanted {', '.join(SPLITS)} or nothing")
    if "" in said:
        silent = table.loc[table["split"] == "", "scene_id"].iloc[0]
        raise CatalogError(
            f"{where}: no split for scene {silent}, but for others; say it for every scene, or leave the column out"
        )
    return table


def check_id(value: str, *, what: str, where: Path | str) -> None:
    """Refuse an id that is not safe as a folder name.

    Raises:
        CatalogError: names the id, what it is the id of, and where it stands.
    """
    if not _SAFE_ID.fullmatch(value):
        raise CatalogError(
            f"{where}: {what} {value!r} is not safe as a folder name; use letters, digits, '.', '_', '-', at most 128,"
            " beginning with a letter or digit"
        )


def resolve_uri(uri: str, folder: Path) -> str:
    """Return a URI unchanged, or a relative path as an absolute one below ``folder``; empty stays empty."""
    if not uri or urlsplit(uri).scheme:
        return uri
    return str((folder / uri).resolve())


def write_catalog(table: pd.DataFrame, path: Path) -> None:
    """Write a catalogue, rows sorted by ``scene_id``."""
    with write_aside(path) as aside:
        table.sort_values("scene_id").to_csv(aside, index=False, lineterminator="\n")


def read_scenes(path: Path) -> pd.DataFrame:
    """Read a stage's ``scenes.csv``.

    Returns:
        One row a scene; ``accepted`` is bool, text is empty where unknown, file columns are absolute paths.

    Raises:
        CatalogError: if the table is absent.
    """
    if not path.is_file():
        raise CatalogError(f"{path}: no scene table there; run the stage that makes it (`dvc repro`)")
    columns = pd.read_csv(path, nrows=0).columns
    text = [name for name in columns if name in (*COLUMNS, *HASH_COLUMNS, *MADE_FILES, "split", "reason")]
    # Only an empty field is unknown: by default pandas takes a region called NA for nothing too.
    empty = {name: [""] for name in columns if name not in text}
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=empty)
    for role in _files_of(table):
        table[role] = [resolve_uri(uri, path.parent) for uri in table[role]]
    return table


def _files_of(table: pd.DataFrame) -> list[str]:
    return [name for name in (*FILE_ROLES, *MADE_FILES) if name in table.columns]


def write_scenes(table: pd.DataFrame, path: Path) -> None:
    """Write a stage's scene table: sorted, stable bytes, files relative to the table's folder."""
    table = table.sort_values("scene_id")
    for role in _files_of(table):
        table[role] = [os.path.relpath(file, path.parent.resolve()) if file else "" for file in table[role].fillna("")]
    with write_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n", float_format="%.6g")


def accepted_scenes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that go on to the next stage.

    Raises:
        DataError: if there are none; the reasons are listed.
    """
    going_on = table[table["accepted"]].reset_index(drop=True)
    if going_on.empty:
        reasons = "; ".join(f"{row.scene_id}: {row.reason}" for row in table.head(5).itertuples())
        raise DataError(f"none of {len(table)} scenes is accepted: {reasons}")
    return going_on


def merge_results(table: pd.DataFrame, results: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Join what a stage found (one dict a scene, with ``scene_id``) to its rows.

    A result with ``accepted`` False keeps its ``reason``; rows refused earlier stay refused.

    Raises:
        CatalogError: if a scene was handed in that the table does not have, or one is left without a verdict.
    """
    found = pd.DataFrame(list(results), columns=None if results else ["scene_id", "accepted", "reason"])
    if not set(found["scene_id"]) <= set(table["scene_id"]):
        raise CatalogError(f"results for unknown scenes {sorted(set(found['scene_id']) - set(table['scene_id']))}")
    old = table.set_index("scene_id")
    new = found.set_index("scene_id")
    columns = [*old.columns, *(name for name in new.columns if name not in old.columns)]
    merged = new.combine_first(old)[columns].reset_index()
    unjudged = merged.loc[merged["accepted"].isna(), "scene_id"].tolist()
    if unjudged:
        raise CatalogError(f"scenes {', '.join(unjudged[:5])} are neither accepted nor refused")
    merged["accepted"] = merged["accepted"].astype(bool)
    merged["reason"] = merged["reason"].fillna("")
    return merged
