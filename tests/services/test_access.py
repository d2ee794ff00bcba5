"""Who may ask MLflow and Prefect what: nobody without a password, except the probes of whoever runs the servers."""

import pytest
import requests
from service_stack import PIPELINE, Stack

pytestmark = pytest.mark.services

MLFLOW = "/api/2.0/mlflow/experiments/search?max_results=5"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
PREFECT = "/api/flow_runs/count"


@pytest.mark.parametrize("credentials", [None, ("admin", "password1234"), ("pipeline", ""), ("nobody", "x" * 12)])
def test_mlflow_answers_nobody_without_the_right_password(stack: Stack, credentials: tuple[str, str] | None) -> None:
    for path in (MLFLOW, FILES):
        assert requests.get(stack.mlflow_url + path, auth=credentials, timeout=30).status_code == 401


@pytest.mark.parametrize("credentials", [None, ("admin", "pass"), ("ops", "")])
def test_prefect_answers_nobody_without_the_right_password(stack: Stack, credentials: tuple[str, str] | None) -> None:
    for method, path in (("POST", PREFECT), ("GET", "/api/admin/version"), ("POST", "/api/events/filter")):
        answer = requests.request(method, stack.prefect_url + path, json={}, auth=credentials, timeout=30)
        assert answer.status_code == 401, path


def test_both_answer_who_has_the_password(stack: Stack) -> None:
    mlflow = requests.get(stack.mlflow_url + MLFLOW, auth=(PIPELINE, stack.secrets[PIPELINE]), timeout=30)
    assert mlflow.json()["experiments"]
    assert stack.prefect_api("POST", "/work_pools/filter", {})[0]["name"] == "cpu"


def test_the_pipelines_account_gives_no_rights(stack: Stack) -> None:
    made = stack.mlflow_api("POST", "users/create", user=PIPELINE, username="eve", password="long-enough-12")
    assert made.status_code == 403


def test_probes_need_no_password(stack: Stack) -> None:
    for url in (f"{stack.mlflow_url}/health", f"{stack.prefect_url}/api/health", f"{stack.prefect_url}/api/ready"):
        assert requests.get(url, timeout=30).ok, url


def test_a_database_is_open_to_its_owner_alone(stack: Stack) -> None:
    assert stack.postgres.login("mlflow_auth", user="mlflow", password=stack.secrets["mlflow"]) == ""
    assert "password authentication failed" in stack.postgres.login("mlflow", user="mlflow", password="guessed")
    refused = stack.postgres.login("mlflow", user="prefect", password=stack.secrets["prefect"])
    assert "permission denied for database" in refused


def test_no_password_stands_in_a_log(stack: Stack) -> None:
    for service in stack.services:
        log = service.log.read_text(errors="replace")
        assert not [name for name, secret in stack.secrets.items() if secret in log], service.name
