"""Lineage from any end, through a real MLflow store, a real Git repository and a real DVC cache."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console
from traced_project import DATA_HASH, FLOW_RUN, LOCK_HASH, LOST_COMMIT, LOST_DATA, MODEL_HASH, Made, write_map

from cgm2net.__main__ import main
from cgm2net.errors import DataError
from cgm2net.files import write_json
from cgm2net.trace.command import trace
from cgm2net.trace.records import Trace
from cgm2net.trace.tree import as_tree


def ends(made: Made) -> dict[str, str]:
    return {
        "version": "models:/cgm2net/1", "alias": "models:/cgm2net@champion", "run": made.run_id,
        "map": "maps/day/s1", "item": "maps/day/s1/item.json", "file": "maps/day/s1/classes.tif",
        "data": made.hashes["data"], "data without .dir": made.hashes["data"].removesuffix(".dir"),
        "tile": made.hashes["tile"], "train": made.hashes["train"], "commit of the code": made.commits["pin"],
        "commit of the lock": made.commits["made"], "short commit": made.commits["pin"][:10],
        "data hash": DATA_HASH, "model hash": MODEL_HASH, "flow run": FLOW_RUN, "lock hash": LOCK_HASH,
    }  # fmt: skip


ENDS = list(ends(Made(root=Path(), run_id="", lost_run_id="", commits=dict.fromkeys(("pin", "made"), ""),
                      hashes=dict.fromkeys(("data", "tile", "train"), ""))))  # fmt: skip


def gaps(found: Trace) -> dict[str, str]:
    return {gap.link: gap.why for gap in found.gaps}


@pytest.mark.parametrize("end", ENDS)
def test_every_end_leads_to_all_of_it(here: Made, end: str) -> None:
    found = trace(ends(here)[end], maps=[Path("maps")])
    assert [run.run_id for run in found.runs] == [here.run_id]
    assert [(one.name, one.number) for one in found.versions] == [("cgm2net", 1)]
    assert [Path(one.folder).name for one in found.maps] == ["s1", "s2"]
    data = {one.md5: [known.sha for known in one.pinned_by] for one in found.data}
    assert data == {here.hashes["data"]: [here.commits["pin"]]}
    assert here.commits["pin"] in {known.sha for known in found.commits}
    (run,) = found.runs
    assert [(one.scene_id, one.accepted, one.reason) for one in run.scenes] == [
        ("a", True, ""),
        ("b", False, "SAR is not in dB"),
    ]
    assert run.params == {"steps": "400"}
    assert run.flow == {"prefect_flow_run_id": FLOW_RUN, "dvc_lock_sha256": LOCK_HASH}
    assert run.parent is not None
    assert run.made_of.git_dirty == "false"


def test_kinds_are_told_apart(here: Made) -> None:
    kinds = {end: trace(what).kind for end, what in ends(here).items()}
    assert kinds == {
        "version": "model version", "alias": "model version", "run": "run", "map": "map", "item": "map", "file": "map",
        "data": "DVC hash", "data without .dir": "DVC hash", "tile": "DVC hash", "train": "DVC hash",
        "commit of the code": "commit", "commit of the lock": "commit", "short commit": "commit",
        "data hash": "data hash", "model hash": "model hash", "flow run": "flow run", "lock hash": "lock hash",
    }  # fmt: skip


def test_a_version_knows_when_it_was_the_champion(here: Made) -> None:
    (first,), (second,) = (trace(f"models:/cgm2net/{number}").versions for number in (1, 2))
    assert [(time.who, time.until is None) for time in first.champion] == [("register", False), ("ada", True)]
    (between,) = second.champion
    assert (between.since, between.until) == (first.champion[0].until, first.champion[1].since)


def test_an_output_is_named_by_the_commits_that_hold_it(here: Made) -> None:
    (output,) = trace(here.hashes["tile"]).outputs
    assert (output.stage, output.path, output.here) == ("tile", "artifacts/tile", True)
    assert [one.subject for one in output.commits] == ["Lock what was made"]


def test_what_cannot_be_followed_is_said(here: Made) -> None:
    found = trace("models:/cgm2net/2", maps=[Path("maps"), Path("nowhere")])
    assert [Path(one.folder).name for one in found.maps] == ["lost"]
    label = f"run {here.lost_run_id}"
    assert gaps(found) == {
        f"commit {LOST_COMMIT} of {label}": "not in this repository; `git fetch` may bring it",
        f"code of {label}": "the work tree had changes that no commit holds: commit 000000000000 is not all of it",
        f"commits of data version {LOST_DATA}": "no commit of this repository has a data.dvc that pins it",
        f"verdicts on the scenes of {label}": "the run keeps none, and there are none in artifacts here",
        "maps in nowhere": "no such folder; --maps names others",
    }


def test_a_version_that_says_nothing_of_its_making_is_not_guessed_at(here: Made) -> None:
    found = trace("models:/orphan/1")
    assert (found.runs, found.data, found.commits, found.versions[0].champion) == ((), (), (), ())
    assert gaps(found) == {
        "run of version 1 of orphan": "it was not recorded",
        "data version of version 1 of orphan": "it was not recorded",
        "commit of version 1 of orphan": "it was not recorded",
    }


def test_what_a_file_names_is_no_query(here: Made, tmp_path: Path) -> None:
    write_map(tmp_path / "s", {"name": "cgm2net", "version": "1", "sha256": MODEL_HASH, "run_id": "x' or 'y"})
    found = trace(str(tmp_path / "s"))
    assert [run.run_id for run in found.runs] == [here.run_id]  # by the version
    assert f"run x' or 'y, named by map {tmp_path / 's'}" in gaps(found)
    assert "MLflow" not in gaps(found)


def test_a_map_of_another_store_is_not_taken_for_one_of_this(here: Made) -> None:
    found = trace("maps/day/foreign")
    assert found.versions == ()
    assert found.runs == ()
    assert [one.md5 for one in found.data] == [here.hashes["data"]]  # the map says so itself
    why = "the version here has another hash: the map was made with another store's"
    assert gaps(found)["version 1 of cgm2net, named by map maps/day/foreign"] == why
    assert f"run {'9' * 32}, named by map maps/day/foreign" in gaps(found)
    assert "map maps/day/foreign" in gaps(trace("models:/cgm2net/1", maps=[Path("maps")]))


def test_verdicts_of_the_work_tree_count_only_for_its_tiles(
    here: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(here.root / "validate", artifacts / "validate")
    write_json(artifacts / "tile/meta.json", {"data_hash": "f" * 64})
    (run,) = trace(here.lost_run_id, root=tmp_path).runs
    assert [one.scene_id for one in run.scenes] == ["a", "b"]
    assert run.scenes_from == "artifacts/validate, of whose tiles it has the hash"
    write_json(artifacts / "tile/meta.json", {"data_hash": "another"})
    found = trace(here.lost_run_id, root=tmp_path)
    assert found.runs[0].scenes == ()
    assert gaps(found)[f"verdicts on the scenes of run {here.lost_run_id}"].endswith("has another data hash")


def test_maps_that_cannot_be_read_are_named_and_other_items_left_alone(here: Made, tmp_path: Path) -> None:
    for name, text in {"broken": "{", "other": '{"id": "x", "properties": {}}', "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "item.json").write_text(text)
    found = trace("models:/cgm2net/1", maps=[tmp_path])
    assert found.maps == ()
    assert [link for link in gaps(found) if link.startswith("map ")] == [f"map {tmp_path / 'broken'}"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("models:/cgm2net/9", "no such version is registered"),
        ("models:/cgm2net@nobody", "no such version is registered"),
        ("models:cgm2net", "not a model; wanted models:/NAME@ALIAS"),
        ("1" * 32, "nothing known of it here; wanted models:/NAME/VERSION"),
        ("no-such-branch", "nothing known of it here"),
        ("maps/day/s1/nothing.tif", "no such file"),
        ("validate", "validate/item.json: no such file"),
        ("good.json", "does not say which model made it"),
    ],
)
def test_what_nothing_is_known_of_is_refused(here: Made, what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        trace(what)


def test_a_raster_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.tif").write_text("text")
    with pytest.raises(DataError, match="not a raster"):
        trace(str(tmp_path / "no.tif"), root=tmp_path)
    write_map(tmp_path / "plain", {})
    with pytest.raises(DataError, match="does not say which model made it"):
        trace(str(tmp_path / "plain/classes.tif"), root=tmp_path)


def test_without_a_store_git_and_dvc_still_answer(here: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = trace(here.hashes["train"], root=here.root)
    assert [one.md5 for one in found.data] == [here.hashes["data"]]
    assert found.runs == ()
    assert gaps(found) == {"MLflow": "no mlflow.db here and no MLFLOW_TRACKING_URI: runs and versions are not known"}
    with pytest.raises(DataError, match=r"no such version is registered; MLflow: no mlflow\.db here"):
        trace("models:/cgm2net/1", root=here.root)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_is_down_is_a_gap(here: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = trace("maps/day/s1")
    assert [one.md5 for one in found.data] == [here.hashes["data"]]
    assert "start the server" in gaps(found)["MLflow"]


def test_what_is_not_in_the_cache_is_said(here: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(here.root, copy, symlinks=True)
    shutil.rmtree(copy / ".dvc/cache/files")
    found = trace(here.hashes["train"], root=copy)
    assert found.runs == ()
    (why, *_) = {why for link, why in gaps(found).items() if link.startswith("run of artifacts/train")}
    assert why == "not in DVC's cache here; `dvc fetch` may bring it"


def test_the_tree_is_readable_and_json_has_all(here: Made) -> None:
    done = CliRunner().invoke(main, ["trace", "models:/cgm2net@champion"], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    for words in (
        f"data version {here.hashes['data']}", "Pin the first scenes, clean work tree", "scenes: 1 of 2 accepted",
        "b refused: SAR is not in dB", f"prefect_flow_run_id {FLOW_RUN}", "params: steps 400", "maps: 2",
        "maps/day/s1: scene s1, by version 1 of cgm2net", "maps/day/s2: scene s2, by folder train",
        "to now: ada, dark maps",
    ):  # fmt: skip
        assert words in done.output
    answer = json.loads(CliRunner().invoke(main, ["trace", here.run_id, "--json"]).output)
    assert (answer["kind"], answer["runs"][0]["scenes"][1]["reason"]) == ("run", "SAR is not in dB")
    refused = CliRunner().invoke(main, ["trace", "nothing"])
    assert (refused.exit_code, refused.output.split(":")[:2]) == (1, ["error", " nothing"])


def test_long_lists_are_shortened_in_the_tree_alone(here: Made, tmp_path: Path) -> None:
    for number in range(12):
        write_map(tmp_path / f"s{number:02d}", {"name": "cgm2net", "version": "1", "sha256": MODEL_HASH})
    found = trace("models:/cgm2net/1", maps=[tmp_path])
    assert len(found.maps) == 12
    assert "… and 2 more; --json has all" in drawn(found)


def test_that_there_are_no_maps_is_said(here: Made) -> None:
    assert "none in the folders searched" in drawn(trace("models:/orphan/1", maps=[Path("maps")]))


def drawn(found: Trace) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(as_tree(found))
    return captured.get()
