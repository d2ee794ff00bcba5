"""Months of operation in one test: a champion, a batch that looks different, drift, a new champion, a map, a trace."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from repositories import commit
from service_process import eventually
from service_project import Project, fill, row_of, spec
from service_stack import Stack

from cgm2net.catalog import COLUMNS, write_catalog
from pipelines.automations import RETRAIN, retrain_on_drift
from pipelines.events import ACCEPTED, DRIFTED, REFUSED

pytestmark = [pytest.mark.services, pytest.mark.timeout(2400)]

GOOD = [spec(20 + k, cover=0.6 + k / 40) for k in range(7)]
BAD = [spec(30, cover=0.2, defect="sar_linear"), spec(31, cover=0.2, defect="truncated")]


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Project:
    """A project whose scenes have few clouds, as its watched folder will not."""
    (tmp_path / "operated").mkdir()
    return Project(tmp_path / "operated", stack)


def data_version(project: Project) -> str:
    return str(yaml.safe_load((project.root / "data.dvc").read_text())["outs"][0]["md5"])


def champion(project: Project) -> str:
    path = "registered-models/alias?name=cgm2net&alias=champion"
    return str(project.stack.mlflow_api("GET", path).json()["model_version"]["version"])


def test_a_batch_arrives_drift_is_told_and_a_new_champion_makes_a_map_that_names_its_data(project: Project) -> None:
    first = project.run("retrain")
    assert first["state"]["type"] == "COMPLETED", first["state"]["message"]
    shown = project.artifacts(first)
    assert {row["result"] for row in shown["retrain-stages"] if row["stage"] != "data.dvc"} == {"ran"}
    decision = {row["what"]: row["value"] for row in shown["retrain-decision"]}
    assert (decision["promoted"], decision["challenger"]) == (True, 1)
    assert champion(project) == "1"
    for worker in project.stack.dask[1:]:  # the data stages' scenes went over the cluster
        assert "Starting Worker plugin cgm2net folder" in worker.log.read_text()

    project.change({"train": {"steps": 10}})  # so that the second model is the better one
    commit(project.root, "Train longer")
    old_data = data_version(project)
    good, bad = fill(project.root / "incoming", GOOD), fill(project.root / "incoming", BAD)
    taken = project.run("ingest", folder=str(project.root / "incoming"), commit_data=True)
    assert taken["state"]["type"] == "COMPLETED", taken["state"]["message"]
    scenes = {row["scene_id"]: row for row in project.artifacts(taken)["ingest-scenes"]}
    assert {name: row["status"] for name, row in scenes.items()} == {
        **dict.fromkeys(good, "accepted"),
        **dict.fromkeys(bad, "refused"),
    }
    assert "linear power" in scenes["r30-sar-linear"]["reason"]
    for event, names in ((ACCEPTED, good), (REFUSED, bad)):
        (payload,) = eventually(lambda event=event: project.events(event), what=event)  # type: ignore[misc]
        assert sorted(payload["ids"]) == sorted(names)
    new_data = data_version(project)
    assert new_data != old_data

    with project.stack.as_client():
        retrain_on_drift(project.deployments["retrain"])
    watched = project.run("monitor")
    assert watched["state"]["type"] == "COMPLETED", watched["state"]["message"]
    (payload,) = eventually(lambda: project.events(DRIFTED), what=DRIFTED)
    assert "cloud cover" in payload["ids"]
    assert payload["num_incoming"] == len(good)
    (started,) = eventually(lambda: project.runs("retrain")[1:], what="the automation starts a training", seconds=60)
    assert started["created_by"]["display_value"] == RETRAIN
    second = project.ended(started["id"])
    assert second["state"]["type"] == "COMPLETED", second["state"]["message"]
    decision = {row["what"]: row["value"] for row in project.artifacts(second)["retrain-decision"]}
    assert (decision["promoted"], decision["champion_before"], decision["challenger"]) == (True, 1, 2), decision
    assert champion(project) == "2"

    write_catalog(pd.DataFrame([row_of(GOOD[0])], columns=COLUMNS), project.root / "today.csv")
    mapped = project.run("predict", catalog=str(project.root / "today.csv"))
    assert mapped["state"]["type"] == "COMPLETED", mapped["state"]["message"]
    traced = project.cgm2net("trace", f"maps/{good[0]}/classes.tif")
    assert new_data in traced
    assert old_data not in traced
