"""infra's own programs: secrets made, accounts and buckets, the project's checkout, the probe."""

import http.server
import importlib.util
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from infra_files import INFRA, run, tool
from mlflow.exceptions import RestException


def _load(name):
    spec = importlib.util.spec_from_file_location(f"infra_{Path(name).stem}", INFRA / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve, prepare, probe = _load("storage/serve.py"), _load("prepare.py"), _load("probe.py")


def _values(env_file):
    lines = (line for line in env_file.read_text().splitlines() if line and line[0] != "#")
    return dict(line.split("=", 1) for line in lines)


def test_make_env_fills_every_name_with_a_secret_of_its_own(env_file):
    values = _values(env_file)
    assert all(values.values())
    secrets = [value for name, value in values.items() if name.endswith(("_PASSWORD", "_SECRET", "_AUTH"))]
    assert len(secrets) == len(set(secrets)) == 10
    assert all(len(secret.removeprefix("admin:")) == 48 for secret in secrets)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(env_file.with_name("tls").stat().st_mode) == 0o700


def test_make_env_keeps_passwords_that_may_be_in_use(env_file):
    before = env_file.read_bytes()
    again = run(INFRA / "make-env", "example.org", env={**os.environ, "CGM2NET_ENV": str(env_file)})
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert env_file.read_bytes() == before


def test_shellcheck_finds_nothing():
    scripts = [INFRA / name for name in ("make-env", "checkout.sh", "deploy.sh", "postgres/databases.sh")]
    said = run(tool("shellcheck"), *scripts)
    assert said.returncode == 0, said.stdout


def test_accounts_of_the_store_reach_their_own_bucket_alone():
    environment = {f"STORAGE_{name}_SECRET": f"{name} secret" for name in ("ADMIN", "MLFLOW", "DVC")}
    accounts = {account["name"]: account for account in serve.identities(environment)["identities"]}
    assert accounts["dvc"]["actions"] == ["Read:dvc", "Write:dvc", "List:dvc", "Tagging:dvc"]
    assert accounts["mlflow"]["credentials"] == [{"accessKey": "mlflow", "secretKey": "MLFLOW secret"}]
    assert accounts["admin"]["actions"] == ["Admin"]


@pytest.mark.parametrize("dvc", ["", None])
def test_store_does_not_start_without_a_secret(dvc):
    environment = {"STORAGE_ADMIN_SECRET": "a", "STORAGE_MLFLOW_SECRET": "b"}
    if dvc is not None:
        environment["STORAGE_DVC_SECRET"] = dvc
    with pytest.raises((KeyError, ValueError), match=r"DVC|dvc"):
        serve.identities(environment)


def test_store_listens_with_s3_alone():
    command = serve.command(Path("/data"))
    assert "-ip.bind=127.0.0.1" in command
    assert "-s3.ip.bind=0.0.0.0" in command
    assert not any("ecret" in word for word in command)


class _Store:
    def __init__(self, *buckets):
        self.buckets = list(buckets)

    def list_buckets(self):
        return {"Buckets": [{"Name": name} for name in self.buckets]}

    def create_bucket(self, Bucket):
        self.buckets.append(Bucket)


def test_missing_buckets_are_made_once():
    store = _Store("dvc")
    assert prepare.make_buckets(store) == ["mlflow"]
    assert prepare.make_buckets(store) == []
    assert store.buckets == ["dvc", "mlflow"]


class _Accounts:
    def __init__(self):
        self.passwords = {}

    def create_user(self, name, password):
        if name in self.passwords:
            raise RestException({"error_code": "RESOURCE_ALREADY_EXISTS", "message": "User exists"})
        if len(password) < 12:
            raise RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "too short"})
        self.passwords[name] = password

    def update_user_password(self, name, password):
        self.passwords[name] = password


def test_account_is_made_and_later_gets_the_new_password():
    accounts = _Accounts()
    assert prepare.make_account(accounts, "first password") is True
    assert prepare.make_account(accounts, "second password") is False
    assert accounts.passwords == {"pipeline": "second password"}


def test_what_mlflow_refuses_is_not_taken_for_an_account_that_is_there():
    with pytest.raises(RestException, match="too short"):
        prepare.make_account(_Accounts(), "short")


@pytest.fixture
def repository(tmp_path):
    origin = tmp_path / "origin"
    (origin / ".dvc").mkdir(parents=True)
    (origin / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n")
    (origin / ".dvc" / "config").touch()
    _git(origin, "init", "--quiet")
    _commit(origin, "first")
    return origin


def _git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _commit(folder, text):
    (folder / "file").write_text(text)
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", text)


def _checkout(origin, project):
    own = {"PROJECT_SOURCE": str(origin), "PROJECT_FOLDER": str(project), "AWS_ENDPOINT_URL_S3": "http://storage:8333"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return run(INFRA / "checkout.sh", env={**os.environ, **own, "PATH": path, "DVC_NO_ANALYTICS": "1"})


def test_checkout_clones_then_follows_and_never_drops_commits(repository, tmp_path):
    project = tmp_path / "project"
    assert _checkout(repository, project).returncode == 0
    assert (project / "file").read_text() == "first"
    assert "endpointurl = http://storage:8333" in (project / ".dvc" / "config.local").read_text()
    assert not _git(project, "status", "--porcelain")

    _commit(repository, "second")
    assert _checkout(repository, project).returncode == 0
    assert (project / "file").read_text() == "second"

    _commit(project, "of the installation")
    _commit(repository, "third")
    refused = _checkout(repository, project)
    assert refused.returncode == 1
    assert "holds commits" in refused.stderr
    assert (project / "file").read_text() == "of the installation"


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *_arguments):
        """Say nothing."""


def test_probe_tells_well_from_ill_and_absent(capsys):
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert probe.main(f"{address}/well") == 0
        assert probe.main(f"{address}/ill") == 1
        server.shutdown()
    assert probe.main(f"{address}/well") == 1
    assert address in capsys.readouterr().err
