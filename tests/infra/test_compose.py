"""compose.yaml: what Docker Compose itself says of it, and what must hold for every service."""

import re
import tomllib

import pytest
import yaml
from infra_files import INFRA, ROOT, holds_secret, run, tool

COMPOSE = INFRA / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
ONCE = {"prepare", "checkout", "deploy", "backup", "restore"}

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def _compose(*arguments, env_file):
    return run(tool("docker-compose"), "--file", COMPOSE, "--env-file", env_file, "--profile", "*", *arguments)


def test_compose_accepts_what_make_env_wrote(env_file):
    said = _compose("config", "--quiet", env_file=env_file)
    assert said.returncode == 0, said.stderr


def test_every_secret_is_asked_for_by_name(env_file, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    said = _compose("config", "--quiet", env_file=empty)
    assert said.returncode != 0
    missing = set(re.findall(r"variable (\w+) is missing a value: run infra/make-env", said.stderr))
    assert missing == {line.partition("=")[0] for line in env_file.read_text().splitlines() if "=" in line[:40]}


def test_env_example_names_what_compose_asks_for():
    example = (INFRA / ".env.example").read_text()
    named = set(re.findall(r"^(\w+)=$", example, flags=re.MULTILINE))
    asked = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert named == asked
    assert not re.search(r"^\w+=.", example, flags=re.MULTILINE), "a value in .env.example would become a default"


@every_service
def test_service_has_no_rights_to_spare(service):
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["logging"]["options"]["max-size"]


@every_service
def test_service_has_limits(service):
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= limits.keys()


@every_service
def test_service_is_no_root(service):
    # our own images end with USER (test_dockerfile.py); others would start as root
    assert service["image"].startswith("cgm2net/") or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


@every_service
def test_image_is_pinned(service):
    name, _, tag = service["image"].rpartition(":")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if name.startswith("cgm2net/"):
        assert tag == version
        assert service["build"]["target"] == name.removeprefix("cgm2net/")
    else:
        assert re.match(r"\d+\.\d+", tag)


@every_service
def test_secrets_come_from_the_environment_without_a_default(service):
    for name, value in service.get("environment", {}).items():
        if holds_secret(name):
            references = re.findall(r"\$\{\w+(:\?)?[^}]*\}", value)
            assert references, f"{name} is written out"
            assert all(references), f"{name} has a default"


def test_servers_say_whether_they_are_well():
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == ONCE


def test_only_nginx_is_published():
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"nginx"}
    assert not any(service.get("network_mode") == "host" for service in SERVICES.values())


def test_data_lie_on_networks_without_a_way_out():
    networks = yaml.safe_load(COMPOSE.read_text())["networks"]
    open_ones = {name for name, network in networks.items() if not network.get("internal")}
    reach = {name: set(service.get("networks", [])) & open_ones for name, service in SERVICES.items()}
    assert {name for name, reached in reach.items() if reached} == {
        "nginx",
        "worker",
        "worker-retrain",
        "worker-gpu",
        "dask-worker",
    }
    assert reach["nginx"].isdisjoint(reach["worker"])


def test_nothing_starts_before_what_it_needs_is_well():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
            assert how["condition"] == wanted, (name, needed)


def test_what_is_mounted_from_here_exists():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (INFRA / source).exists(), volume


def test_workers_serve_the_pools_that_flows_are_deployed_to():
    prefect = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    wanted = {work["work_pool"]["name"] for work in prefect["deployments"] if work["name"].endswith("-process")}
    served = {
        word.removeprefix("--pool=") for s in SERVICES.values() for word in s.get("command", []) if "--pool" in word
    }
    assert served == wanted
