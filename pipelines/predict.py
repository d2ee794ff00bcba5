"""The flow that maps what was ingested: every scene of a catalogue that has no map by the present model yet."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from pipelines.alone import alone
from pipelines.batch import read_rows
from pipelines.library import run_library

WORK = Path(".cache/cgm2net/predict")
SHOWN = ("scene_id", "status", "reason", "cloud_cover", "shift", "model", "version", "folder")


@task(task_run_name="predict", cache_policy=NO_CACHE)
def run_command(arguments: list[str], *, root: Path) -> None:
    """Run ``python -m cgm2net predict``; scenes that are done stay as they are, so that a later run goes on."""
    run_library("predict", *arguments, root=root, log=get_run_logger().info)


@flow(name="predict")
def predict(
    root: Path = Path(),
    catalog: Path = Path("data/catalog.csv"),
    model: str = "models:/cgm2net@champion",
    out: Path = Path("maps"),
) -> list[dict[str, str]]:
    """Map every scene of a catalogue that the model has not mapped yet; a second run waits for the first.

    Args:
        root: the project's folder; the other paths are relative to it.
        catalog: catalogue, or a stage's ``scenes.csv``, of which the accepted scenes are mapped.
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or a folder.
        out: gets a folder a scene, and ``scenes.csv``.

    Returns:
        The rows of ``scenes.csv``.

    Raises:
        CommandError: if the command fails, which it does where no scene at all can be predicted.
    """
    arguments = ["--catalog", str(catalog), "--model", model, "--out", str(out), "--params", "params.yaml"]
    root = root.resolve()
    with alone(root / WORK, log=get_run_logger().info):
        run_command(arguments, root=root)
        rows = read_rows(root / out / "scenes.csv")
    table: list[dict[str, Any]] = [{name: row[name] for name in SHOWN} for row in rows]
    create_table_artifact(table=table, key="predict-scenes", description="Scenes mapped, kept and refused")
    return rows
