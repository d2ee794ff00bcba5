"""A version made again: from its commit and data, in a clone, by real Git and DVC, in a pipeline of one small stage."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from repositories import command, commit

from cgm2net import tracking
from cgm2net.__main__ import main
from cgm2net.errors import BackendError, ModelError
from cgm2net.lineage import lineage_tags
from cgm2net.reproduce import Reproduced, reproduce

EVALUATE = (
    "import json, os, pathlib\n"
    "out = pathlib.Path('artifacts/evaluate'); out.mkdir(parents=True)\n"
    "psnr = float(pathlib.Path('data/catalog.csv').read_text())\n"
    "(out / 'metrics.json').write_text(json.dumps({'cloudy': {'psnr': psnr}, 'copy': {'all': {'psnr': 12.0}}}))\n"
    "assert 'MLFLOW_TRACKING_URI' not in os.environ\n"
)
STAGES = {
    "evaluate": {"cmd": "python evaluate.py", "deps": ["data", "evaluate.py"], "outs": ["artifacts/evaluate"]},
    "register": {"cmd": "false", "deps": ["artifacts/evaluate"]},
}
RECORDED = {"cloudy/psnr": 25.0, "copy/all/psnr": 12.0}


@dataclass(frozen=True, kw_only=True)
class Project:
    root: Path
    tags: dict[str, str]
    "Of a version made there."


@pytest.fixture(scope="module")
def committed(new_store: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("reproduced") / "project"
    root.mkdir()
    shutil.copy(new_store[0], root / "mlflow.db")
    (root / ".gitignore").write_text("/data\n/artifacts/\n/mlflow.db*\n/mlartifacts/\n/run.json\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (root / "evaluate.py").write_text(EVALUATE)
    (root / "data").mkdir()
    (root / "data/catalog.csv").write_text("25.0")
    for words in (
        ["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", "data"],
        ["dvc", "remote", "add", "-q", "--default", "sample", str(root.parent / "remote")], ["dvc", "push", "-q"],
    ):  # fmt: skip
        command(root, *words)
    commit(root, "one")
    tags = {name: text for name, text in lineage_tags(root, data_hash="d").items() if not name.startswith("dvc_")}
    (root / "data/catalog.csv").write_text("99.0")
    command(root, "dvc", "add", "-q", "data")
    (root / "evaluate.py").write_text("raise SystemExit('the code of today')\n")
    commit(root, "two")
    return Project(root=root, tags={**tags, "metrics.a": json.dumps(RECORDED)})


@pytest.fixture
def project(committed: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The working directory: a copy of the project."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "DVC_", "GIT_")):
            monkeypatch.delenv(name)
    root = tmp_path / "project"
    shutil.copytree(committed.root, root, symlinks=True)
    monkeypatch.chdir(root)
    yield Project(root=root, tags=dict(committed.tags))
    assert command(root, "git", "status", "--porcelain") == ""
    assert (root / "data/catalog.csv").read_text() == "99.0"


def register(project: Project, *, run_tags: dict[str, str] | None = None, **tags: str) -> None:
    named = {**project.tags, **tags}
    with tracking.run(Path("run.json"), experiment="e", name="n", params={}, tags=run_tags or named) as run:
        run_id = run.run_id
    client = tracking.connect()
    client.create_registered_model("cgm2net")
    client.create_model_version("cgm2net", source="nowhere", run_id=run_id, tags=named)


def test_a_version_is_made_again_from_its_own_code_and_data(project: Project, tmp_path: Path) -> None:
    register(project)
    runs = len(tracking.connect().search_runs(["0", "1", "2"]))
    made = reproduce("cgm2net", 1, root=project.root, keep=tmp_path / "kept")
    assert {row.metric: (row.again, row.verdict) for row in made.rows} == {
        "cloudy/psnr": (25.0, "equal"),
        "copy/all/psnr": (12.0, "equal"),
    }
    assert (made.holds, made.commit, made.environment) == (True, project.tags["git_commit"], {})
    assert (tmp_path / "kept/data/catalog.csv").read_text() == "25.0"
    assert len(tracking.connect().search_runs(["0", "1", "2"])) == runs
    with pytest.raises(ModelError, match="kept: is there already"):
        reproduce("cgm2net", 1, root=project.root, keep=tmp_path / "kept")


def test_data_come_from_the_remote_where_the_cache_lacks_them_and_other_results_end_with_1(project: Project) -> None:
    recorded = {**RECORDED, "cloudy/psnr": 26.0}
    register(project, **{"metrics.a": json.dumps(recorded), "torch": "1.0"})
    shutil.copy(Path(__file__).parents[1] / "params.yaml", project.root)
    (project.root / ".git/info/exclude").write_text("params.yaml\n")
    shutil.rmtree(project.root / ".dvc/cache")
    done = CliRunner().invoke(main, ["reproduce", "1"], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "1 equal, 1 differs" in done.output
    assert "torch was 1.0, is " in done.output


def test_data_that_are_nowhere_are_said(project: Project) -> None:
    register(project)
    shutil.rmtree(project.root / ".dvc/cache")
    command(project.root, "dvc", "remote", "add", "-q", "--local", "-f", "sample", str(project.root.parent / "empty"))
    with pytest.raises(BackendError, match="neither in DVC's cache here nor on the default remote"):
        reproduce("cgm2net", 1, root=project.root)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"git_dirty": "true"}, "version 1 of cgm2net: it was registered with changes that no commit holds"),
        ({"git_dirty": "unknown"}, "it was registered without a record of its code"),
        ({"git_commit": "0" * 40}, "commit 0000000.* is not in this repository"),
        ({"data_version": "1.dir"}, r"made of data 1\.dir, but its commit .* pins"),
        ({"metrics.b": "{}"}, "its metrics were not recorded, or not those of its run"),
    ],
)
def test_what_cannot_be_made_again_is_refused(project: Project, tags: dict[str, str], message: str) -> None:
    register(project, **tags)
    with pytest.raises(ModelError, match=message):
        reproduce("cgm2net", 1, root=project.root)


def test_a_training_from_a_changed_tree_is_refused(project: Project) -> None:
    register(project, run_tags={**project.tags, "git_dirty": "true"})
    with pytest.raises(ModelError, match="it was trained with changes that no commit holds"):
        reproduce("cgm2net", 1, root=project.root)
    with pytest.raises(ModelError, match="model cgm2net has no version 2"):
        reproduce("cgm2net", 2, root=project.root)


@pytest.mark.parametrize(
    ("recorded", "again", "tolerance", "verdict"),
    [
        (25.0, 25.0, 0.25, "equal"),
        (25.0, 25.2, 0.25, "close"),
        (25.0, 25.3, 0.25, "differs"),
        (25.0, None, 0.25, "differs"),
        (25.0, float("nan"), 0.25, "differs"),
        (0.0, 0.004, 0.005, "close"),
    ],
)
def test_verdicts(recorded: float, again: float | None, tolerance: float, verdict: str) -> None:
    assert Reproduced(metric="m", recorded=recorded, again=again, tolerance=tolerance).verdict == verdict
