"""Fixtures that several folders use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Read when torch and BLAS are first imported, here and in every child: two threads a test would fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, give one process all files of tests/services too: one set of servers is enough.

    Groups (`--dist loadgroup`) would do the same, but xdist 3.8 names them in a way that pytest 9.2 does not see.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "tests/services" if file.startswith("tests/services/") else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


_LONGEST_FIRST = ("tests/services/", "tests/test_dvc.py", "tests/predict/test_export.py", "tests/comparison/",
                  "tests/pipelines/", "tests/training/")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: begun last, they would leave the other processes nothing to do.

    xdist's own order, the files with most tests first, is switched off in the Makefile: it is the opposite.
    """
    items.sort(key=lambda item: next((i for i, name in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(name)), 99))


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
