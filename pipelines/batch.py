"""A folder apart, in which the data stages' commands run on some scenes beside a project at work.

It has its own catalogue, settings and ``artifacts/``, and shares the project's per-scene cache: what was made of a
scene here costs the project nothing later. Nothing here knows Prefect.
"""

import csv
import fcntl
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from cgm2net.errors import CGM2NetError
from pipelines.process import Log, stream
from pipelines.stages import NUM_LAST_LINES

CACHE = Path(".cache")


class CommandError(CGM2NetError, RuntimeError):
    """A command of the library failed; the message holds its last lines."""


def run_library(*arguments: str, root: Path, log: Log, cwd: Path | None = None) -> None:
    """Run ``python -m cgm2net``.

    Args:
        arguments: the command and its options.
        root: the project, whose library runs where it has one.
        log: receives each line as it comes.
        cwd: folder to run in; the project by default.

    Raises:
        CommandError: if it fails.
    """
    lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "cgm2net", *arguments]
    if code := stream(command, cwd=cwd or root, env=env, sinks=(log, lines.append)):
        raise CommandError("\n".join([f"`cgm2net {' '.join(arguments[:2])}` ended with status {code}", *lines]))


@contextmanager
def alone(folder: Path, *, log: Log) -> Iterator[None]:
    """Hold a folder for this process; wait, and say so, while another has it. The lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"another run works in {folder}: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def empty(folder: Path, *, root: Path) -> Path:
    """Make a folder anew for a batch.

    Args:
        folder: its path; whatever is there goes.
        root: the project, whose ``params.yaml`` it gets; a batch of bad scenes only is no error there, and its scenes
            are done on this machine, for a cluster's workers know the project's folder alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["cluster"] = ""
    params["validate"] = {**(params.get("validate") or {}), "min_accepted": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / CACHE).mkdir(exist_ok=True)
    (folder / CACHE).symlink_to(root / CACHE)
    return folder


def run_stage_in(folder: Path, stage: str, *, root: Path, log: Log) -> None:
    """Run one stage's command in a batch's folder.

    Raises:
        CommandError: if it fails; not where ``validate`` refuses every scene, for then the verdicts are what was asked.
    """
    try:
        run_library(stage, root=root, log=log, cwd=folder)
    except CommandError:
        if stage != "validate" or not scenes_of(folder, stage).is_file():
            raise
        log("no scene of the batch is accepted")


def scenes_of(folder: Path, stage: str) -> Path:
    """Return the path of a stage's scene table."""
    return folder / "artifacts" / stage / "scenes.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table of comma-separated values, all text."""
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]
