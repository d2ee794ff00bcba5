"""The flows that move the champion by hand, and back: the library's commands, with what a person sees of them."""

import json
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.transactions import Transaction, transaction

from pipelines.library import run_library

MOVES = Path(".cache/cgm2net/moves.json")
SHOWN = ("when", "from", "to", "who", "by", "why")


@task(cache_policy=NO_CACHE)
def move(command: str, *arguments: str, root: Path) -> None:
    """Run ``python -m cgm2net promote`` or ``rollback``; not retried, for the library says what is wrong."""
    run_library(command, *arguments, root=root, log=get_run_logger().info)


@task(task_run_name="check", cache_policy=NO_CACHE)
def check(model: str, *, root: Path) -> None:
    """Fetch the champion and load it, as the next ``predict`` will."""
    run_library("check", model, root=root, log=get_run_logger().info)


@task(task_run_name="moves", cache_policy=NO_CACHE)
def read_moves(*named: str, root: Path) -> dict[str, Any]:
    """Read the record of the champion's moves."""
    run_library("moves", *named, "--out", str(root / MOVES), root=root, log=get_run_logger().info)
    record: dict[str, Any] = json.loads((root / MOVES).read_text())
    return record


@flow(name="promote")
def promote(
    root: Path = Path(), *, version: int, why: str, who: str | None = None, name: str = "cgm2net", force: bool = False
) -> list[dict[str, Any]]:
    """Make a version the champion; one that cannot be fetched and loaded is taken back.

    Args:
        root: the project's folder.
        version: number of the version.
        why: the reason, for the record.
        who: the person who decides; the process's user by default.
        name: of the registered model.
        force: also if the two were never judged on the same test.

    Returns:
        All moves, newest first: ``when``, ``from``, ``to``, ``who``, ``by``, ``why``.

    Raises:
        CommandError: if the library refuses the move, or the version cannot be loaded; then, too, the champion is what
            it was, unless there was none.
    """
    root = root.resolve()
    named = ("--name", name)

    def undo(_: Transaction) -> None:
        reason = f"version {version} cannot be loaded: its promotion is undone"
        run_library("rollback", "--why", reason, *_by(who), *named, root=root, log=get_run_logger().info)

    moved = move.with_options(task_run_name="promote")
    moved.on_rollback(undo)
    with transaction():
        moved("promote", str(version), "--why", why, *_by(who), *named, *(["--force"] if force else []), root=root)
        check(f"models:/{name}@champion", root=root)
    return _show(read_moves(*named, root=root))


@flow(name="rollback")
def rollback(
    root: Path = Path(), *, why: str, who: str | None = None, name: str = "cgm2net"
) -> list[dict[str, Any]]:  # fmt: skip
    """Move the champion back to where it stood before its last move.

    It stays there even if that version cannot be loaded: who rolls back wants the present one gone.

    Args:
        root: the project's folder.
        why: the reason, for the record.
        who: the person who decides; the process's user by default.
        name: of the registered model.

    Returns:
        All moves, newest first: ``when``, ``from``, ``to``, ``who``, ``by``, ``why``.

    Raises:
        CommandError: if the record knows no version before, or that one cannot be loaded.
    """
    root = root.resolve()
    named = ("--name", name)
    move.with_options(task_run_name="rollback")("rollback", "--why", why, *_by(who), *named, root=root)
    moves = _show(read_moves(*named, root=root))
    check(f"models:/{name}@champion", root=root)
    return moves


def _by(who: str | None) -> tuple[str, ...]:
    return ("--who", who) if who else ()


def _show(record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{key: move.get(key) for key in SHOWN} for move in reversed(record["moves"])]
    said = f"champion of {record['name']}: version {record['standing']}"
    create_table_artifact(table=rows, key="champion-moves", description=said)
    get_run_logger().info(said)
    return rows
