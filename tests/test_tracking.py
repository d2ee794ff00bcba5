"""Runs: what is sent, what happens at an interruption, and when the server is away."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from cgm2net import tracking
from cgm2net.errors import BackendError

RECORD = Path("state/run.json")


def _run(record: Path = RECORD, **changes: Any) -> Any:
    facts = {"experiment": "e", "name": "n", "params": {"steps": 3}, "tags": {"git_commit": "c0ffee"}} | changes
    return tracking.run(record, **facts)


def _runs(client: MlflowClient, experiment: str = "e") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_a_run_holds_what_was_sent(project: Path) -> None:
    (project / "curves.csv").write_text("step\n")
    with _run() as run:
        run.log_metrics({"cloudy/psnr": 20.5, "all/iou_built-up (dense)": 0.25}, step=7)
        run.log_files([project / "curves.csv"], folder="train")
    client = tracking.connect()
    kept = client.get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"steps": "3"}
    assert kept.data.metrics == {"cloudy/psnr": 20.5, "all/iou_built-up _dense_": 0.25}
    assert kept.data.tags["mlflow.source.git.commit"] == kept.data.tags["git_commit"] == "c0ffee"
    assert [file.path for file in client.list_artifacts(run.run_id, "train")] == ["train/curves.csv"]
    assert (project / "mlartifacts").is_dir()


def test_the_record_names_the_run_and_no_address(project: Path) -> None:
    with _run() as run:
        assert json.loads(RECORD.read_text()) == {"experiment": "e", "name": "n", "run_id": run.run_id}


def test_opening_says_nothing(new_store: tuple[Path, str]) -> None:
    assert new_store[1] == ""


def test_an_interrupted_run_goes_on_as_one(project: Path) -> None:
    killed = _run()
    first = killed.__enter__()  # never left: what kill -9 leaves behind
    for step in (1, 2, 3):
        first.log_metrics({"loss": 10.0 - step}, step=step)
    with _run(params={"steps": 3, "added": 1}) as second:
        for step in (2, 3, 4):  # from the checkpoint at step 1
            second.log_metrics({"loss": 10.0 - step}, step=step)
    client = tracking.connect()
    assert [run.info.run_id for run in _runs(client)] == [first.run_id]
    kept = client.get_run(first.run_id)
    assert (kept.info.status, kept.data.params) == ("FINISHED", {"steps": "3", "added": "1"})
    history = client.get_metric_history(first.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]


def test_a_run_that_died_before_its_params_gets_them(project: Path) -> None:
    client = tracking.connect()
    made = client.create_run(client.create_experiment("e")).info.run_id
    RECORD.parent.mkdir()
    RECORD.write_text(json.dumps({"experiment": "e", "name": "n", "run_id": made}))
    with _run() as run:
        pass
    assert run.run_id == made
    assert client.get_run(made).data.params == {"steps": "3"}


def test_a_fault_ends_the_run_as_failed_and_is_the_one_shown(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), _run() as run:
        raise ZeroDivisionError
    client = tracking.connect()
    assert client.get_run(run.run_id).info.status == "FAILED"
    with _run() as again:
        assert client.get_run(run.run_id).info.status == "RUNNING"
    assert again.run_id == run.run_id


def test_a_record_of_a_deleted_run_gives_a_new_one(project: Path) -> None:
    with _run() as old:
        pass
    tracking.connect().delete_run(old.run_id)
    with _run() as new:
        pass
    assert new.run_id != old.run_id
    assert json.loads(RECORD.read_text())["run_id"] == new.run_id


def test_a_later_stage_adds_to_the_run_and_leaves_its_status(project: Path) -> None:
    with pytest.raises(ZeroDivisionError), _run() as run:
        raise ZeroDivisionError
    for value in (0.5, 0.75):  # evaluated again: the newer value stands
        with tracking.attach(RECORD, tags={"seen": "yes"}) as added:
            added.log_metrics({"cloudy/miou": value})
    kept = tracking.connect().get_run(run.run_id)
    assert added.run_id == run.run_id
    assert (kept.info.status, kept.data.metrics, kept.data.tags["seen"]) == ("FAILED", {"cloudy/miou": 0.75}, "yes")


def test_a_run_of_another_store_gets_one_stand_in(project: Path) -> None:
    elsewhere = "0" * 32
    record = project / "run.json"
    text = json.dumps({"experiment": "e", "name": "n", "run_id": elsewhere})
    record.write_text(text)
    ids = []
    for _ in range(2):
        with tracking.attach(record) as run:
            ids.append(run.run_id)
    (kept,) = _runs(tracking.connect())
    assert ids == [kept.info.run_id] * 2
    assert kept.data.tags["stands_for_run"] == elsewhere
    assert record.read_text() == text


def test_nothing_to_attach_to_is_an_error(project: Path) -> None:
    with (
        pytest.raises(BackendError, match=r"absent.json: no run there; `dvc repro train`"),
        tracking.attach(Path("absent.json")),
    ):
        pass


def test_store_is_the_environments_or_lies_in_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.store_uri() == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert tracking.store_uri() == "https://mlflow.example.org"


def test_a_server_that_is_away_is_said_at_once_without_the_password(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    start = time.monotonic()
    with (
        pytest.raises(BackendError, match=r"MLflow at http://\*\*\*@127.0.0.1:9: .*start the server") as caught,
        _run(),
    ):
        pytest.fail("entered without a server")
    assert time.monotonic() - start < 5
    assert "secret" not in str(caught.value)


class _FlakyClient:
    """Takes batches, but for the first few calls."""

    def __init__(self, *, num_refused: int) -> None:
        self.num_refused = num_refused
        self.batches: list[list[tuple[str, float, int]]] = []

    def log_batch(self, run_id: str, metrics: Sequence[Metric] = ()) -> None:
        if self.num_refused:
            self.num_refused -= 1
            raise MlflowException("no answer")
        self.batches.append([(metric.key, metric.value, metric.step) for metric in metrics])


def test_metrics_wait_while_the_server_is_away(caplog: pytest.LogCaptureFixture) -> None:
    client = _FlakyClient(num_refused=2)
    run = tracking.Run(client, "r")  # type: ignore[arg-type]
    for step in (1, 2, 3):
        run.log_metrics({"loss": step / 2}, step=step)
    assert client.batches == [[("loss", 0.5, 1), ("loss", 1.0, 2), ("loss", 1.5, 3)]]
    assert len(caplog.messages) == 2
    assert caplog.messages[1].endswith("; 2 values wait for the next call")
    run.flush()
    assert len(client.batches) == 1


def test_metrics_that_cannot_be_sent_by_the_end_are_an_error() -> None:
    run = tracking.Run(_FlakyClient(num_refused=2), "r")  # type: ignore[arg-type]
    run.log_metrics({"loss": 1.0}, step=1)
    with pytest.raises(BackendError, match="metrics: no answer"):
        run.flush()


def test_batches_keep_to_mlflows_limit() -> None:
    client = _FlakyClient(num_refused=0)
    tracking.Run(client, "r").log_metrics({f"m{i}": i for i in range(2500)})  # type: ignore[arg-type]
    assert [len(batch) for batch in client.batches] == [1000, 1000, 500]


def test_the_address_of_a_run_holds_no_password(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _run() as run:
        assert run.url is None  # a file is no page
        (kept,) = _runs(tracking.connect())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@runs.example:5000/")
        assert run.url == f"https://runs.example:5000/#/experiments/{kept.info.experiment_id}/runs/{run.run_id}"
