"""What a trace answers with, one record a kind of thing; JSON can hold all of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cgm2net.promotion import Standing

Kind = Literal["model version", "run", "map", "flow run", "DVC hash", "data hash", "model hash", "lock hash", "commit"]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A git commit of this repository."""

    sha: str
    when: str
    "Of the commit, ISO 8601."
    subject: str


@dataclass(frozen=True, kw_only=True)
class DataVersion:
    """A version of ``data/``."""

    md5: str
    "DVC's hash."
    pinned_by: tuple[Commit, ...]
    "Commits whose ``data.dvc`` names it, of those that changed the file; oldest first."
    pinned_here: bool
    "Whether ``data.dvc`` of the work tree names it."


@dataclass(frozen=True, kw_only=True)
class Output:
    """A stage's output that ``dvc.lock`` names."""

    stage: str
    path: str
    md5: str
    commits: tuple[Commit, ...]
    "Commits whose ``dvc.lock`` names it, of those in which it came up or its uses changed; oldest first."
    here: bool
    "Whether ``dvc.lock`` of the work tree names it."


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene's verdict."""

    scene_id: str
    region: str
    accepted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a run, version or map says of its making; ``unknown`` where it does not."""

    git_commit: str
    git_dirty: str
    data_version: str
    "DVC's hash of ``data/``."
    data_hash: str
    "Of the tiles."


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run in MLflow."""

    run_id: str
    name: str
    experiment: str
    status: str
    started: str
    "UTC, ISO 8601."
    made_of: Lineage
    params: Mapping[str, str]
    parent: str | None
    "Run id."
    stands_for: str | None
    "Id of the run that trained, where that one is in another store."
    flow: Mapping[str, str]
    "Tags that name the flow run that trained it, and the ``dvc.lock`` of its end."
    scenes: tuple[Scene, ...]
    scenes_from: str
    "Where the verdicts were read; empty if nowhere."


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A registered version."""

    name: str
    number: int
    run_id: str
    model_sha256: str
    made_of: Lineage
    "At its registration."
    flow: Mapping[str, str]
    "Tags that name the flow run that last decided on it, and the ``dvc.lock`` of its end."
    champion: tuple[Standing, ...]
    "When it was the champion."


@dataclass(frozen=True, kw_only=True)
class Map:
    """Products of one scene."""

    folder: str
    scene_id: str
    model: str
    "Name."
    version: str
    "Empty if the model was a folder."
    run_id: str
    model_sha256: str
    made_of: Lineage
    "Of the model."


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A link that could not be followed."""

    link: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Trace:
    """All that was found from one end."""

    what: str
    kind: Kind
    outputs: tuple[Output, ...]
    data: tuple[DataVersion, ...]
    commits: tuple[Commit, ...]
    "Those that runs, versions and maps name."
    runs: tuple[Run, ...]
    versions: tuple[ModelVersion, ...]
    maps: tuple[Map, ...]
    gaps: tuple[Gap, ...]
