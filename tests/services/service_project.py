"""A small project on all servers: scenes of 64 px, a network trained for few steps, its flows deployed to the pool."""

import json
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import yaml
from prefect.types.entrypoint import EntrypointType
from repositories import command, commit
from service_process import eventually
from service_stack import POOL, ROOT, Stack

from cgm2net.catalog import COLUMNS, FILE_ROLES, write_catalog
from cgm2net.data import synthetic
from cgm2net.data.scenery.scene import Defect
from pipelines.events import TAG
from pipelines.ingest import ingest
from pipelines.monitor import monitor
from pipelines.predict import predict
from pipelines.retrain import retrain

FLOWS = {"retrain": retrain, "ingest": ingest, "monitor": monitor, "predict": predict}
RUN_SECONDS = 600.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_COPIED = ("cgm2net", "dvc.yaml", "params.yaml", ".dvcignore")
_SMALL: dict[str, dict[str, Any]] = {
    "validate": {"min_accepted": 3},
    "tile": {"size_px": 64, "stride_px": 64},
    "train": {
        "architecture": "unet", "steps": 2, "batch_size": 2, "crop_px": 32, "warmup_steps": 1, "num_threads": 1,
        "log_every_steps": 1, "checkpoint_every_steps": 1, "validate_every_steps": 2,
    },
    "evaluate": {"num_threads": 1, "num_pictures": 1},
    "register": {"min_gain": {"cloudy/psnr": 0.0}, "min_chance": 0.0, "max_loss": {}, "max_class_loss": None},
}  # fmt: skip


def spec(region: int, *, cover: float, defect: Defect = "none") -> synthetic.SceneSpec:
    """Describe a scene."""
    return synthetic.SceneSpec(region=region, date="2024-06-01", size_px=64, cover=cover, defect=defect)


def fill(folder: Path, specs: list[synthetic.SceneSpec]) -> list[str]:
    """Lay scenes into a watched folder, as files; return their names."""
    for one in specs:
        scene = folder / name_of(one)
        scene.mkdir(parents=True)
        for role in FILE_ROLES:
            synthetic.write(synthetic.uri(role, one), scene / f"{role}.tif")
    return [name_of(one) for one in specs]


def name_of(one: synthetic.SceneSpec) -> str:
    """Name a scene by its region and what is wrong with it."""
    return f"r{one.region:02}" + ("" if one.defect == "none" else f"-{one.defect.replace('_', '-')}")


class Deployed:
    """The flows on one project, deployed to the pool, and what the server knows of their runs."""

    def __init__(self, root: Path, stack: Stack, *, flows: Collection[str] = tuple(FLOWS)) -> None:
        self.root, self.stack = root, stack
        with stack.as_client():
            self.deployments = {name: self._deploy(FLOWS[name]) for name in flows}

    def run(self, flow: str, **parameters: Any) -> dict[str, Any]:
        """Let the worker run a flow; wait for its end and give the run."""
        return self.ended(self.start(flow, **parameters))

    def start(self, flow: str, **parameters: Any) -> str:
        """Ask for a run of a flow; give its id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        made = self.stack.prefect_api("POST", f"/deployments/{self.deployments[flow]}/create_flow_run", body)
        return str(made["id"])

    def ended(self, run_id: str, *, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Wait until a run has ended, however."""

        def final() -> dict[str, Any] | None:
            run: dict[str, Any] = self.stack.prefect_api("GET", f"/flow_runs/{run_id}")
            return run if run["state"]["type"] in ENDED else None

        return eventually(final, what=f"flow run {run_id} ends", seconds=seconds)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Give all runs of a flow's deployment, the first first."""
        body = {"deployments": {"id": {"any_": [str(self.deployments[flow])]}}}
        found: list[dict[str, Any]] = self.stack.prefect_api("POST", "/flow_runs/filter", body)
        return sorted(found, key=lambda run: str(run["created"]))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Give the payloads of the events of a kind about this project."""
        found = self.stack.prefect_api("POST", "/events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return [e["payload"] for e in found if e["resource"]["prefect.resource.id"].endswith(self.root.name)]

    def artifacts(self, run: dict[str, Any]) -> dict[str, Any]:
        """Give what a run leaves for people to see."""
        body = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
        found = self.stack.prefect_api("POST", "/artifacts/filter", body)
        return {a["key"]: json.loads(a["data"]) if a["type"] == "table" else a["data"] for a in found}

    def _deploy(self, flow: Any) -> UUID:
        deployment: UUID = flow.to_deployment(
            self.root.name, work_pool_name=POOL, parameters={"root": str(self.root)}, concurrency_limit=1, tags=[TAG],
            entrypoint_type=EntrypointType.MODULE_PATH,
        ).apply()  # fmt: skip
        return deployment


def make_repository(root: Path) -> None:
    """Make a project's folder a repository of Git and DVC with its data pinned, everything committed."""
    command(root, "git", "init", "-q")
    for name, value in {"user.name": "t", "user.email": "t@example.org", "commit.gpgsign": "false"}.items():
        command(root, "git", "config", name, value)
    command(root, "dvc", "init", "-q")
    command(root, "dvc", "add", "-q", "data")
    commit(root, "First scenes")


class Project(Deployed):
    """A copy of the library with scenes of few clouds in its catalogue."""

    def __init__(self, root: Path, stack: Stack, *, num_scenes: int = 8) -> None:
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, root / name)
        super().__init__(root, stack)
        (root / ".gitignore").write_text("/artifacts/\n/.cache/\n/data\n/maps/\n/incoming/\n")
        self.change({**_SMALL, "cluster": stack.scheduler})
        rows = [row_of(spec(region, cover=0.1 + region / 40)) for region in range(num_scenes)]
        (root / "data").mkdir()
        write_catalog(pd.DataFrame(rows, columns=COLUMNS), root / "data/catalog.csv")
        make_repository(root)
        stack.start_dask(root)

    def change(self, sections: dict[str, Any]) -> None:
        """Change settings in ``params.yaml``."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for name, section in sections.items():
            params[name] = {**params[name], **section} if isinstance(section, dict) else section
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def cgm2net(self, *arguments: str) -> str:
        """Run a command of the library, as a person with access to MLflow would."""
        done = subprocess.run(["python", "-m", "cgm2net", *arguments], cwd=self.root, env=self.stack.client,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def row_of(one: synthetic.SceneSpec) -> dict[str, str]:
    """Give a scene's row of the catalogue."""
    row = {**dict.fromkeys(COLUMNS, ""), "scene_id": name_of(one), "region": name_of(one)}
    return {**row, **{role: synthetic.uri(role, one) for role in FILE_ROLES}}
