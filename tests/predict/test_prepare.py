"""Clouds and shift of a scene, found block by block: the numbers that training gets of the same scene in memory."""

import tracemalloc
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from drawn import BANDS, CARD, box, echo, land, read_sar, write
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.data import shadows, synthetic
from cgm2net.data.clear import clear_ground
from cgm2net.data.cloud_methods import METHODS, find_cloud
from cgm2net.data.shift import Shift, measure_shift
from cgm2net.data.stored import Placed
from cgm2net.errors import RasterError
from cgm2net.grids import whole
from cgm2net.predict import prepare as module
from cgm2net.predict.prepare import Prepared, prepare
from cgm2net.predict.scene import Scene, files_as_inputs, open_scene
from cgm2net.raster import Raster
from cgm2net.settings import CloudmaskSettings, CoregisterSettings

SHIFT = (2.3, -1.6)
SPEC = synthetic.SceneSpec(
    region=1, date=date(2024, 6, 1), size_px=300, cover=0.35, shift=SHIFT, seed=4, wedge="optical"
)
COREGISTER = CoregisterSettings(window_px=64)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scene")
    layers = synthetic.render(SPEC)
    for role, nodata in (("optical", 0), ("sar", float("nan")), ("cloud", None)):
        raster.write(folder / f"{role}.tif", layers[role], nodata=nodata)
    return {role: folder / f"{role}.tif" for role in ("optical", "sar", "cloud")}


@pytest.fixture
def scene(files: dict[str, Path]) -> Iterator[Scene]:
    with open_scene(files_as_inputs("s", optical=files["optical"], sar=files["sar"]), CARD) as scene:
        yield scene


def prepared(scene: Scene, folder: Path, **cloudmask: object) -> Prepared:
    settings = CloudmaskSettings.model_validate(cloudmask)
    return prepare(scene, folder, coregister=COREGISTER, cloudmask=settings)


def trained(files: dict[str, Path]) -> tuple[Raster, Shift]:
    """Return the optical image, and the shift that co-registration measures of a scene without reference or mask."""
    optical = raster.read(files["optical"])
    sar = Placed(read_sar(files["sar"]), optical.grid, fill=np.nan).part(whole(optical.grid))
    usable = clear_ground(optical, None)
    return optical, measure_shift(optical.pixels_CHW, sar.pixels_CHW, usable_HW=usable, settings=COREGISTER)


def test_cloud_and_shift_are_those_of_training(scene: Scene, files: dict[str, Path], tmp_path: Path) -> None:
    made = prepared(scene, tmp_path)
    optical, shift = trained(files)
    assert made.shift == shift
    assert shift.status == "moved"
    assert np.hypot(shift.dx_px - SHIFT[0], shift.dy_px - SHIFT[1]) < 0.4
    valid = optical.valid_HW
    assert 0.8 < valid.mean() < 1
    expected = find_cloud("simple", optical, None, dilation_px=0)
    got = made.cloud(whole(scene.grid))
    assert np.abs(got - expected)[valid].max() <= 1 / 250
    np.testing.assert_array_equal((got > 0.5)[valid], (expected > 0.5)[valid])
    assert (got[~valid] == 1).all()
    assert made.cloud_cover == pytest.approx((expected > 0.5)[valid].mean(), abs=1e-12)
    assert (made.cloud_method, made.cloud_version) == ("simple", METHODS["simple"].version)


def test_blocks_of_any_size_give_the_same_bytes(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [prepared(scene, tmp_path / "a")]
    for height, width in ((97, 61), (300, 40)):
        monkeypatch.setattr(module, "_HEIGHT_PX", height)
        monkeypatch.setattr(module, "_WIDTH_PX", width)
        made.append(prepared(scene, tmp_path / f"{height}"))
    pixels = [raster.read(m.cloud_path).pixels_CHW for m in made]
    for other, values in zip(made[1:], pixels[1:], strict=True):
        np.testing.assert_array_equal(values, pixels[0])
        assert (other.shift, other.cloud_cover) == (made[0].shift, made[0].cloud_cover)


def test_the_file_is_what_it_says(scene: Scene, tmp_path: Path) -> None:
    paths = [prepared(scene, tmp_path / name).cloud_path for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with rasterio.open(paths[0]) as file:
        assert (file.dtypes, file.nodata, file.block_shapes) == (("uint8",), 255, [(256, 256)])
        assert file.descriptions == ("cloud",)
    assert raster.read_grid(paths[0]) == scene.grid
    assert [path.name for path in paths[0].parent.iterdir()] == ["cloud.tif"]


def test_beyond_the_scene_everything_is_cloud(scene: Scene, tmp_path: Path) -> None:
    made = prepared(scene, tmp_path)
    every = made.cloud(whole(scene.grid))
    part = made.cloud(Window(-10, 290, 50, 40))
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part[:10, 10:], every[290:, :40])
    assert (part[10:] == 1).all()
    assert (part[:, :10] == 1).all()
    assert (made.cloud(Window(500, 0, 3, 4)) == np.ones((4, 3))).all()


def test_progress_tells_of_every_step(scene: Scene, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepare(
        scene, tmp_path, coregister=COREGISTER, cloudmask=CloudmaskSettings(),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(n, 3) for n in (1, 2, 3)]  # one block looked through twice, then the shift


def with_mask(files: dict[str, Path], folder: Path, codes: np.ndarray) -> Scene:
    """Open the scene with this mask."""
    write(folder / "mask.tif", codes[None], ("cloud",), raster.read_grid(files["optical"]))
    inputs = files_as_inputs("s", optical=files["optical"], sar=files["sar"], cloud=folder / "mask.tif")
    return open_scene(inputs, CARD)


def test_a_given_mask_is_taken_and_a_classification_by_its_codes(files: dict[str, Path], tmp_path: Path) -> None:
    valid = raster.read(files["optical"]).valid_HW
    shares = np.random.default_rng(0).choice([0.0, 0.5, 0.502, 1.0], (300, 300), p=[0.9, 0.05, 0.02, 0.03])
    with with_mask(files, tmp_path, shares.astype(np.float32)) as scene:
        made = prepared(scene, tmp_path)
        assert made.cloud_method == "given"
        np.testing.assert_array_equal((made.cloud(whole(scene.grid)) > 0.5)[valid], (shares > 0.5)[valid])
    codes = np.where(shares > 0.6, 9, 4).astype(np.uint8)
    with with_mask(files, tmp_path, codes) as scene:
        with pytest.raises(RasterError, match=r"values from 4 to 9, expected 0-1; .* is read by method `scl`"):
            prepared(scene, tmp_path, method="given")
        made = prepared(scene, tmp_path, dilation_px=1)
        assert made.cloud_method == "scl"
        delivered = raster.read(tmp_path / "mask.tif")
        expected = find_cloud("scl", raster.read(files["optical"]), delivered, dilation_px=1)
        np.testing.assert_array_equal(made.cloud(whole(scene.grid))[valid], expected[valid])
    with (
        open_scene(files_as_inputs("s", optical=files["optical"], sar=files["sar"]), CARD) as scene,
        pytest.raises(RasterError, match="no cloud mask for this scene"),
    ):
        prepared(scene, tmp_path, method="given")


@given(st.floats(0, 1, width=32))
def test_rounding_moves_nothing_over_the_threshold(probability: float) -> None:
    code = int(module._codes(np.array([[probability]], np.float32)).item())
    assert (code / 250 > 0.5) == (probability > 0.5)
    assert abs(code / 250 - probability) <= 1 / 250


def test_memory_does_not_grow_with_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEIGHT_PX", 128)
    monkeypatch.setattr(module, "_WIDTH_PX", 128)
    monkeypatch.setattr(shadows, "WHOLE_PX", 256 * 256)
    monkeypatch.setattr(shadows, "SAMPLE_PX", 128)
    peaks = []
    for height, width in ((384, 384), (896, 1280)):  # 7.8 times as large
        grid = box(height, width)
        optical = land(grid)
        spots = np.logical_and.outer(np.arange(height) % 90 < 30, np.arange(width) % 110 < 40)
        optical[:, spots] = np.array([6000, 6000, 6000, 6200, 4500, 3500])[:, None]
        files = {
            "optical": write(tmp_path / "optical.tif", optical, BANDS, grid, nodata=0),
            "sar": write(tmp_path / "sar.tif", echo(grid), ("VV", "VH"), grid),
        }
        del optical, spots
        with open_scene(files_as_inputs("s", **files), CARD) as scene:
            tracemalloc.start()
            prepared(scene, tmp_path / "out")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_cloud_method_gets_bands_that_the_model_does_not_take(files: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("s2cloudless")
    optical = raster.read(files["optical"])
    further = {"B01": 1300, "B05": 2400, "B8A": 4800, "B09": 1500, "B10": 20}
    shape = (len(further), *optical.grid.shape)
    more_CHW = np.broadcast_to(np.array(list(further.values()), np.uint16)[:, None, None], shape)
    every = Raster(
        pixels_CHW=np.concatenate([optical.pixels_CHW, more_CHW]), valid_HW=optical.valid_HW, grid=optical.grid,
        bands=(*optical.bands, *further),
    )  # fmt: skip
    raster.write(tmp_path / "every.tif", every, nodata=0)
    expected = find_cloud("s2cloudless", every, None, dilation_px=0)
    with open_scene(files_as_inputs("s", optical=tmp_path / "every.tif", sar=files["sar"]), CARD) as scene:
        made = prepared(scene, tmp_path, method="s2cloudless")
        found = made.cloud(whole(scene.grid)) > 0.5
        np.testing.assert_array_equal(found[every.valid_HW], (expected > 0.5)[every.valid_HW])
        assert scene.optical(Window(0, 0, 1, 1)).bands == BANDS


def test_bands_that_a_cloud_method_lacks_are_named(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"s2cloudless needs bands .* lacks B01, B05, B8A, B09, B10"):
        prepared(scene, tmp_path, method="s2cloudless")
