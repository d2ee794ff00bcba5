"""The stage that says where clouds are: each method, what it refuses, and what the table tells of it."""

import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.catalog import COLUMNS, read_scenes, write_scenes
from cgm2net.compute import SceneJob
from cgm2net.data import shadows
from cgm2net.data.cloud_methods import cloud_finder, find_cloud, method_of, version_of
from cgm2net.data.cloudmask import CloudmaskReport, cloudmask, mask_scene
from cgm2net.errors import DataError, GridError, RasterError
from cgm2net.raster import Raster
from cgm2net.settings import CloudmaskSettings

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
FIELD = (600, 1000, 800, 4500, 2500, 1500)
CLOUD = (6000, 6000, 6000, 6200, 4500, 3500)
SIZE = 40
OUT = Path("artifacts/cloudmask")
SCENES = Path("artifacts/coregister/scenes.csv")


def image(pixels_CHW: np.ndarray, bands: Sequence[str], *, valid_HW: np.ndarray | None = None) -> Raster:
    shape = pixels_CHW.shape[1:]
    grid = GeoBox(shape, Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632")
    return Raster(
        pixels_CHW=pixels_CHW, valid_HW=np.ones(shape, bool) if valid_HW is None else valid_HW,
        bands=tuple(bands), grid=grid,
    )  # fmt: skip


def optical() -> Raster:
    """Return a field under one cloud of 10 x 20 pixels, with 4 columns of nodata."""
    pixels = np.broadcast_to(np.array(FIELD, np.uint16)[:, None, None], (6, SIZE, SIZE)).copy()
    pixels[:, 10:20, 10:30] = np.array(CLOUD, np.uint16)[:, None, None]
    valid = np.ones((SIZE, SIZE), bool)
    valid[:, :4] = False
    return image(np.where(valid, pixels, 0).astype(np.uint16), BANDS, valid_HW=valid)


def mask(values_HW: np.ndarray) -> Raster:
    return image(values_HW[None], ("cloud",))


def square(value: float, dtype: str, *, elsewhere: float = 0) -> np.ndarray:
    """Return values with a square of 4 x 4 at (20, 20)."""
    values = np.full((SIZE, SIZE), elsewhere, dtype)
    values[20:24, 20:24] = value
    return values


def scene(scene_id: str, cloud: Raster | None, *, nodata: float | None = 255) -> dict[str, object]:
    """Write a scene's files; return its row."""
    folder = SCENES.parent / scene_id
    folder.mkdir(parents=True)
    raster.write(folder / "optical.tif", optical(), nodata=0)
    row: dict[str, object] = {**dict.fromkeys(COLUMNS, ""), "scene_id": scene_id, "region": "r0", "accepted": True}
    row |= {"reason": "", "optical": str(folder.resolve() / "optical.tif")}
    if cloud is not None:
        raster.write(folder / "cloud.tif", cloud, nodata=nodata)
        row["cloud"] = str(folder.resolve() / "cloud.tif")
    return row


def run(*rows: dict[str, object], **settings: object) -> CloudmaskReport:
    write_scenes(pd.DataFrame(list(rows)), SCENES)
    return cloudmask(SCENES, OUT, settings=CloudmaskSettings.model_validate({"num_workers": 1, **settings}))


def found(scene_id: str) -> np.ndarray:
    """Return the probability that the stage wrote."""
    written = raster.read(OUT / scene_id / "cloud.tif")
    assert written.bands == ("cloud",)
    assert written.grid == optical().grid
    assert written.pixels_CHW.dtype == np.float32
    assert 0 <= written.pixels_CHW.min() <= written.pixels_CHW.max() <= 1
    return np.asarray(written.pixels_CHW[0])


def test_a_given_mask_is_taken_as_it_is(workspace: Path) -> None:
    delivered = square(0.7, "float32", elsewhere=0.25)
    assert run(scene("a", mask(delivered), nodata=None), method="given", dilation_px=3) == CloudmaskReport(
        found=1, masked=1, refused=0, from_cache=0, mean_cover=round(16 / (SIZE * (SIZE - 4)), 6)
    )
    np.testing.assert_array_equal(found("a"), delivered)


def test_where_a_given_mask_does_not_reach_is_cloud(workspace: Path) -> None:
    run(scene("a", mask(square(255, "uint8"))), method="given")
    np.testing.assert_array_equal(found("a"), square(1, "float32"))


def test_values_beyond_0_to_1_are_refused_with_a_hint(workspace: Path) -> None:
    rows = [scene("a", mask(square(9, "uint8"))), scene("b", mask(square(1, "uint8")))]
    assert run(*rows, method="given").refused == 1
    table = read_scenes(OUT / "scenes.csv")
    assert table["accepted"].tolist() == [False, True]
    assert table["reason"][0].startswith("the delivered mask holds values from 0 to 9, expected 0-1; a Sentinel-2")
    assert "`scl`" in table["reason"][0]
    assert not (OUT / "a").exists()


def test_given_refuses_scenes_without_a_mask(workspace: Path) -> None:
    assert run(scene("a", None), scene("b", mask(square(1, "uint8"))), method="given").refused == 1
    assert read_scenes(OUT / "scenes.csv")["reason"][0].startswith("the catalogue has no cloud mask for this scene")


def test_a_scene_classification_by_its_codes(workspace: Path) -> None:
    codes = np.full((SIZE, SIZE), 4, np.uint8)
    codes[5, 0:12] = np.arange(12)
    run(scene("a", mask(codes)), method="scl", dilation_px=0)
    # 0 no data, 3 shadow, 8 cloud of medium and 9 of high probability, 10 cirrus
    expected = [1, 0, 0, 1, 0, 0, 0, 0, 0.6, 1, 1, 0]
    np.testing.assert_allclose(found("a")[5, :12], expected)
    assert not np.delete(found("a"), 5, axis=0).any()


def test_a_catalogue_may_mix_classifications_masks_and_scenes_without(workspace: Path) -> None:
    classes, shares = mask(square(9, "uint8", elsewhere=4)), mask(square(1, "uint8"))
    run(scene("a", classes), scene("b", shares), scene("c", None), method="given_or_simple", dilation_px=0)
    methods = read_scenes(OUT / "scenes.csv").set_index("scene_id")["cloud_method"]
    assert methods.to_dict() == {"a": "scl", "b": "given", "c": "simple"}
    np.testing.assert_array_equal(found("a"), found("b"))


def test_a_scene_classification_is_grown(workspace: Path) -> None:
    run(scene("a", mask(square(9, "uint8", elsewhere=4))), method="scl", dilation_px=2)
    expected = np.zeros((SIZE, SIZE))
    expected[18:26, 18:26] = 1
    np.testing.assert_array_equal(found("a"), expected)


@pytest.mark.parametrize("delivered", [square(1, "uint8"), square(77, "uint8"), square(0.5, "float32")])
def test_what_is_no_scene_classification_is_refused(delivered: np.ndarray) -> None:
    with pytest.raises(RasterError, match="not a Sentinel-2 scene classification: codes"):
        find_cloud("scl", optical(), mask(delivered), dilation_px=0)
    with pytest.raises(RasterError, match="cloud column, which is empty"):
        find_cloud("scl", optical(), None, dilation_px=0)


def test_the_rule_finds_the_cloud_and_leaves_out_nodata(workspace: Path) -> None:
    run(scene("a", mask(square(1, "uint8"))), method="simple")
    expected = np.zeros((SIZE, SIZE), bool)
    expected[10:20, 10:30] = True
    np.testing.assert_array_equal(found("a") > 0.5, expected)


def test_the_rule_stands_in_where_no_mask_is_given(workspace: Path) -> None:
    report = run(scene("a", None), scene("b", mask(square(1, "uint8"))))
    table = read_scenes(OUT / "scenes.csv")
    assert table["cloud_method"].tolist() == ["simple", "given"]
    assert table["cloud_version"].astype(str).tolist() == [version_of(name) for name in ("simple", "given")]
    covers = [200 / 1440, 16 / 1440]  # of the 40 x 36 measured pixels
    assert table["cloud_cover"].tolist() == pytest.approx(covers, abs=1e-6)
    assert report.mean_cover == pytest.approx(sum(covers) / 2, abs=1e-6)
    assert table["cloud"].tolist() == [str(OUT.resolve() / name / "cloud.tif") for name in "ab"]


def test_refused_scenes_stay_and_finished_ones_are_not_done_again(workspace: Path) -> None:
    earlier = {**scene("z", None), "accepted": False, "reason": "no overlap"}
    rows = [scene("a", None), scene("b", None), earlier]
    assert run(*rows).from_cache == 0
    assert run(*rows).from_cache == 2
    table = read_scenes(OUT / "scenes.csv")
    assert table["reason"].tolist() == ["", "", "no overlap"]
    assert run(*rows, dilation_px=1).from_cache == 0


def test_the_rule_does_not_read_the_delivered_mask(workspace: Path) -> None:
    row = scene("a", mask(square(1, "uint8")))
    run(row, method="simple")
    raster.write(Path(str(row["cloud"])), mask(square(0, "uint8")), nodata=255)
    assert run(row, method="simple").from_cache == 1


def test_where_no_scene_is_left_the_reasons_are_written_and_told(workspace: Path) -> None:
    with pytest.raises(DataError, match="none of 1 scenes is accepted: a: the catalogue has no cloud mask"):
        run(scene("a", None), method="given")
    assert read_scenes(OUT / "scenes.csv")["accepted"].tolist() == [False]


def test_a_mask_on_another_grid_is_refused() -> None:
    with pytest.raises(GridError, match="optical and cloud mask: grids differ"):
        find_cloud("given", optical(), image(np.zeros((1, 4, 4), np.uint8), ("cloud",)), dilation_px=0)


class _Image:
    """An image that is had in windows, as a scene is."""

    def __init__(self, image: Raster, delivered: Raster | None) -> None:
        self._image, self._delivered, self.grid = image, delivered, image.grid

    def optical(self, window: Window) -> Raster:
        return self._image.part(window)

    def delivered(self, window: Window) -> Raster | None:
        return None if self._delivered is None else self._delivered.part(window)


@settings(deadline=None)
@given(*[st.integers(0, SIZE - 1)] * 2, *[st.integers(1, SIZE)] * 2, st.sampled_from(["given", "scl", "simple"]))
def test_a_window_holds_what_the_whole_holds_there(row: int, col: int, height: int, width: int, method: str) -> None:
    codes = np.random.default_rng(1).choice([4, 4, 4, 4, 8, 9], (SIZE, SIZE)).astype(np.uint8)
    delivered = mask(codes if method == "scl" else square(0.5, "float32"))
    window = Window(col, row, min(width, SIZE - col), min(height, SIZE - row))
    part = cloud_finder(method, _Image(optical(), delivered), dilation_px=2)(window)
    np.testing.assert_array_equal(part, find_cloud(method, optical(), delivered, dilation_px=2)[window.toslices()])


def test_a_scene_is_worked_on_in_blocks_and_holds_what_the_whole_holds(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgm2net.data.cloudmask._BLOCK_PX", 16)
    run(scene("a", None), method="simple")
    np.testing.assert_array_equal(found("a"), find_cloud("simple", optical(), None, dilation_px=0))
    codes = mask(square(9, "uint8", elsewhere=4))
    run(scene("b", codes), method="scl", dilation_px=3)
    np.testing.assert_array_equal(found("b"), find_cloud("scl", optical(), codes, dilation_px=3))


def test_memory_does_not_grow_with_the_scene(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgm2net.data.cloudmask._BLOCK_PX", 128)
    monkeypatch.setattr(shadows, "WHOLE_PX", 0)
    monkeypatch.setattr(shadows, "SAMPLE_PX", 128)
    peaks = []
    for rows, cols in ((12, 12), (24, 36)):  # 6 times as large
        row = scene("a", None)
        raster.write(Path(str(row["optical"])), image(np.tile(optical().pixels_CHW, (1, rows, cols)), BANDS), nodata=0)
        parameters = {"method": "simple", "version": "1", "dilation_px": 0, "product_level": "l1c"}
        job = SceneJob(scene_id="a", parameters=dict(parameters), inputs={"optical": Path(str(row["optical"]))})
        tracemalloc.start()
        mask_scene(job, SCENES.parent / "a")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        shutil.rmtree(SCENES.parent / "a")
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize("method", ["given", "s2cloudless"])
def test_files_of_one_scene_must_lie_on_one_grid(workspace: Path, method: str) -> None:
    pytest.importorskip("s2cloudless")
    row = scene("a", None)
    stray = "cloud" if method == "given" else "extra"
    raster.write(SCENES.parent / "a/stray.tif", image(np.zeros((1, 4, 4), np.uint8), ("B01",)), nodata=None)
    with pytest.raises(DataError, match="grids differ"):
        run({**row, stray: str((SCENES.parent / "a/stray.tif").resolve())}, method=method)


def test_masks_are_compared_and_counted(workspace: Path) -> None:
    """The rule finds 10 x 20 pixels of 40 x 36 measured ones; the delivered mask 10 x 10 of them and 4 x 4 others."""
    delivered = np.zeros((SIZE, SIZE), np.uint8)
    delivered[10:20, 10:20] = delivered[30:34, 10:14] = 1
    run(scene("a", mask(delivered)), scene("b", None), method="simple", compare_with="given")
    table = read_scenes(OUT / "scenes.csv").set_index("scene_id")
    assert table.loc["a", "cloud_compared"] == "given"
    assert table.loc["a", "cloud_agreement"] == pytest.approx(1 - 116 / 1440, abs=1e-6)
    assert table.loc["a", "cloud_iou"] == pytest.approx(100 / 216, abs=1e-6)
    assert str(table.loc["b", "cloud_not_compared"]).startswith("the catalogue has no cloud mask for this scene")
    assert table["accepted"].all()
    np.testing.assert_array_equal(raster.read(OUT / "a/compared.tif").pixels_CHW[0], delivered)
    assert not (OUT / "b/compared.tif").exists()
    assert (OUT / "agreement.png").read_bytes().startswith(b"\x89PNG")


def test_masks_without_a_cloud_agree_fully(workspace: Path) -> None:
    given_twice = {"method": "given", "compare_with": "scl", "dilation_px": 0}
    run(scene("a", mask(square(0, "uint8"))), **given_twice)
    assert str(read_scenes(OUT / "scenes.csv")["cloud_not_compared"][0]).startswith("not a Sentinel-2 scene class")
    row = scene("b", None)
    pixels = np.broadcast_to(np.array(FIELD, np.uint16)[:, None, None], (6, SIZE, SIZE)).copy()
    raster.write(Path(str(row["optical"])), image(pixels, BANDS), nodata=0)
    cloud = SCENES.parent / "b/cloud.tif"
    raster.write(cloud, mask(square(0, "uint8")), nodata=255)
    run({**row, "cloud": str(cloud.resolve())}, method="simple", compare_with="given", min_agreement=1.0)
    table = read_scenes(OUT / "scenes.csv")
    assert (table["cloud_agreement"][0], table["cloud_iou"][0]) == (1, 1)


def test_a_scene_on_which_both_methods_disagree_is_refused(workspace: Path) -> None:
    rows = [scene("a", mask(square(0, "uint8"))), scene("b", None), scene("c", mask(square(1, "uint8", elsewhere=1)))]
    compare = {"method": "simple", "compare_with": "given", "min_agreement": 0.5}
    assert run(*rows, **compare).refused == 1
    table = read_scenes(OUT / "scenes.csv").set_index("scene_id")
    assert table["accepted"].to_dict() == {"a": True, "b": True, "c": False}
    reason = str(table.loc["c", "reason"])
    assert reason.startswith("cloud masks simple and given agree on 13.9% of the pixels, wanted at least 50.0%")
    assert "lower cloudmask.min_agreement" in reason
    report = run(*rows, **{**compare, "min_agreement": 0.1})
    assert (report.refused, report.from_cache) == (0, 3)  # the limit is no part of what a scene's masks are


def test_a_method_is_not_compared_with_itself(workspace: Path) -> None:
    run(scene("a", None), compare_with="simple")
    assert read_scenes(OUT / "scenes.csv")["cloud_not_compared"][0] == (
        "the scene's own method is the one to compare with"
    )


def test_bands_that_a_method_lacks_are_named(workspace: Path) -> None:
    pytest.importorskip("s2cloudless")
    with pytest.raises(DataError, match="lacks B01, B05, B8A, B09, B10: name those in coregister"):
        run(scene("a", None), method="s2cloudless")


def test_further_bands_come_from_another_file(workspace: Path) -> None:
    pytest.importorskip("s2cloudless")
    row = scene("a", None)
    names = ("B01", "B02", "B05", "B8A", "B09", "B10")  # B02 stands in both
    further = np.broadcast_to(np.array((1300, 1, 2400, 4800, 1500, 20), np.uint16)[:, None, None], (6, SIZE, SIZE))
    extra = SCENES.parent / "a/extra.tif"
    raster.write(extra, image(further, names), nodata=0)
    run({**row, "extra": str(extra.resolve())}, method="s2cloudless")
    network = optical()
    pixels = np.concatenate([network.pixels_CHW, further[[0, 2, 3, 4, 5]]])
    together = image(pixels, (*BANDS, "B01", "B05", "B8A", "B09", "B10"), valid_HW=network.valid_HW)
    np.testing.assert_array_equal(found("a"), find_cloud("s2cloudless", together, None, dilation_px=0))
    table = read_scenes(OUT / "scenes.csv")
    assert table["cloud_version"][0] == version_of("s2cloudless")
    assert len(table["cloud_weights"][0]) == 64
    assert (OUT / table["extra"][0]).resolve() == extra.resolve()


def test_method_of_a_scene_with_a_mask_and_without() -> None:
    settings = CloudmaskSettings()
    assert (method_of(settings, delivered=True), method_of(settings, delivered=False)) == ("given", "simple")
    assert method_of(settings, delivered=True, classified=True) == "scl"
    assert method_of(CloudmaskSettings(method="scl"), delivered=False) == "scl"
    assert method_of(CloudmaskSettings(method="given"), delivered=True, classified=True) == "given"
