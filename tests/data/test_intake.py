"""Scenes of a source into the catalogue or the quarantine; tables alone, verdicts written by hand."""

import shutil
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgm2net.catalog import COLUMNS, read_catalog, write_catalog, write_scenes
from cgm2net.data import intake
from cgm2net.errors import CatalogError, DataError

NOW = "2025-01-02T03:04:05Z"


def row(scene_id: str, **more: str) -> dict[str, str]:
    files = {"optical": f"{scene_id}/optical.tif", "sar": f"{scene_id}/sar.tif"}
    return {**dict.fromkeys(COLUMNS, ""), "scene_id": scene_id, "region": "r", **files, **more}


class Project:
    """A project's data folder, and a source beside it, whose files are real and whose verdicts are said."""

    def __init__(self, root: Path) -> None:
        self.data, self.batch, self.out = root / "data", root / "batch", root / "out"
        self.source = root / "source" / "catalog.csv"

    def list(self, *rows: dict[str, str], at: Path | None = None) -> None:
        path = at or self.source
        for scene in rows:
            for role in ("optical", "sar"):
                file = path.parent / scene[role]
                file.parent.mkdir(parents=True, exist_ok=True)
                if not file.exists():
                    file.write_text("pixels")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_catalog(pd.DataFrame(list(rows)), path)

    def take(self, *, bad: dict[str, str] | None = None, again: bool = False) -> dict[str, str]:
        """Take in what is new; ``bad`` scenes are refused for their reason. Give what happened to each."""
        shutil.rmtree(self.batch, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        intake.select(str(self.source), self.data, self.batch, again=again)
        if (self.batch / "data/catalog.csv").is_file():
            table = read_catalog(self.batch / "data/catalog.csv")
            reasons = [(bad or {}).get(name, "") for name in table["scene_id"]]
            write_scenes(
                table.assign(reason=reasons, accepted=[not reason for reason in reasons]),
                self.batch / "artifacts/validate/scenes.csv",
            )
        intake.settle(self.batch, self.data, self.out, source="here", when=NOW)
        for name in ("catalog.csv", "quarantine.csv"):
            if (self.out / name).is_file():
                self.data.mkdir(exist_ok=True)
                (self.out / name).replace(self.data / name)
        settled = pd.read_csv(self.out / "scenes.csv", dtype=str)
        return dict(zip(settled["scene_id"], settled["status"], strict=True))

    def quarantine(self) -> dict[str, str]:
        path = self.data / "quarantine.csv"
        table = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame(columns=["scene_id", "reason"])
        return dict(zip(table["scene_id"], table["reason"], strict=True))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_good_scenes_join_the_catalogue_and_bad_ones_the_quarantine(project: Project) -> None:
    project.list(row("a"), row("b"))
    assert project.take(bad={"b": "no SAR under it"}) == {"a": "accepted", "b": "refused"}
    assert read_catalog(project.data / "catalog.csv")["scene_id"].tolist() == ["a"]
    table = pd.read_csv(project.data / "quarantine.csv", dtype=str)
    assert table[["scene_id", "when", "source", "reason"]].to_numpy().tolist() == [
        ["b", NOW, "here", "no SAR under it"]
    ]


def test_a_second_time_writes_nothing(project: Project) -> None:
    project.list(row("a"), row("b"))
    project.take(bad={"b": "bad"})
    before = {path.name: path.read_bytes() for path in project.data.iterdir() if path.is_file()}
    assert project.take() == {"a": "known", "b": "quarantined"}
    assert not (project.batch / "data").exists()
    assert {path.name: path.read_bytes() for path in project.data.iterdir() if path.is_file()} == before


def test_a_quarantined_scene_is_judged_again_when_asked_or_when_a_file_changed(project: Project) -> None:
    project.list(row("a"), row("b"))
    project.take(bad={"b": "bad"})
    assert project.take(bad={"b": "bad"}, again=True) == {"a": "known", "b": "refused"}
    assert project.quarantine() == {"b": "bad"}
    (project.source.parent / "b/sar.tif").write_text("whole now")
    assert project.take() == {"a": "known", "b": "accepted"}
    assert project.quarantine() == {}
    assert read_catalog(project.data / "catalog.csv")["scene_id"].tolist() == ["a", "b"]


def test_files_beside_the_catalogue_stay_relative_and_others_become_absolute(project: Project) -> None:
    project.list(row("old"), at=project.data / "catalog.csv")
    inside = project.data.resolve() / "incoming/in/optical.tif"
    project.list(row("in", optical=str(inside), sar=str(inside.with_name("sar.tif"))), row("out"))
    project.take()
    written = pd.read_csv(project.data / "catalog.csv", dtype=str).set_index("scene_id")["optical"]
    assert written["old"] == "old/optical.tif"
    assert written["in"] == "incoming/in/optical.tif"
    assert written["out"] == str(project.source.parent.resolve() / "out/optical.tif")
    assert all(Path(uri).is_file() for uri in read_catalog(project.data / "catalog.csv")["optical"])


def test_another_scene_of_a_known_name_is_refused_and_replaces_nothing(project: Project) -> None:
    project.list(row("a"))
    project.take()
    before = (project.data / "catalog.csv").read_bytes()
    project.list(row("a", sar="a/other.tif"))
    assert project.take() == {"a": "refused"}
    assert "a scene of this name with other files (sar: " in project.quarantine()["a"]
    assert (project.data / "catalog.csv").read_bytes() == before
    assert project.take() == {"a": "quarantined"}


@pytest.mark.parametrize(("there", "new"), [("train", ""), ("", "test")])
def test_a_scene_that_says_otherwise_of_splits_is_refused(project: Project, there: str, new: str) -> None:
    project.list(row("a", split=there), at=project.data / "catalog.csv")
    project.list(row("b", split=new))
    assert project.take() == {"b": "refused"}
    assert "split" in project.quarantine()["b"]


def test_what_the_source_refused_is_quarantined_once(project: Project) -> None:
    project.source.parent.mkdir()
    project.source.with_suffix(".refused.csv").write_text("scene_id,file,reason\nx,x,no sar\n,notes.txt,no scene's\n")
    assert project.take() == {"x": "refused"}
    assert project.quarantine() == {"x": "no sar"}
    assert project.take() == {"x": "quarantined"}
    project.list(row("x"))  # its SAR has come
    assert project.take() == {"x": "accepted"}
    assert project.quarantine() == {}


def test_a_source_without_any_scene_changes_nothing(project: Project) -> None:
    assert project.take() == {}
    assert not project.data.exists()


def test_a_scene_without_a_verdict_stops_everything(project: Project) -> None:
    project.list(row("a"), row("b"))
    intake.select(str(project.source), project.data, project.batch)
    table = read_catalog(project.source)
    write_scenes(table[:1].assign(accepted=True, reason=""), project.batch / "artifacts/validate/scenes.csv")
    with pytest.raises(DataError, match="no verdict on scene b; run download and validate"):
        intake.settle(project.batch, project.data, project.out, source="here", when=NOW)
    assert not project.out.exists()


def test_a_catalogue_elsewhere_names_files_beside_it(project: Project) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/lake/catalog.csv", (",".join(COLUMNS) + "\na,r,,,x/o.tif#bands=B02,y/s.tif,,,,,\n").encode())
    intake.select("memory://lake/catalog.csv", project.data, project.batch)
    (scene,) = read_catalog(project.batch / "data/catalog.csv").to_dict("records")
    assert (scene["optical"], scene["sar"]) == ("memory://lake/x/o.tif#bands=B02", "memory://lake/y/s.tif")
    with pytest.raises(CatalogError, match="no catalogue there"):
        intake.select("memory://lake/none.csv", project.data, project.batch)


@pytest.mark.parametrize(
    ("url", "uri", "wanted"),
    [
        ("https://h/a/catalog.csv", "x/o.tif#scale=2", "https://h/a/x/o.tif#scale=2"),
        ("https://h/a/catalog.csv", "/x/o.tif", "https://h/x/o.tif"),
        ("s3://bucket/a/catalog.csv", "x/o.tif", "s3://bucket/a/x/o.tif"),
        ("https://h/a/catalog.csv", "s3://b/o.tif", "s3://b/o.tif"),
        ("https://h/a/catalog.csv", "", ""),
    ],
)
def test_relative_uris_of_a_catalogue_elsewhere(url: str, uri: str, wanted: str) -> None:
    assert intake.beside_catalog(url, uri) == wanted


def test_what_came_in_is_what_a_training_does_not_hold(project: Project) -> None:
    project.list(row("a"), row("b"), at=project.data / "catalog.csv")
    table = read_catalog(project.data / "catalog.csv")
    write_scenes(table[:1].assign(accepted=False, reason="bad"), project.out / "scenes.csv")
    assert intake.arrived(project.data / "catalog.csv", project.out / "scenes.csv", project.batch) == 1
    (came,) = read_catalog(project.batch / "data/catalog.csv").to_dict("records")
    assert (came["scene_id"], Path(came["optical"]).is_file()) == ("b", True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.booleans(), min_size=1), max_size=4))
def test_accepted_and_refused_are_all_that_was_found(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[str, bool]]
) -> None:
    project = Project(tmp_path_factory.mktemp("project"))
    accepted: set[str] = set()
    refused: set[str] = set()
    for batch in batches:
        project.list(*(row(name) for name in batch))
        project.take(bad={name: "bad" for name, good in batch.items() if not good})
        new = set(batch) - accepted - refused
        accepted |= {name for name in new if batch[name]}
        refused |= {name for name in new if not batch[name]}
        path = project.data / "catalog.csv"
        assert (set(read_catalog(path)["scene_id"]) if path.is_file() else set()) == accepted
        assert set(project.quarantine()) == refused
