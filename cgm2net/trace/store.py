"""What MLflow keeps: runs with their tags, parameters and verdicts on scenes, and the versions made of them."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cgm2net import registry
from cgm2net.catalog import read_scenes
from cgm2net.evaluation.metrics import flatten
from cgm2net.files import read_json
from cgm2net.lineage import UNKNOWN
from cgm2net.promotion import CHAMPION, standings
from cgm2net.trace.records import Lineage, ModelVersion, Run, Scene
from cgm2net.tracking import connect, translated

LOCK_TAG = "dvc_lock_sha256"
FLOW_RUN_TAG = "prefect_flow_run_id"

_VERDICTS = "validate/scenes.csv"
_RUN_ID = re.compile(r"\w+")
_METRICS = "evaluate/metrics.json"
_PAGE = 1000


def find_run(run_id: str) -> Run | None:
    """Return a run, or the one that stands for it; None where the store knows neither.

    Raises:
        BackendError: if the server cannot be asked.
    """
    if not _RUN_ID.fullmatch(run_id):  # a file that names one may hold anything
        return None
    found = _search(f"attributes.run_id = '{run_id}'") or _search(f"tags.stands_for_run = '{run_id}'")
    return found[0] if found else None


def runs_tagged(tag: str, value: str) -> list[Run]:
    """Return the runs with a tag, oldest first.

    Raises:
        BackendError: if the server cannot be asked.
    """
    return _search(f"tags.{tag} = '{value}'")


def versions_where(condition: str) -> list[ModelVersion]:
    """Return registered versions, by name and number, e.g. ``run_id = '…'`` or ``tags.data_hash = '…'``.

    Raises:
        BackendError: if the server cannot be asked.
    """
    with translated("model versions"):
        client = connect()
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = client.search_model_versions(condition, max_results=_PAGE, page_token=token or None)
            found, token = [*found, *page], page.token or None
    return [describe(_version(one)) for one in sorted(found, key=lambda one: (one.name, int(one.version)))]


def describe(version: registry.Version) -> ModelVersion:
    """Return a version with the times that it was the champion.

    Raises:
        BackendError: if the server cannot be asked.
    """
    champion = registry.version_of(version.name, alias=CHAMPION)
    moves = registry.alias_moves(version.name, alias=CHAMPION)
    stood = standings(moves, standing=champion.number if champion else None)
    return ModelVersion(
        name=version.name, number=version.number, run_id=version.run_id,
        model_sha256=version.tags.get("model_sha256", UNKNOWN), made_of=lineage_of(version.tags),
        flow=_flow(version.tags), champion=tuple(time for time in stood if time.version == version.number),
    )  # fmt: skip


def verdicts(run_id: str) -> tuple[Scene, ...] | None:
    """Return what validation said of the scenes that a run learned from; None where the run does not keep it.

    Raises:
        BackendError: if the server cannot be asked.
    """
    with _artifact(run_id, _VERDICTS) as file:
        return read_verdicts(file) if file else None


def run_metrics(run_id: str) -> dict[str, float] | None:
    """Return the metrics that ``evaluate`` left with a run, flat; None where the run does not keep them.

    Raises:
        BackendError: if the server cannot be asked.
    """
    with _artifact(run_id, _METRICS) as file:
        return flatten(read_json(file)) if file else None


def read_verdicts(path: Path) -> tuple[Scene, ...]:
    """Read the verdicts of a ``scenes.csv`` of the stage ``validate``, in its order.

    Raises:
        CatalogError: if it is absent.
    """
    columns = ["scene_id", "region", "accepted", "reason"]
    rows = read_scenes(path)[columns].itertuples(index=False)
    return tuple(Scene(scene_id=row[0], region=row[1], accepted=bool(row[2]), reason=row[3]) for row in rows)


def lineage_of(tags: Mapping[str, object]) -> Lineage:
    """Return what tags, as :func:`cgm2net.lineage.lineage_tags` gives them, say of a thing's making."""
    named = ("git_commit", "git_dirty", "data_version", "data_hash")
    return Lineage(**{name: str(tags.get(name) or UNKNOWN) for name in named})


@contextmanager
def _artifact(run_id: str, path: str) -> Iterator[Path | None]:
    """Yield a copy of a run's file; None where the run does not keep it."""
    with translated(f"{path} of run {run_id}"), tempfile.TemporaryDirectory() as folder:
        client = connect()
        kept = {file.path for file in client.list_artifacts(run_id, path.partition("/")[0])}
        yield Path(client.download_artifacts(run_id, path, folder)) if path in kept else None


def _search(condition: str) -> list[Run]:
    with translated("runs"):
        client = connect()
        names = {str(one.experiment_id): str(one.name) for one in client.search_experiments()}
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = client.search_runs(list(names), condition, max_results=_PAGE, page_token=token or None)
            found, token = [*found, *page], page.token or None
    return [_run(one, names[one.info.experiment_id]) for one in sorted(found, key=lambda one: one.info.start_time)]


def _run(found: Any, experiment: str) -> Run:
    tags = dict(found.data.tags)
    started = datetime.fromtimestamp(found.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return Run(
        run_id=found.info.run_id, name=found.info.run_name or "", experiment=experiment, status=found.info.status,
        started=started, made_of=lineage_of(tags), params=dict(sorted(found.data.params.items())),
        parent=tags.get("mlflow.parentRunId"), stands_for=tags.get("stands_for_run"),
        flow=_flow(tags), scenes=(), scenes_from="",
    )  # fmt: skip


def _flow(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in sorted(tags.items()) if "flow_run" in name or name == LOCK_TAG}


def _version(found: Any) -> registry.Version:
    return registry.Version(
        name=found.name, number=int(found.version), run_id=found.run_id or "", tags=dict(found.tags)
    )  # fmt: skip
