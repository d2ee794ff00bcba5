"""SEN12MS-CR: an unpacked copy listed by the published split, and the archives fetched, checked and unpacked."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from file_server import Plan, serve
from layouts import run, sen12_path, sen12_scene, write_params

from cgm2net import raster
from cgm2net.catalog import read_scenes
from cgm2net.data.sources.sen12ms_archives import unpack
from cgm2net.data.sources.sen12ms_cr import SPLIT_REGIONS
from cgm2net.errors import DataError
from cgm2net.sensors import SENTINEL2


def rows() -> pd.DataFrame:
    return pd.read_csv("data/catalog.csv", dtype=str, keep_default_na=False).set_index("scene_id")


def refused() -> list[list[str]]:
    return pd.read_csv("data/catalog.refused.csv", keep_default_na=False).to_numpy().tolist()


@pytest.fixture
def copy(workspace: Path) -> Path:
    """One region to learn from, one to validate on, one to test."""
    for season, roi in (("spring", 1), ("spring", 17), ("winter", 108)):
        sen12_scene(workspace / "sen12", season, roi, 30)
    return workspace / "sen12"


def test_the_published_split_goes_by_season_and_region(copy: Path) -> None:
    sen12_scene(copy, "summer", 17, 2)  # 17 of another season is another region, and validates too
    sen12_scene(copy, "fall", 17, 2)  # and of a third one it is learned from
    result = run("catalog", "sen12ms_cr", copy)
    assert result.exit_code == 0, result.output
    assert "5 scenes found = 5 accepted + 0 refused" in result.output
    assert rows()["split"].to_dict() == {
        "ROIs1158_spring_1_p30": "train", "ROIs1158_spring_17_p30": "val", "ROIs1868_summer_17_p2": "val",
        "ROIs1970_fall_17_p2": "train", "ROIs2017_winter_108_p30": "test",
    }  # fmt: skip
    assert rows()["region"]["ROIs2017_winter_108_p30"] == "ROIs2017_winter_108"
    assert pd.Series(SPLIT_REGIONS).value_counts().to_dict() == {"val": 10, "test": 10}
    assert run("catalog", "sen12ms_cr", copy, "--split", "region").exit_code == 0
    assert "split" not in rows().columns


def test_values_are_those_of_the_files(copy: Path) -> None:
    write_params()
    run("catalog", "sen12ms_cr", copy)
    assert run("download").exit_code == 0
    scene = read_scenes(Path("artifacts/download/scenes.csv")).set_index("scene_id").loc["ROIs1158_spring_1_p30"]
    cloudy = raster.read(Path(scene["optical"]))
    assert cloudy.bands == tuple(band.name for band in SENTINEL2)
    stored = raster.read(sen12_path(copy, "spring", "s2_cloudy", 1, 30))
    assert np.array_equal(cloudy.pixels_CHW, stored.pixels_CHW)
    assert raster.read_names(Path(scene["sar"])) == ("VV", "VH")
    assert scene["license"] == "CC-BY-4.0"


def test_what_is_missing_or_odd_has_a_name(copy: Path) -> None:
    sen12_path(copy, "spring", "s1", 1, 30).unlink()
    sen12_path(copy, "spring", "s2", 1, 30).unlink()
    (copy / "ROIs1158_spring_s1/splits.txt").touch()
    result = run("catalog", "sen12ms_cr", copy)
    assert "3 scenes found = 2 accepted + 1 refused; 1 files left out" in result.output
    assert refused() == [
        ["", "ROIs1158_spring_s1/splits.txt", "name not understood"],
        ["ROIs1158_spring_1_p30", "ROIs1158_spring_1_p30", "no s1 and no s2"],
    ]


def test_an_empty_folder_is_told(workspace: Path) -> None:
    for folder in (workspace, workspace / "none"):
        result = run("catalog", "sen12ms_cr", folder)
        assert result.exit_code == 1
        assert "unpack the archives there, or let --download do it" in result.output


def packed(folder: Path, inner: str) -> bytes:
    """Return a folder as tar.gz."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder / inner, arcname=inner)
    return content.getvalue()


@pytest.fixture
def server(copy: Path) -> Iterator[Plan]:
    """Serves the archive of the spring's SAR images, whatever is asked for."""
    plan = Plan(content=packed(copy, "ROIs1158_spring_s1"))
    with serve(plan):
        yield plan


def fetch(server: Plan, folder: Path, *more: object) -> str:
    result = run(
        "catalog", "sen12ms_cr", folder, "--download", "--season", "spring", "--modality", "s1", "--url",
        f"{server.url}/?file=", *more,
    )  # fmt: skip
    return str(result.output)


def test_archives_are_fetched_unpacked_and_not_fetched_again(server: Plan, copy: Path, workspace: Path) -> None:
    target = workspace / "own"
    first = fetch(server, target)
    assert "fetched ROIs1158_spring_s1.tar.gz" in first
    assert "2 scenes found = 0 accepted + 2 refused" in first  # the other modalities are not there
    for roi in (1, 17):
        made = sen12_path(target, "spring", "s1", roi, 30)
        assert made.read_bytes() == sen12_path(copy, "spring", "s1", roi, 30).read_bytes()
    note = target / ".archives/ROIs1158_spring_s1.tar.gz.unpacked"
    assert note.read_text() == f"{hashlib.sha256(server.content).hexdigest()}  ROIs1158_spring_s1.tar.gz\n"
    assert not (target / ".archives/ROIs1158_spring_s1.tar.gz").exists()
    server.asked.clear()
    assert "fetched nothing new" in fetch(server, target)
    assert server.asked == []


def test_an_interrupted_archive_goes_on_where_it_stopped(
    server: Plan, copy: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgm2net.data.sources import sen12ms_archives

    monkeypatch.setattr(sen12ms_archives, "_MAX_ATTEMPTS", 1)
    (copy / "ROIs1158_spring_s1/noise").write_bytes(np.random.default_rng(0).bytes(1 << 20))
    server.content, server.cut = packed(copy, "ROIs1158_spring_s1"), 1
    assert "what arrived is kept, run again to go on" in fetch(server, workspace / "own")
    assert "fetched ROIs1158_spring_s1.tar.gz" in fetch(server, workspace / "own")
    assert server.asked[1][0] > 0


def test_a_checksum_is_held_to(server: Plan, workspace: Path) -> None:
    sums = workspace / "sums.txt"
    sums.write_text(f"{'0' * 64}  ROIs1158_spring_s1.tar.gz\n")
    assert "the catalogue says 000" in fetch(server, workspace / "own", "--checksums", sums)
    assert not (workspace / "own/ROIs1158_spring_s1").exists()
    sums.write_text(f"{hashlib.sha256(server.content).hexdigest()} *ROIs1158_spring_s1.tar.gz\n")
    assert "fetched ROIs1158_spring_s1.tar.gz" in fetch(server, workspace / "own", "--checksums", sums)
    sums.write_text("not a checksum\n")
    assert "is not `SHA256  NAME`" in fetch(server, workspace / "third", "--checksums", sums)
    assert "no file of checksums there" in fetch(server, workspace / "third", "--checksums", "none.txt")


def test_a_dry_run_names_the_archives_and_fetches_none(server: Plan, workspace: Path) -> None:
    said = fetch(server, workspace / "own", "--season", "fall", "--dry-run")
    assert "would fetch ROIs1158_spring_s1.tar.gz, ROIs1970_fall_s1.tar.gz" in said
    assert server.asked == []
    assert not (workspace / "own").exists()


def test_what_is_there_is_left_alone_and_what_was_cut_is_made_whole(copy: Path, workspace: Path) -> None:
    archive = workspace / "a.tar.gz"
    archive.write_bytes(packed(copy, "ROIs1158_spring_s1"))
    target = workspace / "own"
    assert unpack(archive, target) == 2
    assert unpack(archive, target) == 0
    cut = sen12_path(target, "spring", "s1", 1, 30)
    whole = cut.read_bytes()
    cut.write_bytes(whole[:100])
    assert unpack(archive, target) == 1
    assert cut.read_bytes() == whole


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (member("/etc/passwd"), "leads out of the folder"),
        (member("a/../../b"), "leads out of the folder"),
        (member("a/b", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (member("a/b", tarfile.LNKTYPE, "a/c"), "is a link or a device"),
        (member("a/b", tarfile.FIFOTYPE), "is a link or a device"),
    ],
)
def test_nothing_leads_out_of_the_folder(tmp_path: Path, entry: tarfile.TarInfo, said: str) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(entry, io.BytesIO())
    with pytest.raises(DataError, match=f"entry '{entry.name}' {said}; nothing more of it is unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_folder_that_is_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "own/a").symlink_to(tmp_path / "other")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(member("a/b"), io.BytesIO())
    with pytest.raises(DataError, match="nothing more of it is unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "own")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_broken_archive_is_told(copy: Path, workspace: Path) -> None:
    content = packed(copy, "ROIs1158_spring_s1")
    other_sum = content[:-8] + bytes(4) + content[-4:]
    for number, broken in enumerate((content[:2000], content[:-4], b"not an archive", other_sum)):
        (workspace / "a.tar.gz").write_bytes(broken)
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(workspace / "a.tar.gz", workspace / f"own{number}")
