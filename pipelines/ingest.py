"""The flow that takes in what a source has new: judged apart, the accepted join ``data/``, the others its quarantine.

Interrupted anywhere and run again, it goes on: scenes that were done come from the per-scene cache, tables are moved
into place whole, and pinning, pushing and committing do nothing where nothing changed.
"""

import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from pipelines.alone import alone
from pipelines.batch import empty, read_rows, run_stage_in
from pipelines.events import ACCEPTED, REFUSED, tell
from pipelines.library import run_library
from pipelines.process import Log
from pipelines.retrain import pull
from pipelines.sources import Source
from pipelines.stages import DvcError, dvc, held, list_stages, missing_data

WORK = Path(".cache/cgm2net/ingest")
JUDGE = "validate"
"""The stage whose verdict is asked; those before it run too."""

NUM_SHOWN = 1000
"""Scenes in the artifact's table, those first to which something happened."""


@task(task_run_name="source", cache_policy=NO_CACHE)
def ask(source: Source, *, root: Path) -> str:
    """Let the source list its scenes."""
    return source.ask(root / WORK / "source", root=root, log=get_run_logger().info)


@task(task_run_name="select", cache_policy=NO_CACHE)
def select(listed: str, *, root: Path, again: bool) -> bool:
    """Pick what has not been judged yet; say whether there is any."""
    batch = empty(root / WORK / "batch", root=root)
    arguments = ("--data", str(root / "data"), "--batch", str(batch), *(["--again"] if again else []))
    run_library("intake", "select", listed, *arguments, root=root, log=get_run_logger().info)
    return (batch / "data" / "catalog.csv").is_file()


@task(cache_policy=NO_CACHE)
def judge(stage: str, *, root: Path) -> None:
    """Run one stage's command on the batch."""
    run_stage_in(root / WORK / "batch", stage, root=root, log=get_run_logger().info)


@task(task_run_name="settle", cache_policy=NO_CACHE)
def settle(source: Source, *, root: Path) -> list[dict[str, str]]:
    """Move the tables with the batch's scenes into place; give what happened to each scene."""
    log, settled, catalog = get_run_logger().info, root / WORK / "settled", root / "data" / "catalog.csv"
    arguments = ("--batch", str(root / WORK / "batch"), "--data", str(root / "data"), "--out", str(settled))
    while True:
        shutil.rmtree(settled, ignore_errors=True)
        before = _content(catalog)
        run_library("intake", "settle", *arguments, "--source", str(source), root=root, log=log)
        if _put_in_place(settled, catalog, before, root=root, log=log):
            return read_rows(settled / "scenes.csv")
        log("the catalogue was changed meanwhile: once more")


@task(task_run_name="pin", cache_policy=NO_CACHE)
def pin(*, root: Path) -> None:
    """Let DVC take the version of ``data/`` down."""
    dvc("add", "--quiet", "data", root=root, log=get_run_logger().info)


@task(task_run_name="push", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=[2, 10, 30])
def push(remote: str, *, root: Path) -> None:
    """Store ``data/`` on a DVC remote."""
    dvc("push", "--remote", remote, "data.dvc", root=root, log=get_run_logger().info)


@task(task_run_name="commit", cache_policy=NO_CACHE)
def commit(message: str, *, root: Path) -> None:
    """Commit ``data.dvc``, and nothing else, if it changed."""
    _git("add", "data.dvc", root=root)
    if _git("status", "--porcelain", "--", "data.dvc", root=root):
        get_run_logger().info(_git("commit", "-m", message, "--", "data.dvc", root=root))


@flow(name="ingest")
def ingest(
    root: Path = Path(),
    *,
    folder: Path | None = None,
    catalog: str | None = None,
    stac: str | None = None,
    options: str = "",
    again: bool = False,
    push_to: str | None = None,
    commit_data: bool = False,
) -> list[dict[str, str]]:
    """Judge what a source has new; the accepted join the catalogue, the others ``data/quarantine.csv``.

    Args:
        root: the folder of ``dvc.yaml``; relative paths are taken from there.
        folder: a watched folder, as ``python -m cgm2net catalog folder`` takes it;
        catalog: or path or URL of a catalogue;
        stac: or options of a search, ``python -m cgm2net catalog stac``.
        options: of ``catalog folder``: how its files are read.
        again: judge scenes in quarantine too, though their files are the same.
        push_to: DVC remote to store the data on; nowhere if None.
        commit_data: commit ``data.dvc`` to Git.

    Returns:
        What happened to each scene: ``scene_id``, ``status`` (accepted, refused, known, quarantined), ``reason``.

    Raises:
        ValueError: if not exactly one source is given.
        CommandError: if the source cannot be asked, or scenes cannot be fetched or judged.
        DvcError: if DVC or Git refuses something.
    """
    root = root.resolve()
    source = Source(folder=folder, catalog=catalog, stac=stac, options=options)
    with alone(root / WORK, log=get_run_logger().info):
        stages = list_stages(root)
        if missing := missing_data(stages, root=root):
            pull(missing, root=root)
        if select(ask(source, root=root), root=root, again=again):
            commands = [name for name in stages if not name.endswith(".dvc")]
            for stage in commands[: commands.index(JUDGE) + 1]:
                judge.with_options(name=stage, task_run_name=stage)(stage, root=root)
        scenes = settle(source, root=root)
        pin(root=root)
        if push_to:
            push(push_to, root=root)
        if commit_data:
            commit(_message(scenes, source), root=root)
        _show(scenes, source, root=root)
    return scenes


def _put_in_place(settled: Path, catalog: Path, before: bytes, *, root: Path, log: Log) -> bool:
    """Replace the tables while no stage reads them, the quarantine first: what is cut off after it is judged again."""
    names = [name for name in ("quarantine.csv", "catalog.csv") if (settled / name).is_file()]
    if not names:
        return True
    with held(catalog.parent, root=root, log=log):
        if _content(catalog) != before:
            return False
        for name in names:
            aside = catalog.with_name(f".{name}.part")
            shutil.copyfile(settled / name, aside)
            aside.replace(catalog.with_name(name))
    return True


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _git(*arguments: str, root: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DvcError(f"`git {' '.join(arguments)}` in {root}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _message(scenes: list[dict[str, str]], source: Source) -> str:
    counts = Counter(scene["status"] for scene in scenes)
    if not counts["accepted"] + counts["refused"]:
        return "Data: what an interrupted run took in"
    return f"Data: {counts['accepted']} scenes accepted, {counts['refused']} refused\n\nSource: {source}\n"


def _show(scenes: list[dict[str, str]], source: Source, *, root: Path) -> None:
    for event, status in ((ACCEPTED, "accepted"), (REFUSED, "refused")):
        of_it = [scene for scene in scenes if scene["status"] == status]
        if of_it:
            tell(event, root=root, ids=[s["scene_id"] for s in of_it], source=str(source),
                 reasons={s["scene_id"]: s["reason"] for s in of_it if s["reason"]})  # fmt: skip
    first = sorted(scenes, key=lambda scene: scene["status"] in ("known", "quarantined"))
    table: list[dict[str, Any]] = [dict(scene) for scene in first[:NUM_SHOWN]]
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(s["status"] for s in scenes).items()))
    said = f"{source}: {counts or 'no scene'}"
    create_table_artifact(table=table, key="ingest-scenes", description=said)
    get_run_logger().info(said)
