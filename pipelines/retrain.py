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
from prefect.states import Failed

from pipelines.stages import StageError, StageResult, dvc, list_stages, missing_data, run_stage

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


@flow(name="retrain")
def retrain(
    root: Path = Path(), force: tuple[str, ...] = (), push_to: str | None = None
) -> list[StageResult] | State[Any]:
    """Walk the stages of ``dvc.yaml`` in its order, one task each.

    Args:
        root: the folder of ``dvc.yaml``.
        force: stages to run even if nothing changed.
        push_to: DVC remote to store the results on; nowhere if None.

    Returns:
        What became of each stage; a failed state if one failed, with its last lines. Later stages are not started.

    Raises:
        DvcError: if DVC cannot read the project or reach a remote.
    """
    root = root.resolve()
    names = list_stages(root)
    if unknown := sorted(set(force) - set(names)):
        raise ValueError(f"--force: no stage {', '.join(unknown)} in {root / 'dvc.yaml'}; it has {', '.join(names)}")
    if missing := missing_data(names, root=root):
        pull(missing, root=root)
    results: list[StageResult] = []
    failure: StageError | None = None
    for index, name in enumerate(names):
        named = stage.with_options(name=name, task_run_name=name)
        try:
            results.append(named(name, root=root, force=name in force))
        except StageError as error:
            failure = error
            results.append(error.result)
            results += [StageResult(stage=later, result="not started") for later in names[index + 1 :]]
            break
    show(results, root=root)
    if failure:
        return Failed(message=str(failure))  # raised, it would be told twice, with the traceback of this file
    if push_to:
        push(push_to, root=root)
    return results


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
    url = urlsplit(store)
    if url.scheme not in ("http", "https"):
        return None
    page = url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
    return f"{page}/#/runs/{run['run_id']}"


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
