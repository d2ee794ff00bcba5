import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from asked import DEADLINE_SECONDS, artifacts, deployments, eventually, runs_in, task_states
from click.testing import CliRunner
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from cgm2net import tracking
from cgm2net.files import sha256_file
from cgm2net.trace.command import trace
from pipelines.__main__ import main
from pipelines.retrain import decision_rows, mlflow_link, retrain
from pipelines.stages import dvc


def client() -> SyncPrefectClient:
    return get_client(sync_client=True)


@pytest.mark.server
def test_a_failed_stage_fails_the_run_and_stops_it(
    server: dict[str, str], project: Path, change: Callable[..., None]
) -> None:
    change("train", do="fail")

    state = retrain(project, return_state=True)

    assert state.is_failed()
    assert "stage train failed" in str(state.message)
    assert "no clear pixel in region north" in str(state.message)
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id
    found = artifacts(flow_run_id)
    assert [(row["stage"], row["result"]) for row in found["retrain-stages"]] == [
        ("data.dvc", "skipped"),
        ("prepare", "ran"),
        ("train", "failed"),
        ("register", "not started"),
    ]
    assert set(found) == {"retrain-stages"}
    eventually(lambda: task_states(flow_run_id).get("train", ("", ""))[0] == "FAILED" or None)
    states = task_states(flow_run_id)
    assert "no clear pixel in region north" in states["train"][1]
    assert set(states) == {"data.dvc", "prepare", "train"}


@pytest.mark.server
def test_an_interrupted_run_leaves_no_stage_behind(
    project: Path, change: Callable[..., None], start: Callable[..., AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    change("prepare", do="hang")
    os.mkfifo(project / "alive")  # read to its end only when every process that holds it has died
    with start("retrain") as process:
        with (project / "alive").open() as alive:
            assert alive.readline() == "started\n"
            process.terminate()
            assert alive.read() == ""
        output = process.communicate()[0]
    assert process.returncode != 0, output
    assert "Task run 'prepare' - Running stage 'prepare':" in output
    assert "Finished in state Crashed" in output


@pytest.mark.server
def test_of_eight_started_at_once_one_works_and_the_others_wait_or_skip(
    project: Path,
    change: Callable[..., None],
    start: Callable[..., AbstractContextManager[subprocess.Popen[str]]],
) -> None:
    change("prepare", do="wait")
    once = Path(shutil.copytree(project, project.with_name("once")))
    told: set[int] = set()

    def output_of(process: subprocess.Popen[str]) -> str:
        lines = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "another run works in" in line:
                told.add(process.pid)
        assert process.wait() == 0, lines
        return "".join(lines)

    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        started = [stack.enter_context(start("retrain", "--if-busy", how)) for how in ["skip"] * 6 + ["wait"] * 2]
        ending = [pool.submit(output_of, process) for process in started]
        eventually(lambda: len(told) == 7)
        (project / "go").touch()  # the one that works ends now, and not before
        outputs = [future.result(DEADLINE_SECONDS) for future in ending]

    worked = [number for number, output in enumerate(outputs) if "Running stage" in output]
    assert len(worked) == 1
    skipped = [number for number, output in enumerate(outputs) if "Skipped: another run works in" in output]
    assert skipped == [number for number in range(6) if number not in worked]
    states = sorted(run["state"]["name"] for run in runs_in(project))
    assert states == ["Completed"] * (8 - len(skipped)) + ["Skipped"] * len(skipped)
    (once / "go").touch()
    dvc("repro", root=once)
    assert made(project) == made(once)


def made(root: Path) -> dict[str, bytes]:
    files = [root / "dvc.lock", *sorted(path for path in (root / "artifacts").rglob("*") if path.is_file())]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def register(root: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a run and a version of its model into a project's MLflow; return the run's id."""
    shutil.copy(store, root / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(root)
    with tracking.run(root / "run.json", experiment="cgm2net", name="tiny", params={}, tags={}) as run:
        tracking.connect().create_registered_model("cgm2net")
        tracking.connect().create_model_version("cgm2net", source="nowhere", run_id=run.run_id)
    return run.run_id


@pytest.mark.server
def test_a_served_run_pulls_walks_shows_links_and_pushes(
    project: Path,
    change: Callable[..., None],
    start: Callable[..., AbstractContextManager[subprocess.Popen[str]]],
    new_store: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = register(project, new_store[0], monkeypatch)
    change("train", run_id=run_id)
    change("register", version={"model_name": "cgm2net", "challenger": 1})
    dvc("remote", "add", "--default", "store", str(project / "store"), root=project)
    dvc("push", root=project)
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    num_stored = len(list((project / "store").rglob("*")))

    schedule = ("--cron", "0 3 * * 1", "--timezone", "Europe/Berlin")
    with start("serve", *schedule, "--push", "store") as process, client() as api:

        def deployed() -> Any:
            assert process.poll() is None, process.communicate()[0]
            return deployments(project).get("retrain")

        deployment = api.read_deployment(eventually(deployed)["id"])
        (planned,) = deployment.schedules
        assert (planned.schedule.cron, planned.schedule.timezone) == ("0 3 * * 1", "Europe/Berlin")
        assert planned.active
        run = api.create_flow_run_from_deployment(deployment.id)
        final = eventually(lambda: s if (s := api.read_flow_run(run.id).state) and s.is_final() else None)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=DEADLINE_SECONDS)[0]
        assert api.read_deployment(deployment.id).paused

    assert final.is_completed(), output
    assert (project / "data" / "catalog.csv").read_text() == "scene_id\na\n"
    found = artifacts(run.id)
    assert [(row["stage"], row["result"]) for row in found["retrain-stages"]] == [
        ("data.dvc", "skipped"),
        ("prepare", "ran"),
        ("train", "ran"),
        ("register", "ran"),
    ]
    assert all(row["seconds"] > 0 for row in found["retrain-stages"])
    assert f"`{run_id}`" in found["retrain-mlflow-run"]
    assert "sqlite:///mlflow.db" in found["retrain-mlflow-run"]
    assert {"what": "rule.cloudy/psnr", "value": 0.5} in found["retrain-decision"]
    assert len(list((project / "store").rglob("*"))) > num_stored
    eventually(lambda: len(task_states(run.id)) == 7)
    assert set(task_states(run.id)) == {"pull", "data.dvc", "prepare", "train", "register", "link", "push"}
    traced = trace(str(run.id))
    linked = {"prefect_flow_run_id": str(run.id), "dvc_lock_sha256": sha256_file(project / "dvc.lock")}
    assert [(one.run_id, linked.items() <= one.flow.items()) for one in traced.runs] == [(run_id, True)]
    assert [(one.number, linked.items() <= one.flow.items()) for one in traced.versions] == [(1, True)]
    assert traced.versions[0].flow["prefect_flow_run_url"].endswith(f"/runs/flow-run/{run.id}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cron", "0 3 * *"], r'--cron: .*"0 3 \* \*"'),
        (["--cron", "61 3 * * 1"], "--cron"),
        (["--cron", "0 3 * * 1", "--timezone", "Berlin"], "--timezone: .*Berlin"),
        (["--cron", "0 3 * * 1", "--root", "nowhere"], "--root.*nowhere"),
    ],
)
def test_a_wrong_schedule_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["serve", *options])
    assert result.exit_code == 2
    assert re.search(message, result.output)


def test_a_schedule_without_a_server_is_refused() -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        result = CliRunner().invoke(main, ["serve", "--cron", "0 3 * * 1"])
    assert result.exit_code == 1
    assert "prefect server start" in result.output


def test_a_stage_to_force_must_exist(project: Path) -> None:
    with pytest.raises(ValueError, match=r"no stage trian in .*; it has data.dvc, prepare, train, register"):
        retrain.fn(project, ("trian",))


def test_the_link_to_mlflow_keeps_the_path_and_drops_the_password() -> None:
    run = {"run_id": "ab", "experiment": "cgm2net", "name": "tiny"}
    link = mlflow_link(run, store="https://me:secret@host:5000/mlflow/")
    assert link == "https://host:5000/mlflow/#/runs/ab"
    assert mlflow_link(run, store="sqlite:///mlflow.db") is None


def test_a_decision_is_laid_out_in_rows() -> None:
    assert decision_rows({"promoted": True, "rule": {"min": 0.5, "why": None}, "lost": ["urban"]}) == [
        {"what": "promoted", "value": True},
        {"what": "rule.min", "value": 0.5},
        {"what": "rule.why", "value": "null"},
        {"what": "lost", "value": '["urban"]'},
    ]
