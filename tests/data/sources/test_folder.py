"""A user's own folder of scenes through the real commands."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from layouts import run, write, write_params

from cgm2net import raster
from cgm2net.catalog import read_scenes
from cgm2net.data.sources.folder import acquired

AT = (500_000.0, 5_300_000.0)


@pytest.fixture
def own(workspace: Path) -> Path:
    """Two scenes of other conventions: reflectance 0-1, linear power, codes of WorldCover, a mask as an array."""
    rng = np.random.default_rng(0)
    for name in ("alps_20240705", "coast_20240801"):
        folder = workspace / "own" / name
        write(folder / "optical.tif", rng.uniform(0, 0.5, (2, 20, 20)).astype(np.float32), at=AT, gsd=10)
        write(folder / "Reference.TIF", rng.uniform(0, 0.5, (2, 20, 20)).astype(np.float32), at=AT, gsd=10)
        write(folder / "sar.tif", np.full((2, 20, 20), 0.01), at=AT, gsd=10)
        write(folder / "label.tif", np.full((10, 10), 10, np.uint8), at=AT, gsd=20)
        np.save(folder / "cloud.npy", np.eye(20, dtype=bool))
    with rasterio.open(workspace / "own/alps_20240705/optical.tif", "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:07:05 10:30:21")
    return workspace / "own"


OPTIONS = (
    "--optical-bands", "B02,B08", "--sar-bands", "VV,VH", "--scale", "10000", "--linear", "--label-codes", "10:0",
)  # fmt: skip


def rows() -> pd.DataFrame:
    return pd.read_csv("data/catalog.csv", dtype=str, keep_default_na=False).set_index("scene_id")


def test_what_is_told_of_files_is_what_they_become(own: Path) -> None:
    result = run("catalog", "folder", own, *OPTIONS, "--license", "mine")
    assert result.exit_code == 0, result.output
    assert "2 scenes found = 2 accepted + 0 refused; 0 files left out" in result.output
    one = rows().loc["alps_20240705"]
    assert one["optical"] == f"{own}/alps_20240705/optical.tif#bands=B02,B08&scale=10000"
    assert one["cloud"].endswith("cloud.npy#grid=optical")
    assert (one["acquired_optical"], one["acquired_sar"]) == ("2024-07-05T10:30:21Z", "")
    assert (one["region"], one["license"], one["source"]) == ("alps_20240705", "mine", "folder")
    write_params()
    assert run("download").exit_code == 0
    scene = read_scenes(Path("artifacts/download/scenes.csv")).iloc[0]
    stored = raster.read(own / "alps_20240705/Reference.TIF").pixels_CHW
    made = raster.read(Path(scene["reference"]))
    assert np.abs(made.pixels_CHW - np.clip(stored * 1e4, 1, None)).max() <= 0.5
    assert made.bands == ("B02", "B08")
    np.testing.assert_allclose(raster.read(Path(scene["sar"])).pixels_CHW, -20, rtol=1e-6)
    assert (raster.read(Path(scene["label"])).pixels_CHW == 0).all()
    assert raster.read(Path(scene["cloud"])).pixels_CHW.sum() == 20


def test_files_that_follow_the_conventions_need_no_words(own: Path) -> None:
    assert run("catalog", "folder", own).exit_code == 0
    assert rows()["optical"].tolist() == [f"{own}/{name}/optical.tif" for name in rows().index]


def test_regions_by_a_pattern(own: Path) -> None:
    assert run("catalog", "folder", own, "--region-pattern", "^([a-z]+)_").exit_code == 0
    assert rows()["region"].tolist() == ["alps", "coast"]
    result = run("catalog", "folder", own, "--region-pattern", "^alps")
    assert "2 scenes found = 1 accepted + 1 refused" in result.output
    assert "the region pattern finds nothing in the scene's name" in result.output
    assert "is no regular expression" in run("catalog", "folder", own, "--region-pattern", "(").output


def test_what_is_no_scene_has_a_name(own: Path) -> None:
    (own / "alps_20240705/sar.tif").unlink()
    (own / "alps_20240705/notes.txt").touch()
    (own / "list.csv").touch()
    (own / "empty").mkdir()
    (own / "bad name").mkdir()
    for role in ("optical", "sar"):
        (own / f"bad name/{role}.tif").touch()
    result = run("catalog", "folder", own)
    assert "3 scenes found = 1 accepted + 2 refused; 2 files left out" in result.output
    table = pd.read_csv("data/catalog.refused.csv", keep_default_na=False)
    assert table["file"].tolist() == ["alps_20240705/notes.txt", "list.csv", "alps_20240705", "bad name"]
    assert table["reason"].tolist()[2] == "no sar"
    assert "is not safe as a folder name" in table["reason"].tolist()[3]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--label-codes", "10-0", "codes=10-0 is not understood"),
        ("--optical-bands", "B02,B02", "names must be one each"),
        ("--scale", "0", "wanted a number that is not 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(own: Path, option: str, value: str, said: str) -> None:
    result = run("catalog", "folder", own, option, value)
    assert result.exit_code == 1
    assert said in result.output


def test_an_empty_folder_is_told(workspace: Path) -> None:
    for folder in (workspace, workspace / "none"):
        result = run("catalog", "folder", folder)
        assert result.exit_code == 1
        assert "no scene there; wanted SCENE_ID/optical.tif" in result.output


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024:07:05 10:30:00", "2024-07-05T10:30:00Z"),
        ("2024-07-05T10:30:00Z", "2024-07-05T10:30:00Z"),
        ("2024-07-05T12:30:00+02:00", "2024-07-05T10:30:00Z"),
        ("last summer", ""),
    ],
)
def test_times_are_read_from_tags(tmp_path: Path, text: str, time: str) -> None:
    path = write(tmp_path / "a.tif", np.ones((1, 2, 2), np.uint16), at=AT, gsd=10)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ACQUIRED=text)
    assert acquired(path) == time
    assert acquired(tmp_path / "none.tif") == acquired(tmp_path / "a.npy") == ""
