"""The flow that takes scenes in, through the real commands, on synthetic scenes of 64 px, in a Git and DVC project."""

import csv
import shutil
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from asked import DEADLINE_SECONDS, asked, eventually
from click.testing import CliRunner

from cgm2net.catalog import COLUMNS
from cgm2net.data import synthetic
from cgm2net.errors import CatalogError
from pipelines.__main__ import main
from pipelines.alone import alone
from pipelines.ingest import ingest
from pipelines.library import CommandError
from pipelines.sources import Source
from pipelines.stages import dvc

ROOT = Path(__file__).parents[2]


def write_catalog(path: Path, **scenes: str) -> None:
    """Write a catalogue of scenes of 64 px: name and defect."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number, (name, defect) in enumerate(scenes.items()):
            spec = synthetic.SceneSpec(region=number, date="2024-06-01", size_px=64, cover=0.2, defect=defect)
            files = {role: synthetic.uri(role, spec) for role in ("optical", "sar", "reference")}
            writer.writerow({**dict.fromkeys(COLUMNS, ""), "scene_id": name, "region": f"r{number}", **files})


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["scene_id"]: row for row in csv.DictReader(file)}


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git and DVC project of two stages with one scene in its catalogue, and a remote called `store`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root = tmp_path / f"project-{tmp_path.name}"  # its name tells its events from those of other tests
    write_catalog(root / "data/catalog.csv", old="none")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"]["num_workers"] = params["validate"]["num_workers"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    stages: dict[str, Any] = {
        "download": {"cmd": "sleep 0", "deps": ["data/catalog.csv"], "outs": ["artifacts/download"]},
        "validate": {"cmd": "sleep 0", "deps": ["artifacts/download"], "outs": ["artifacts/validate"]},
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    git(root, "init", "--quiet")
    git(root, "config", "user.name", "a")
    git(root, "config", "user.email", "a@b")
    dvc("init", "--quiet", root=root)
    dvc("remote", "add", "store", str(tmp_path / "store"), root=root)
    dvc("add", "--quiet", "data", root=root)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def told(event: str, project: Path) -> list[dict[str, Any]]:
    """Ask the server for the events of a kind; they arrive a moment after they were told."""
    body = {"filter": {"event": {"name": [event]}}}
    found = asked("/events/filter", body)["events"]
    return [e["payload"] for e in found if e["resource"]["prefect.resource.id"].endswith(project.name)]


@pytest.mark.server
def test_good_scenes_join_the_data_bad_ones_the_quarantine_and_a_second_run_does_nothing(
    server: dict[str, str], project: Path, tmp_path: Path
) -> None:
    write_catalog(tmp_path / "batch.csv", good="none", linear="sar_linear", cut="truncated")
    how: dict[str, Any] = {"catalog": str(tmp_path / "batch.csv"), "push_to": "store", "commit_data": True}

    state = ingest(project, **how, return_state=True)

    scenes = {scene["scene_id"]: scene for scene in state.result()}
    assert {name: scene["status"] for name, scene in scenes.items()} == {
        "good": "accepted", "linear": "refused", "cut": "refused",
    }  # fmt: skip
    assert set(rows(project / "data/catalog.csv")) == {"old", "good"}
    quarantine = rows(project / "data/quarantine.csv")
    assert "linear power" in quarantine["linear"]["reason"]
    assert quarantine["cut"]["source"] == str(tmp_path / "batch.csv")
    assert git(project, "log", "-1", "--format=%s").strip() == "Data: 1 scenes accepted, 2 refused"
    assert git(project, "show", "--name-only", "--format=").split() == ["data.dvc"]
    assert dvc("status", "--cloud", "--remote", "store", "data.dvc", root=project)[-1] == (
        "Cache and remote 'store' are in sync."
    )
    accepted = eventually(lambda: told("cgm2net.data.accepted", project))
    assert [(event["count"], event["ids"]) for event in accepted] == [(1, ["good"])]
    (refused,) = eventually(lambda: told("cgm2net.data.refused", project))
    assert (refused["count"], sorted(refused["ids"])) == (2, ["cut", "linear"])
    assert "linear power" in refused["reasons"]["linear"]

    before = {p.name: p.read_bytes() for p in [*(project / "data").iterdir(), project / "data.dvc"]}
    head = git(project, "rev-parse", "HEAD")
    again = {scene["scene_id"]: scene["status"] for scene in ingest(project, **how)}
    assert again == {"good": "known", "linear": "quarantined", "cut": "quarantined"}
    assert {p.name: p.read_bytes() for p in [*(project / "data").iterdir(), project / "data.dvc"]} == before
    assert git(project, "rev-parse", "HEAD") == head


@pytest.mark.server
def test_killed_after_the_download_and_run_again_it_goes_on(
    project: Path, tmp_path: Path, start: Callable[..., AbstractContextManager[subprocess.Popen[str]]]
) -> None:
    write_catalog(tmp_path / "batch.csv", good="none", linear="sar_linear")
    with start("ingest", "--catalog", str(tmp_path / "batch.csv")) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "download: 2 scenes, 2 made" in line:
                process.kill()
    assert set(rows(project / "data/catalog.csv")) == {"old"}
    with start("ingest", "--catalog", str(tmp_path / "batch.csv")) as process:
        output = process.communicate(timeout=DEADLINE_SECONDS)[0]
    assert process.returncode == 0, output
    assert "download: 2 scenes, 0 made, 2 from the cache" in output
    assert set(rows(project / "data/catalog.csv")) == {"old", "good"}
    assert set(rows(project / "data/quarantine.csv")) == {"linear"}
    assert dvc("status", "data.dvc", root=project)[-1] == "Data and pipelines are up to date."


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    said = threading.Event()
    order: list[str] = []

    def second() -> None:
        with alone(tmp_path / "work", log=lambda _: said.set()):
            order.append("second")

    with alone(tmp_path / "work", log=order.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_an_empty_watched_folder_is_no_error_and_a_missing_one_is(tmp_path: Path) -> None:
    source = Source(folder=Path("watched"))
    with pytest.raises(CatalogError, match="watched folder is not there"):
        source.ask(tmp_path / "list", root=tmp_path, log=print)
    with pytest.raises(CatalogError, match=r"nowhere\.csv: no catalogue there"):
        Source(catalog="nowhere.csv").ask(tmp_path / "list", root=tmp_path, log=print)
    (tmp_path / "watched/a").mkdir(parents=True)
    (tmp_path / "watched/a/.optical.tif.part").write_text("on its way")
    assert not Path(source.ask(tmp_path / "list", root=tmp_path, log=print)).exists()


def test_what_a_folder_refuses_is_kept_and_what_it_cannot_read_is_told(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "watched/a").mkdir(parents=True)
    (tmp_path / "watched/a/optical.tif").write_text("no SAR yet")
    listed = Path(Source(folder=Path("watched")).ask(tmp_path / "list", root=tmp_path, log=lambda _: None))
    assert rows(listed.with_suffix(".refused.csv"))["a"]["reason"] == "no sar"
    wrong = Source(folder=Path("watched"), options="--offset much")
    with pytest.raises(CommandError, match="'much' is not a valid float"):
        wrong.ask(tmp_path / "list", root=tmp_path, log=lambda _: None)


def test_a_source_is_named_without_its_keys() -> None:
    assert str(Source(catalog="https://me:secret@host/a/catalog.csv?token=x")) == "https://host/a/catalog.csv"
    assert str(Source(catalog="a/catalog.csv")) == "a/catalog.csv"
    assert str(Source(folder=Path("/incoming"))) == "folder /incoming"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no source; give one of --folder, --catalog, --stac"),
        (["--folder", "a", "--catalog", "b"], "got --folder and --catalog; give one"),
        (["--catalog", "b", "--folder-options", "--linear"], "not of --catalog"),
    ],
)
def test_other_than_one_source_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["ingest", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_a_source_to_serve_needs_a_time_and_a_time_a_source() -> None:
    result = CliRunner().invoke(main, ["serve", "--cron", "0 3 * * 1", "--folder", "a"])
    assert (result.exit_code, "--ingest-cron when" in result.output) == (2, True)
    result = CliRunner().invoke(main, ["serve", "--cron", "0 3 * * 1", "--ingest-cron", "0 2 * * *"])
    assert (result.exit_code, "no source" in result.output) == (2, True)
