"""prefect.yaml: what Prefect makes of it, and that it fits the flows."""

import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from asked import asked, deployments
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flows import load_flow_from_entrypoint

from pipelines import schedule
from pipelines.automations import RETRAIN, SILENT_SECONDS
from pipelines.events import TAG

ROOT = Path(__file__).parents[2]
FLOWS = ("ingest", "monitor", "retrain", "predict", "rollback")
KINDS = ("process", "docker", "kubernetes")
DEPLOYED = {one.name: one for one in PrefectYamlModel.model_validate(
    yaml.safe_load((ROOT / "prefect.yaml").read_text())).deployments}  # fmt: skip


def template(kind: str) -> dict[str, Any]:
    """Return the base job template of a kind of pool, by Prefect's own list."""
    text = files("prefect.server.api").joinpath("collections_data/views/aggregate-worker-metadata.json").read_text()
    (known,) = (workers[kind] for workers in json.loads(text).values() if kind in workers)
    found: dict[str, Any] = known["default_base_job_configuration"]
    return found


def test_every_flow_is_deployed_to_every_kind_of_pool() -> None:
    assert list(DEPLOYED) == [f"{flow}-{kind}" for flow in FLOWS for kind in KINDS]
    served = {name for name in FLOWS if hasattr(schedule, name)}
    assert served == set(FLOWS) - {"rollback"}  # moved by hand alone, so `serve` has no time for it


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_deployment_fits_its_flow_and_its_pool(name: str) -> None:
    one, (flow_name, _, kind) = DEPLOYED[name], name.partition("-")
    flow: Any = load_flow_from_entrypoint(str(one.entrypoint))
    assert flow.name == flow_name
    known = inspect.signature(flow.fn).parameters
    assert set(one.parameters) <= set(known)
    needed = {name for name, parameter in known.items() if parameter.default is inspect.Parameter.empty}
    assert needed == ({"why"} if flow_name == "rollback" else set())
    assert (one.tags, one.pull) == ([TAG], [])
    assert one.work_pool is not None
    device = "gpu" if flow_name == "retrain" else "cpu"
    assert one.work_pool.name == (device if kind == "process" else f"{device}-{kind}")
    assert set(one.work_pool.job_variables) <= set(template(kind)["variables"]["properties"])
    assert float(one.work_pool.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) < SILENT_SECONDS
    assert differences(one, DEPLOYED[f"{flow_name}-process"]) <= {"name", "work_pool"}


def differences(one: DeploymentConfig, other: DeploymentConfig) -> set[str]:
    return {name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)}


@pytest.mark.server
@pytest.mark.skipif(
    tuple(map(int, version("fastapi").split(".")[:2])) >= (0, 151),
    reason="prefect deploy ends with an error after its first deployment: the server refuses a null that it sends",
)
def test_prefect_deploys_it(server: dict[str, str]) -> None:
    with get_client(sync_client=True) as api:
        for pool in ("cpu", "gpu"):
            api.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template("process")))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "*-process"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**server, "CGM2NET_PROJECT": "/project"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = deployments("/project")
        assert set(found) == {f"{flow}-process" for flow in FLOWS}
        retrain = found["retrain-process"]
        assert retrain["work_pool_name"] == "gpu"
        assert retrain["global_concurrency_limit"]["limit"] == 1
        assert retrain["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert [one["schedule"]["cron"] for one in retrain["schedules"]] == ["0 3 * * 1"]
        assert found["ingest-process"]["parameters"] == {"root": "/project", "folder": "incoming"}
        assert found["ingest-process"]["job_variables"]["working_dir"] == "/project"
        started = [one for one in asked("/automations/filter", {}) if one["name"] == RETRAIN]
        assert retrain["id"] in {one["actions"][0]["deployment_id"] for one in started}
        for one in started:
            api.delete_automation(one["id"])
        for one in found.values():
            api.delete_deployment(one["id"])
