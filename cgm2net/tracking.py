"""Runs in MLflow: open or continue one, send metrics and files.

The store is ``MLFLOW_TRACKING_URI`` or, without it, ``mlflow.db`` and ``mlartifacts/`` in the folder the stage is run
in (the project's root). With :mod:`cgm2net.registry` and :mod:`cgm2net.serving` the only module that imports mlflow,
and only inside functions: it costs two seconds.

When the server cannot be reached: opening a run fails at once, before any work is done. Metrics sent later wait and go
with the next ones, so that hours of training do not end at a restart of the server. What could not be sent by the end
makes the stage fail, after its files are on disk and its checkpoint is kept: with the server back, running it again
continues the same run from there.
"""

import getpass
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cgm2net.errors import BackendError
from cgm2net.files import read_json, write_json
from cgm2net.lineage import UNKNOWN

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_log = logging.getLogger(__name__)

_ENVIRONMENT = {  # read by mlflow at import or at each request; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # mlflow's own 7 wait four minutes for a server that is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_MAX_BATCH = 1000  # metrics in one call, mlflow's limit
_STANDS_FOR = "stands_for_run"

# Without it MLflow's UI opens an experiment as one of chat traces and hides its runs.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


class Run:
    """An open run.

    Attributes:
        run_id: its id in the store.
    """

    def __init__(self, client: "MlflowClient", run_id: str, *, sent_steps: Mapping[str, int] | None = None) -> None:
        self.run_id = run_id
        self._client = client
        self._sent_steps = dict(sent_steps or {})
        self._waiting: list[Metric] = []

    @property
    def page(self) -> str:
        """Where the run is in MLflow's UI, as a link for its own pages.

        Raises:
            BackendError: if the server cannot be asked.
        """
        with translated("run"):
            experiment_id = self._client.get_run(self.run_id).info.experiment_id
        return f"#/experiments/{experiment_id}/runs/{self.run_id}"

    @property
    def url(self) -> str | None:
        """Page of the run on the server, without passwords; None where the store is a file.

        Raises:
            BackendError: if the server cannot be asked.
        """
        store = re.sub(r"//[^/@\s]+@", "//", store_uri()).rstrip("/")
        return f"{store}/{self.page}" if store.startswith(("http://", "https://")) else None

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Send values of one step in one call; what cannot be sent waits for the next call.

        A continued run repeats the steps after its last checkpoint: values of steps that were sent before the
        interruption are left out, so that curves have one point a step.
        """
        from mlflow.entities import Metric

        now_ms = time.time_ns() // 1_000_000
        named = {_metric_key(key): float(value) for key, value in values.items()}
        self._waiting += [
            Metric(key, value, now_ms, step) for key, value in named.items() if step > self._sent_steps.get(key, -1)
        ]
        try:
            self.flush()
        except BackendError as error:
            _log.warning("%s; %d values wait for the next call", error, len(self._waiting))

    def flush(self) -> None:
        """Send what waits.

        Raises:
            BackendError: if the server does not take it.
        """
        while self._waiting:
            with translated("metrics"):
                self._client.log_batch(self.run_id, metrics=self._waiting[:_MAX_BATCH])
            del self._waiting[:_MAX_BATCH]

    def log_files(self, paths: Iterable[Path], *, folder: str = "") -> None:
        """Copy files into the run's artifacts, below ``folder``.

        Raises:
            BackendError: if the server does not take them.
        """
        for path in paths:
            with translated(f"file {path.name}"):
                self._client.log_artifact(self.run_id, str(path), folder or None)

    def log_folder(self, path: Path, *, folder: str) -> None:
        """Copy all that a folder holds into the run's artifacts, below ``folder``.

        Raises:
            BackendError: if the server does not take it.
        """
        with translated(f"folder {path.name}"):
            self._client.log_artifacts(self.run_id, str(path), folder)

    def describe(self, text: str) -> None:
        """Set the run's description, Markdown; an older one is replaced.

        Raises:
            BackendError: if the server does not take it.
        """
        self.set_tags({"mlflow.note.content": text})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, over those of the same name.

        Raises:
            BackendError: if the server does not take them.
        """
        from mlflow.entities import RunTag

        with translated("tags"):
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


@contextmanager
def run(
    record: Path,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
) -> Iterator[Run]:
    """Open a run, or continue the one that ``record`` names; it ends as finished or failed with the block.

    Args:
        record: ``run.json``. It lies with the resumable state of the stage: written as soon as the run exists, read
            when the stage starts again after an interruption. Holds ``experiment``, ``name``, ``run_id``; no address.
        experiment: made if it does not exist.
        name: shown in the list of runs.
        params: name -> value, as text; a continued run keeps those it has.
        tags: see :func:`cgm2net.lineage.lineage_tags`.

    Raises:
        BackendError: if the server cannot be reached, or does not take what is left at the end.
    """
    with translated("a new run"):
        client = connect()
        run_id = _find_run(client, record) or _create_run(client, experiment, name=name)
        write_json(record, {"experiment": experiment, "name": name, "run_id": run_id})
        client.update_run(run_id, status="RUNNING")
        _log_missing_params(client, run_id, params=params)
        opened = Run(client, run_id, sent_steps=_sent_steps(client, run_id))
    opened.set_tags(_with_commit(tags))
    try:
        yield opened
        opened.flush()
    except BaseException:
        _end_failed(client, run_id)
        raise
    with translated("the end of the run"):
        client.set_terminated(run_id, "FINISHED")


@contextmanager
def attach(record: Path, *, tags: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Add to the run that a ``run.json`` names, as later stages do; its status stays what it is.

    Where the store does not know the run (DVC brought the weights from elsewhere), one of the same name stands for it,
    made once and tagged ``stands_for_run`` with the id.

    Args:
        record: ``run.json`` as :func:`run` wrote it; only read.
        tags: set on the run.

    Raises:
        BackendError: if the server cannot be reached or does not take everything.
    """
    with translated("run"):
        client = connect()
        run_id = _find_run(client, record) or _stand_in(client, record)
    opened = Run(client, run_id)
    if tags:
        opened.set_tags(tags)
    yield opened
    opened.flush()


def connect() -> "MlflowClient":
    """Return a client of the store, with mlflow kept quiet and to itself; a new SQLite file is filled in seconds."""
    _keep_quiet()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri())


def store_uri() -> str:
    """Return the address of the store."""
    # Absolute: mlflow keeps its stores by address, and a relative one would mean another file in another folder.
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def _experiment_id(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else str(Path.cwd() / "mlartifacts")
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=_EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # made by another process since we looked
            assert found is not None, name
    return str(found.experiment_id)


def _create_run(client: "MlflowClient", experiment: str, *, name: str, stands_for: str = "") -> str:
    tags = {"mlflow.user": _user(), **({_STANDS_FOR: stands_for} if stands_for else {})}
    return str(client.create_run(_experiment_id(client, experiment), run_name=name, tags=tags).info.run_id)


def _log_missing_params(client: "MlflowClient", run_id: str, *, params: Mapping[str, object]) -> None:
    from mlflow.entities import Param

    there = client.get_run(run_id).data.params
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items() if key not in there])


def _find_run(client: "MlflowClient", record: Path) -> str | None:
    from mlflow.exceptions import MlflowException

    if not record.is_file():
        return None
    run_id = str(read_json(record)["run_id"])
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _log.warning("run %s is not in this store", run_id)
        return None
    return run_id if found.info.lifecycle_stage == "active" else None


def _stand_in(client: "MlflowClient", record: Path) -> str:
    if not record.is_file():
        raise BackendError(f"{record}: no run there; `dvc repro train` makes it")
    facts = read_json(record)
    experiment, run_id = str(facts["experiment"]), str(facts["run_id"])
    experiment_id = _experiment_id(client, experiment)
    found = client.search_runs([experiment_id], filter_string=f"tags.{_STANDS_FOR} = '{run_id}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = _create_run(client, experiment, name=str(facts["name"]), stands_for=run_id)
    client.set_terminated(made, "FINISHED")
    return made


def _sent_steps(client: "MlflowClient", run_id: str) -> dict[str, int]:
    keys = client.get_run(run_id).data.metrics
    return {key: max(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def _end_failed(client: "MlflowClient", run_id: str) -> None:
    try:
        with translated("the end of a failed run"):
            client.set_terminated(run_id, "FAILED")
    except BackendError as error:  # the fault that ended the run is the one to show
        _log.warning("%s", error)


def _with_commit(tags: Mapping[str, str]) -> dict[str, str]:
    commit = tags.get("git_commit", UNKNOWN)
    return {**tags, **({} if commit == UNKNOWN else {"mlflow.source.git.commit": commit})}


def _metric_key(name: str) -> str:
    return re.sub(r"[^\w./: -]", "_", name)  # class names may hold what mlflow refuses in a key


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return UNKNOWN


def _keep_quiet() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the store's errors into ours; passwords in its address are left out.

    Args:
        what: what is being sent or asked for.

    Raises:
        BackendError: saying where, what and why.
    """
    _keep_quiet()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        where, why = (re.sub(r"//[^/@\s]+@", "//***@", text) for text in (store_uri(), str(error)))
        raise BackendError(
            f"MLflow at {where}: {what}: {why}; start the server, or unset MLFLOW_TRACKING_URI to use ./mlflow.db, and"
            " run the stage again: it goes on where it stopped"
        ) from error
