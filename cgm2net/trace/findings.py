"""What a trace has found so far, and what follows from it: runs, versions, data, commits, scenes, maps, and gaps."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cgm2net.errors import BackendError, CatalogError
from cgm2net.files import read_json
from cgm2net.lineage import UNKNOWN
from cgm2net.trace import history, store
from cgm2net.trace.maps import maps_in
from cgm2net.trace.records import Commit, DataVersion, Gap, Kind, Lineage, Map, ModelVersion, Output, Run, Trace

T = TypeVar("T")


class Findings:
    """Grows from one end; every link that cannot be followed is kept as a gap.

    Attributes:
        root: the project's root: its repository, ``dvc.lock``, ``artifacts``.
        keys: commit, data version or data hash that the trace began at; a map that names one belongs to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._versions: dict[tuple[str, int], ModelVersion] = {}
        self._maps: dict[Path, Map] = {}
        self._outputs: dict[tuple[str, str, str], Output] = {}
        self._data: set[str] = set()
        self._commits: dict[str, Commit] = {}
        self._gaps: dict[Gap, None] = {}
        self._has_store = bool(os.environ.get("MLFLOW_TRACKING_URI")) or Path("mlflow.db").is_file()
        if not self._has_store:
            self.gap("MLflow", "no mlflow.db here and no MLFLOW_TRACKING_URI: runs and versions are not known")

    @cached_property
    def pins(self) -> list[tuple[Commit, str]]:
        """Commits that changed ``data.dvc``, with the version of ``data/`` that each names."""
        return history.pins(self.root)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self._runs or self._versions or self._maps or self._outputs or self._data or self._commits)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The links that could not be followed."""
        return tuple(self._gaps)

    def gap(self, link: str, why: str) -> None:
        """Keep that a link could not be followed."""
        self._gaps[Gap(link=link, why=why)] = None

    def ask(self, question: Callable[..., T], *about: object, otherwise: T) -> T:
        """Ask the store; a store that is not there is one gap, and nothing more is asked."""
        if not self._has_store:
            return otherwise
        try:
            return question(*about)
        except BackendError as error:
            self._has_store = False
            self.gap("MLflow", str(error))
            return otherwise

    def add_runs(self, runs: Iterable[Run]) -> None:
        """Keep runs."""
        self._runs |= {run.run_id: run for run in runs if run.run_id not in self._runs}

    def add_run(self, run_id: str, *, named_by: str) -> None:
        """Look a run up and keep it."""
        found = self.ask(store.find_run, run_id, otherwise=None)
        if found is not None:
            self.add_runs([found])
        elif self._has_store:
            self.gap(
                f"run {run_id}, named by {named_by}", "not in this store, or deleted; MLFLOW_TRACKING_URI says where"
            )

    def add_versions(self, versions: Iterable[ModelVersion]) -> None:
        """Keep versions."""
        self._versions |= {(version.name, version.number): version for version in versions}

    def add_map(self, found: Map) -> None:
        """Keep a map."""
        self._maps[Path(found.folder).resolve()] = found

    def add_data(self, md5: str) -> None:
        """Keep a version of ``data/``."""
        self._data |= {md5} - {UNKNOWN}

    def add_commit(self, commit: Commit) -> None:
        """Keep a commit."""
        self._commits[commit.sha] = commit

    def add_output(self, found: Output) -> None:
        """Keep a stage's output, with the commits that name it."""
        key = (found.stage, found.path, found.md5)
        kept = self._outputs.get(key, replace(found, commits=(), here=False))
        self._outputs[key] = replace(kept, commits=(*kept.commits, *found.commits), here=kept.here or found.here)

    def finish(self, what: str, kind: Kind, *, maps: Sequence[Path]) -> Trace:
        """Follow every link from what was found."""
        self._join_runs_and_versions()
        for label, made_of in self._lineages():
            self._follow_lineage(label, made_of)
        runs = tuple(self._with_scenes(run) for run in self._runs.values())
        self._find_maps(maps)
        data = tuple(self._data_version(md5) for md5 in sorted(self._data))
        return Trace(
            what=what, kind=kind, outputs=tuple(self._outputs.values()), data=data,
            commits=tuple(self._commits.values()), runs=runs, versions=tuple(self._versions.values()),
            maps=tuple(self._maps.values()), gaps=self.gaps,
        )  # fmt: skip

    def _join_runs_and_versions(self) -> None:
        for version in list(self._versions.values()):
            label = f"version {version.number} of {version.name}"
            if not version.run_id:
                self.gap(f"run of {label}", "it was not recorded")
            elif version.run_id not in self._runs:
                self.add_run(version.run_id, named_by=label)
        for run_id in self._runs:
            self.add_versions(self.ask(store.versions_where, f"run_id = '{run_id}'", otherwise=[]))

    def _lineages(self) -> list[tuple[str, Lineage]]:
        """Return what each thing says of its making; once where a run and its versions say the same."""
        named = [(f"run {run.run_id}", run.made_of) for run in self._runs.values()]
        named += [(f"version {one.number} of {one.name}", one.made_of) for one in self._versions.values()]
        named += [(f"map {one.folder}", one.made_of) for one in self._maps.values()]
        return list({made_of: (label, made_of) for label, made_of in reversed(named)}.values())[::-1]

    def _follow_lineage(self, label: str, made_of: Lineage) -> None:
        self.add_data(made_of.data_version)
        for name, value in (("data version", made_of.data_version), ("commit", made_of.git_commit)):
            if value == UNKNOWN:
                self.gap(f"{name} of {label}", "it was not recorded")
        if made_of.git_commit == UNKNOWN:
            return
        if commit := history.find_commit(self.root, made_of.git_commit):
            self.add_commit(commit)
        else:
            self.gap(f"commit {made_of.git_commit} of {label}", "not in this repository; `git fetch` may bring it")
        if made_of.git_dirty != "false":
            how = "had changes that no commit holds" if made_of.git_dirty == "true" else "may have had changes"
            self.gap(f"code of {label}", f"the work tree {how}: commit {made_of.git_commit[:12]} is not all of it")

    def _data_version(self, md5: str) -> DataVersion:
        commits = tuple(commit for commit, pinned in self.pins if history.same_hash(pinned, md5))
        here = history.same_hash(history.pinned_here(self.root), md5)
        if not commits:
            self.gap(f"commits of data version {md5}", "no commit of this repository has a data.dvc that pins it")
        return DataVersion(md5=md5, pinned_by=commits, pinned_here=here)

    def _with_scenes(self, run: Run) -> Run:
        scenes = self.ask(store.verdicts, run.run_id, otherwise=None)
        if scenes is not None:
            return replace(run, scenes=scenes, scenes_from=f"run {run.run_id}")
        artifacts = self.root / "artifacts"
        try:
            here = read_json(artifacts / "tile" / "meta.json")["data_hash"]
            if here == run.made_of.data_hash:
                scenes = store.read_verdicts(artifacts / "validate" / "scenes.csv")
                return replace(run, scenes=scenes, scenes_from="artifacts/validate, of whose tiles it has the hash")
            why = "the run keeps none, and artifacts/tile here has another data hash"
        except (OSError, CatalogError):
            why = "the run keeps none, and there are none in artifacts here"
        self.gap(f"verdicts on the scenes of run {run.run_id}", why)
        return run

    def _find_maps(self, folders: Sequence[Path]) -> None:
        found, gaps = maps_in(folders)
        self._gaps |= dict.fromkeys(gaps)
        for one in found:
            if self._belongs(one):
                self.add_map(one)

    def _belongs(self, one: Map) -> bool:
        version = self._versions.get((one.model, int(one.version))) if one.version.isdigit() else None
        if version is not None and one.model_sha256 != version.model_sha256:
            why = f"it names version {one.version} of {one.model}, but its model has another hash: of another store"
            self.gap(f"map {one.folder}", why)
            return False
        made_of = {one.made_of.git_commit, one.made_of.data_version, one.made_of.data_hash}
        return version is not None or one.run_id in self._runs or bool(self.keys & made_of)
