"""Backup, wipe, restore: every run, model, alias, file, account and flow run is back; nothing damaged goes back."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from service_process import eventually
from service_stack import ADMIN, BUCKET, OWNERS, PIPELINE, ROOT, Stack

from cgm2net import registry, tracking

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]

Backup = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def backup(stack: Stack) -> Backup:
    """Give what runs infra/backup.py as compose.yaml does; no password may show in what it says."""
    env = stack.environment({
        "BACKUP_DATABASES": " ".join(stack.database(name) for name in OWNERS), "BACKUP_BUCKETS": BUCKET,
        **stack.s3_settings, **stack.postgres.libraries,
    })  # fmt: skip
    env["PATH"] = f"{stack.postgres.bin}:{env['PATH']}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "infra/backup.py"), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert not [secret for secret in stack.secrets.values() if secret in done.stdout + done.stderr]
        return done

    return run


@pytest.fixture
def logged(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Log a run with metric, file, version and alias as the pipeline does; give its id."""
    for name, value in stack.mlflow_settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "notes.txt").write_text("what was seen")
    opened = tracking.run(tmp_path / "run.json", experiment="restored", name="r", params={"steps": 3}, tags={"a": "b"})
    with opened as run:
        run.log_metrics({"cloudy/psnr": 21.5}, step=2)
        run.log_files([tmp_path / "notes.txt"], folder="seen")
    client = tracking.connect()
    client.create_registered_model("restored")
    client.create_model_version("restored", source=f"runs:/{run.run_id}/model", run_id=run.run_id, tags={"c": "d"})
    version = registry.version_numbered("restored", 1)
    assert version is not None
    registry.set_alias(version, alias="champion", why="the first", who="test")
    stack.prefect_api("POST", "/variables/", {"name": "kept", "value": "here"})
    return run.run_id


def everything(stack: Stack) -> dict[str, Any]:
    """Take down what MLflow and Prefect know, and every file."""
    experiments = stack.mlflow_api("GET", "experiments/search?max_results=1000").json()["experiments"]
    found: dict[str, Any] = {"experiments": experiments}
    ids = [experiment["experiment_id"] for experiment in experiments]
    found["runs"] = stack.mlflow_api("POST", "runs/search", experiment_ids=ids, max_results=1000).json()["runs"]
    found["models"] = stack.mlflow_api("GET", "registered-models/search").json()["registered_models"]
    found["versions"] = stack.mlflow_api("GET", "model-versions/search?max_results=1000").json()["model_versions"]
    found["users"] = stack.mlflow_api("GET", "users/list").json()["users"]
    for kind in ("flow_runs", "deployments", "automations", "variables", "work_pools"):
        rows = stack.prefect_api("POST", f"/{kind}/filter", {})
        found[kind] = sorted((row["name"], row["id"], row.get("state_type", "")) for row in rows)
    return found


def test_all_is_back_after_everything_was_wiped(stack: Stack, logged: str, backup: Backup, tmp_path: Path) -> None:
    before, folder = everything(stack), tmp_path / "backups/first"
    assert {user["username"] for user in before["users"]} == {ADMIN, PIPELINE}
    done = backup("backup", str(folder))
    assert done.returncode == 0, done.stderr
    assert "is there already" in backup("backup", str(folder)).stderr
    refused = backup("restore", str(folder))
    assert refused.returncode != 0
    assert "not empty: database mlflow, database mlflow_auth, database prefect, bucket mlflow" in refused.stderr

    servers = (stack.mlflow, stack.prefect)
    for server in (stack.worker, *servers):
        server.kill()
    for database, owner in OWNERS.items():
        stack.postgres.drop(database)
        stack.postgres.create(database, owner=owner)
    requests.post(f"{stack.s3_url}/moto-api/reset", timeout=30).raise_for_status()
    requests.put(f"{stack.s3_url}/{BUCKET}", timeout=30).raise_for_status()
    stored = next((folder / "objects").glob("*/*"))
    content = stored.read_bytes()
    stored.write_bytes(content + b"!")
    assert "damaged" in backup("restore", str(folder)).stderr
    assert stack.postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database="mlflow") == "0"
    stored.write_bytes(content)

    for overwrite in ((), ("--overwrite",)):  # once into nothing, once over what is there
        done = backup("restore", str(folder), *overwrite)
        assert done.returncode == 0, done.stderr
    for server in servers:
        server.launch()
    for server in (*servers, stack.worker):
        server.wait() if server in servers else server.start()
    assert everything(stack) == before
    artifact = f"{stack.mlflow_url}/get-artifact?run_uuid={logged}&path=seen/notes.txt"
    assert requests.get(artifact, auth=(PIPELINE, stack.secrets[PIPELINE]), timeout=30).text == "what was seen"
    assert stack.mlflow_api("GET", "registered-models/alias?name=restored&alias=champion", user=PIPELINE).ok
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["databases"]) == sorted(OWNERS)
    assert eventually(stack.has_worker, what="the worker is back")
