"""Fixtures that several folders use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Read when torch and BLAS are first imported, here and in every child: two threads a test would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, as their fixtures are dear; those on the servers form one group."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty folder, so that caches and artifacts are the test's own."""
    root = tmp_path / "workspace"
    root.mkdir()
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A fresh MLflow store, made by a process that opens one run; and all that this process said."""
    folder = tmp_path_factory.mktemp("store")
    code = (
        "from pathlib import Path; from cgm2net import tracking\n"
        "with tracking.run(Path('run.json'), experiment='first', name='n', params={}, tags={}) as run:\n"
        "    run.log_metrics({'loss': 1.0}, step=1)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return folder / "mlflow.db", done.stdout + done.stderr


@pytest.fixture
def project(new_store: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an empty project with a store of its own, so that no test waits for its tables."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(new_store[0], root / "mlflow.db")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stage `tile` for four small regions; only read."""
    from small_tiles import make_tiles

    return make_tiles(tmp_path_factory.mktemp("tiles"))
