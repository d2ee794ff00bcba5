"""What a person sees of runs and models in MLflow's own pages, in a real browser."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from service_process import Service, answers, free_port

from cgm2net import registry, tracking, weights
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net

if TYPE_CHECKING:
    from browser import Browser

pytest_plugins = ("browser",)

METRICS = {
    "one": {"test/cloudy/psnr": 24.5, "test/cloudy/miou": 0.625},
    "two": {"test/cloudy/psnr": 25.5, "test/cloudy/miou": 0.75},
}


def log_run(root: Path, name: str) -> str:
    """Log what the stages log: a curve, metrics, a picture; return the run's id."""
    folder = root / name
    folder.mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "worst.png")
    with tracking.run(folder / "run.json", experiment="cgm2net", name=name, params={"seed": 0}, tags={}) as run:
        for step in (1, 2, 3):
            run.log_metrics({"train/loss": 1.0 / step}, step=step)
        run.log_metrics(METRICS[name])
        run.log_files([folder / "worst.png"], folder="evaluate")
    return run.run_id


def register(root: Path, run_id: str) -> None:
    """Register a network of its run's as the champion."""
    torch.manual_seed(0)
    config = NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=2)
    network = CGM2Net(config)
    card = weights.Card(
        config=config, optical_bands=("B02", "B03", "B04"), sar_bands=("VV", "VH"), classes=("water", "forest"),
        gsd_m=10.0, data_hash="d", seed=0, steps=1, num_parameters=1, library_version="0",
        calibration=Calibration(interval_clear=(1.5,) * 3, interval_cloudy=(2.0,) * 3),
    )  # fmt: skip
    weights.save(root / "model", network, card)
    version = registry.register_version(root / "model", name="cgm2net", run_id=run_id, tags={"data_hash": "d"})
    registry.set_alias(version, alias="champion", why="better", who="register")


@pytest.fixture
def server(project: Path) -> Iterator[str]:
    """`make ui`, on a free port."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{project / 'mlflow.db'}",
               "--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--workers", "1"]  # fmt: skip
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    service = Service("ui", command, env=quiet, folder=project, ready=answers(f"{url}/health"))
    try:
        service.start()
        yield url
    finally:
        service.kill()


def test_runs_metrics_pictures_and_the_champion_are_there(project: Path, browser: "Browser", server: str) -> None:
    ids = {name: log_run(project, name) for name in METRICS}
    register(project, ids["two"])
    experiment = tracking.connect().get_run(ids["one"]).info.experiment_id

    runs = browser.visit(f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning", until="two")
    assert "one" in runs

    chosen = f"runs={json.dumps(list(ids.values()))}&experiments={json.dumps([experiment])}"
    compared = browser.visit(f"{server}/#/compare-runs?{chosen}", until="25.5")
    assert "24.5" in compared
    assert "test/cloudy/miou" in compared

    page = f"{server}/#/experiments/{experiment}/runs/{ids['two']}"
    assert "0.75" in browser.visit(page, until="test/cloudy/miou")
    browser.visit(f"{page}/artifacts/evaluate/worst.png", until="worst.png")
    drawn = "return [...document.images].some(image => image.naturalWidth === 60 && image.naturalHeight === 40)"
    browser.wait_for(drawn)

    model = browser.visit(f"{server}/#/models/cgm2net", until="champion")
    assert "Version 1" in model
