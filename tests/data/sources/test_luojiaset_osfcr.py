"""LuojiaSET-OSFCR through the real commands: offsets, grids, splits, and every misfiling by its name."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from layouts import BINS, LUOJIA_PX, UTM, luojia_path, luojia_pixels, luojia_sample, run, write, write_params

from cgm2net import raster
from cgm2net.catalog import read_scenes
from cgm2net.sensors import SENTINEL2

BANDS = [band.name for band in SENTINEL2]


@pytest.fixture
def copy(workspace: Path) -> Path:
    """One sample a bin, of three regions."""
    root = workspace / "LuojiaSET-OSFCR"
    for n, cover in enumerate(BINS):
        luojia_sample(root, cover, f"{n % 3:02d}", n)
    return root


def rows() -> pd.DataFrame:
    return pd.read_csv("data/catalog.csv", dtype=str, keep_default_na=False).set_index("scene_id")


def refused() -> dict[str, tuple[str, str]]:
    """Return scene and reason by file; a file has one reason."""
    table = pd.read_csv("data/catalog.refused.csv", dtype=str, keep_default_na=False)
    assert table["file"].is_unique
    return {row.file: (row.scene_id, row.reason) for row in table.itertuples()}


def test_a_copy_becomes_a_catalogue(copy: Path) -> None:
    result = run("catalog", "luojiaset_osfcr", copy)
    assert result.exit_code == 0, result.output
    assert "5 scenes found = 5 accepted + 0 refused; 0 files left out" in result.output
    table = rows()
    assert list(table.index) == [
        "luojia-00-20-ROIs_00_p0", "luojia-20-40-ROIs_01_p1", "luojia-40-60-ROIs_02_p2", "luojia-60-80-ROIs_00_p3",
        "luojia-80-100-ROIs_01_p4",
    ]  # fmt: skip
    assert set(table["region"]) == {"luojia-00", "luojia-01", "luojia-02"}
    assert "split" not in table.columns
    names = ",".join(BANDS)
    one = table.loc["luojia-00-20-ROIs_00_p0"]
    assert one["optical"] == f"{copy}/0-20%/s2_cloudy/ROIs_00_s2_cloudy_p0.tif#bands={names}&offset=-1000"
    assert one["label"].endswith("ROIs_00_s2_p0.tif#codes=0:0,1:1,2:2,3:3,4:4,5:5,6:6&grid=optical")
    assert one["cloud"].endswith("ROIs_00_s2_cloudy_p0.tif#codes=0:0,1:1")
    assert one["sar"].endswith("#bands=VV,VH")


def test_values_are_those_of_the_files_without_the_offset(copy: Path) -> None:
    write_params(
        validate__required_optical_bands=BANDS, coregister__optical_bands=BANDS, validate__label_codes_max=6,
            tile__classes=[f"class {code}" for code in range(7)],
        validate__min_accepted=5,
    )  # fmt: skip
    assert run("catalog", "luojiaset_osfcr", copy.parent).exit_code == 0
    result = run("download")
    assert result.exit_code == 0, result.output
    scene = read_scenes(Path("artifacts/download/scenes.csv")).set_index("scene_id").loc["luojia-20-40-ROIs_01_p1"]
    read = {role: raster.read(Path(scene[role])) for role in ("optical", "sar", "reference", "label", "cloud")}
    stored = luojia_pixels("20%-40%", "01", 1)
    assert read["optical"].bands == tuple(BANDS)
    assert np.array_equal(read["optical"].pixels_CHW, stored["s2_cloudy"] - 1000)
    assert np.array_equal(read["reference"].pixels_CHW, stored["s2"] - 1000)
    assert int(read["reference"].select(["B10"]).pixels_CHW.max()) == 9
    assert np.array_equal(read["sar"].pixels_CHW, stored["s1"])
    assert np.array_equal(read["label"].pixels_CHW, stored["land_cover_maps"])
    assert np.array_equal(read["cloud"].pixels_CHW, stored["cloud_detection_results"])
    assert read["label"].grid == read["optical"].grid  # of an anonymous CRS
    corner, sar_corner = read["optical"].grid.transform, read["sar"].grid.transform
    assert (sar_corner.c - corner.c, sar_corner.f - corner.f) == pytest.approx((3.7, -4.1))
    judged = run("validate")
    assert judged.exit_code == 0, judged.output
    assert read_scenes(Path("artifacts/validate/scenes.csv"))["accepted"].all()


def test_the_offset_is_found_file_by_file_or_given(copy: Path) -> None:
    luojia_sample(copy, "0-20%", "07", 9, offset=0)
    with rasterio.open(luojia_path(copy, "80%-100%", "s2_cloudy", "01", 4), "r+") as file:
        file.write(np.full((LUOJIA_PX, LUOJIA_PX), 2500, np.uint16), BANDS.index("B10") + 1)  # cirrus all over
    assert run("catalog", "luojiaset_osfcr", copy).exit_code == 0
    table = rows()
    plain = table.loc["luojia-00-20-ROIs_07_p9"]
    assert all(plain[role].endswith("&offset=0") for role in ("optical", "reference"))
    others = table.drop(index="luojia-00-20-ROIs_07_p9")
    assert all(uri.endswith("&offset=-1000") for role in ("optical", "reference") for uri in others[role])
    for given in ("0", "-1000"):
        assert run("catalog", "luojiaset_osfcr", copy, "--offset", given).exit_code == 0
        assert all(uri.endswith(f"&offset={given}") for uri in rows()["optical"])


def misfile(copy: Path, cover: str, rr: str, n: int, folder: str, by: str | None) -> str:
    """Put another of a sample's files into a place; return the place."""
    target = luojia_path(copy, cover, folder, rr, n)
    if by is None:
        target.unlink()
    else:
        shutil.copy(luojia_path(copy, cover, by, rr, n), target)
    return target.relative_to(copy).as_posix()


COVERS = ("00-20", "20-40", "40-60", "60-80", "80-100")
MISFILINGS = [
    ("s1", "cloud_detection_results", "s1 holds a cloud mask, wanted a SAR image in dB"),
    ("s1", "land_cover_maps", "s1 holds a label map, wanted a SAR image in dB"),
    ("s2", "cloud_detection_results", "s2 holds a cloud mask, wanted an image of 13 bands"),
    ("s2", "land_cover_maps", "s2 holds a label map, wanted an image of 13 bands"),
    ("s2", "s1", "s2 holds a SAR image in dB, wanted an image of 13 bands"),
    ("s2_cloudy", "cloud_detection_results", "s2_cloudy holds a cloud mask, wanted an image of 13 bands"),
    ("s2_cloudy", "land_cover_maps", "s2_cloudy holds a label map, wanted an image of 13 bands"),
    ("s2_cloudy", "s2", "s2_cloudy holds the very pixels of s2"),
    ("land_cover_maps", "cloud_detection_results", "land_cover_maps holds a cloud mask, wanted a label map"),
    ("land_cover_maps", "s1", "land_cover_maps holds a SAR image in dB, wanted a label map"),
    ("land_cover_maps", None, "no file in land_cover_maps"),
    ("s1", None, "no file in s1"),
    ("s2", None, "no file in s2"),
    ("s2_cloudy", None, "no file in s2_cloudy"),
]
LEFT_OUT = [
    ("cloud_detection_results", "s2", "cloud_detection_results holds an image of 13 bands, wanted a cloud mask"),
    ("cloud_detection_results", "land_cover_maps", "cloud_detection_results holds a label map, wanted a cloud mask"),
    ("cloud_detection_results", None, "no file in cloud_detection_results"),
]


def test_every_misfiling_has_its_name_and_no_good_sample_is_refused(copy: Path) -> None:
    wanted: dict[str, tuple[str, str]] = {}
    for n, (folder, by, reason) in enumerate([*MISFILINGS, *LEFT_OUT], start=100):
        luojia_sample(copy, BINS[n % 5], "05", n)
        file = misfile(copy, BINS[n % 5], "05", n, folder, by)
        essential = (folder, by, reason) in MISFILINGS
        scene = f"luojia-{COVERS[n % 5]}-ROIs_05_p{n}"
        wanted[file] = (scene, reason) if essential else ("", f"{reason}; the sample goes on without")
    result = run("catalog", "luojiaset_osfcr", copy)
    assert result.exit_code == 0, result.output
    assert refused() == wanted
    found = 5 + len(wanted)
    assert f"{found} scenes found = {5 + len(LEFT_OUT)} accepted + {len(MISFILINGS)} refused" in result.output
    assert len(rows()) == 5 + len(LEFT_OUT)
    without = [name for name in rows().index if rows()["cloud"][name] == ""]
    assert len(without) == len(LEFT_OUT)


def test_other_faults_have_names_too(copy: Path) -> None:
    luojia_path(copy, "0-20%", "s2", "00", 0).write_bytes(b"nothing")
    power = np.full((2, 8, 8), 0.05, np.float32)
    write(luojia_path(copy, "20%-40%", "s1", "01", 1), power, at=(0, 0), gsd=10)
    codes = np.full((1, 8, 8), 9, np.uint8)
    write(luojia_path(copy, "40%-60%", "land_cover_maps", "02", 2), codes, at=(0, 0), gsd=10)
    (copy / "0-20%/s1/readme.txt").touch()
    shutil.copy(luojia_path(copy, "0-20%", "s1", "00", 0), copy / "0-20%/s2/ROIs_00_s1_p0.tif")
    run("catalog", "luojiaset_osfcr", copy)
    assert refused() == {
        "0-20%/s2/ROIs_00_s2_p0.tif": ("luojia-00-20-ROIs_00_p0", "cannot be read as a raster"),
        "20%-40%/s1/ROIs_01_s1_p1.tif": (
            "luojia-20-40-ROIs_01_p1", "s1 holds 2 bands of float32, values 0.05 to 0.05, wanted a SAR image in dB",
        ),
        "40%-60%/land_cover_maps/ROIs_02_s2_p2.tif": (
            "luojia-40-60-ROIs_02_p2",
            "land_cover_maps holds 1 band of uint8, values 9 to 9, wanted a label map",
        ),
        "0-20%/s1/readme.txt": ("", "name or folder not understood"),
        "0-20%/s2/ROIs_00_s1_p0.tif": ("", "name or folder not understood"),
    }  # fmt: skip


def test_plausible_differences_are_no_faults(copy: Path) -> None:
    (copy / "0-20%").rename(copy / "0%-20%")
    luojia_path(copy, "20%-40%", "s1", "01", 1).rename(copy / "20%-40%/s1/ROIs_01_s1_p1.TIF")
    two_classes = luojia_path(copy, "40%-60%", "land_cover_maps", "02", 2)
    with rasterio.open(two_classes) as file:
        profile = file.profile
    at = (400_000.0 + 10_000 + 5_120, 4_000_000.0)
    write(two_classes, np.ones((1, LUOJIA_PX, LUOJIA_PX), np.uint8), at=at, gsd=10, nodata=0)
    mask = luojia_path(copy, "60%-80%", "cloud_detection_results", "00", 3)
    write(mask, np.zeros((1, LUOJIA_PX, LUOJIA_PX), np.uint8), at=at, gsd=10, crs=None)
    assert profile["crs"] != UTM
    assert run("catalog", "luojiaset_osfcr", copy).exit_code == 0
    assert refused() == {}
    assert rows().loc["luojia-40-60-ROIs_02_p2", "label"].endswith("6:6")  # its own grid serves
    assert rows().loc["luojia-60-80-ROIs_00_p3", "cloud"].endswith("#codes=0:0,1:1&grid=optical")
    write_params()
    assert run("download").exit_code == 0
    assert read_scenes(Path("artifacts/download/scenes.csv"))["accepted"].all()


def test_the_random_split_keeps_shares_in_each_bin_and_places_together(workspace: Path) -> None:
    from cgm2net.data.sources.luojiaset_osfcr import Key, _random_split

    keys = [Key(cover=cover, region="01", number=str(n)) for cover in ("00-20", "20-40") for n in range(100)]
    keys += [Key(cover="40-60", region="02", number=str(n)) for n in range(50)]
    split = _random_split(dict.fromkeys(keys))
    counts = pd.Series({(key.cover, key.number): name for key, name in split.items()}).groupby(level=0).value_counts()
    assert [counts["00-20"][name] for name in ("train", "val", "test")] == [80, 10, 10]
    assert [counts["40-60"][name] for name in ("train", "val", "test")] == [40, 5, 5]
    for key in keys[:100]:
        assert split[key] == split[Key(cover="20-40", region="01", number=key.number)]
    assert split == _random_split(dict.fromkeys(reversed(keys)))


def test_the_random_split_is_written(copy: Path) -> None:
    result = run("catalog", "luojiaset_osfcr", copy, "--split", "random")
    assert result.exit_code == 0, result.output
    assert "splits: train 5, val 0, test 0" in result.output
    assert set(rows()["split"]) == {"train"}


def test_another_folder_is_told(workspace: Path) -> None:
    result = run("catalog", "luojiaset_osfcr", workspace)
    assert result.exit_code == 1
    assert "has no folder such as 0-20%" in result.output


REAL = Path(__file__).resolve().parents[4] / "shared/data/sen12mscr"


@pytest.mark.skipif(not REAL.is_dir(), reason="real scenes are not there")
def test_real_images_are_recognised_with_and_without_the_offset(workspace: Path) -> None:
    """Real Sentinel scenes, filed as this set is, every other one with the +1000 of newer processing baselines."""
    root = workspace / "LuojiaSET-OSFCR"
    for n, scene in enumerate(sorted(path for path in REAL.iterdir() if path.is_dir())):
        for role, folder in (
            ("sar", "s1"),
            ("reference", "s2"),
            ("optical", "s2_cloudy"),
            ("label", "land_cover_maps"),
        ):
            image = raster.read(scene / f"{role}.tif")
            pixels = image.pixels_CHW + np.uint16(1000 * (n % 2)) if folder.startswith("s2") else image.pixels_CHW
            corner = image.grid.transform
            path = luojia_path(root, BINS[n % 5], folder, "01", n)
            write(path, pixels, at=(corner.c, corner.f), gsd=10, crs=str(image.grid.crs))
    assert run("catalog", "luojiaset_osfcr", root).exit_code == 0
    assert {reason for _, reason in refused().values()} == {
        "no file in cloud_detection_results; the sample goes on without"
    }
    numbered = {int(name.rpartition("_p")[2]): row for name, row in rows().iterrows()}
    for n, row in numbered.items():
        for role in ("optical", "reference"):
            assert row[role].endswith(f"&offset={-1000 * (n % 2)}"), (n, role)
