"""A small DVC project, and one temporary Prefect server for all the tests that need one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import yaml

from pipelines.stages import dvc

WORK = """
import json, os, pathlib, signal, sys, time

name, folder = sys.argv[1], pathlib.Path("artifacts", sys.argv[1])
params = json.loads(pathlib.Path("params.yaml").read_text())[name]
print("Stage 'prepare' didn't change, skipping")  # a stage may say what it likes
folder.mkdir(parents=True)
if params["do"] == "fail":
    sys.exit("no clear pixel in region north")
if params["do"] == "hang":
    with open("alive", "w") as alive:
        print("started", file=alive, flush=True)
        signal.pause()
if params["do"] == "wait":
    print("waits for go")
    end = time.monotonic() + 60
    while not pathlib.Path("go").exists():
        if time.monotonic() > end:
            sys.exit("nobody said go")
        time.sleep(0.01)
content = {
    "prepare": {"pixels": params["pixels"]},
    "train": {"run_id": params.get("run_id", f"run{params['pixels']}"), "experiment": "cgm2net", "name": "tiny"},
    "register": {"promoted": False, "rule": {"cloudy/psnr": 0.5}, "champion": None, **params.get("version", {})},
}[name]
file = {"prepare": "scenes.json", "train": "run.json", "register": "decision.json"}[name]
(folder / file).write_text(json.dumps(content))
"""

STAGES = {  # declared backwards: the order is in what they read
    "register": {"deps": ["artifacts/train"]},
    "train": {"deps": ["artifacts/prepare"]},
    "prepare": {"deps": ["data/catalog.csv"]},
}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a DVC project of three stages over pinned data; ``params.yaml`` says what each does."""
    root = tmp_path_factory.mktemp("template")
    stages = {
        name: {"cmd": f"python work.py {name}", "params": [name], "outs": [f"artifacts/{name}"], **stage}
        for name, stage in STAGES.items()
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (root / "params.yaml").write_text(json.dumps({name: {"pixels": 1, "do": "work"} for name in STAGES}))
    (root / "work.py").write_text(WORK)
    (root / "data").mkdir()
    (root / "data" / "catalog.csv").write_text("scene_id\na\n")
    dvc("init", "--quiet", "--no-scm", root=root)
    dvc("add", "--quiet", "data", root=root)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """Give a copy of the project in which nothing has run."""
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def change(project: Path) -> Callable[..., None]:
    """Give a function that changes parameters of a stage."""

    def change(stage: str, **params: object) -> None:
        content = json.loads((project / "params.yaml").read_text())
        content[stage].update(params)
        (project / "params.yaml").write_text(json.dumps(content))

    return change


@pytest.fixture(scope="session")
def server() -> Iterator[dict[str, str]]:
    """Start a temporary Prefect server; gives the environment in which a process finds it."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        yield {**env, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}


@pytest.fixture
def start(server: dict[str, str], project: Path) -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """Give a function that starts ``python -m pipelines COMMAND`` on the project; it ends with the block."""

    @contextmanager
    def start(*arguments: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments, "--root", str(project)],
            env=server,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background jobs ignore SIGINT, and hand that down; the process shall hear it all the same.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # takes no lock
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    return start
