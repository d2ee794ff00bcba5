"""The stage ``coregister`` on synthetic scenes whose shift is known, and on real ones where a folder is given."""

import hashlib
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from cgm2net import raster
from cgm2net.catalog import COLUMNS, FILE_ROLES, read_catalog, read_scenes, write_scenes
from cgm2net.data import synthetic
from cgm2net.data.clear import clear_ground
from cgm2net.data.coregister import CoregisterReport, coregister
from cgm2net.data.shift import measure_shift
from cgm2net.data.stored import Placed
from cgm2net.data.synthetic import SceneSpec
from cgm2net.grids import whole
from cgm2net.raster import Raster
from cgm2net.settings import CoregisterSettings

SETTINGS = CoregisterSettings(num_workers=1, window_px=64)
SHIFT = (2.3, -1.6)


def write_scene(folder: Path, scene_id: str, spec: SceneSpec, roles: tuple[str, ...]) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {"scene_id": scene_id, "region": "r00", "accepted": True, "reason": ""}
    (folder / scene_id).mkdir(parents=True)
    for role in roles:
        path = folder / scene_id / f"{role}.tif"
        synthetic.write(synthetic.uri(role, spec), path)
        row[role] = str(path)
    return row


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=192, cover=0.3, shift=SHIFT)
    rows = [
        write_scene(folder, "with-reference", spec, FILE_ROLES),
        write_scene(folder, "without-reference", spec, ("optical", "sar", "cloud")),
        write_scene(folder, "no-vh", spec, ("optical", "sar")),
        {**dict.fromkeys(COLUMNS, ""), "scene_id": "refused", "accepted": False, "reason": "no SAR"},
    ]
    sar = raster.read(Path(str(rows[2]["sar"])))
    raster.write(Path(str(rows[2]["sar"])), sar.select(("VV",)), nodata=float("nan"))
    write_scenes(pd.DataFrame(rows), folder / "scenes.csv")
    return folder / "scenes.csv"


def run(scenes: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[CoregisterReport, pd.DataFrame]:
    monkeypatch.chdir(folder)  # the per-scene cache lies below the working folder
    report = coregister(scenes, folder / "out", settings=SETTINGS)
    return report, read_scenes(folder / "out" / "scenes.csv").set_index("scene_id")


def test_stage_moves_sar_back_and_says_what_it_did(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, table = run(scenes, tmp_path, monkeypatch)
    assert report == CoregisterReport(found=3, moved=2, aligned=0, unsure=0, refused=1, from_cache=0)
    for scene_id in ("with-reference", "without-reference"):
        row = table.loc[scene_id]
        assert row["shift_status"] == "moved", row["shift_reason"]
        assert np.hypot(row["dx_px"] - SHIFT[0], row["dy_px"] - SHIFT[1]) < 0.4
        rasters = {role: raster.read(Path(row[role])) for role in FILE_ROLES if row[role]}
        assert {made.grid for made in rasters.values()} == {rasters["optical"].grid}
        clear = rasters.get("reference", rasters["optical"])
        usable = clear.valid_HW & (rasters["cloud"].pixels_CHW[0] == 0)
        left = measure_shift(clear.pixels_CHW, rasters["sar"].pixels_CHW, usable_HW=usable, settings=SETTINGS)
        assert np.hypot(left.dx_px, left.dy_px) < 0.4
    assert (table.loc["refused", "accepted"], table.loc["refused", "reason"]) == (False, "no SAR")
    assert not table.loc["no-vh", "accepted"]
    assert table.loc["no-vh", "reason"] == "sar.tif: has bands VV, lacks VH"
    assert not list((tmp_path / "out").glob("no-vh/*"))
    windows = pd.read_csv(tmp_path / "out" / "windows.csv")
    counted = windows[windows["role"] == "sar"].groupby("scene_id").size()
    assert counted.to_dict() == table["shift_windows"].dropna().astype(int).to_dict()
    assert (tmp_path / "out" / "shifts.png").stat().st_size > 1000


def test_same_bytes_again_and_from_the_cache(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(scenes, tmp_path / name, monkeypatch)
    first = hashes(tmp_path / "a" / "out")
    assert {name: value for name, value in hashes(tmp_path / "b" / "out").items() if name != "scenes.csv"} == {
        name: value for name, value in first.items() if name != "scenes.csv"
    }  # the table holds paths relative to itself: to the refused scenes' files, outside
    report, _ = run(scenes, tmp_path / "a", monkeypatch)
    assert report.from_cache == 2  # the third is refused, and what is refused is not kept
    assert hashes(tmp_path / "a" / "out") == first


def grid(*, shape: tuple[int, int], gsd_m: float = 10.0) -> GeoBox:
    return GeoBox(shape, Affine.translation(500_000, 5_000_000) * Affine.scale(gsd_m, -gsd_m), "EPSG:32631")


def image(pixels_CHW: np.ndarray, bands: tuple[str, ...], gsd_m: float = 10.0) -> Raster:
    shape = pixels_CHW.shape[1:]
    return Raster(
        pixels_CHW=pixels_CHW, valid_HW=np.ones(shape, bool), bands=bands, grid=grid(shape=shape, gsd_m=gsd_m)
    )


def test_correction_by_whole_pixels_copies_values_and_leaves_a_gap() -> None:
    sar = image(np.arange(2 * 20 * 30, dtype=np.float32).reshape(2, 20, 30), ("VV", "VH"))
    placed = Placed(sar, sar.grid, fill=np.nan, to_content=Affine.translation(3.0, -2.0)).part(
        whole(sar.grid)
    )  # it lies 3 right, 2 up of its place
    assert np.array_equal(placed.pixels_CHW[:, 2:, :27], sar.pixels_CHW[:, :18, 3:])
    assert np.isnan(placed.pixels_CHW[:, :2]).all()
    assert np.isnan(placed.pixels_CHW[:, :, 27:]).all()
    assert placed.grid == sar.grid


def test_clear_ground_keeps_away_from_clouds_and_takes_a_classification() -> None:
    optical = image(np.full((6, 20, 20), 900, np.uint16), SETTINGS.optical_bands)
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, 10, 10] = 1
    clear = clear_ground(optical, image(mask, ("cloud",)))
    assert not clear[10, 7]  # three pixels of rim
    assert clear[10, 6]
    scl = np.full((1, 20, 20), 4, np.uint8)  # vegetation
    scl[0, 10, 10] = 9  # cloud
    assert np.array_equal(clear_ground(optical, image(scl, ("cloud",))), clear)


def relocated(path: Path, to_content: Affine) -> None:
    """Change a file's georeference, so that its content lies where ``to_content`` takes its place."""
    image = raster.read(path)
    grid = GeoBox(image.grid.shape, image.grid.transform * to_content, image.grid.crs)
    nodata = raster.read_nodata(path)
    raster.write(path, replace(image, grid=grid), nodata=nodata)


def test_a_reference_that_lies_wrong_is_moved_onto_the_cloudy_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=192, cover=0.3, shift=SHIFT)
    row = write_scene(tmp_path / "in", "s", spec, FILE_ROLES)
    true = raster.read(Path(str(row["reference"])))
    relocated(Path(str(row["reference"])), Affine.translation(2.0, -3.0))
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    _, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    found = table.loc["s"]
    assert found["reference_shift_status"] == "moved", found["reference_shift_reason"]
    assert np.hypot(found["reference_dx_px"] - 2.0, found["reference_dy_px"] + 3.0) < 0.25
    assert np.hypot(found["dx_px"] - SHIFT[0], found["dy_px"] - SHIFT[1]) < 0.4  # SAR against the reference in place
    moved = raster.read(Path(found["reference"]))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    error, before = (
        np.abs(pixels[inner].astype(float) - true.pixels_CHW[inner]).mean()
        for pixels in (moved.pixels_CHW, np.roll(true.pixels_CHW, (-3, 2), axis=(1, 2)))
    )
    assert error < 0.35 * before
    assert set(pd.read_csv(tmp_path / "out" / "windows.csv")["role"]) == {"sar", "reference"}


def test_an_affine_displacement_is_removed_where_the_windows_agree_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=320, cover=0.2, shift=(0.0, 0.0))
    row = write_scene(tmp_path / "in", "s", spec, ("optical", "sar", "reference", "cloud"))
    about = Affine.translation(160, 160)
    relocated(Path(str(row["sar"])), about * Affine.scale(1.012) * ~about)
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    _, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    found = table.loc["s"]
    assert found["shift_status"] == "moved", found["shift_reason"]
    gradient = [float(value) for value in found["shift_gradient"].split()]
    assert gradient == pytest.approx([0.012, 0.0, 0.0, 0.012], abs=0.003)
    reference, sar = raster.read(Path(found["reference"])), raster.read(Path(found["sar"]))
    usable = reference.valid_HW & sar.valid_HW
    left = measure_shift(reference.pixels_CHW, sar.pixels_CHW, usable_HW=usable, settings=SETTINGS)
    away = [np.hypot(w.dx_px, w.dy_px) for w in left.windows if w.agrees]
    assert left.status == "aligned"
    assert np.median(away) < 0.5


def test_labels_on_a_coarser_grid_of_their_own_are_kept_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64)
    row = write_scene(tmp_path / "in", "s", spec, ("optical", "sar", "reference"))
    optical = raster.read_grid(Path(str(row["optical"])))
    # a third of a coarse pixel off, and a little larger: nearest takes its pixels one to one
    own = GeoBox((20, 20), optical.transform * Affine.translation(1, 1) * Affine.scale(10 / 3), optical.crs)
    codes = np.random.default_rng(0).integers(0, 6, (1, 20, 20)).astype(np.uint8)
    label = Raster(pixels_CHW=codes, valid_HW=np.ones((20, 20), bool), bands=("label",), grid=own)
    raster.write(tmp_path / "label.tif", label, nodata=255)
    write_scenes(pd.DataFrame([{**row, "label": str(tmp_path / "label.tif")}]), tmp_path / "in" / "scenes.csv")
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS.model_copy(update={"label_gsd_m": 100 / 3})
    coregister(tmp_path / "in" / "scenes.csv", tmp_path / "out", settings=settings)
    made = raster.read(tmp_path / "out" / "s" / "label.tif")
    assert made.grid == GeoBox((19, 19), optical.transform * Affine.scale(10 / 3), optical.crs)  # 64 px hold 19.2
    assert np.array_equal(made.pixels_CHW, codes[:, :19, :19])


def test_extra_bands_go_into_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64)
    row = write_scene(tmp_path / "in", "s", spec, ("optical", "sar"))
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS.model_copy(
        update={"optical_bands": ("B02", "B03", "B04", "B08"), "extra_optical_bands": ("B12",)}
    )
    coregister(tmp_path / "in" / "scenes.csv", tmp_path / "out", settings=settings)
    (made,) = read_scenes(tmp_path / "out" / "scenes.csv").to_dict("records")
    assert raster.read_names(Path(made["optical"])) == ("B02", "B03", "B04", "B08")
    whole_image = raster.read(Path(str(row["optical"])), bands=("B12",))
    assert np.array_equal(raster.read(Path(made["extra"])).pixels_CHW, whole_image.pixels_CHW)


def test_coarser_labels_come_by_nearest_and_uncovered_ground_is_ignored(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_scenes(scenes)
    row = table[table["scene_id"] == "with-reference"].iloc[0].to_dict()
    optical = raster.read(Path(row["optical"]))
    coarse = GeoBox((48, 96), optical.grid.transform * Affine.scale(2), optical.grid.crs)  # covers the upper half
    codes = np.random.default_rng(0).integers(0, 6, (1, 48, 96)).astype(np.uint8)
    label = Raster(pixels_CHW=codes, valid_HW=np.ones((48, 96), bool), bands=("label",), grid=coarse)
    raster.write(tmp_path / "label.tif", label, nodata=255)
    write_scenes(pd.DataFrame([{**row, "label": str(tmp_path / "label.tif")}]), tmp_path / "scenes.csv")
    _, done = run(tmp_path / "scenes.csv", tmp_path, monkeypatch)
    got = raster.read(Path(str(done.loc["with-reference", "label"]))).pixels_CHW[0]
    assert np.array_equal(got[:96], codes[0].repeat(2, 0).repeat(2, 1))
    assert (got[96:] == 255).all()


@pytest.mark.skipif("CGM2NET_REAL_DATA" not in os.environ, reason="CGM2NET_REAL_DATA names no folder of real scenes")
def test_real_scenes_are_never_moved_wrongly() -> None:
    rng = np.random.default_rng(0)
    errors, num_pairs = [], 0
    for row in read_catalog(Path(os.environ["CGM2NET_REAL_DATA"]) / "catalog.csv").to_dict("records"):
        clear = raster.read(Path(row["reference"]), bands=SETTINGS.optical_bands)
        sar = raster.read(Path(row["sar"]), bands=SETTINGS.sar_bands)
        own = measure_shift(clear.pixels_CHW, sar.pixels_CHW, usable_HW=clear.valid_HW, settings=CoregisterSettings())
        # As delivered they lie up to a pixel off, one 1.3 px: ECC on the same edges sees 1.4 px of it.
        assert own.status != "moved" or max(abs(own.dx_px), abs(own.dy_px)) <= 1.3, row["scene_id"]
        for dx, dy in rng.uniform(-7, 7, (2, 2)):
            grid = sar.grid.translate_pix(-dx, -dy)
            warped = raster.warp(sar, grid, resampling=Resampling.bilinear, fill=float("nan"))
            found = measure_shift(
                clear.pixels_CHW, warped.pixels_CHW, usable_HW=clear.valid_HW, settings=CoregisterSettings()
            )
            num_pairs += 1
            if found.status != "unsure":  # counted from where the scene's SAR lay before
                errors.append(np.hypot(found.dx_px - dx - own.dx_px, found.dy_px - dy - own.dy_px))
                assert errors[-1] <= 1.5, row["scene_id"]
    assert len(errors) >= 0.7 * num_pairs
    assert np.median(errors) <= 0.5


def test_scenes_too_small_to_be_sure_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64, shift=SHIFT)
    row = write_scene(tmp_path / "in", "small", spec, ("optical", "sar", "reference"))
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    report, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    assert (report.unsure, report.refused) == (1, 0)
    assert table.loc["small", "accepted"]
    assert "window" in table.loc["small", "shift_reason"]


def test_masks_and_labels_that_cannot_be_meant_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64)
    rows = [write_scene(tmp_path / "in", name, spec, FILE_ROLES) for name in ("label-0", "cloud-0", "two-bands")]
    for row, role in zip(rows[:2], ("label", "cloud"), strict=True):
        path = Path(str(row[role]))
        raster.write(path, raster.read(path), nodata=0)
    mask = raster.read(Path(str(rows[2]["cloud"])))
    both = replace(mask, pixels_CHW=np.repeat(mask.pixels_CHW, 2, axis=0), bands=("a", "b"))
    raster.write(Path(str(rows[2]["cloud"])), both, nodata=None)
    good = write_scene(tmp_path / "in", "good", spec, FILE_ROLES)
    write_scenes(pd.DataFrame([*rows, good]), tmp_path / "in" / "scenes.csv")
    _, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    assert table["accepted"].to_dict() == {"label-0": False, "cloud-0": False, "two-bands": False, "good": True}
    assert "label declares 0 as nodata, but 0 is the first class" in table.loc["label-0", "reason"]
    assert "cloud declares 0 as nodata, but 0 is clear ground" in table.loc["cloud-0", "reason"]
    assert "cloud has 2 bands, wanted one" in table.loc["two-bands", "reason"]


def test_a_scene_classification_may_declare_its_0_as_nodata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64)
    row = write_scene(tmp_path / "in", "s", spec, FILE_ROLES)
    mask = raster.read(Path(str(row["cloud"])))
    classes = np.where(mask.pixels_CHW > 0, 9, 4).astype(np.uint8)
    classes[0, :5] = 0
    raster.write(Path(str(row["cloud"])), replace(mask, pixels_CHW=classes), nodata=0)
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    _, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    made = raster.read(Path(table.loc["s", "cloud"]))
    assert np.array_equal(made.pixels_CHW[0, 5:], classes[0, 5:])
    assert (made.pixels_CHW[0, :5] == 255).all()
    assert not made.valid_HW[:5].any()


def test_integer_sar_is_taken_and_a_border_of_zeros_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SceneSpec(region=0, date=date(2024, 6, 1), size_px=64)
    row = write_scene(tmp_path / "in", "s", spec, ("optical", "sar", "reference"))
    sar = raster.read(Path(str(row["sar"])))
    whole = np.rint(sar.pixels_CHW).astype(np.int16)
    whole[:, :, :40] = 0  # 8 px of margin, then half of the scene
    whole[:, 40:43, 60:63] = 0  # a bright target, clipped
    raster.write(Path(str(row["sar"])), replace(sar, pixels_CHW=whole), nodata=None)
    write_scenes(pd.DataFrame([row]), tmp_path / "in" / "scenes.csv")
    _, table = run(tmp_path / "in" / "scenes.csv", tmp_path, monkeypatch)
    placed = raster.read(Path(table.loc["s", "sar"]))
    assert not placed.valid_HW[:, :28].any()
    assert placed.valid_HW[:, 36:].all()
    assert placed.pixels_CHW[:, placed.valid_HW].max() < 15
