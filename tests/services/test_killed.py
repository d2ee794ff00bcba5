"""kill -9 of MLflow, of Postgres and of the worker in the middle of a training: what becomes of it, and of the next."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from repositories import command
from service_process import eventually
from service_project import Deployed
from service_stack import PIPELINE, Stack

from pipelines.automations import crash_silent_runs

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]

# The stage logs as the stage `train` does, and holds still between its third and its fourth step until it may go on.
WORK = """
import json, pathlib, time
from cgm2net import tracking

def step(run, number):
    run.log_metrics({"loss": 1 / (number + 1)}, step=number)
    if number == 2:
        pathlib.Path("halfway").touch()
        end = time.monotonic() + 240
        while not pathlib.Path("go").exists() and time.monotonic() < end:
            time.sleep(0.05)
    return 1 / (number + 1)

with tracking.run(pathlib.Path(".cache/run.json"), experiment="killed", name="slow", params={}, tags={}) as run:
    losses = [step(run, number) for number in range(4)]
    folder = pathlib.Path("artifacts/train")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(losses))
    run.log_files([folder / "metrics.json"])
"""
LOSSES = [1.0, 1 / 2, 1 / 3, 1 / 4]


class Slow(Deployed):
    """A project of one stage, which can be held halfway."""

    def __init__(self, root: Path, stack: Stack) -> None:
        super().__init__(root, stack, flows=("retrain",))
        stage = {"cmd": "python work.py", "deps": ["work.py"], "outs": ["artifacts/train"]}
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
        (root / "work.py").write_text(WORK)
        (root / ".cache").mkdir()
        command(root, "dvc", "init", "-q", "--no-scm")

    def halfway(self) -> str:
        """Start a training and wait until it holds; give the run's id."""
        run_id = self.start("retrain")
        eventually((self.root / "halfway").exists, what="the training is halfway")
        return run_id

    def go(self) -> None:
        """Let trainings go on."""
        (self.root / "go").touch()

    def must_be_whole(self) -> None:
        """Hold results and curve to what an undisturbed training gives: one point a step."""
        assert json.loads((self.root / "artifacts/train/metrics.json").read_text()) == LOSSES
        run_id = json.loads((self.root / ".cache/run.json").read_text())["run_id"]
        path = f"metrics/get-history?run_id={run_id}&metric_key=loss"
        points = self.stack.mlflow_api("GET", path, user=PIPELINE).json()["metrics"]
        assert [point["value"] for point in sorted(points, key=lambda p: int(p.get("step", 0)))] == LOSSES
        run = self.stack.mlflow_api("GET", f"runs/get?run_id={run_id}", user=PIPELINE).json()["run"]
        assert run["info"]["status"] == "FINISHED"


@pytest.fixture
def slow(stack: Stack, tmp_path: Path) -> Slow:
    (tmp_path / "slow").mkdir()
    return Slow(tmp_path / "slow", stack)


def state(run: dict[str, Any]) -> str:
    return str(run["state"]["type"])


def test_without_mlflow_a_training_ends_with_the_reason_and_the_next_one_goes_on(slow: Slow) -> None:
    run_id = slow.halfway()
    slow.stack.mlflow.kill()
    slow.go()
    run = slow.ended(run_id)
    assert state(run) == "FAILED"
    assert "start the server" in run["state"]["message"]
    slow.stack.mlflow.start()
    assert state(slow.run("retrain")) == "COMPLETED"
    slow.must_be_whole()


def test_a_training_outlives_postgres(slow: Slow) -> None:
    run_id = slow.halfway()
    slow.stack.postgres.server.kill()
    slow.stack.postgres.server.start()
    slow.stack.revive()
    slow.go()
    assert state(slow.ended(run_id)) == "COMPLETED"
    slow.must_be_whole()


def test_a_training_whose_worker_died_is_marked_within_a_minute_and_the_next_one_goes_on(slow: Slow) -> None:
    with slow.stack.as_client():
        crash_silent_runs()
    run_id = slow.halfway()
    killed = datetime.now(UTC)
    slow.stack.worker.kill()
    slow.go()
    slow.stack.worker.start()
    second = slow.start("retrain")
    crashed = slow.ended(run_id)
    assert state(crashed) == "CRASHED"
    assert (datetime.fromisoformat(crashed["state"]["timestamp"]) - killed).total_seconds() < 60
    assert state(slow.ended(second)) == "COMPLETED"
    slow.must_be_whole()
