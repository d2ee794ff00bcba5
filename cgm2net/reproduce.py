"""A registered version made again from its commit and its data, and its metrics held to the recorded ones."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table

from cgm2net import registry
from cgm2net.errors import BackendError, ModelError
from cgm2net.evaluation.metrics import flatten
from cgm2net.files import read_json
from cgm2net.lineage import UNKNOWN, lineage_tags
from cgm2net.registry import Version
from cgm2net.trace import history, store

_METRICS = Path("artifacts/evaluate/metrics.json")
_PIN = "data.dvc"
_HERE = "cgm2net-reproduce"  # name of a DVC remote in the clone
_ENVIRONMENT = ("python", "torch", "lock_sha256")
_TRIVIAL = ("copy/", "majority/")  # no training has a part in these
_EQUAL = 1e-6  # relative; what is less may come from the order of a sum
_CLOSE = 0.01  # relative, or absolute times a half: of metrics after a training with other instructions or threads


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """One metric of the version."""

    metric: str
    recorded: float
    again: float | None
    "None: it was not measured this time."
    tolerance: float
    "Absolute."

    @property
    def verdict(self) -> str:
        """``equal``, ``close`` or ``differs``."""
        if self.again is None or not abs(self.again - self.recorded) <= self.tolerance:
            return "differs"
        return "equal" if abs(self.again - self.recorded) <= _EQUAL * max(abs(self.recorded), 1e-3) else "close"


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of making a version again."""

    version: int
    name: str
    commit: str
    data_version: str
    environment: Mapping[str, tuple[str, str]]
    "What is not as it was: recorded, here."
    rows: tuple[Reproduced, ...]

    @property
    def holds(self) -> bool:
        """Whether every metric came out as recorded, within its tolerance."""
        return all(row.verdict != "differs" for row in self.rows)

    def shown(self) -> Group:
        """Return a table of the metrics, and what was not as it was."""
        title = f"version {self.version} of {self.name}, from commit {self.commit[:12]} and data {self.data_version}"
        table = Table(title=title, title_justify="left")
        for column in ("metric", "recorded", "again", "tolerance", "verdict"):
            table.add_column(column, justify="left" if column in {"metric", "verdict"} else "right")
        for row in self.rows:
            again = "" if row.again is None else f"{row.again:.6g}"
            table.add_row(row.metric, f"{row.recorded:.6g}", again, f"{row.tolerance:.2g}", row.verdict)
        counts = {word: sum(row.verdict == word for row in self.rows) for word in ("equal", "close", "differs")}
        lines = [", ".join(f"{count} {word}" for word, count in counts.items() if count)]
        lines += [f"{name} was {was}, is {now} here" for name, (was, now) in self.environment.items()]
        return Group(table, *lines)


def reproduce(name: str, number: int, *, root: Path, keep: Path | None = None) -> Reproduction:
    """Make a version again in a clone of its commit, and compare the metrics of ``evaluate``.

    The clone has no cache of DVC's or of this library's, and an MLflow store of its own: every stage up to
    ``evaluate`` runs, with the packages that are installed here.

    Args:
        name: of the registered model.
        number: the version.
        root: the project's root, in its repository.
        keep: new folder for the clone; a temporary one by default.

    Raises:
        ModelError: if there is no such version, its work tree was not clean, its commit or its metrics are not there.
        BackendError: if its data cannot be fetched, a stage fails, or the server cannot be asked.
    """
    version = registry.version_numbered(name, number)
    if version is None:
        raise ModelError(f"model {name} has no version {number}; MLFLOW_TRACKING_URI says where to look")
    commit = _require_commit(version, root)
    recorded = _recorded(version)
    with _clone(root, commit, keep=keep) as project:
        _fetch_data(version, project, root)
        _run(project, "dvc", "repro", "--no-run-cache", "evaluate", shown=True)
        again = flatten(read_json(project / _METRICS))
    here = lineage_tags(root)  # not the clone's: what is installed belongs to this folder's requirements.lock
    changed = {key: (version.tags.get(key, UNKNOWN), here[key]) for key in _ENVIRONMENT}
    return Reproduction(
        version=number, name=name, commit=commit, data_version=version.tags["data_version"],
        environment={key: pair for key, pair in changed.items() if pair[0] != pair[1]},
        rows=tuple(_compare(metric, value, again.get(metric)) for metric, value in sorted(recorded.items())),
    )  # fmt: skip


def _compare(metric: str, recorded: float, again: float | None) -> Reproduced:
    share = _EQUAL if metric.startswith(_TRIVIAL) else _CLOSE
    return Reproduced(
        metric=metric, recorded=recorded, again=again, tolerance=max(share * abs(recorded), share / 2)
    )  # fmt: skip


def _require_commit(version: Version, root: Path) -> str:
    """Return the commit that holds all of a version's code.

    Raises:
        ModelError: if there is none.
    """
    label = f"version {version.number} of {version.name}"
    run = store.find_run(version.run_id)
    registered = store.lineage_of(version.tags)
    made_of = {"registered": registered, **({"trained": run.made_of} if run else {})}
    for when, lineage in made_of.items():
        if lineage.git_dirty != "false":
            how = "with changes that no commit holds" if lineage.git_dirty == "true" else "without a record of its code"
            raise ModelError(
                f"{label}: it was {when} {how}, so nothing says what to run; commit first, then `dvc repro`"
            )
    commit = history.find_commit(root, registered.git_commit)
    if commit is None:
        raise ModelError(f"{label}: commit {registered.git_commit} is not in this repository; `git fetch` may bring it")
    pinned = history.pinned_at(root, commit)
    if pinned != registered.data_version:
        raise ModelError(
            f"{label}: made of data {registered.data_version}, but its commit {commit.sha[:12]} pins {pinned}; `trace`"
            " may find the commit that pins the former"
        )
    return commit.sha


def _recorded(version: Version) -> dict[str, float]:
    """Return the metrics that a version was registered with.

    Raises:
        ModelError: if it has none, or several of which the run's are none.
    """
    tests = [json.loads(text) for tag, text in sorted(version.tags.items()) if tag.startswith("metrics.")]
    if len(tests) > 1:  # judged again since, as champion
        own = store.run_metrics(version.run_id)
        tests = [test for test in tests if test == own]
    if not tests:
        raise ModelError(
            f"version {version.number} of {version.name}: its metrics were not recorded, or not those of its run;"
            " there is nothing to compare with"
        )
    return {str(metric): float(value) for metric, value in tests[0].items()}


@contextmanager
def _clone(root: Path, commit: str, *, keep: Path | None) -> Iterator[Path]:
    """Yield the project's root in a clone of its repository at a commit."""
    if keep is not None and keep.exists():
        raise ModelError(f"{keep}: is there already; --keep names a new folder")
    top, prefix = (_run(root, "git", "rev-parse", f"--show-{what}").strip() for what in ("toplevel", "prefix"))
    with tempfile.TemporaryDirectory(prefix="cgm2net-") as folder:
        clone = (keep or Path(folder) / "project").resolve()
        _run(root, "git", "clone", "--quiet", "--no-checkout", top, str(clone))
        _run(clone, "git", "checkout", "--quiet", "--detach", commit)
        yield clone / prefix


def _fetch_data(version: Version, project: Path, root: Path) -> None:
    """Bring the pinned data: from the cache of the project that this is a clone of, or the default remote."""
    if (root / ".dvc" / "config.local").is_file():  # where remotes' passwords stand
        shutil.copy(root / ".dvc" / "config.local", project / ".dvc")
    cache = _run(root, "dvc", "cache", "dir").strip()
    _run(project, "dvc", "remote", "add", "--quiet", "--local", _HERE, cache)  # laid out as a remote is
    try:
        _run(project, "dvc", "pull", "--quiet", "--remote", _HERE, _PIN)
    except BackendError:
        try:
            _run(project, "dvc", "pull", "--quiet", _PIN)
        except BackendError as error:
            raise BackendError(
                f"version {version.number} of {version.name}: its data {version.tags['data_version']} are neither in"
                f" DVC's cache here nor on the default remote; `dvc push` them where they are\n{error}"
            ) from error


def _run(folder: Path, program: str, *arguments: str, shown: bool = False) -> str:
    """Run git or DVC in a folder; what it says is returned, or shown on stderr as it comes.

    Raises:
        BackendError: if it fails, or is not installed.
    """
    command = [program] if program != "dvc" else [sys.executable, "-m", "dvc"]
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=folder, env=_environment(), text=True, check=False, stdin=subprocess.DEVNULL,
            stdout=2 if shown else subprocess.PIPE, stderr=None if shown else subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BackendError(f"{program} is not installed here, or {folder} is gone") from error
    if done.returncode:
        said = "see above" if shown else (done.stderr or done.stdout).strip()
        raise BackendError(f"`{program} {' '.join(arguments)}` in {folder}: exit status {done.returncode}: {said}")
    return done.stdout or ""


def _environment() -> dict[str, str]:
    """Return an environment in which ``python`` is this one, and no run goes to the user's MLflow."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "GIT_"))}
    kept.pop("PYTHONSAFEPATH", None)  # the clone's own sources are to be run: those of the working directory
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
