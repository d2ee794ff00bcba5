"""The flow that maps what was ingested: every scene of a catalogue that has no map by the present model yet."""

import csv
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from cgm2net.errors import CGM2NetError
from pipelines.process import stream
from pipelines.stages import NUM_LAST_LINES

SHOWN = ("scene_id", "status", "reason", "cloud_cover", "shift", "model", "version", "folder")


class PredictError(CGM2NetError, RuntimeError):
    """The command failed; the message holds its last lines."""


@task(task_run_name="predict", cache_policy=NO_CACHE)
def run_command(arguments: list[str], *, root: Path) -> None:
    """Run ``python -m cgm2net predict``; scenes that are done stay as they are, so that a later run goes on."""
    lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
    command = [sys.executable, "-m", "cgm2net", "predict", *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if code := stream(command, cwd=root, env=env, sinks=(get_run_logger().info, lines.append)):
        raise PredictError("\n".join(["predict ended with status " + str(code), *lines]))


@flow(name="predict")
def predict(
    root: Path = Path(),
    catalog: Path = Path("data/catalog.csv"),
    model: str = "models:/cgm2net@champion",
    out: Path = Path("maps"),
) -> list[dict[str, str]]:
    """Map every scene of a catalogue that the model has not mapped yet.

    Args:
        root: the project's folder; the other paths are relative to it.
        catalog: catalogue, or a stage's ``scenes.csv``, of which the accepted scenes are mapped.
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or a folder.
        out: gets a folder a scene, and ``scenes.csv``.

    Returns:
        The rows of ``scenes.csv``.

    Raises:
        PredictError: if the command fails, which it does where no scene at all can be predicted.
    """
    arguments = ["--catalog", str(catalog), "--model", model, "--out", str(out), "--params", "params.yaml"]
    run_command(arguments, root=root.resolve())
    with (root / out / "scenes.csv").open(newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    table: list[dict[str, Any]] = [{name: row[name] for name in SHOWN} for row in rows]
    create_table_artifact(table=table, key="predict-scenes", description="Scenes mapped, kept and refused")
    return rows
