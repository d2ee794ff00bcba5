"""The flows that move the champion, through the real commands, in a project with two versions of a model."""

import shutil
from pathlib import Path

import pytest
from asked import artifacts, task_states
from click.testing import CliRunner
from tiny_model import save_model

from cgm2net import registry, tracking
from pipelines.__main__ import main
from pipelines.promote import promote


@pytest.fixture
def root(new_store: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which version 1 can be loaded, version 2 is the champion; 2 and 3 have lost their files."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(new_store[0], tmp_path / "mlflow.db")
    files = tmp_path / "saved/artifacts/model"
    save_model(files, optical_bands=("B02",), sar_bands=("VV",))
    client = tracking.connect()
    client.create_registered_model("cgm2net")
    for source in ("saved", "lost", "lost"):
        tags = {**registry.model_hashes(files), "metrics.same": "{}"}
        tags["model_sha256"] = tags["model_sha256"] if source == "saved" else "0" * 64
        made = client.create_model_version("cgm2net", source=str(tmp_path / source), tags=tags)
        version = registry.version_numbered("cgm2net", int(made.version))
        assert version is not None
        if version.number < 3:
            registry.set_alias(version, alias="champion", why="better", who="register")
    return tmp_path


def champion() -> int | None:
    version = registry.version_of("cgm2net", alias="champion")
    return version.number if version else None


@pytest.mark.server
def test_a_version_that_cannot_be_loaded_is_taken_back(server: dict[str, str], root: Path) -> None:
    state = promote(root, version=3, why="try it", who="ada", return_state=True)
    assert state.is_failed()
    assert "cgm2net check" in str(state.message)
    assert champion() == 2
    *_, tried, undone = registry.alias_moves("cgm2net", alias="champion")
    assert (tried["who"], tried["why"], tried["to"]) == ("ada", "try it", 3)
    assert (undone["by"], undone["who"], undone["to"]) == ("rollback", "ada", 2)
    assert set(task_states(state.state_details.flow_run_id)) == {"promote", "check"}


@pytest.mark.server
def test_a_rollback_is_recorded_and_shown(server: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import promote as flows

    ended = []
    flow = flows.rollback.with_options(on_completion=[lambda _flow, run, _state: ended.append(run.id)])
    monkeypatch.setattr(flows, "rollback", flow)
    done = CliRunner().invoke(main, ["rollback", "--why", "dark maps", "--who", "ada", "--root", str(root)])
    assert done.exit_code == 0, done.output
    assert champion() == 1
    newest = artifacts(ended[0])["champion-moves"][0]
    when = newest.pop("when")
    assert newest == {"from": 2, "to": 1, "who": "ada", "by": "rollback", "why": "dark maps"}
    assert when == registry.alias_moves("cgm2net", alias="champion")[-1]["when"]
