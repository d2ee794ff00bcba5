"""The champion moved by hand, and moved back, by the record that :mod:`cgm2net.registry` keeps of every move."""

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from cgm2net import registry
from cgm2net.errors import ModelError
from cgm2net.lineage import UNKNOWN
from cgm2net.registry import Version

CHAMPION = "champion"
_TEST = "metrics."  # a version's tag that holds its metrics on one test, named by tiles, settings and code of scoring
_ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A move of the champion that was made."""

    name: str
    "Of the registered model."
    before: int | None
    "Version that was the champion; None if there was none."
    after: int
    "Version that is it now."
    who: str

    def __str__(self) -> str:
        return f"champion of {self.name}: version {self.before or 'none'} -> {self.after}, recorded for {self.who}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A time during which an alias stood on a version, as far as the record tells."""

    version: int
    since: str
    "UTC, ISO 8601."
    until: str | None
    "None: it stands there now; ``unknown``: it was moved without a record."
    who: str
    "Who moved it there."
    why: str


def promote(name: str, number: int, *, why: str, who: str, force: bool = False) -> Moved:
    """Make a version the champion by hand.

    Args:
        name: of the registered model.
        number: the version.
        why: the reason, for the record.
        who: the person who decides.
        force: also if version and champion were never judged on the same test.

    Raises:
        ModelError: if there is no such version, it is the champion already, no reason is given, or the two were not
            judged on the same test.
        BackendError: if the server cannot be asked or does not take it.
    """
    version = _existing(name, number)
    champion = registry.version_of(name, alias=CHAMPION)
    if champion is not None and champion.number == number:
        raise ModelError(f"version {number} of {name} is the champion already; `moves` shows since when")
    facts = {"by": "promote", "run_id": version.run_id, "forced": force}
    facts |= {key: version.tags[key] for key in ("data_hash", "model_sha256") if key in version.tags}
    if champion is not None and not force:
        facts["test"] = _common_test(version, champion)
    return _move(version, champion, why=why, who=who, facts=facts)


def rollback(name: str, *, why: str, who: str) -> Moved:
    """Move the champion back to where it stood before its last move; once more goes one move further back.

    Args:
        name: of the registered model.
        why: the reason, for the record.
        who: the person who decides.

    Raises:
        ModelError: if the record knows no version before, that version is gone, or no reason is given.
        BackendError: if the server cannot be asked or does not take it.
    """
    champion = registry.version_of(name, alias=CHAMPION)
    path = path_of(registry.alias_moves(name, alias=CHAMPION), standing=champion.number if champion else None)
    before = path[-2] if len(path) > 1 else None
    if before is None:
        raise ModelError(
            f"champion of {name}: the record knows no version before"
            f" {f'version {champion.number}' if champion else 'none'}; `promote VERSION` moves it anywhere"
        )
    return _move(_existing(name, before), champion, why=why, who=who, facts={"by": _ROLLBACK})


def path_of(moves: Sequence[Mapping[str, object]], *, standing: int | None) -> tuple[int | None, ...]:
    """Return the versions that lead to where an alias stands, as an undo history: a rollback takes its last one away.

    A recorded move that never happened (it was interrupted after the record; the next one starts where it did) is
    left out. A move that is not in the record (made in MLflow itself) shows as a place that the next move starts from,
    and counts as a move.

    Args:
        moves: as :func:`cgm2net.registry.alias_moves` gives them, oldest first.
        standing: version that the alias stands on; None if on none.

    Returns:
        Versions, the present one last; None where there was none.
    """
    path: tuple[int | None, ...] = (None,)
    for move in happened(moves, standing=standing):
        start, end = _end(move, "from"), _end(move, "to")
        path = path if path[-1] == start else (*path, start)
        undone = move.get("by") == _ROLLBACK and len(path) > 1 and path[-2] == end
        path = path[:-1] if undone else (*path, end)
    return path if path[-1] == standing else (*path, standing)


def happened(moves: Sequence[Mapping[str, object]], *, standing: int | None) -> list[Mapping[str, object]]:
    """Leave out recorded moves that were interrupted before the alias moved; see :func:`path_of`."""
    later = [*(_end(move, "from") for move in moves[1:]), standing]
    return [
        move
        for move, found in zip(moves, later, strict=False)
        if found == _end(move, "to") or found != _end(move, "from")
    ]


def standings(moves: Sequence[Mapping[str, object]], *, standing: int | None) -> list[Standing]:
    """Return when an alias stood on which version, oldest first; arguments as of :func:`path_of`.

    Where MLflow was told to move the alias without a record, ``until`` is ``unknown``.
    """
    real = happened(moves, standing=standing)
    found: list[Standing] = []
    for index, move in enumerate(real):
        later = real[index + 1] if index + 1 < len(real) else None
        until = str(later["when"]) if later else None
        stayed = (_end(later, "from") if later else standing) == _end(move, "to")
        found.append(
            Standing(
                version=int(str(move["to"])), since=str(move["when"]), until=until if stayed else UNKNOWN,
                who=str(move["who"]), why=str(move["why"]),
            )
        )  # fmt: skip
    return found


def who_moves(named: str | None) -> str:
    """Return who is recorded: the name given, or that of the user.

    Raises:
        ModelError: if the system knows no name.
    """
    if named is not None and named.strip():
        return named.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user without a name
        raise ModelError("the system knows no name of this user; say who moves the champion by --who NAME") from error


def moves_json(name: str) -> str:
    """Return the champion's record as JSON: ``name``, ``standing`` and ``moves``, oldest first.

    Raises:
        BackendError: if the server cannot be asked.
    """
    moves, standing = _record(name)
    return json.dumps({"name": name, "standing": standing, "moves": moves}, indent=2, sort_keys=True)


def moves_table(name: str) -> Table:
    """Return the champion's record as a table, oldest first.

    Raises:
        BackendError: if the server cannot be asked.
    """
    moves, standing = _record(name)
    real = happened(moves, standing=standing)
    title = f"champion of {name}: " + (f"version {standing}" if standing else "none")
    table = Table(title=title, title_justify="left", caption=_unrecorded(moves, standing), caption_justify="left")
    for column in ("when (UTC)", "from", "to", "who", "why"):
        table.add_column(column, justify="right" if column in {"from", "to"} else "left", overflow="fold")
    for move in moves:
        why = str(move["why"]) + ("" if move in real else " (interrupted: it did not happen)")
        ends = (str(move[end] or "none") for end in ("from", "to"))
        table.add_row(str(move["when"])[:19].replace("T", " "), *ends, _by(move), why)
    return table


def _record(name: str) -> tuple[list[dict[str, object]], int | None]:
    champion = registry.version_of(name, alias=CHAMPION)
    return registry.alias_moves(name, alias=CHAMPION), champion.number if champion else None


def _unrecorded(moves: Sequence[Mapping[str, object]], standing: int | None) -> str:
    ends = (_end(moves[-1], "to"), _end(moves[-1], "from")) if moves else (None,)
    return "" if standing in ends else "it was moved since without a record, not by this library"


def _by(move: Mapping[str, object]) -> str:
    return (
        f"{move['who']} ({move['by']}{', forced' if move.get('forced') else ''})" if "by" in move else f"{move['who']}"
    )


def _existing(name: str, number: int) -> Version:
    version = registry.version_numbered(name, number)
    if version is None:
        raise ModelError(
            f"model {name} has no version {number}; `python -m cgm2net moves` shows where the champion stood,"
            " MLFLOW_TRACKING_URI says where to look"
        )
    return version


def _common_test(version: Version, champion: Version) -> str:
    """Return the tag of a test that both were judged on."""
    common = sorted(tag for tag in version.tags if tag.startswith(_TEST) and tag in champion.tags)
    if common:
        return common[0]
    tiles = [known.tags.get("data_hash", "unknown") for known in (version, champion)]
    how = f"tiles {tiles[0]}, the champion, version {champion.number}, on {tiles[1]}"
    if tiles[0] == tiles[1]:
        how = f"the same tiles as the champion, version {champion.number}, but by other settings or code of scoring"
    raise ModelError(
        f"version {version.number} of {version.name} was judged on {how}: nothing says which one is better; run"
        " `dvc repro register` with its weights, which judges the champion on the same tiles, or --force the move"
    )


def _move(
    version: Version, champion: Version | None, *, why: str, who: str, facts: Mapping[str, object]
) -> Moved:  # fmt: skip
    if not why.strip():
        raise ModelError(f"champion of {version.name}: no reason given; --why says it to whoever reads the record")
    registry.set_alias(version, alias=CHAMPION, why=why.strip(), who=who, facts=facts)
    before = champion.number if champion else None
    return Moved(name=version.name, before=before, after=version.number, who=who)


def _end(move: Mapping[str, object], end: str) -> int | None:
    number = move[end]
    return None if number is None else int(str(number))
