"""The stages of ``dvc.yaml``: their order as DVC reads it, and one of them brought up to date.

Nothing here knows Prefect, and nothing knows what a stage does.
"""

import contextlib
import graphlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import yaml

from cgm2net.errors import CGM2NetError
from pipelines.process import NUM_LAST_LINES, Log, stream

BUSY_SECONDS_MAX = 30.0
"""Longest pause between two tries while another DVC process works on the same files [s]."""

_T = TypeVar("_T")

_EDGE = re.compile(r'^"(?P<before>[^"]+)" -> "(?P<after>[^"]+)";$')
_NODE = re.compile(r'^"(?P<name>[^"]+)";$')
_BUSY = re.compile(r"^ERROR: .*is busy, it is being blocked by:")


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What became of one stage."""

    stage: str
    """Its name in ``dvc.yaml``, or the ``.dvc`` file of pinned data that a stage reads."""
    result: Literal["ran", "cached", "skipped", "failed", "not started"]
    """``cached``: outputs restored from DVC's run cache; ``skipped``: everything was up to date."""
    seconds: float = 0.0
    """Wall-clock time [s], waiting for other runs included."""


class DvcError(CGM2NetError, RuntimeError):
    """A DVC command failed; the message holds its last lines."""


class BusyError(DvcError):
    """Another DVC process works on the same files."""


class StageError(DvcError):
    """A stage failed.

    Attributes:
        result: the stage, ``failed`` and its seconds.
    """

    def __init__(self, result: StageResult, reason: str) -> None:
        super().__init__(result, reason)
        self.result = result
        self.reason = reason

    def __str__(self) -> str:
        return f"stage {self.result.stage} failed after {self.result.seconds:.1f} s; its last lines:\n{self.reason}"


def list_stages(root: Path) -> list[str]:
    """Read the stages of ``dvc.yaml`` and the pinned data that they read, each after all that it depends on.

    Args:
        root: the folder of ``dvc.yaml``.

    Raises:
        DvcError: if there is no ``dvc.yaml``, or DVC refuses it.
    """
    if not (root / "dvc.yaml").is_file():
        raise DvcError(f"{root}: no dvc.yaml there; run in the project's root, or name it with --root")
    sorter = graphlib.TopologicalSorter[str]()
    for line in dvc("dag", "--dot", "dvc.yaml", root=root):
        if node := _NODE.match(line):
            sorter.add(node["name"])
        elif edge := _EDGE.match(line):
            sorter.add(edge["after"], edge["before"])
    return list(sorter.static_order())


def missing_data(stages: list[str], *, root: Path) -> list[str]:
    """Pick the ``.dvc`` files among the stages whose data are not in the workspace."""
    return [name for name in stages if name.endswith(".dvc") and not all(out.exists() for out in _outs(root / name))]


def _outs(dvc_file: Path) -> list[Path]:
    content = yaml.safe_load(dvc_file.read_text())
    return [dvc_file.parent / content.get("wdir", ".") / out["path"] for out in content["outs"]]


def run_stage(stage: str, *, root: Path, log: Log, force: bool = False) -> StageResult:
    """Bring one stage up to date with ``dvc repro --single-item``.

    DVC's ``--wait-for-lock`` does not cover a stage at work: DVC lets go of its lock while the command runs and refuses
    whoever wants the same files. Such a refusal is waited out here.

    Args:
        stage: its name in ``dvc.yaml``.
        root: the folder of ``dvc.yaml``.
        log: receives each line as it comes.
        force: run even if nothing changed.

    Raises:
        StageError: if the stage or DVC fails, or DVC does not say what it did.
    """
    command = ["repro", "--single-item", *(["--force"] if force else []), stage]
    started = time.monotonic()

    def attempt() -> StageResult:
        lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        verdict = _Verdict(stage)
        code = _stream(_dvc_command(*command), root=root, sinks=(log, lines.append, verdict.read))
        seconds = round(time.monotonic() - started, 1)
        if code == 0 and verdict.result:
            return StageResult(stage=stage, result=verdict.result, seconds=seconds)
        if verdict.busy:
            raise BusyError(stage)
        lines.append(f"exit status {code}" if code else "DVC did not say whether it ran, restored or skipped it")
        raise StageError(StageResult(stage=stage, result="failed", seconds=seconds), "\n".join(lines))

    return _when_free(attempt, what=stage, log=log)


def _when_free(attempt: Callable[[], _T], *, what: str, log: Log) -> _T:
    """Try until no other DVC process works on the same files."""
    pause_seconds = 1.0
    while True:
        try:
            return attempt()
        except BusyError:
            log(f"another DVC process works on the files of {what}: next try in {pause_seconds:.0f} s")
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, BUSY_SECONDS_MAX)


@contextlib.contextmanager
def held(path: Path, *, root: Path, log: Log) -> Iterator[None]:
    """Keep every DVC process off a file or folder; wait while one reads or writes it.

    DVC hashes what a stage has read after the stage has ended: a file that changed meanwhile would pass for one that
    the stage has seen.

    Args:
        path: what will be changed.
        root: the folder of ``dvc.yaml``.
        log: is told of the waiting.
    """
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import rwlock

    with Repo(str(root)) as repo:
        hardlink = repo.config["core"].get("hardlink_lock", False)

        def attempt() -> contextlib.ExitStack:
            stack = contextlib.ExitStack()
            try:
                stack.enter_context(rwlock(repo.tmp_dir, repo.fs, "ingest", [], [str(path)], hardlink))
            except LockError as error:
                raise BusyError(str(error)) from error
            return stack

        with _when_free(attempt, what=str(path), log=log):
            yield


class _Verdict:
    """What DVC says of a stage, taken from its first words: what follows them may be the stage's own output."""

    def __init__(self, stage: str) -> None:
        name = re.escape(f"'{stage}'")
        self._words: dict[Literal["ran", "cached", "skipped"], re.Pattern[str]] = {
            "ran": re.compile(rf"^(Running stage {name}:|Verifying .* in (frozen )?stage: {name}|Importing )"),
            "cached": re.compile(rf"^Stage {name} is cached - skipping run, checking out outputs"),
            "skipped": re.compile(rf"^(Stage )?{name} didn't change, skipping"),
        }
        self.result: Literal["ran", "cached", "skipped"] | None = None
        self.busy = False

    def read(self, line: str) -> None:
        if self.result is None:
            self.result = next((result for result, words in self._words.items() if words.match(line)), None)
            self.busy = self.busy or _BUSY.match(line) is not None


def dvc(*arguments: str, root: Path, log: Log | None = None) -> list[str]:
    """Run one DVC command that is no stage; waits while another DVC process works on the same files.

    Args:
        arguments: the command and its options.
        root: the folder to run it in.
        log: receives each line as it comes.

    Returns:
        The lines that it wrote.

    Raises:
        DvcError: if it fails.
    """

    def attempt() -> list[str]:
        lines: list[str] = []
        code = _stream(_dvc_command(*arguments), root=root, sinks=(lines.append, *([log] if log else [])))
        if not code:
            return lines
        said = "\n".join([f"`dvc {' '.join(arguments)}` in {root}: exit status {code}", *lines[-NUM_LAST_LINES:]])
        raise (BusyError if any(_BUSY.match(line) for line in lines) else DvcError)(said)

    return _when_free(attempt, what=" ".join(arguments), log=log or _silent)


def _silent(_line: str) -> None:
    """Tell nobody."""


def _dvc_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def _stream(command: list[str], *, root: Path, sinks: tuple[Log, ...]) -> int:
    return stream(command, cwd=root, env=_environment(), sinks=sinks)


def _environment() -> dict[str, str]:
    """The environment of this process, in which ``python`` is this Python and writes its lines at once."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
