"""What is tagged after the last stage, in a real MLflow store."""

from pathlib import Path

import pytest

from cgm2net import tracking
from cgm2net.errors import DataError
from cgm2net.files import sha256_file, write_json
from cgm2net.trace.links import link
from cgm2net.trace.store import find_run, versions_where

FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def run_id(project: Path) -> str:
    """A run with a version of its model, and what the stages leave of them in `artifacts`."""
    with tracking.run(project / "artifacts/train/run.json", experiment="e", name="n", params={}, tags={}) as run:
        tracking.connect().create_registered_model("cgm2net")
        tracking.connect().create_model_version("cgm2net", source="nowhere", run_id=run.run_id)
    decision = {"model_name": "cgm2net", "challenger": 1}
    write_json(project / "artifacts/register/decision.json", decision)
    (project / "dvc.lock").write_text("first")
    return run.run_id


def linked(run_id: str) -> list[str]:
    """Return the flow runs that the run and the version name, and the lock of the version."""
    run, (version,) = find_run(run_id), versions_where("name = 'cgm2net'")
    assert run is not None
    return [run.flow["prefect_flow_run_id"], version.flow["prefect_flow_run_id"], version.flow["dvc_lock_sha256"]]


def test_the_first_stays_until_the_lock_changes_and_the_run_keeps_it(project: Path, run_id: str) -> None:
    first = sha256_file(project / "dvc.lock")
    said = link(project, flow_run_id=FIRST, url="https://prefect/runs/flow-run/1")
    assert said == f"flow run {FIRST}: linked to run {run_id} and version 1 of cgm2net"
    assert linked(run_id) == [FIRST, FIRST, first]
    assert "linked to nothing" in link(project, flow_run_id=SECOND)
    assert linked(run_id) == [FIRST, FIRST, first]
    (project / "dvc.lock").write_text("second")
    assert link(project, flow_run_id=SECOND).endswith("linked to version 1 of cgm2net")
    assert linked(run_id) == [FIRST, SECOND, sha256_file(project / "dvc.lock")]


def test_without_a_decision_or_its_version_it_says_so(project: Path, run_id: str) -> None:
    write_json(project / "artifacts/register/decision.json", {"model_name": "cgm2net", "challenger": 7})
    with pytest.raises(DataError, match="version 7 of cgm2net: not in this store"):
        link(project, flow_run_id=FIRST)
    (project / "artifacts/register/decision.json").unlink()
    with pytest.raises(DataError, match=r"decision\.json: not there.*dvc repro"):
        link(project, flow_run_id=FIRST)
