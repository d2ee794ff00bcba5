"""The flow that looks for drift, and the automation that retrains on it."""

import csv
import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from asked import artifacts, asked, deployments, eventually
from prefect.client.orchestration import get_client
from tiny_model import save_model

from cgm2net.catalog import COLUMNS
from cgm2net.data import synthetic
from cgm2net.errors import CatalogError
from pipelines.automations import RETRAIN, retrain_on_drift
from pipelines.monitor import monitor
from pipelines.retrain import retrain
from pipelines.stages import dvc

ROOT = Path(__file__).parents[2]
STAGES = ("download", "validate", "coregister", "cloudmask")


def write_table(path: Path, **columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def batch(folder: Path, *, cover: float, num: int = 12) -> Path:
    """Write what the stages would have written of clouds over some scenes: `cover` and a hundredth more in each."""
    names = [f"s{k:02}" for k in range(num)]
    columns = {name: [""] * num for name in COLUMNS} | {"scene_id": names, "accepted": ["True"] * num}
    covers = [f"{cover + k / 100:.2f}" for k in range(num)]
    for stage in ("validate", "cloudmask"):
        write_table(folder / stage / "scenes.csv", **columns, cloud_cover=covers)
    return folder


@pytest.mark.server
def test_drift_is_told_and_shown(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    batch(tmp_path / "artifacts", cover=0.1)
    batch(tmp_path / "new", cover=0.7)

    state = monitor(tmp_path, incoming=Path("new"), return_state=True)

    assert state.result() == ["cloud cover"]
    assert "cloud cover drifted" in (tmp_path / "artifacts/drift/drift.html").read_text()
    shown = artifacts(state.state_details.flow_run_id)
    assert shown["monitor-verdict"].startswith("**cloud cover drifted.** 12 scenes that came in against 12")
    assert (
        "champion's confidence is not compared: models:/cgm2net@champion: no mlflow.db here" in shown["monitor-verdict"]
    )
    (row,) = shown["monitor-features"]
    assert (row["feature"], row["drifted"], row["psi"] > 0.25) == ("cloud cover", True, True)
    about = {"event": {"name": ["cgm2net.drift.detected"]}, "resource": {"id": [f"cgm2net.project.{tmp_path.name}"]}}
    (event,) = eventually(lambda: asked("/events/filter", {"filter": about})["events"])
    payload = event["payload"]
    assert (payload["ids"], list(payload["psi"]), payload["num_incoming"]) == (["cloud cover"], ["cloud cover"], 12)


@pytest.mark.server
def test_a_served_project_retrains_by_itself_when_drift_is_told(
    project: Path, start: Callable[..., AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    watched = project.with_name("watched")  # its params.yaml is none of the three stages' above
    batch(watched / "artifacts", cover=0.1)
    batch(watched / "new", cover=0.7)
    source = ("--ingest-cron", "0 1 * * *", "--catalog", "incoming.csv", "--commit")
    with start("serve", "--cron", "0 3 * * 1", "--monitor-cron", "0 2 * * *", *source) as process:

        def deployed() -> dict[str, Any]:
            assert process.poll() is None, process.communicate()[0]
            flows = deployments(project)
            return flows if {"retrain", "ingest", "monitor"} <= set(flows) else {}

        flows = eventually(deployed)
        assert [s["schedule"]["cron"] for s in flows["monitor"]["schedules"]] == ["0 2 * * *"]
        assert [s["schedule"]["cron"] for s in flows["ingest"]["schedules"]] == ["0 1 * * *"]
        parameters = flows["ingest"]["parameters"]
        assert (parameters["catalog"], parameters["commit_data"]) == (str(ROOT / "incoming.csv"), True)
        assert monitor(watched, incoming=Path("new")) == ["cloud cover"]
        of_it = {"deployments": {"id": {"any_": [flows["retrain"]["id"]]}}}

        def retrained() -> list[dict[str, Any]]:  # other tests' events may have started a training of theirs
            found = [run for run in asked("/flow_runs/filter", of_it) if run["parameters"]["root"] == str(project)]
            return [run for run in found if run["state"]["type"] == "COMPLETED"]

        (run,) = eventually(retrained)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=120)[0]
    assert run["created_by"]["display_value"] == RETRAIN, output
    assert (project / "artifacts/register/decision.json").is_file()


@pytest.mark.server
def test_the_automation_is_made_once_and_stays_off_when_switched_off(server: dict[str, str], tmp_path: Path) -> None:
    deployment = retrain.to_deployment("retrain", parameters={"root": str(tmp_path)}).apply()
    first = retrain_on_drift(deployment)
    with get_client(sync_client=True) as api:
        api.pause_automation(first)
        assert retrain_on_drift(deployment) == first
        (automation,) = api.read_automations_by_name(RETRAIN)
        assert not automation.enabled
        assert automation.actions[0].deployment_id == deployment
        api.delete_automation(first)


@pytest.mark.server
def test_what_came_in_goes_through_the_stages_and_leaves_the_projects_own_alone(
    server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    batch(tmp_path / "artifacts", cover=0.1)
    spec = synthetic.SceneSpec(region=1, date="2024-06-01", size_px=96, cover=0.3)
    files = {role: [synthetic.uri(role, spec)] * 2 for role in ("optical", "sar", "reference")}
    empty = {name: ["", ""] for name in COLUMNS}
    names = {"scene_id": ["s00", "new"], "region": ["r", "r"]}  # the reference holds s00
    write_table(tmp_path / "data/catalog.csv", **{**empty, **files, **names})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load((ROOT / "params.yaml").read_text())))
    before = "data/catalog.csv"
    stages: dict[str, Any] = {}
    for name in STAGES:
        stages[name] = {"cmd": "sleep 0", "deps": [before], "outs": [f"artifacts/{name}"]}
        before = f"artifacts/{name}"
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc("init", "--quiet", "--no-scm", root=tmp_path)

    save_model(tmp_path / "model", optical_bands=("B02", "B03"), sar_bands=("VV", "VH"))
    (tmp_path / "artifacts/tile").mkdir()
    pd.DataFrame({"scene_id": ["s00"], "split": ["test"]}).to_parquet(tmp_path / "artifacts/tile/tiles.parquet")

    assert monitor(tmp_path, model="model") == []

    report = json.loads((tmp_path / "artifacts/drift/drift.json").read_text())
    assert (report["num_incoming"], report["num_reference"]) == (1, 12)
    notes = {feature["feature"]: feature["note"] for feature in report["features"]}
    assert "cloud cover" in notes
    few = "not judged: 0 reference scenes have it and 1 incoming scenes have it, wanted 6"
    assert (notes["class confidence"], notes["half-width of the interval"]) == (few, few)
    assert sorted(p.name for p in (tmp_path / "artifacts").iterdir()) == ["cloudmask", "drift", "tile", "validate"]

    write_table(
        tmp_path / "data/catalog.csv", **{name: [values[0]] for name, values in {**empty, **files, **names}.items()}
    )
    assert monitor(tmp_path, out=Path("second")) == []
    assert not (tmp_path / "second").exists()


def test_without_a_reference_it_says_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no validated scenes there; train first"):
        monitor.fn(tmp_path)
