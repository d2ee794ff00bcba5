"""Questions to the tests' Prefect server, and waiting for an answer."""

import json
import threading
from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client

DEADLINE_SECONDS = 120


def eventually(ask: Callable[[], Any]) -> Any:
    """Ask until the answer is not empty."""
    pause = threading.Event()
    for _ in range(DEADLINE_SECONDS * 5):
        if answer := ask():
            return answer
        pause.wait(0.2)
    raise AssertionError("no answer in time")


# Asked without the client's read_artifacts and read_task_runs: with the fastapi that is installed, the server refuses
# the null that they send for each filter which is not given.


def asked(path: str, body: dict[str, Any]) -> Any:
    with get_client(sync_client=True) as api:
        return api.request("POST", path, json=body).json()


def artifacts(flow_run_id: object) -> dict[str, Any]:
    """Return a run's artifacts by their keys; tables as lists of rows."""
    found = asked("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [str(flow_run_id)]}}})
    return {a["key"]: json.loads(a["data"]) if a["type"] == "table" else a["data"] for a in found}


def task_states(flow_run_id: object) -> dict[str, tuple[str, str]]:
    """Return type and message of the state of each of a run's tasks."""
    found = asked("/task_runs/filter", {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}})
    return {run["name"]: (run["state"]["type"], run["state"]["message"]) for run in found}


def runs_in(root: object) -> list[dict[str, Any]]:
    """Return the runs of flows in a project."""
    return [run for run in asked("/flow_runs/filter", {}) if run["parameters"].get("root") == str(root)]


def deployments(root: object) -> dict[str, dict[str, Any]]:
    """Return the deployments of a project that are not paused, by name."""
    found = asked("/deployments/filter", {})
    return {one["name"]: one for one in found if not one["paused"] and one["parameters"].get("root") == str(root)}
