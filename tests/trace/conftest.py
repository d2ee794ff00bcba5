"""The project that every trace begins in."""

import os
import shutil
from pathlib import Path

import pytest
from traced_project import Made, make_project


@pytest.fixture(scope="module")
def made(new_store: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("traced")
    shutil.copy(new_store[0], root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("MLFLOW_", "DVC_", "GIT_")):
                patch.delenv(name)
        patch.chdir(root)
        return make_project(root)


@pytest.fixture
def here(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The working directory: the project; only read."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "DVC_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(made.root)
    return made
