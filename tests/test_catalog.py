"""Catalogue and scene tables: what is refused, where paths lead, and that nobody is lost on the way."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgm2net.catalog import (
    COLUMNS,
    FILE_ROLES,
    HASH_COLUMNS,
    accepted_scenes,
    merge_results,
    read_catalog,
    read_scenes,
    resolve_uri,
    write_catalog,
    write_scenes,
)
from cgm2net.errors import CatalogError, DataError

DIGITS = "0123456789abcdef" * 4


def row(scene_id: str, /, **values: str) -> dict[str, str]:
    files = {"optical": f"{scene_id}/o.tif", "sar": f"{scene_id}/s.tif"}
    return {**dict.fromkeys(COLUMNS, ""), "scene_id": scene_id, "region": "r0", **files, **values}


def write(path: Path, *rows: dict[str, str]) -> Path:
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return path


def test_a_catalogue_is_sorted_text_with_resolved_files(tmp_path: Path) -> None:
    rows = [
        row("b", sar="https://example.org/s.tif", cloud="synthetic:cloud?region=1&date=2024-05-01"),
        row("a", optical="/archive/o.tif", optical_sha256=DIGITS, acquired_sar="2024"),
    ]
    table = read_catalog(write(tmp_path / "catalog.csv", *rows))
    assert list(table["scene_id"]) == ["a", "b"]
    assert list(table["optical"]) == ["/archive/o.tif", str(tmp_path / "b" / "o.tif")]
    assert list(table["sar"]) == [str(tmp_path / "a" / "s.tif"), "https://example.org/s.tif"]
    assert list(table["cloud"]) == ["", "synthetic:cloud?region=1&date=2024-05-01"]
    assert list(table["optical_sha256"]) == [DIGITS, ""]
    assert set(table.columns) == {*COLUMNS, *HASH_COLUMNS}
    assert table.map(lambda value: isinstance(value, str)).all().all()


def test_a_catalogue_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [row("b", license="CC-BY 4.0, see #3", optical="https://example.org/o.tif#one"), row("NA", region="NA")]
    write_catalog(pd.DataFrame(rows), tmp_path / "new" / "catalog.csv")
    first = read_catalog(tmp_path / "new" / "catalog.csv")
    assert list(first["scene_id"]) == ["NA", "b"]
    assert first["optical"][1] == "https://example.org/o.tif#one"
    assert first["license"][1] == "CC-BY 4.0, see #3"
    write_catalog(first, tmp_path / "again.csv")
    pd.testing.assert_frame_equal(read_catalog(tmp_path / "again.csv"), first)


UNSAFE = ["../x", "..", ".hidden", "/etc", "a/b", "a\\b", "", " ", "a b", "a\n", "a\x00", "-rf", "ä", "a" * 129, "a*"]


@pytest.mark.parametrize("value", UNSAFE)
@pytest.mark.parametrize("column", ["scene_id", "region"])
def test_ids_that_are_no_folder_names_are_refused(tmp_path: Path, column: str, value: str) -> None:
    path = write(tmp_path / "catalog.csv", row("a", **{column: value}))
    with pytest.raises(CatalogError, match=rf"catalog\.csv: {column} .* is not safe as a folder name"):
        read_catalog(path)


@given(value=st.text(max_size=12) | st.sampled_from(UNSAFE))
def test_an_accepted_id_stays_below_its_folder(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "ids"
    folder.mkdir(exist_ok=True)
    path = folder / "catalog.csv"
    pd.DataFrame([row("x", scene_id=value)]).to_csv(path, index=False, quoting=1)
    try:
        scene_id = read_catalog(path)["scene_id"][0]
    except CatalogError:
        return
    assert (folder / scene_id).resolve().parent == folder.resolve()
    assert (folder / scene_id).name == scene_id


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scene_id,region\na,r\n", "lacks columns .*'optical'.*wanted"),
        (",".join((*COLUMNS, "colour")) + "\n", r"unknown columns \['colour'\]"),
        (",".join(COLUMNS) + "\n" + "a,r,,,o.tif,s.tif,,,,,,\n" * 2, "more values than the header"),
        (",".join(COLUMNS) + "\na,r,,,o.tif,s.tif,,,,,\nb,r,,,o.tif,s.tif,,,,,,,,,\n", "not a table"),
        (",".join(COLUMNS) + "\na\n", "region '' is not safe"),
        ("", "not a table"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "catalog.csv"
    path.write_text(content)
    with pytest.raises(CatalogError, match=rf"catalog\.csv: .*{message}"):
        read_catalog(path)


def test_what_every_scene_needs(tmp_path: Path) -> None:
    path = tmp_path / "catalog.csv"
    with pytest.raises(CatalogError, match="no sar for scene b; every scene needs optical and sar"):
        read_catalog(write(path, row("a"), row("b", sar="")))
    with pytest.raises(CatalogError, match="scene_id 'a' stands there twice"):
        read_catalog(write(path, row("a"), row("b"), row("a")))
    with pytest.raises(CatalogError, match="column sar has a URI that cannot be parsed"):
        read_catalog(write(path, row("a", sar="https://[half/s.tif")))
    with pytest.raises(CatalogError, match=r"no catalogue there; `dvc pull`"):
        read_catalog(tmp_path / "other.csv")


@pytest.mark.parametrize(
    "uri", ["", "https://h/a.tif", "s3://b/k.tif", "synthetic:sar?region=0", "file:///a.tif", "/a"]
)
def test_only_relative_paths_are_resolved(uri: str) -> None:
    assert resolve_uri(uri, Path("/data")) == uri


def scenes(folder: Path) -> pd.DataFrame:
    """Return an accepted and a refused scene, with facts of all kinds."""
    rows = [
        {**row("b", region="NA"), "accepted": True, "reason": "", "cover": 0.25, "count": 3, "status": "moved"},
        {**row("a"), "accepted": False, "reason": 'no sar, "gone"', "cover": None, "count": 0, "status": "NA"},
    ]
    table = pd.DataFrame(rows)
    for role in FILE_ROLES:
        table[role] = [str(folder / uri) if uri else "" for uri in table[role]]
    return table


def test_scene_tables_hold_paths_relative_to_themselves(tmp_path: Path) -> None:
    write_scenes(scenes(tmp_path), tmp_path / "stage" / "scenes.csv")
    text = (tmp_path / "stage" / "scenes.csv").read_text()
    assert str(tmp_path) not in text
    assert "../b/o.tif" in text
    back = read_scenes(tmp_path / "stage" / "scenes.csv")
    assert list(back["scene_id"]) == ["a", "b"]
    assert list(back["optical"]) == [str(tmp_path / "a/o.tif"), str(tmp_path / "b/o.tif")]
    assert list(back["cloud"]) == ["", ""]
    assert list(back["region"]) == ["r0", "NA"]
    assert list(back["reason"]) == ['no sar, "gone"', ""]
    assert list(back["status"]) == ["NA", "moved"]
    assert back["accepted"].dtype == bool
    assert back["cover"].isna().tolist() == [True, False]
    assert back["count"].tolist() == [0, 3]


def test_a_table_is_the_same_after_reading_and_writing(tmp_path: Path) -> None:
    write_scenes(scenes(tmp_path), tmp_path / "one.csv")
    write_scenes(read_scenes(tmp_path / "one.csv"), tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_a_moved_project_still_finds_its_files(tmp_path: Path) -> None:
    old = tmp_path / "old"
    write_scenes(scenes(old / "files"), old / "stage" / "scenes.csv")
    shutil.move(old, tmp_path / "new")
    assert read_scenes(tmp_path / "new/stage/scenes.csv")["optical"][1] == str(tmp_path / "new/files/b/o.tif")


def test_the_working_directory_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scenes(scenes(tmp_path), Path("stage/scenes.csv"))
    assert read_scenes(Path("stage/scenes.csv"))["sar"][1] == str(tmp_path / "b/s.tif")


def test_an_absent_scene_table_says_which_stage() -> None:
    with pytest.raises(CatalogError, match=r"scenes\.csv: no scene table there; run the stage"):
        read_scenes(Path("nowhere/scenes.csv"))


def test_merging_keeps_the_refused_and_adds_facts() -> None:
    found: list[dict[str, object]] = [
        {"scene_id": "b", "accepted": False, "reason": "too dark", "level": 0.5, "sar": ""}
    ]
    merged = merge_results(scenes(Path("/data")), found)
    assert merged["scene_id"].tolist() == ["a", "b"]
    assert merged["accepted"].tolist() == [False, False]
    assert merged["reason"].tolist() == ['no sar, "gone"', "too dark"]
    assert merged["sar"].tolist() == ["/data/a/s.tif", ""]
    assert merged["optical"].tolist() == ["/data/a/o.tif", "/data/b/o.tif"]
    assert merged["level"].isna().tolist() == [True, False]
    assert merged["count"].tolist() == [0, 3]


def test_merging_nothing_changes_nothing() -> None:
    table = scenes(Path("/data"))
    merged = merge_results(table, [])
    assert merged["scene_id"].tolist() == ["a", "b"]
    assert merged["accepted"].tolist() == [False, True]


def test_merging_refuses_strangers_and_the_unjudged() -> None:
    with pytest.raises(CatalogError, match=r"unknown scenes \['c'\]"):
        merge_results(scenes(Path("/data")), [{"scene_id": "c", "accepted": True, "reason": ""}])
    unjudged = scenes(Path("/data")).drop(columns=["accepted", "reason"])
    with pytest.raises(CatalogError, match="scenes a are neither accepted nor refused"):
        merge_results(unjudged, [{"scene_id": "b", "accepted": True, "reason": ""}])


def test_where_no_scene_is_left_the_reasons_are_told() -> None:
    table = scenes(Path("/data"))
    assert accepted_scenes(table)["scene_id"].tolist() == ["b"]
    with pytest.raises(DataError, match='none of 1 scenes is accepted: a: no sar, "gone"'):
        accepted_scenes(table[~table["accepted"]])


def test_a_split_is_said_of_all_scenes_or_of_none(tmp_path: Path) -> None:
    path = tmp_path / "catalog.csv"
    table = read_catalog(write(path, row("a", split="train"), row("b", split="test")))
    assert table["split"].tolist() == ["train", "test"]
    assert "split" not in read_catalog(write(path, row("a", split=""), row("b", split=""))).columns
    with pytest.raises(CatalogError, match=r"no split for scene b, but for others; say it for every scene"):
        read_catalog(write(path, row("a", split="train"), row("b", split="")))
    with pytest.raises(CatalogError, match=r"column split says 'training'; wanted train, val, test or nothing"):
        read_catalog(write(path, row("a", split="training"), row("b", split="")))


def test_a_split_is_carried_from_table_to_table(tmp_path: Path) -> None:
    table = read_catalog(write(tmp_path / "catalog.csv", row("a", split="train"), row("b", split="test")))
    judged = merge_results(table, [{"scene_id": "a", "accepted": True, "reason": ""},
                                   {"scene_id": "b", "accepted": False, "reason": "dark"}])  # fmt: skip
    write_scenes(judged, tmp_path / "scenes.csv")
    assert read_scenes(tmp_path / "scenes.csv")["split"].tolist() == ["train", "test"]


def test_instructions_survive_beside_the_catalogue(tmp_path: Path) -> None:
    told = row(
        "a", optical="a/o.tif#bands=B02&offset=-1000", label="a/l.tif#codes=10:0,20:1", sar="file:///s.tif#linear=1"
    )
    table = read_catalog(write(tmp_path / "catalog.csv", told))
    assert table["optical"][0] == f"{tmp_path}/a/o.tif#bands=B02&offset=-1000"
    assert table["label"][0] == f"{tmp_path}/a/l.tif#codes=10:0,20:1"
    assert table["sar"][0] == "file:///s.tif#linear=1"
