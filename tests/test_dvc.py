"""The whole pipeline through `dvc repro`, on a small sample: what runs, what does not, and what kill -9 leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from cgm2net.files import read_json

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
PROJECT = ("cgm2net", "dvc.yaml", "params.yaml", ".dvcignore", "requirements.lock")
SMALL = {
    "validate": {"min_accepted": 3},
    "tile": {"size_px": 64, "stride_px": 64},
    "train": {
        "steps": 8, "batch_size": 2, "crop_px": 16, "warmup_steps": 1, "num_threads": 1,
        "log_every_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 8,
    },
    "evaluate": {"num_threads": 1},
}  # fmt: skip

pytestmark = pytest.mark.pipeline


class Project:
    """A copy of this project with a small catalogue, in a Git repository of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in PROJECT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        (root / ".gitignore").write_text("/artifacts/\n/.cache/\n/mlflow.db*\n/mlartifacts/\n/data\n")
        self.change(SMALL)
        self.run("git", "init", "--quiet")
        self.run("dvc", "init")
        self.catalogue(regions=4)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
        path = f"{BIN}{os.pathsep}{kept['PATH']}"
        return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "1"}

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def change(self, sections: dict[str, dict[str, object]]) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for name, section in sections.items():
            params[name].update(section)
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def catalogue(self, *, regions: int) -> None:
        """The good scenes of so many regions, one of them broken as well."""
        self.run(
            "python", "-m", "cgm2net", "catalog", "synthetic", "--regions", "8", "--scenes", "1", "--size-px", "128"
        )
        path = self.root / "data/catalog.csv"
        head, *rows = path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if row.startswith(tuple(f"r{i:02d}-" for i in range(1, regions)))]
        kept += [row for row in rows if row.startswith(("r00-", "broken-sar")) and "overcast" not in row]
        path.write_text(head + "".join(kept))
        self.run("dvc", "add", "data")

    def repro(self, *until: str) -> tuple[list[str], str]:
        """Run `dvc repro`; return the stages that ran, and everything said."""
        said = self.run("dvc", "repro", *until)
        return [stage for stage in STAGES if f"Running stage '{stage}'" in said], said

    def results(self) -> dict[str, bytes]:
        """Every file by name; the random id of the MLflow run, which the report names, is taken out."""
        run_id = json.loads((self.root / "artifacts/train/run.json").read_text())["run_id"].encode()
        folders = ("tile", "train", "evaluate")
        files = [path for name in folders for path in sorted((self.root / "artifacts" / name).rglob("*"))]
        named = {str(p.relative_to(self.root)): p for p in files if p.is_file() and p.name != "run.json"}
        return {name: path.read_bytes().replace(run_id, b"RUN") for name, path in named.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("finished"))
    ran, _ = project.repro()
    assert ran == STAGES
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project of the test's own."""
    shutil.copytree(finished.root, tmp_path / "project", symlinks=True)
    copy = object.__new__(Project)
    copy.root = tmp_path / "project"
    return copy


def test_from_catalogue_to_champion(finished):
    decision = read_json(finished.root / "artifacts/register/decision.json")
    assert decision["promoted"] is True
    assert decision["challenger"] == 1
    metrics = read_json(finished.root / "artifacts/evaluate/metrics.json")
    assert {"all", "clear", "cloudy", "copy", "majority"} <= set(metrics)
    scenes = (finished.root / "artifacts/validate/scenes.csv").read_text()
    assert "broken-sar-linear" in scenes
    shown = finished.run("dvc", "metrics", "show")
    assert "cloudy.psnr" in shown


def test_again_does_nothing_and_a_training_parameter_runs_what_follows(project):
    assert project.repro()[0] == []
    project.change({"train": {"learning_rate": 0.001}})
    assert project.repro()[0] == ["train", "evaluate", "register"]


def test_one_more_scene_costs_one_scenes_work(project):
    project.catalogue(regions=5)
    ran, said = project.repro("tile")
    assert ran == STAGES[: STAGES.index("tile") + 1]
    for stage in ("download", "validate"):  # the broken scene is theirs too
        assert f"{stage}: 6 scenes, 1 made, 5 from the cache" in said
    for stage in ("coregister", "cloudmask", "tile"):
        assert f"{stage}: 5 scenes, 1 made, 4 from the cache" in said


def test_kill_9_in_every_stage_then_repro_gives_the_same_results(finished, tmp_path):
    project = Project(tmp_path)
    for stage in STAGES:
        kill_in(project, stage)
    ran, _ = project.repro()
    assert ran == ["register"]
    assert project.results() == finished.results()
    decision = "artifacts/register/decision.json"
    assert read_json(project.root / decision)["challenger"] == read_json(finished.root / decision)["challenger"]


def kill_in(project: Project, stage: str) -> None:
    """Start `dvc repro` and kill -9 everything once this stage is at work."""
    log = (project.root / "killed.log").open("w")
    repro = subprocess.Popen(
        ["dvc", "repro"], cwd=project.root, env=project.environment, stdout=log, stderr=log, start_new_session=True
    )
    before = progress_of(project, stage)
    while repro.poll() is None:
        if stage_is_running(repro.pid, stage) and progress_of(project, stage) != before:
            os.killpg(repro.pid, signal.SIGKILL)
            repro.wait()
            log.close()
            return
        try:
            repro.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"{stage} ended before it was killed\n{(project.root / 'killed.log').read_text()[-3000:]}")


def stage_is_running(pid: int, stage: str) -> bool:
    try:
        children = psutil.Process(pid).children(recursive=True)
        return any(child.cmdline()[1:4] == ["-m", "cgm2net", stage] for child in children)
    except psutil.NoSuchProcess:
        return False


def progress_of(project: Project, stage: str) -> int:
    """Counts up as the stage gets on: scenes done, a checkpoint, the first file written."""
    if stage in ("download", "validate", "coregister", "cloudmask", "tile"):
        return len(list((project.root / ".cache/cgm2net").glob("??/*/facts.json")))
    if stage == "train":
        return len(list((project.root / ".cache/cgm2net/train").glob("*/checkpoint.pt")))
    return int((project.root / "artifacts" / stage).is_dir())
