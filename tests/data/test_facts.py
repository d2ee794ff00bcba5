"""Facts about hand-made scenes of 64 px, with values worked by hand."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cgm2net.compute import Facts, SceneJob
from cgm2net.data import facts as module
from cgm2net.data.facts import scene_facts

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
UTM = "EPSG:32631"
ANONYMOUS = 'LOCAL_CS["unknown",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'

# Reflectance x 10000 in the order of BANDS: rounded values of common spectra, not measurements.
SURFACES = {
    "vegetation": (400, 700, 400, 4000, 2000, 1000),
    "water": (600, 500, 300, 150, 60, 40),
    "hazy water": (1800, 1500, 1200, 900, 500, 400),
    "snow": (9000, 9000, 8800, 8000, 800, 600),
    "shaded snow": (2500, 1800, 1500, 1200, 100, 80),
    "sand": (1300, 1800, 2600, 3200, 4200, 3700),
    "red soil": (400, 700, 1500, 2200, 3400, 3000),
    "salt": (3500, 4000, 4300, 4500, 3500, 2500),
    "cloud": (6000, 5900, 5900, 6200, 5000, 4000),
}


def write(
    path: Path,
    pixels_CHW: np.ndarray,
    bands: tuple[str, ...],
    *,
    crs: str | None = UTM,
    x_px: float = 0,
    gsd: float = 10.0,
    **options: object,
) -> Path:
    transform = Affine(gsd, 0, 500_000 + 10 * x_px, 0, -gsd, 5_000_000)
    profile = {
        "driver": "GTiff", "count": len(bands), "height": pixels_CHW.shape[1], "width": pixels_CHW.shape[2],
        "dtype": pixels_CHW.dtype.name, "crs": crs, "transform": transform,
        "tiled": True, "blockxsize": 16, "blockysize": 16, **options,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels_CHW)
        file.descriptions = bands
    return path


def land(*names: str, rng: np.random.Generator | None = None, add: int = 0) -> np.ndarray:
    """Return uint16 (6, 64, 64): vertical stripes of equal width of the named surfaces."""
    stripe_W = np.arange(64) * len(names) // 64
    pixels = np.array([SURFACES[name] for name in names]).T[:, stripe_W]
    pixels_CHW = np.repeat(pixels[:, None], 64, axis=1) + add
    noise = rng.integers(-20, 21, pixels_CHW.shape) if rng else 0
    return (pixels_CHW + noise).astype(np.uint16)


def decibel(mean: float = -12.0) -> np.ndarray:
    return np.random.default_rng(1).normal(mean, 2.0, (2, 64, 64)).astype(np.float32)


def look(folder: Path, files: Mapping[str, Path], *, optical_day: str = "", sar_day: str = "") -> Facts:
    parameters: dict[str, object] = {"roles": list(files), "acquired_optical": optical_day, "acquired_sar": sar_day}
    inputs = {role: path for role, path in files.items() if path.exists()}
    return scene_facts(SceneJob(scene_id="a", parameters=parameters, inputs=inputs), folder)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    return {
        "optical": write(tmp_path / "optical.tif", land("vegetation", "water", "cloud", rng=rng), BANDS, nodata=0),
        "sar": write(tmp_path / "sar.tif", decibel(), ("VV", "VH"), nodata=np.nan),
        "reference": write(tmp_path / "reference.tif", land("vegetation", "water", rng=rng), BANDS, nodata=0),
    }


def test_good_scene_has_nothing_against_it(files: dict[str, Path], tmp_path: Path) -> None:
    facts = look(tmp_path, files)
    for column in ("unreadable", "without_crs", "identical_files", "offset_suspected", "wrong_dates"):
        assert facts[column] == ""
    assert (facts["overlap_share"], facts["gsd_ratio"], facts["swapped_share"]) == (1.0, 1.0, 0.0)
    assert facts["gap_days"] is None
    assert facts["label_max_code"] is None
    assert facts["sar_bands"] == "VV VH"


def test_counts_and_quantiles(files: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.arange(1, 4097, dtype=np.uint16).reshape(1, 64, 64).repeat(6, axis=0)
    pixels[:, :16] = 0  # a wedge: 16 of 64 rows, the values 1 to 1024
    pixels[0, 20, 20] = 0  # one dark pixel in one band is a measurement
    write(files["optical"], pixels, BANDS, nodata=0)
    facts = look(tmp_path, files)
    held = facts["files"]
    assert isinstance(held, dict)
    assert (facts["nodata_role"], facts["nodata_share"]) == ("optical", 0.25)
    # 3072 values 1025 … 4096: the p-quantile lies at 1025 + p * 3071
    assert held["optical"]["quantiles"]["B03"] == pytest.approx([1055.71, 2560.5, 4065.29])
    assert held["optical"]["num_sampled"] == 3072
    assert held["optical"]["spread"]["B03"] == pytest.approx(
        [1055.71, *(1025 + share / 10 * 3071 for share in range(1, 10)), 4065.29]
    )
    assert held["optical"]["counts"] == {}
    assert (held["optical"]["crs"], held["optical"]["pixel_size"]) == ("EPSG:32631", [10.0, 10.0])


def test_pixels_of_each_class_are_counted(files: dict[str, Path], tmp_path: Path) -> None:
    codes = np.full((1, 64, 64), 2, np.uint8)
    codes[0, :16] = 255
    codes[0, 16:20, :10] = 0
    write(tmp_path / "label.tif", codes, ("label",), nodata=255)
    held = look(tmp_path, {**files, "label": tmp_path / "label.tif"})["files"]
    assert isinstance(held, dict)
    assert held["label"]["counts"] == {"0": 40, "2": 3032, "255": 1024}


def test_nan_is_no_measurement(files: dict[str, Path], tmp_path: Path) -> None:
    pixels = decibel()
    pixels[0, :32] = np.nan
    write(files["sar"], pixels, ("VV", "VH"), nodata=np.nan)
    facts = look(tmp_path, files)
    held = facts["files"]
    assert isinstance(held, dict)
    assert (facts["nodata_role"], facts["nodata_share"]) == ("sar", 0.5)
    assert held["sar"]["nonfinite_share"] == 0.25


@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("kept", [0.05, 0.6, 0.97])
def test_truncated_file_is_found_and_named(files: dict[str, Path], tmp_path: Path, compress: str, kept: float) -> None:
    path = write(files["optical"], land("vegetation", rng=np.random.default_rng(0)), BANDS, compress=compress)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    facts = look(tmp_path, files)
    assert str(facts["unreadable"]).startswith("optical: ")
    assert str(tmp_path) not in str(facts["unreadable"])
    assert facts["optical_bands"] is None
    assert facts["overlap_share"] is None
    assert facts["sar_bands"] == "VV VH"


def test_broken_block_behind_a_good_header_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    path = write(files["reference"], land("vegetation", rng=np.random.default_rng(0)), BANDS, compress="deflate")
    with rasterio.open(path) as file:
        start = int(file.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[start : start + 16] = bytes(16)
    path.write_bytes(content)
    assert str(look(tmp_path, files)["unreadable"]).startswith("reference: ")


def test_absent_and_complex_files_are_unreadable(files: dict[str, Path], tmp_path: Path) -> None:
    files["optical"].unlink()
    write(files["sar"], np.ones((2, 64, 64), np.complex64), ("VV", "VH"))
    facts = look(tmp_path, files)
    assert "optical: there is no such file; sar: holds complex64 values" in str(facts["unreadable"])
    assert facts["sar_median"] is None


@pytest.mark.parametrize(
    ("crs", "share"),
    [(UTM, 0.75), ("EPSG:32635", 0.0), ("EPSG:32731", 0.0), ("EPSG:4326", 0.0), (ANONYMOUS, 0.0)],
)
def test_overlap_of_a_file_16_px_to_the_east(files: dict[str, Path], tmp_path: Path, crs: str, share: float) -> None:
    write(files["sar"], decibel(), ("VV", "VH"), crs=crs, x_px=16)
    facts = look(tmp_path, files)
    assert facts["overlap_role"] == "sar"
    assert facts["overlap_share"] == pytest.approx(share)


def test_pixel_sizes_are_compared(files: dict[str, Path], tmp_path: Path) -> None:
    write(files["sar"], decibel(), ("VV", "VH"), gsd=25.0)
    assert look(tmp_path, files)["gsd_ratio"] == pytest.approx(2.5)


def test_missing_crs_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    write(files["reference"], land("vegetation"), BANDS, crs=None)
    facts = look(tmp_path, files)
    assert facts["without_crs"] == "reference"
    assert facts["overlap_share"] == 1.0  # of SAR: the reference cannot be judged


def test_same_pixels_are_found_under_other_compression(files: dict[str, Path], tmp_path: Path) -> None:
    with rasterio.open(files["optical"]) as file:
        pixels = file.read()
    write(files["reference"], pixels, BANDS, nodata=0, compress="deflate")
    assert look(tmp_path, files)["identical_files"] == "optical = reference"


def test_constant_masks_may_be_equal(files: dict[str, Path], tmp_path: Path) -> None:
    blank = np.zeros((1, 64, 64), np.uint8)
    for role in ("label", "cloud"):
        files[role] = write(tmp_path / f"{role}.tif", blank, (role,))
    assert look(tmp_path, files)["identical_files"] == ""
    blank[0, 0, 0] = 1
    for role in ("label", "cloud"):
        write(files[role], blank, (role,))
    assert look(tmp_path, files)["identical_files"] == "label = cloud"


def test_label_codes(files: dict[str, Path], tmp_path: Path) -> None:
    codes = np.full((1, 64, 64), 255, np.uint8)
    codes[0, 0, :3] = (0, 9, 3)
    facts = look(tmp_path, {**files, "label": write(tmp_path / "label.tif", codes, ("label",), nodata=255)})
    assert (facts["label_codes"], facts["label_max_code"]) == ("0 3 9", 9)
    assert facts["nodata_share"] == 0.0  # unknown labels are no missing measurement
    facts = look(tmp_path, {**files, "label": write(tmp_path / "label.tif", codes / 2, ("label",))})
    assert (facts["label_codes"], facts["label_max_code"]) == ("1 bands of float64", -1)


@pytest.mark.parametrize(
    ("optical_day", "sar_day", "gap", "wrong"),
    [
        ("2024-07-05", "2024-07-06T12:00:00Z", 1.5, ""),
        ("2024-07-05T12:00:00+02:00", "2024-07-05T10:00:00Z", 0.0, ""),
        ("2024-07-05", "", None, ""),
        ("05/07/2024", "2024-07-05", None, "acquired_optical '05/07/2024'"),
        ("2024-02-30", "summer", None, "acquired_optical '2024-02-30'; acquired_sar 'summer'"),
    ],
)
def test_dates(
    files: dict[str, Path], tmp_path: Path, optical_day: str, sar_day: str, gap: float | None, wrong: str
) -> None:
    facts = look(tmp_path, files, optical_day=optical_day, sar_day=sar_day)
    assert facts["gap_days"] == (None if gap is None else pytest.approx(gap))
    assert facts["wrong_dates"] == wrong


@given(day=st.dates(date(2015, 1, 1), date(2030, 1, 1)), gap=st.integers(-400, 400))
def test_gap_does_not_depend_on_which_came_first(day: date, gap: int) -> None:
    days = {"acquired_optical": str(day), "acquired_sar": str(day + timedelta(gap))}
    assert module._dates(days)["gap_days"] == abs(gap)


def test_sar_level(files: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.stack([np.full((64, 64), -9.0), np.full((64, 64), -16.0)]).astype(np.float32)
    pixels[:, 0] = 3.0  # bright corners of buildings do not count
    write(files["sar"], pixels, ("VV", "VH"))
    assert look(tmp_path, files)["sar_median"] == -9.0
    write(files["sar"], (10 ** (pixels / 10)).astype(np.float32), ("VV", "VH"))
    assert look(tmp_path, files)["sar_median"] == pytest.approx(0.125893, abs=1e-6)


@pytest.mark.parametrize(
    ("clear", "add", "suspected"),
    [
        (("vegetation", "water"), 1000, "reference: dark end of its darkest band is"),
        (("vegetation",), 1000, "reference: dark end of its darkest band is"),
        (("vegetation", "water"), 0, ""),
        (("vegetation",), 0, ""),
        (("sand",), 0, ""),
        (("salt", "sand"), 0, ""),
        (("snow",), 0, ""),
        (("cloud",), 0, ""),
        (("red soil",), 0, ""),
    ],
)
def test_offset_in_the_clear_image(
    files: dict[str, Path], tmp_path: Path, clear: tuple[str, ...], add: int, suspected: str
) -> None:
    rng = np.random.default_rng(0)
    write(files["optical"], land("cloud", rng=rng, add=add), BANDS)
    write(files["reference"], land(*clear, rng=rng, add=add), BANDS)
    found = str(look(tmp_path, files)["offset_suspected"])
    assert found.startswith(suspected)
    assert bool(found) == bool(suspected)


def test_offset_in_the_cloudy_image_alone(files: dict[str, Path], tmp_path: Path) -> None:
    write(files["optical"], land("vegetation", "cloud", "water", add=1000), BANDS)
    assert str(look(tmp_path, files)["offset_suspected"]).startswith("optical: dark ends of all bands lie 10")
    # haze is no offset: it adds much in blue and little in SWIR
    haze_CHW = np.array([1400, 1100, 800, 500, 200, 150])[:, None, None] + land("vegetation", "water")
    write(files["optical"], haze_CHW.astype(np.uint16), BANDS)
    assert look(tmp_path, files)["offset_suspected"] == ""


@pytest.mark.parametrize(("b10", "suspected"), [(12, False), (1009, True), (2200, False)])
def test_b10_decides_on_the_offset(files: dict[str, Path], tmp_path: Path, b10: int, suspected: bool) -> None:
    bright = np.concatenate([land("sand", rng=np.random.default_rng(0)), np.full((1, 64, 64), b10, np.uint16)])
    write(files["reference"], bright, (*BANDS, "B10"))
    assert ("dark end of B10 is 1009 DN" in str(look(tmp_path, files)["offset_suspected"])) == suspected


SWAPPED = ("B08", "B03", "B04", "B02", "B11", "B12")


@pytest.mark.parametrize("role", ["optical", "reference"])
def test_swapped_bands_are_seen_in_vegetation(files: dict[str, Path], tmp_path: Path, role: str) -> None:
    write(files[role], land("vegetation", "cloud", "water", "cloud"), SWAPPED)
    facts = look(tmp_path, files)
    assert (facts["swapped_role"], facts["swapped_share"]) == (role, 0.25)


@pytest.mark.parametrize("bands", [("B02", "B03", "B04", "B08"), ("B02", "B03", "B04", "B12")])
def test_band_order_is_not_judged_without_neighbours_of_nir(
    files: dict[str, Path], tmp_path: Path, bands: tuple[str, ...]
) -> None:
    for role in ("optical", "reference"):
        write(
            files[role], land("vegetation", role.replace("optical", "cloud").replace("reference", "water"))[:4], bands
        )
    assert look(tmp_path, files)["swapped_share"] is None


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    surface=st.sampled_from(sorted(SURFACES)),
    light=st.floats(0.2, 1.3),
    veil=st.floats(0.0, 1.0),
    cloud=st.floats(2000, 9000),
)
def test_nothing_natural_looks_swapped(
    files: dict[str, Path], tmp_path: Path, surface: str, light: float, veil: float, cloud: float
) -> None:
    """Any surface, in sun or shade, under any white veil."""
    pixels = (1 - veil) * light * land(surface) + veil * cloud
    write(files["reference"], pixels.astype(np.uint16), BANDS)
    assert look(tmp_path, files)["swapped_share"] == 0.0


def test_facts_do_not_depend_on_the_windows(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAMPLE_PX", 100)  # every 7th row and column
    whole = look(tmp_path, files)
    monkeypatch.setattr(module, "_WINDOW_PX", 24)
    assert look(tmp_path, files) == whole
    held = whole["files"]
    assert isinstance(held, dict)
    assert held["optical"]["num_sampled"] == 10 * 10
