"""The servers of infra/compose.yaml as processes on loopback, with passwords; also a worker and a Dask cluster."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from service_postgres import Postgres
from service_process import Service, answers, eventually, free_port

ROOT = Path(__file__).parents[2]
OWNERS = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}
"""Database -> role."""

BUCKET = "mlflow"
ADMIN, PIPELINE = "admin", "pipeline"
"""MLflow's users: who gives rights, and as whom the stages log."""

POOL = "cpu"

_QUIET = {
    "DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}  # fmt: skip


class Stack:
    """The servers, their addresses and their secrets, which are drawn anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("mlflow", "prefect", "postgres", ADMIN, PIPELINE, "server", "s3", "flask")
        self.secrets = {name: secrets.token_urlsafe(16) for name in names}
        self.postgres = Postgres(self.secrets["postgres"], folder=folder)
        self.s3_url, self.mlflow_url, self.prefect_url = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        self.scheduler = f"tcp://127.0.0.1:{free_port()}"
        self.s3, self.mlflow, self.prefect = self._s3(), self._mlflow(), self._prefect()
        self.worker = self._worker()
        self.dask: tuple[Service, ...] = ()

    @property
    def services(self) -> tuple[Service, ...]:
        """All processes, those that others need first."""
        return (self.postgres.server, self.s3, self.mlflow, self.prefect, self.worker, *self.dask)

    def start(self) -> None:
        """Start everything; what does not need one another, at once."""
        self.s3.launch()
        self.postgres.server.start()
        for role in sorted(set(OWNERS.values())):
            self.postgres.create_role(role, self.secrets[role])
        for database, owner in OWNERS.items():
            self.postgres.create(database, owner=owner)
        self.s3.wait()
        requests.put(f"{self.s3_url}/{BUCKET}", timeout=30).raise_for_status()
        for service in (self.mlflow, self.prefect):
            service.launch()
        for service in (self.mlflow, self.prefect):
            service.wait()
        self._make_user()
        self.worker.start()

    def start_dask(self, project: Path) -> None:
        """Start a scheduler and two workers, which run the library that lies in a project's folder."""
        for service in self.dask:
            service.kill()
        self.dask = self._dask(project)
        for service in self.dask:
            service.launch()
        for service in self.dask:
            service.wait()

    def revive(self) -> None:
        """Start again what has ended, as the engine that runs containers does."""
        for service in self.services:
            if not service.runs:
                service.start()

    def remove(self) -> None:
        """End everything, and delete the databases."""
        for service in reversed(self.services):
            service.kill()
        self.postgres.remove()

    def database(self, name: str, *, driver: str = "", password: bool = True) -> str:
        """Return the address of a database."""
        owner = OWNERS[name]
        secret = f":{self.secrets[owner]}" if password else ""
        return f"postgresql{driver}://{owner}{secret}@127.0.0.1:{self.postgres.port}/{name}"

    @property
    def prefect_settings(self) -> dict[str, str]:
        """What a client of Prefect needs."""
        return {
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_API_AUTH_STRING": f"ops:{self.secrets['server']}",
        }

    @property
    def mlflow_settings(self) -> dict[str, str]:
        """What a client of MLflow needs."""
        return {"MLFLOW_TRACKING_URI": self.mlflow_url, "MLFLOW_TRACKING_USERNAME": PIPELINE,
                "MLFLOW_TRACKING_PASSWORD": self.secrets[PIPELINE]}  # fmt: skip

    @property
    def s3_settings(self) -> dict[str, str]:
        """What a client of S3 needs."""
        return {"AWS_ACCESS_KEY_ID": "mlflow", "AWS_SECRET_ACCESS_KEY": self.secrets["s3"],
                "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.s3_url}  # fmt: skip

    @property
    def client(self) -> dict[str, str]:
        """The environment of whoever runs flows and commands."""
        return self.environment({**self.prefect_settings, **self.mlflow_settings})

    @contextmanager
    def as_client(self) -> Iterator[None]:
        """Let Prefect's client of this process talk to this server."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        given = self.prefect_settings
        with temporary_settings(
            {PREFECT_API_URL: given["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: given["PREFECT_API_AUTH_STRING"]}
        ):
            yield

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process, without what this one has of servers."""
        passed = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "AWS_", "DVC_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{passed['PATH']}"
        home = {"PREFECT_HOME": str(self.folder / "prefect")}
        return {**passed, **_QUIET, **home, "PATH": path, **own}

    def prefect_api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask Prefect's server; give what it answers."""
        answer = requests.request(
            method, f"{self.prefect_url}/api{path}", json=body, auth=("ops", self.secrets["server"]), timeout=30
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def mlflow_api(self, method: str, path: str, *, user: str = ADMIN, **body: Any) -> requests.Response:
        """Ask MLflow's server."""
        url = f"{self.mlflow_url}/api/2.0/mlflow/{path}"
        return requests.request(method, url, json=body, auth=(user, self.secrets[user]), timeout=30)

    def _service(self, name: str, command: list[str], own: Mapping[str, str], ready: Callable[[], bool]) -> Service:
        return Service(name, command, env=self.environment(own), folder=self.folder, ready=ready)

    def _s3(self) -> Service:
        port = self.s3_url.rpartition(":")[2]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        return self._service("s3", command, {}, answers(f"{self.s3_url}/moto-api/"))

    def _mlflow(self) -> Service:
        auth = (ROOT / "infra/mlflow/auth.ini").read_text().replace("postgres:5432", f"127.0.0.1:{self.postgres.port}")
        (self.folder / "auth.ini").write_text(auth)
        command = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1",
            "--port", self.mlflow_url.rpartition(":")[2], "--workers", "1",
            "--artifacts-destination", f"s3://{BUCKET}",
        ]  # fmt: skip
        own = {
            "MLFLOW_BACKEND_STORE_URI": self.database("mlflow", driver="+psycopg2", password=False),
            "PGPASSWORD": self.secrets["mlflow"], "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN, "MLFLOW_AUTH_ADMIN_PASSWORD": self.secrets[ADMIN],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secrets["flask"], "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self.s3_settings,
        }  # fmt: skip
        return self._service("mlflow", command, own, answers(f"{self.mlflow_url}/health"))

    def _prefect(self) -> Service:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port",
                   self.prefect_url.rpartition(":")[2]]  # fmt: skip
        own = {
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database("prefect", driver="+asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": self.prefect_settings["PREFECT_API_AUTH_STRING"],
        }
        return self._service("prefect", command, own, answers(f"{self.prefect_url}/api/ready"))

    def _worker(self) -> Service:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
                   "--name", "worker"]  # fmt: skip
        own = {**self.prefect_settings, **self.mlflow_settings, "PREFECT_WORKER_QUERY_SECONDS": "1",
               "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}  # fmt: skip
        return self._service("worker", command, own, self.has_worker)

    def has_worker(self) -> bool:
        """Whether a worker polls the pool."""
        try:
            workers = self.prefect_api("POST", f"/work_pools/{POOL}/workers/filter", {})
        except requests.RequestException:
            return False
        return any(worker["status"] == "ONLINE" for worker in workers)

    def _dask(self, project: Path) -> tuple[Service, ...]:
        dask = [sys.executable, "-m", "dask"]
        port = self.scheduler.rpartition(":")[2]
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        worker = [*dask, "worker", self.scheduler, "--no-nanny", "--nthreads", "1", "--no-dashboard",
                  "--host", "127.0.0.1"]  # fmt: skip
        own = {"DASK_TEMPORARY_DIRECTORY": str(self.folder / "dask"), "PYTHONPATH": str(project)}
        services = [self._service("dask-scheduler", scheduler, own, lambda: True)]
        for number in (1, 2):
            name = f"dask-worker-{number}"
            log = self.folder / f"{name}.log"
            services.append(self._service(name, worker, own, lambda log=log: "Registered to:" in log.read_text()))
        return tuple(services)

    def _make_user(self) -> None:
        made = eventually(
            lambda: self.mlflow_api("POST", "users/create", username=PIPELINE, password=self.secrets[PIPELINE]),
            what="MLflow makes a user",
        )
        assert made.ok, made.text
