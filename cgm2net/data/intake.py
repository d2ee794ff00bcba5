"""What a source lists, joined to the catalogue scene by scene: which scenes are new, and where each of them goes.

``data/quarantine.csv`` holds the scenes that were refused, one row each, until they are accepted. Its column ``files``
is a hash of what each file was when it was judged: a scene whose files have changed since is a new one.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pandas as pd

from cgm2net.catalog import FILE_ROLES, HASH_COLUMNS, read_catalog, read_scenes, write_catalog
from cgm2net.data.fetch import PERMANENT, fetch, identity
from cgm2net.data.reading import split
from cgm2net.errors import CatalogError, DataError
from cgm2net.files import sha256_json, write_aside

CATALOG = "catalog.csv"
QUARANTINE = "quarantine.csv"
QUARANTINE_COLUMNS = ("scene_id", "when", "source", "reason", "files")

SELECTED = "selected.csv"
SELECTED_COLUMNS = ("scene_id", "status", "reason", "files")
"""``status`` is new, refused (before any file is read, for ``reason``), known or quarantined."""

SETTLED = "scenes.csv"
SETTLED_COLUMNS = ("scene_id", "status", "reason")
"""``status`` is accepted, refused, known or quarantined."""

_NUM_ASKERS = 16


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Scenes by what became of them."""

    where: Path
    "The table that says it of each."
    statuses: Mapping[str, int]
    "Status -> number of scenes."

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()) if count)
        return f"{self.where}: {counted or 'no scene'}"


def select(source: str, data_dir: Path, batch_dir: Path, *, again: bool = False) -> Counts:
    """Pick the scenes of a source that have not been judged yet.

    Args:
        source: path or URL of a catalogue; what its source refused stands beside it, as ``NAME.refused.csv``. A path
            at which there is only this table is a source that found no usable scene, and one without either is empty.
        data_dir: the project's ``data/``, with the catalogue and the quarantine where there are any.
        batch_dir: new folder; gets ``data/catalog.csv`` with the new scenes if there are any, URIs absolute, and
            ``selected.csv``, the table last.
        again: scenes in quarantine are new, whether their files changed or not.

    Raises:
        CatalogError: if a table cannot be used, or there is no file at the URL.
        FetchError: at a fault of the network that outlasts the tries.
    """
    table, left_out = _listed(source, batch_dir)
    known = _catalog_rows(data_dir)
    judged = {} if again else _quarantined(data_dir)
    rows = _dicts(table)
    there = {row["scene_id"] for row in rows if _same_files(row, known.get(row["scene_id"]))}
    others = [row for row in rows if row["scene_id"] not in there]
    with ThreadPoolExecutor(_NUM_ASKERS) as pool:
        files = list(pool.map(_fingerprint, others))
    selected = [{"scene_id": name, "status": "known", "reason": "", "files": ""} for name in sorted(there)]
    for row, hashed in zip(others, files, strict=True):
        reason = _clash(row, known)
        selected.append({"scene_id": row["scene_id"], "status": "refused" if reason else "new", "reason": reason,
                         "files": hashed})  # fmt: skip
    selected += left_out
    for scene in selected:
        if scene["files"] and judged.get(scene["scene_id"]) == scene["files"]:
            scene |= {"status": "quarantined", "reason": ""}
    new = {scene["scene_id"] for scene in selected if scene["status"] == "new"}
    if new:
        write_catalog(table[table["scene_id"].isin(new)], batch_dir / "data" / CATALOG)
    return _write(selected, SELECTED_COLUMNS, batch_dir / SELECTED)


def settle(batch_dir: Path, data_dir: Path, out_dir: Path, *, source: str, when: str) -> Counts:
    """Say where each selected scene goes, and write the tables as they will be.

    Args:
        batch_dir: of :func:`select`; where a scene was new, the stages up to ``validate`` have run there.
        data_dir: the project's ``data/``; it is not changed.
        out_dir: new folder; gets the new ``catalog.csv`` and ``quarantine.csv``, each only if it differs from that of
            ``data_dir``, and ``scenes.csv``, the table last.
        source: goes into the quarantine.
        when: the same; RFC 3339.

    Raises:
        CatalogError: if a table is absent or cannot be used.
        DataError: if a new scene has no verdict.
    """
    selected = _read_table(batch_dir / SELECTED, SELECTED_COLUMNS)
    new = selected[selected["status"] == "new"]["scene_id"].tolist()
    reasons = _reasons(batch_dir, new)
    settled = [_settled(scene, reasons) for scene in _dicts(selected)]
    accepted = {scene["scene_id"] for scene in settled if scene["status"] == "accepted"}
    refused = [{**scene, "when": when, "source": source} for scene in settled if scene["status"] == "refused"]
    if accepted:
        batch = read_catalog(batch_dir / "data" / CATALOG)
        _join(batch[batch["scene_id"].isin(accepted)], data_dir, out_dir / CATALOG)
    _quarantine(refused, accepted, data_dir / QUARANTINE, out_dir / QUARANTINE)
    return _write(settled, SETTLED_COLUMNS, out_dir / SETTLED)


def _settled(scene: dict[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    if scene["status"] != "new":
        return scene
    reason = reasons[scene["scene_id"]]
    return {**scene, "status": "refused" if reason else "accepted", "reason": reason}


def arrived(catalog: Path, scenes: Path, batch_dir: Path) -> int:
    """Write the catalogue of the scenes that a pipeline's tables do not hold yet.

    Args:
        catalog: the project's catalogue.
        scenes: scene table of a stage; its refused scenes count as held.
        batch_dir: new folder; gets ``data/catalog.csv``, URIs absolute, if there is such a scene.

    Returns:
        Their number.

    Raises:
        CatalogError: if a table is absent or cannot be used.
    """
    table = read_catalog(catalog)
    table = table[~table["scene_id"].isin(read_scenes(scenes)["scene_id"])]
    if len(table):
        write_catalog(table, batch_dir / "data" / CATALOG)
    return len(table)


def _listed(source: str, batch_dir: Path) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Return the source's rows, and what the source itself refused."""
    if _is_url(source):
        return _fetched(source, batch_dir / "source.csv"), []
    path = Path(source)
    beside = path.with_suffix(".refused.csv")
    left_out = _read_table(beside, ("scene_id", "file", "reason")).to_dict("records") if beside.is_file() else []
    refused = {scene["scene_id"]: scene for scene in left_out if scene["scene_id"]}
    table = read_catalog(path) if path.is_file() else pd.DataFrame(columns=["scene_id"])
    listed = set(table["scene_id"])
    return table, [
        {"scene_id": name, "status": "refused", "reason": scene["reason"],
         "files": sha256_json([scene["file"], scene["reason"]])}
        for name, scene in sorted(refused.items()) if name not in listed
    ]  # fmt: skip


def _is_url(source: str) -> bool:
    return "://" in source


def _fetched(url: str, copy: Path) -> pd.DataFrame:
    """Return the rows of a catalogue elsewhere; its relative URIs lie beside it."""
    try:
        fetch(url, copy)
    except PERMANENT as error:
        raise CatalogError(f"{url}: no catalogue there: {error}; correct the address") from error
    read_catalog(copy)
    table = pd.read_csv(copy, dtype=str, keep_default_na=False)
    for role in FILE_ROLES:
        table[role] = [beside_catalog(url, uri) for uri in table[role]]
    write_catalog(table, copy)
    return read_catalog(copy)


def beside_catalog(url: str, uri: str) -> str:
    """Return a URI of a catalogue at ``url``; a relative one lies beside it."""
    if not uri or urlsplit(uri).scheme:
        return uri
    if urlsplit(url).scheme in ("http", "https"):
        return urljoin(url, uri)
    return f"{url.rpartition('/')[0]}/{uri}"  # urljoin leaves out the bucket of stores that it does not know


def _catalog_rows(data_dir: Path) -> dict[str, Mapping[str, str]]:
    path = data_dir / CATALOG
    if not path.is_file():
        return {}
    return {row["scene_id"]: row for row in _dicts(read_catalog(path))}


def _quarantined(data_dir: Path) -> dict[str, str]:
    table = _quarantine_table(data_dir / QUARANTINE)
    return dict(zip(table["scene_id"], table["files"], strict=True))


def _quarantine_table(path: Path) -> pd.DataFrame:
    return _read_table(path, QUARANTINE_COLUMNS) if path.is_file() else pd.DataFrame(columns=[*QUARANTINE_COLUMNS])


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise CatalogError(f"{path}: no such table; run `intake select` first")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: not a table of comma-separated values: {error}") from error
    if tuple(table.columns) != tuple(columns):
        raise CatalogError(f"{path}: has columns {list(table.columns)}, wanted {list(columns)}; mend or remove it")
    return table


def _same_files(row: Mapping[str, str], known: Mapping[str, str] | None) -> bool:
    return known is not None and all(row[role] == known[role] for role in FILE_ROLES)


def _fingerprint(row: Mapping[str, str]) -> str:
    """Hash what each file of a scene is now: its URI and its checksum, or what the store says of it."""
    versions = []
    for role in FILE_ROLES:
        plain, _ = split(row[role]) if row[role] else ("", None)
        try:
            version = (row[f"{role}_sha256"] or identity(plain)) if plain else ""
        except PERMANENT as error:
            version = type(error).__name__
        versions.append([role, row[role], version])
    return sha256_json(versions)


def _clash(row: Mapping[str, str], known: Mapping[str, Mapping[str, str]]) -> str:
    """Return why a scene cannot stand in the catalogue beside those that are there."""
    if other := known.get(row["scene_id"]):
        role = next(role for role in FILE_ROLES if row[role] != other[role])
        return (
            f"the catalogue has a scene of this name with other files ({role}: {other[role] or 'none'}); give this one"
            " another name, or take that row out"
        )
    with_split = [bool(scene.get("split")) for scene in known.values()]
    if with_split and with_split[0] != bool(row.get("split")):
        says = "a split for every scene" if with_split[0] else "of no scene which split it belongs to"
        return f"the catalogue says {says}, and this one {'does' if row.get('split') else 'has none'}; make them agree"
    return ""


def _reasons(batch_dir: Path, new: Sequence[str]) -> dict[str, str]:
    """Return why each new scene was refused; empty where it was accepted."""
    if not new:
        return {}
    table = read_scenes(batch_dir / "artifacts" / "validate" / SETTLED)
    reasons = {
        scene_id: "" if accepted else reason or "refused without a reason"
        for scene_id, accepted, reason in zip(table["scene_id"], table["accepted"], table["reason"], strict=True)
    }
    if unjudged := sorted(set(new) - set(reasons)):
        raise DataError(f"{batch_dir}: no verdict on scene {unjudged[0]}; run download and validate there first")
    return reasons


def _join(rows: pd.DataFrame, data_dir: Path, out: Path) -> None:
    """Write the catalogue with more rows; those that were there stay as they stand, paths relative."""
    path = data_dir / CATALOG
    beside = f"{data_dir.resolve()}/"
    rows = rows.assign(**{role: [uri.removeprefix(beside) for uri in rows[role]] for role in FILE_ROLES})
    rows = rows.drop(columns=[name for name in HASH_COLUMNS if not rows[name].any()])
    if path.is_file():
        rows = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False), rows], ignore_index=True).fillna("")
    write_catalog(rows, out)


def _quarantine(refused: Sequence[Mapping[str, str]], accepted: set[str], path: Path, out: Path) -> None:
    """Write the quarantine with what was refused now and without what was accepted, if that changes it."""
    old = _quarantine_table(path)
    before = {row["scene_id"]: (row["reason"], row["files"]) for row in old.to_dict("records")}
    news = [scene for scene in refused if before.get(scene["scene_id"]) != (scene["reason"], scene["files"])]
    gone = {scene["scene_id"] for scene in news} | accepted
    if not news and gone.isdisjoint(before):
        return
    rows = pd.DataFrame(news, columns=[*QUARANTINE_COLUMNS])
    table = pd.concat([old[~old["scene_id"].isin(gone)], rows], ignore_index=True)
    with write_aside(out) as aside:
        table.sort_values(["when", "scene_id"]).to_csv(aside, index=False, lineterminator="\n")


def _dicts(table: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(name): str(value) for name, value in row.items()} for row in table.to_dict("records")]


def _write(scenes: Sequence[Mapping[str, str]], columns: Sequence[str], path: Path) -> Counts:
    table = pd.DataFrame(list(scenes), columns=[*columns]).sort_values("scene_id")
    with write_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")
    return Counts(where=path, statuses={str(k): int(v) for k, v in table["status"].value_counts().items()})
