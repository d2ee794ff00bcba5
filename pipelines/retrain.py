"""The flow that brings every stage of ``dvc.yaml`` up to date and shows what became of each."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.utilities.urls import url_for

from pipelines.addresses import without_keys
from pipelines.alone import IfBusy, TakenError, alone
from pipelines.library import run_library
from pipelines.stages import StageError, StageResult, dvc, list_stages, missing_data, run_stage

WORK = Path(".cache/cgm2net/retrain")
SKIPPED = "Skipped"
"""State of a run that left the work to another one."""

RUN = Path("artifacts/train/run.json")
DECISION = Path("artifacts/register/decision.json")


@task(task_run_name="pull", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=[2, 10, 30])
def pull(data: list[str], *, root: Path) -> None:
    """Fetch pinned data that are missing here from the default DVC remote."""
    dvc("pull", *data, root=root, log=get_run_logger().info)


@task(task_run_name="push", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=[2, 10, 30])
def push(remote: str, *, root: Path) -> None:
    """Store data, outputs and run cache on a DVC remote."""
    dvc("push", "--run-cache", "--remote", remote, root=root, log=get_run_logger().info)


@task(cache_policy=NO_CACHE)
def stage(name: str, *, root: Path, force: bool) -> StageResult:
    """Bring one stage up to date; not retried, for a stage that fails on the same files fails again."""
    return run_stage(name, root=root, force=force, log=get_run_logger().info)


@task(task_run_name="link", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=[2, 10, 30])
def link(*, root: Path) -> None:
    """Let MLflow's run and model version name the final ``dvc.lock`` and this flow run; again does nothing."""
    page = without_keys(url_for("flow-run", flow_run.id) or "")  # flow_run.ui_url names a page that is not there
    options = ["--flow-run", str(flow_run.id), *(["--url", page] if page else [])]
    run_library("link", *options, root=root, log=get_run_logger().info)


@flow(name="retrain")
def retrain(
    root: Path = Path(), force: tuple[str, ...] = (), push_to: str | None = None, if_busy: IfBusy = "wait"
) -> list[StageResult] | State[Any]:
    """Walk the stages of ``dvc.yaml`` in its order, one task each; one run at a time in a project.

    Args:
        root: the folder of ``dvc.yaml``.
        force: stages to run even if nothing changed.
        push_to: DVC remote to store the results on; nowhere if None.
        if_busy: while another run works on the project, ``wait`` for its end, and then find everything up to date; or
            ``skip``.

    Returns:
        What became of each stage; a failed state if one failed, with its last lines. Later stages are not started. A
        completed state called ``Skipped``, with the reason, if this run was to skip and did.

    Raises:
        DvcError: if DVC cannot read the project or reach a remote.
        CommandError: if MLflow does not take what the run says of itself.
    """
    root = root.resolve()
    try:
        with alone(root / WORK, log=_say, if_busy=if_busy):
            return _retrain(root, force, push_to)
    except TakenError as error:
        return Completed(name=SKIPPED, message=str(error))


def _retrain(root: Path, force: tuple[str, ...], push_to: str | None) -> list[StageResult] | State[Any]:
    names = list_stages(root)
    if unknown := sorted(set(force) - set(names)):
        raise ValueError(f"--force: no stage {', '.join(unknown)} in {root / 'dvc.yaml'}; it has {', '.join(names)}")
    if missing := missing_data(names, root=root):
        pull(missing, root=root)
    results, failure = _walk(names, force, root=root)
    show(results, root=root)
    if failure:
        return Failed(message=str(failure))  # raised, it would be told twice, with the traceback of this file
    if _names_a_version(root / DECISION):
        link(root=root)
    if push_to:
        push(push_to, root=root)
    return results


def _walk(names: list[str], force: tuple[str, ...], *, root: Path) -> tuple[list[StageResult], StageError | None]:
    """Bring the stages up to date, up to the first that fails."""
    results: list[StageResult] = []
    for index, name in enumerate(names):
        named = stage.with_options(name=name, task_run_name=name)
        try:
            results.append(named(name, root=root, force=name in force))
        except StageError as error:
            later = [StageResult(stage=other, result="not started") for other in names[index + 1 :]]
            return [*results, error.result, *later], error
    return results, None


def _names_a_version(decision: Path) -> bool:
    return decision.is_file() and "challenger" in json.loads(decision.read_text())


def _say(line: str) -> None:
    get_run_logger().info(line)


def show(results: list[StageResult], *, root: Path) -> None:
    """Leave the artifacts of a run: the table of stages, the way to the MLflow run, the registry's decision.

    Args:
        results: one a stage; what a stage that has not ended well left behind is not shown.
        root: the folder of ``dvc.yaml``.
    """
    rows: list[dict[str, Any]] = [{"stage": r.stage, "result": r.result, "seconds": r.seconds} for r in results]
    create_table_artifact(table=rows, key="retrain-stages", description="Stages of dvc.yaml")
    text = "\n".join(f"{row['stage']:<16}{row['result']:<12}{row['seconds']:>9.1f} s" for row in rows)
    get_run_logger().info("stages:\n%s", text)
    ended = {r.stage for r in results if r.result not in ("failed", "not started")}
    if RUN.parent.name in ended and (root / RUN).is_file():
        _show_mlflow_run(json.loads((root / RUN).read_text()))
    if DECISION.parent.name in ended and (root / DECISION).is_file():
        table = decision_rows(json.loads((root / DECISION).read_text()))
        create_table_artifact(table=table, key="retrain-decision", description="What the registry decided, and why")


def _show_mlflow_run(run: dict[str, Any]) -> None:
    store = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if link := mlflow_link(run, store=store):
        create_link_artifact(link=link, link_text=f"MLflow run {run['run_id']}", key="retrain-mlflow-run")
    else:
        # a database server's address holds a password
        shown = store if store.startswith("sqlite:") else "$MLFLOW_TRACKING_URI"
        text = f"MLflow run `{run['run_id']}`, seen with `mlflow ui --backend-store-uri {shown}`."
        create_markdown_artifact(markdown=text, key="retrain-mlflow-run")


def mlflow_link(run: dict[str, Any], *, store: str) -> str | None:
    """Give the address of a run's page, without the store's user and password; None if the store is no server."""
    if urlsplit(store).scheme not in ("http", "https"):
        return None
    return f"{without_keys(store).rstrip('/')}/#/runs/{run['run_id']}"


def decision_rows(decision: dict[str, Any], *, prefix: str = "") -> list[dict[str, Any]]:
    """Lay a nested decision out as rows of dotted key and value."""
    rows: list[dict[str, Any]] = []
    for key, value in decision.items():
        if isinstance(value, dict):
            rows += decision_rows(value, prefix=f"{prefix}{key}.")
        else:
            rows.append(
                {
                    "what": f"{prefix}{key}",
                    "value": value if isinstance(value, str | int | float) else json.dumps(value),
                }
            )
    return rows
