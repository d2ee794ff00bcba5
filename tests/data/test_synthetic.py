import hashlib
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.warp import transform_bounds
from scipy import ndimage

from cgm2net import raster
from cgm2net.catalog import COLUMNS, FILE_ROLES
from cgm2net.data import synthetic
from cgm2net.data.scenery import clouds, radiometry
from cgm2net.data.scenery.landscape import make_landscape
from cgm2net.data.synthetic import SceneSpec
from cgm2net.errors import FetchError

FOREST, RANGELAND, AGRICULTURE, URBAN, BARREN, WATER = range(6)
BLUE, GREEN, RED, NIR = range(4)


def _spec(**changes: object) -> SceneSpec:
    values = {"region": 3, "date": date(2024, 7, 5), "size_px": 160, "cover": 0.4} | changes
    return SceneSpec.model_validate(values)


def _reflectance(spec: SceneSpec, role: str = "reference") -> np.ndarray:
    return np.asarray(synthetic.render(spec)[role].pixels_CHW / 10_000.0)


def _label(spec: SceneSpec) -> np.ndarray:
    return np.asarray(synthetic.render(spec)["label"].pixels_CHW[0])


def _sar_power(spec: SceneSpec) -> np.ndarray:
    """Linear power cut to the pixels nearest to the optical ones."""
    margin = synthetic.SAR_MARGIN_PX
    db = synthetic.render(spec)["sar"].pixels_CHW[:, margin:-margin, margin:-margin]
    return np.power(10.0, db / 10.0, dtype=np.float64)


@pytest.fixture(scope="module")
def sample() -> list[dict[str, str]]:
    return synthetic.sample_catalog(num_regions=12, scenes_per_region=2, size_px=96, seed=0)


@given(
    role=st.sampled_from(FILE_ROLES),
    region=st.integers(0, 9999),
    day=st.dates(date(2015, 1, 1), date(2035, 12, 31)),
    seed=st.integers(0, 2**31 - 1),
    cover=st.floats(0, 0.95),
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    looks=st.floats(0.6, 1e6),
    sar_days=st.integers(-60, 60),
    wedge=st.sampled_from(["none", "optical", "sar"]),
    defect=st.sampled_from(["none", *synthetic.DEFECTS]),
)
def test_uri_names_role_and_spec_and_nothing_else(role: str, day: date, **values: object) -> None:
    spec = SceneSpec.model_validate({"date": day, **values})
    assert synthetic.parse(synthetic.uri(role, spec)) == (role, spec)


def test_uri_reads_as_documented() -> None:
    role, spec = synthetic.parse("synthetic:sar?region=3&date=2024-07-05&seed=0&size_px=384&cover=0.5&shift=1.30,-0.70")
    assert role == "sar"
    assert (spec.region, spec.date, spec.cover, spec.shift) == (3, date(2024, 7, 5), 0.5, (1.3, -0.7))
    assert synthetic.uri("sar", spec) == "synthetic:sar?region=3&date=2024-07-05&cover=0.5&shift=1.3,-0.7"


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("file:optical?region=3&date=2024-07-05", "expected synthetic:ROLE"),
        ("synthetic:dem?region=3&date=2024-07-05", "expected synthetic:ROLE"),
        ("synthetic://optical?region=3&date=2024-07-05", "expected synthetic:ROLE"),
        ("synthetic:sar?region=3&date=2024-07-05&colour=red", "colour"),
        ("synthetic:sar?region=3&date=2024-07-05&cover=1.5", "cover"),
        ("synthetic:sar?region=3&date=2024-07-05&cover=nan", "cover"),
        ("synthetic:sar?region=3&date=2024-07-05&shift=5,0", "shift"),
        ("synthetic:sar?region=3&date=2024-07-05&shift=1", "shift"),
        ("synthetic:sar?region=3&date=2024-13-05", "date"),
        ("synthetic:sar?region=3", "date"),
        ("synthetic:sar?region=3&region=4&date=2024-07-05", "twice"),
    ],
)
def test_uri_that_is_not_understood_is_refused(uri: str, fault: str) -> None:
    with pytest.raises(FetchError, match=fault):
        synthetic.parse(uri)


def test_same_uri_same_bytes_in_another_process(tmp_path: Path) -> None:
    spec = _spec(size_px=64, shift=(1.3, -0.7), wedge="sar")
    uris = [synthetic.uri(role, spec) for role in FILE_ROLES]
    for uri, role in zip(uris, FILE_ROLES, strict=True):
        synthetic.write(uri, tmp_path / role)
    script = (
        "import sys\nfrom pathlib import Path\nfrom cgm2net.data import synthetic\n"
        "for k, uri in enumerate(sys.argv[2:]): synthetic.write(uri, Path(sys.argv[1]) / str(k))"
    )
    # Asked for in another order, so that nothing may hang on what was rendered before.
    subprocess.run([sys.executable, "-c", script, str(tmp_path), *reversed(uris)], check=True, timeout=60)
    for k, role in enumerate(reversed(FILE_ROLES)):
        here, there = ((tmp_path / name).read_bytes() for name in (role, str(k)))
        assert hashlib.sha256(here).hexdigest() == hashlib.sha256(there).hexdigest(), role


@pytest.mark.parametrize("changes", [{"seed": 1}, {"region": 4}, {"date": date(2024, 7, 6)}])
def test_seed_region_and_date_each_change_the_image(changes: dict[str, object]) -> None:
    one, other = (synthetic.render(_spec(size_px=64, **c))["optical"].pixels_CHW for c in ({}, changes))
    assert (one != other).mean() > 0.5


def test_scenes_of_a_region_share_its_landscape() -> None:
    summer, autumn = _spec(size_px=64), _spec(size_px=64, date=date(2024, 10, 20), cover=0.1, shift=(2.0, 1.0))
    assert_array_equal(_label(summer), _label(autumn))


def test_rasters_are_what_the_catalogue_promises() -> None:
    spec = _spec(shift=(1.3, -0.7))
    rasters = synthetic.render(spec)
    assert tuple(sorted(rasters)) == tuple(sorted(FILE_ROLES))
    optical, sar = rasters["optical"], rasters["sar"]
    assert optical.bands == rasters["reference"].bands == ("B02", "B03", "B04", "B08", "B11", "B12")
    assert optical.pixels_CHW.dtype == np.uint16
    assert optical.pixels_CHW.min() >= 1
    assert sar.bands == ("VV", "VH")
    assert sar.pixels_CHW.dtype == np.float32
    assert optical.grid == rasters["label"].grid == rasters["cloud"].grid == rasters["reference"].grid
    assert set(np.unique(rasters["label"].pixels_CHW)) <= set(range(6))
    assert set(np.unique(rasters["cloud"].pixels_CHW)) == {0, 1}


def test_sar_grid_is_its_own_and_covers_the_optical_one() -> None:
    spec = _spec()
    optical, sar = synthetic.optical_grid(spec), synthetic.sar_grid(spec)
    assert optical.crs == sar.crs
    assert optical.extent.boundingbox.left > sar.extent.boundingbox.left + 40
    assert optical.extent.boundingbox.right < sar.extent.boundingbox.right - 40
    fraction = ((optical.transform.c - sar.transform.c) / 10) % 1
    assert 0.05 < fraction < 0.95


def test_every_class_has_a_usable_share() -> None:
    labels = [make_landscape(np.random.default_rng(k), size_px=384).label_HW for k in range(6)]
    shares = np.array([np.bincount(label.ravel(), minlength=6) / label.size for label in labels])
    assert (shares.mean(axis=0) > 0.03).all()
    assert (shares > 0.005).all()
    assert shares.max() < 0.6


def test_classes_form_objects() -> None:
    # Shuffled labels of these shares would agree with their neighbour in about a fifth of all cases.
    label = _label(_spec())
    assert (label[:, 1:] == label[:, :-1]).mean() > 0.85


def test_summer_spectra_are_in_their_order() -> None:
    spec = _spec(date=date(2024, 6, 10), size_px=256)
    reflectance, label = _reflectance(spec), _label(spec)
    mean = {k: reflectance[:, ndimage.binary_erosion(label == k, iterations=2)].mean(axis=1) for k in range(6)}
    assert mean[WATER][NIR] < 0.05
    assert mean[FOREST][NIR] > 5 * mean[WATER][NIR]
    ndvi = {k: (m[NIR] - m[RED]) / (m[NIR] + m[RED]) for k, m in mean.items()}
    assert ndvi[FOREST] > 0.6
    assert ndvi[RANGELAND] > 0.4
    assert ndvi[BARREN] < 0.25
    assert mean[BARREN][RED] > mean[URBAN][RED] > mean[FOREST][RED]


def test_leaves_fall_and_fields_are_bare_for_a_season() -> None:
    def ndvi(day: date, code: int) -> np.ndarray:
        spec = _spec(date=day, reference_days=0)
        r = _reflectance(spec)
        return np.asarray(((r[NIR] - r[RED]) / (r[NIR] + r[RED]))[_label(spec) == code])

    change = ndvi(date(2024, 7, 5), FOREST) - ndvi(date(2024, 12, 20), FOREST)
    assert (change > 0.25).mean() > 0.1  # broadleaf
    assert (change < 0.1).mean() > 0.1  # conifer
    october = ndvi(date(2024, 10, 20), AGRICULTURE)
    assert (october < 0.3).mean() > 0.3
    assert (october > 0.4).mean() > 0.02


def test_backscatter_is_in_its_order() -> None:
    spec = _spec(size_px=256)
    power, label = _sar_power(spec), _label(spec)
    db = {k: 10 * np.log10(power[:, ndimage.binary_erosion(label == k, iterations=3)].mean(axis=1)) for k in range(6)}
    assert db[URBAN][0] > db[WATER][0] + 8
    assert db[FOREST][1] > db[AGRICULTURE][1]
    assert db[RANGELAND][1] > db[BARREN][1] > db[WATER][1]
    assert all(vv > vh + 3 for vv, vh in db.values())


@pytest.mark.parametrize("looks", [1.0, 4.4, 20.0])
def test_speckle_has_the_looks_asked_for(looks: float) -> None:
    speckle = radiometry.speckle(np.random.default_rng(0), (2, 300, 300), looks=looks)
    assert speckle.mean() == pytest.approx(1, abs=0.02)
    assert speckle.mean() ** 2 / speckle.var() == pytest.approx(looks, rel=0.06)
    neighbours = np.corrcoef(speckle[0, :, 1:].ravel(), speckle[0, :, :-1].ravel())[0, 1]
    assert 0.3 < neighbours < 0.65


def test_sar_image_shows_the_looks_of_its_scene() -> None:
    # Divided by the image of the same day with hardly any speckle, so that the ground does not count.
    speckle = (_sar_power(_spec()) / _sar_power(_spec(looks=1e6)))[0]
    assert speckle.mean() ** 2 / speckle.var() == pytest.approx(4.4, rel=0.08)


@pytest.mark.parametrize("shift", [(3.0, 0.0), (0.0, -2.0), (1.25, 2.5)])
def test_shift_moves_sar_content_right_and_down(shift: tuple[float, float]) -> None:
    still, moved = (
        synthetic.render(_spec(looks=1e6, shift=s))["sar"].pixels_CHW[0].astype(float) for s in ((0.0, 0.0), shift)
    )
    # scipy.ndimage.shift moves content down and right; what it wraps in at the border is cut away.
    back = ndimage.shift(moved, (-shift[1], -shift[0]), order=1)[6:-6, 6:-6]
    forth = ndimage.shift(moved, (shift[1], shift[0]), order=1)[6:-6, 6:-6]
    error, wrong_sign = (np.abs(image - still[6:-6, 6:-6]).mean() for image in (back, forth))
    assert error < 0.6
    assert error < wrong_sign / 2


def test_sar_without_shift_lies_on_the_optical_label() -> None:
    spec = _spec(looks=1e6, size_px=256)
    rasters = synthetic.render(spec)
    sar = raster.warp(rasters["sar"], rasters["label"].grid, resampling=Resampling.bilinear, fill=float("nan"))
    assert sar.valid_HW.all()
    dark = sar.pixels_CHW[0] < -15.5
    water = rasters["label"].pixels_CHW[0] == WATER
    agreement = {(y, x): (np.roll(dark, (y, x), (0, 1)) == water).mean() for y in range(-2, 3) for x in range(-2, 3)}
    assert max(agreement, key=lambda at: agreement[at]) == (0, 0)


@pytest.mark.parametrize("cover", [0.0, 0.1, 0.5, 0.9])
def test_cover_is_close_to_the_one_asked_for(cover: float) -> None:
    for region in range(2):
        mask = synthetic.render(_spec(region=region, cover=cover))["cloud"].pixels_CHW
        assert mask.mean() == pytest.approx(cover, abs=0.03)


def test_clouds_go_from_haze_to_opaque_and_are_white() -> None:
    spec = _spec(size_px=256, cover=0.6)
    layer = clouds.make_clouds(np.random.default_rng(1), size_px=256, cover=0.6, sun=radiometry.sun_at(spec.date))
    through = layer.transmittance()
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        assert ((through >= low) & (through < high)).mean() > 0.02
    seen = clouds.see_through(np.full((6, 256, 256), 0.1, np.float32), layer)
    opaque = through < 0.05
    assert seen[BLUE][opaque].mean() > 0.5
    assert seen[BLUE][opaque].mean() == pytest.approx(seen[RED][opaque].mean(), rel=0.1)


def test_haze_brightens_blue_more_than_infrared() -> None:
    none, haze = np.zeros((1, 1), np.float32), np.full((1, 1), 0.3, np.float32)
    layer = clouds.CloudLayer(thickness_HW=none, haze_HW=haze, shaded_HW=none, sheen_HW=none + 1)
    added = clouds.see_through(np.full((6, 1, 1), 0.05, np.float32), layer)[:, 0, 0] - 0.05
    # Blue: 0.05 exp(-0.3) + 0.34 (1 - exp(-0.3)) = 0.1252.
    assert added[BLUE] == pytest.approx(0.0752, abs=1e-4)
    assert added[BLUE] > added[GREEN] > added[RED] > added[NIR] > added[5] > 0


def test_shadow_lies_away_from_the_sun() -> None:
    sun = radiometry.sun_at(date(2024, 7, 5))
    assert np.pi / 2 < sun.azimuth < np.pi  # mid-morning, from the south-east
    dx, dy = clouds.shadow_offset(sun, height_m=1000)
    assert dx < 0 > dy  # so to the north-west: left and up
    assert np.hypot(dx, dy) == pytest.approx(100 * np.tan(sun.zenith), abs=1)

    layer = clouds.make_clouds(np.random.default_rng(5), size_px=256, cover=0.25, sun=sun)
    opaque, shaded = layer.thickness_HW, layer.shaded_HW
    spectrum = np.fft.fft2(shaded - shaded.mean()) * np.conj(np.fft.fft2(opaque - opaque.mean()))
    row, column = np.unravel_index(np.fft.ifft2(spectrum).real.argmax(), opaque.shape)
    down, right = (int(k) if k < 128 else int(k) - 256 for k in (row, column))
    toward_sun = right * np.sin(sun.azimuth) - down * np.cos(sun.azimuth)
    assert toward_sun < -5


def test_mask_covers_what_clouds_change() -> None:
    spec = _spec(size_px=256, reference_days=0)
    cloudy, clear = (_reflectance(spec, role) for role in ("optical", "reference"))
    mask = synthetic.render(spec)["cloud"].pixels_CHW[0] == 1
    change = np.abs(cloudy - clear).mean(axis=0)
    assert change[~mask].mean() < 0.03
    assert change[mask].mean() > 5 * change[~mask].mean()


@pytest.mark.parametrize("region", [0, 1, 2])
def test_reference_differs_a_little_from_what_is_clear(region: int) -> None:
    spec = _spec(region=region, cover=0.2, size_px=256)
    mask = synthetic.render(spec)["cloud"].pixels_CHW[0] == 1
    difference = np.abs(_reflectance(spec, "optical") - _reflectance(spec))[:, ~mask]
    # As on real pairs some days apart: 0.005-0.04 on average, far below a cloud's 0.3.
    assert 0.005 < difference.mean() < 0.04
    assert (difference.max(axis=0) > 0.1).mean() < 0.2


@pytest.mark.parametrize("role", ["optical", "sar"])
def test_wedge_is_nodata_beyond_a_straight_edge(role: str, tmp_path: Path) -> None:
    spec = _spec(wedge=role)
    synthetic.write(synthetic.uri(role, spec), tmp_path / "x.tif")
    read = raster.read(tmp_path / "x.tif")
    assert 0.05 < 1 - read.valid_HW.mean() < 0.17
    assert_array_equal(read.valid_HW, synthetic.render(spec)[role].valid_HW)
    with rasterio.open(tmp_path / "x.tif") as file:
        assert file.nodata == 0 if role == "optical" else np.isnan(file.nodata)
    # In each row the nodata is one run at one end.
    assert all(np.count_nonzero(np.diff(row.astype(int))) <= 1 for row in read.valid_HW)
    other = "sar" if role == "optical" else "optical"
    assert synthetic.render(spec)[other].valid_HW.all()


def test_broken_crs_does_not_overlap(tmp_path: Path) -> None:
    spec = _spec(size_px=64, defect="wrong_crs")
    for role in ("optical", "sar"):
        synthetic.write(synthetic.uri(role, spec), tmp_path / role)
    optical, sar = (raster.read_grid(tmp_path / role) for role in ("optical", "sar"))
    assert optical.crs != sar.crs
    box = optical.extent.boundingbox
    left, _, _, _ = transform_bounds(str(optical.crs), str(sar.crs), box.left, box.bottom, box.right, box.top)
    assert left > sar.extent.boundingbox.right + 100_000


def test_broken_offset_adds_1000() -> None:
    good, broken = (synthetic.render(_spec(size_px=64, defect=d)) for d in ("none", "offset_1000"))
    for role in ("optical", "reference"):
        assert_array_equal(broken[role].pixels_CHW, good[role].pixels_CHW + np.uint16(1000))
    assert broken["reference"].pixels_CHW.min() > 1000


def test_broken_bands_have_vegetation_bluer_than_infrared() -> None:
    ratio = {}
    for defect in ("none", "bands_swapped"):
        spec = _spec(defect=defect, cover=0.2)
        r = _reflectance(spec, "optical")
        ratio[defect] = (r[NIR] < r[BLUE])[np.isin(_label(spec), (FOREST, RANGELAND, AGRICULTURE))].mean()
    assert ratio["none"] < 0.3
    assert ratio["bands_swapped"] > 0.7
    assert synthetic.render(_spec(defect="bands_swapped"))["optical"].bands[BLUE] == "B02"  # under the right names


def test_broken_file_is_cut_and_cannot_be_read(tmp_path: Path) -> None:
    sizes = {}
    for defect in ("none", "truncated"):
        path = tmp_path / defect
        synthetic.write(synthetic.uri("optical", _spec(size_px=64, defect=defect)), path)
        sizes[defect] = path.stat().st_size
    assert sizes["truncated"] == sizes["none"] * 6 // 10
    with pytest.raises(RasterioIOError), rasterio.open(tmp_path / "truncated") as file:
        file.read()
    synthetic.write(synthetic.uri("sar", _spec(size_px=64, defect="truncated")), tmp_path / "truncated")
    assert raster.read(tmp_path / "truncated").bands == ("VV", "VH")  # only the optical file is cut


def test_broken_sar_is_linear_power() -> None:
    good, broken = (synthetic.render(_spec(size_px=64, defect=d))["sar"] for d in ("none", "sar_linear"))
    assert broken.pixels_CHW.min() > 0
    np.testing.assert_allclose(10 * np.log10(broken.pixels_CHW), good.pixels_CHW, atol=1e-3)


def test_broken_reference_is_the_cloudy_file(tmp_path: Path) -> None:
    spec = _spec(size_px=64, defect="reference_identical")
    for role in ("optical", "reference"):
        synthetic.write(synthetic.uri(role, spec), tmp_path / role)
    assert (tmp_path / "optical").read_bytes() == (tmp_path / "reference").read_bytes()


def test_sample_has_good_scenes_first_then_one_of_each_defect(sample: list[dict[str, str]]) -> None:
    assert all(tuple(row) == COLUMNS for row in sample)
    ids = [row["scene_id"] for row in sample]
    assert len(set(ids)) == len(ids) == 12 * 2 + 1 + len(synthetic.DEFECTS)
    specs = [synthetic.parse(row["optical"])[1] for row in sample]
    good, broken = specs[:25], specs[25:]
    assert all(spec.defect == "none" for spec in good)
    assert tuple(spec.defect for spec in broken) == synthetic.DEFECTS
    assert ids[25:] == [f"broken-{defect.replace('_', '-')}" for defect in synthetic.DEFECTS]
    assert not {spec.region for spec in good} & {spec.region for spec in broken}
    assert len({spec.region for spec in broken}) == len(broken)


def test_sample_spreads_cover_season_and_shift(sample: list[dict[str, str]]) -> None:
    good = [synthetic.parse(row["sar"])[1] for row in sample[:24]]
    covers = sorted(spec.cover for spec in good)
    assert covers[0] == pytest.approx(0.1)
    assert covers[-1] == pytest.approx(0.85)
    assert max(np.diff(covers)) < 0.05
    assert len({spec.shift for spec in good}) == 24
    assert {spec.wedge for spec in good} == {"none", "optical", "sar"}
    for first, second in zip(good[::2], good[1::2], strict=True):
        assert first.region == second.region
        assert second.date - first.date > timedelta(20)
    overcast = synthetic.parse(sample[24]["optical"])[1]
    assert overcast.cover == 0.9


def test_sample_rows_agree_with_their_uris(sample: list[dict[str, str]]) -> None:
    with_cloud = [bool(row["cloud"]) for row in sample]
    assert 0.4 < np.mean(with_cloud) < 0.6
    for row in sample:
        specs = {synthetic.parse(row[role])[1] for role in FILE_ROLES if row[role]}
        assert len(specs) == 1
        spec = specs.pop()
        assert row["region"] == f"r{spec.region:02d}"
        assert row["acquired_optical"].startswith(str(spec.date))
        assert row["acquired_sar"].startswith(str(spec.date + timedelta(spec.sar_days)))
    assert sample == synthetic.sample_catalog(num_regions=12, scenes_per_region=2, size_px=96, seed=0)
    assert sample != synthetic.sample_catalog(num_regions=12, scenes_per_region=2, size_px=96, seed=1)
