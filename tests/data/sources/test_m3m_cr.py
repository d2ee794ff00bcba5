"""M3M-CR through the real commands: names, splits, areas, and every value of a scene to the number."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import M3M_PX, m3m_line, m3m_scene, run, write_params

from cgm2net import raster
from cgm2net.catalog import read_catalog, read_scenes

BANDS = ["blue", "green", "red", "nir"]


@pytest.fixture
def copy(workspace: Path) -> Path:
    """Two areas to learn from, one of them in two tiles, and one to test; summer and fall are not there."""
    root = workspace / "M3M-CR"
    m3m_scene(root, "train", "spring", "12", 0, place=0)
    m3m_scene(root, "train", "spring", "12", 1, place=0)
    m3m_scene(root, "train", "winter", "7", 3, place=1)
    m3m_scene(root, "test", "spring", "40", 2, place=2)
    return root


def rows(path: str = "data/catalog.csv") -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("scene_id")


def refused() -> list[tuple[str, ...]]:
    table = pd.read_csv("data/catalog.refused.csv", dtype=str, keep_default_na=False)
    return list(table.itertuples(index=False, name=None))


def test_a_copy_becomes_a_catalogue(copy: Path) -> None:
    result = run("catalog", "m3m_cr", copy)
    assert result.exit_code == 0, result.output
    assert "4 scenes found = 4 accepted + 0 refused; 0 files left out" in result.output
    assert "3 regions: m3m-12, m3m-40, m3m-7" in result.output
    assert "splits: train 3, val 0, test 1" in result.output
    table = rows()
    assert list(table.index) == ["spring_12_p_0", "spring_12_p_1", "spring_40_p_2", "winter_7_p_3"]
    assert table["split"].to_dict()["spring_40_p_2"] == "test"
    assert set(table["source"]) == {"m3m_cr"}
    one = table.loc["winter_7_p_3"]
    area = copy / "train/planet_cloudy_winter/planet_cloudy_winter_7/planet_cloudy_winter_7_p_3.tif"
    assert one["optical"] == f"{area}#bands=blue,green,red,nir"
    assert one["cloud"].endswith("cloudmask_winter_7_p_3.npy#grid=optical")
    assert one["label"].endswith("#codes=10:0,20:1,30:1,40:2,50:3,60:4,80:5,90:5")
    assert refused() == []
    assert read_catalog(Path("data/catalog.csv"))["split"].tolist() == ["train", "train", "test", "train"]


def test_the_folder_above_serves_too_and_names_come_in_any_case(copy: Path) -> None:
    area = copy / "train/S1_winter/S1_winter_7"
    (area / "S1_winter_7_p_3.tif").rename(area / "s1_winter_7_p_3.TIF")
    assert run("catalog", "m3m_cr", copy.parent).exit_code == 0
    assert rows().loc["winter_7_p_3", "sar"].endswith("s1_winter_7_p_3.TIF#bands=VV,VH")


def test_one_folder_alone_serves_too(copy: Path, workspace: Path) -> None:
    assert run("catalog", "m3m_cr", copy / "test").exit_code == 0
    assert rows()["split"].to_dict() == {"spring_40_p_2": "test"}
    (copy / "train").rename(workspace / "mine")
    assert run("catalog", "m3m_cr", workspace / "mine").exit_code == 0
    assert set(rows()["split"]) == {"train"}


def test_values_are_those_of_the_files(copy: Path) -> None:
    write_params(
        validate__required_optical_bands=BANDS, coregister__optical_bands=BANDS, validate__min_accepted=4
    )  # fmt: skip
    assert run("catalog", "m3m_cr", copy).exit_code == 0
    result = run("download")
    assert result.exit_code == 0, result.output
    scene = read_scenes(Path("artifacts/download/scenes.csv")).set_index("scene_id").loc["spring_12_p_1"]
    read = {role: raster.read(Path(scene[role])) for role in ("optical", "sar", "reference", "label", "cloud")}

    optical = read["optical"]
    assert (optical.bands, optical.dtype) == (tuple(BANDS), np.uint16)
    stored = raster.read(copy / "train/planet_cloudy_spring/planet_cloudy_spring_12/planet_cloudy_spring_12_p_1.tif")
    assert np.array_equal(optical.pixels_CHW, stored.pixels_CHW)
    assert optical.pixels_CHW[0, 0, 0] == 7000

    sar = raster.read(copy / "train/S1_spring/S1_spring_12/S1_spring_12_p_1.tif")
    assert sar.dtype == np.float64
    assert read["sar"].dtype == np.float32
    assert np.array_equal(read["sar"].pixels_CHW, sar.pixels_CHW.astype(np.float32))
    assert read["sar"].grid == sar.grid  # 2 m beside the optical grid, as it is

    # WorldCover 10 20 30 40 50 60 70 80 90 95 100
    assert read["label"].pixels_CHW[0, 0, :11].tolist() == [0, 1, 1, 2, 3, 4, 255, 5, 5, 255, 255]
    assert read["cloud"].grid == optical.grid
    assert read["cloud"].pixels_CHW.sum() == 20 * 25
    assert read["cloud"].pixels_CHW.shape == (1, M3M_PX, M3M_PX)

    judged = run("validate")
    assert judged.exit_code == 0, judged.output
    table = read_scenes(Path("artifacts/validate/scenes.csv"))
    assert table["accepted"].all(), table["reason"].tolist()
    assert table["split"].tolist() == ["train", "train", "test", "train"]


def test_what_is_missing_and_what_is_not_understood_has_a_name(copy: Path) -> None:
    (copy / "train/S1_spring/S1_spring_12/S1_spring_12_p_0.tif").unlink()
    (copy / "train/cloudmask_winter/cloudmask_winter_7/cloudmask_winter_7_p_3.npy").unlink()
    (copy / "train/landcover_winter/landcover_winter_7/landcover_winter_7_p_3.tif").unlink()
    (copy / "train/planet_cloudy_spring/notes.csv").write_text("hello")
    (copy / "test/planet_cloudy_sprung_1_p_2.tif").touch()
    (copy / "train/.DS_Store").touch()
    result = run("catalog", "m3m_cr", copy)
    assert "4 scenes found = 2 accepted + 2 refused; 2 files left out" in result.output
    assert refused() == [
        ("", "test/planet_cloudy_sprung_1_p_2.tif", "name not understood"),
        ("", "train/planet_cloudy_spring/notes.csv", "name not understood"),
        ("spring_12_p_0", "train/spring_12_p_0", "no S1"),
        ("winter_7_p_3", "train/winter_7_p_3", "no landcover and no cloudmask"),
    ]


def test_lists_say_the_split_and_val_refers_to_the_train_folder(copy: Path) -> None:
    m3m_scene(copy, "train", "winter", "8", 0, place=4)
    (copy / "lists").mkdir()
    (copy / "lists/train_list.csv").write_text("\n".join([m3m_line("spring", "12", 0), m3m_line("winter", "7", 3)]))
    (copy / "lists/val_list.csv").write_text(
        m3m_line("spring", "12", 1) + "\n" + m3m_line("spring", "99", 0) + "\na,b\n"
    )
    result = run("catalog", "m3m_cr", copy)
    assert result.exit_code == 0, result.output
    assert rows()["split"].to_dict() == {
        "spring_12_p_0": "train", "spring_12_p_1": "val", "spring_40_p_2": "test", "winter_7_p_3": "train",
    }  # fmt: skip
    assert "6 scenes found = 4 accepted + 2 refused; 1 files left out" in result.output
    assert refused() == [
        ("", "lists/val_list.csv, line 3", "line does not name the five files of one scene"),
        ("spring_99_p_0", "lists/val_list.csv, line 2", "listed, but not there"),
        ("winter_8_p_0", "train/winter_8_p_0", "in no list of the train folder"),
    ]
    assert run("catalog", "m3m_cr", copy, "--split", "region").exit_code == 0
    assert "split" not in rows().columns
    assert len(rows()) == 5


@pytest.mark.parametrize(("place", "regions"), [(0, {"m3m-12"}), (9, {"m3m-spring_12", "m3m-fall_12"})])
def test_an_area_of_two_seasons_is_one_region_where_it_is_one_ground(copy: Path, place: int, regions: set) -> None:
    m3m_scene(copy, "train", "fall", "12", 0, place=place)
    assert run("catalog", "m3m_cr", copy).exit_code == 0
    table = rows()
    assert set(table.loc[[name for name in table.index if "_12_" in name], "region"]) == regions


def test_one_key_in_both_folders_names_two_scenes(copy: Path) -> None:
    m3m_scene(copy, "test", "spring", "12", 0, place=0)
    assert run("catalog", "m3m_cr", copy).exit_code == 0
    assert {"spring_12_p_0_train", "spring_12_p_0_test"} <= set(rows().index)


def test_dry_run_writes_nothing_and_append_keeps_the_rest(copy: Path, workspace: Path) -> None:
    result = run("catalog", "m3m_cr", copy, "--dry-run")
    assert "4 scenes found = 4 accepted" in result.output
    assert "nothing written" in result.output
    assert not (workspace / "data").exists()

    run("catalog", "synthetic", "--regions", "1", "--scenes", "1")
    others = set(rows().index)
    result = run("catalog", "m3m_cr", copy, "--append")
    assert result.exit_code == 1  # some would have a split, others none
    assert "no split for scene" in result.output
    assert set(rows().index) == others
    assert run("catalog", "m3m_cr", copy, "--append", "--split", "region").exit_code == 0
    assert set(rows().index) == others | {"spring_12_p_0", "spring_12_p_1", "spring_40_p_2", "winter_7_p_3"}
    again = Path("data/catalog.csv").read_bytes()
    assert run("catalog", "m3m_cr", copy, "--append", "--split", "region").exit_code == 0
    assert Path("data/catalog.csv").read_bytes() == again


def test_beside_the_catalogue_paths_are_relative(copy: Path, workspace: Path) -> None:
    (workspace / "data").mkdir()
    copy.rename(workspace / "data/m3m")
    assert run("catalog", "m3m_cr", "data/m3m").exit_code == 0
    assert rows()["optical"].iloc[0].startswith("m3m/train/planet_cloudy_spring/")
    assert read_catalog(Path("data/catalog.csv"))["optical"][0].startswith(str(workspace / "data/m3m"))


def test_another_folder_is_told(workspace: Path) -> None:
    result = run("catalog", "m3m_cr", workspace)
    assert result.exit_code == 1
    assert "has none of the folders train and test" in result.output
