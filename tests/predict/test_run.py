"""A whole scene from files to products, by a small network."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from pictured import BANDS, cut, read

from cgm2net import raster, sensors
from cgm2net.compute import SceneJob
from cgm2net.data.coregister import align_scene
from cgm2net.errors import MetricError, RasterError
from cgm2net.predict import run
from cgm2net.predict.layers import Origin
from cgm2net.predict.model import load_model
from cgm2net.predict.run import PredictSettings, predict_scene
from cgm2net.predict.scene import files_as_inputs
from cgm2net.predict.windows import WINDOW_PX, Side, phases
from cgm2net.raster import Raster
from cgm2net.settings import CoregisterSettings

PLAIN = PredictSettings(num_threads=1)
KEEP = PredictSettings(num_threads=1, keep_clear=True)
FILES = {
    "classes.tif", "cloud.tif", "confidence.tif", "item.json", "origin.tif", "quicklook.png", "restored.tif",
    "uncertainty.tif",
}  # fmt: skip


def changed(image: Raster, *, where: tuple[slice, slice]) -> Raster:
    """The same raster without data in a part."""
    valid = image.valid_HW.copy()
    valid[where] = False
    return replace(image, valid_HW=valid)


def test_every_product_is_there_and_says_where_it_comes_from(inputs, model, tmp_path):
    report = predict_scene(inputs, model, tmp_path / "out", settings=PLAIN)
    folder = tmp_path / "out" / "s"
    assert report.folder == folder
    assert {path.name for path in folder.iterdir()} >= FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s"]  # nothing half done
    restored = raster.read(folder / "restored.tif")
    assert restored.bands == BANDS
    assert restored.grid == raster.read_grid(Path(inputs.optical[0].path))
    assert restored.valid_HW.all()
    assert (read(folder, "origin") == Origin.RESTORED).all()
    assert set(np.unique(read(folder, "classes"))) <= set(range(6))
    with rasterio.open(folder / "restored.tif") as file:
        assert file.scales[0] == pytest.approx(1e-4)
        tags = file.tags()
    assert tags["CGM2NET_MODEL_SHA256"] == model.sha256
    assert '"moved"' in tags["CGM2NET_COREGISTRATION"]


def _outside(start: int) -> int:
    """Pixels of a window that lie beyond the scene of 320."""
    return max(-start, 0) + max(start + WINDOW_PX - 320, 0)


def test_the_network_sees_what_it_saw_in_training(inputs, plain, model, layers, tmp_path):
    """One window, put together by the stages of the pipeline and mirrored by hand, gives the same answer."""
    files = {"optical": inputs.optical[0].path, "sar": inputs.sar[0].path, "cloud": inputs.cloud}
    job = SceneJob(
        scene_id="s", parameters=CoregisterSettings().model_dump(mode="json"),
        inputs={role: Path(str(path)) for role, path in files.items()},
    )  # fmt: skip
    (tmp_path / "aligned").mkdir()
    facts = align_scene(job, tmp_path / "aligned")
    assert facts["shift_status"] == "moved"
    optical, sar = layers["optical"], raster.read(tmp_path / "aligned/sar.tif")
    rows, columns = (Side.of(320, phase) for phase in phases(optical.grid))
    row, column = (int(np.argmin([_outside(start) for start in side.starts])) for side in (rows, columns))
    top, left = rows.starts[row], columns.starts[column]
    assert max(_outside(top), _outside(left)) < 128  # so it is mirrored once at most

    def window(image_CHW):
        padded = np.pad(image_CHW, [(0, 0), (256, 256), (256, 256)], mode="symmetric")
        return torch.from_numpy(padded[:, top + 256 :, left + 256 :][:, :WINDOW_PX, :WINDOW_PX].copy())[None]

    with torch.inference_mode():
        prediction = model.network(
            window(sensors.to_unit_range(optical.pixels_CHW, BANDS)),
            window(sensors.to_unit_range(sar.pixels_CHW, sar.bands)),
            window(layers["cloud"].pixels_CHW.astype(np.float32)),
        )
    alone = (rows.weight_NW[row][:, None] * columns.weight_NW[column]) == 1  # no other window has a say
    assert alone.sum() > 1000
    restored = np.pad(read(plain.folder, "restored"), [(0, 0), (256, 256), (256, 256)])
    restored = restored[:, top + 256 :, left + 256 :][:, :WINDOW_PX, :WINDOW_PX]
    wanted = prediction.clear_BCHW[0].clamp(0, 1).numpy()[:, alone] * 10000
    np.testing.assert_allclose(restored[:, alone], wanted, atol=1.5)


def test_cutting_the_work_into_blocks_changes_nothing(inputs, plain, model, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BLOCK_PX", 192)
    predict_scene(inputs, model, tmp_path / "blocks", settings=PLAIN)
    for name in ("restored", "uncertainty", "confidence", "classes"):
        np.testing.assert_array_equal(read(tmp_path / "blocks/s", name), read(plain.folder, name))


def test_windows_seen_together_get_what_each_gets_alone(inputs, plain, model, tmp_path):
    predict_scene(inputs, model, tmp_path / "batch", settings=replace(PLAIN, batch_size=3))
    for name in ("restored", "uncertainty", "confidence"):
        first, second = (read(folder, name).astype(int) for folder in (plain.folder, tmp_path / "batch/s"))
        assert np.abs(first - second).max() <= 1, name  # a rounding of the last bit may fall either way


def test_clear_pixels_are_kept_to_the_bit_when_asked(inputs, model, layers, tmp_path):
    predict_scene(inputs, model, tmp_path / "out", settings=KEEP)
    folder = tmp_path / "out" / "s"
    clear = layers["cloud"].pixels_CHW[0] == 0
    restored, optical = read(folder, "restored"), layers["optical"].pixels_CHW
    assert (restored[:, clear] == optical[:, clear]).all()
    assert (restored[:, ~clear] != optical[:, ~clear]).any()
    origin = read(folder, "origin")[0]
    assert (origin == np.where(clear, Origin.MEASURED, Origin.RESTORED)).all()
    assert (read(folder, "uncertainty")[:, clear] == 0).all()


def test_where_there_is_no_radar_nothing_is_invented(write, model, layers, tmp_path):
    east = slice(200, None)  # of SAR, which begins 8 px farther west: from column 192 on
    half = changed(layers["sar"], where=(slice(None), east))
    inputs = files_as_inputs(
        "s", optical=write("optical.tif", layers["optical"]), sar=write("sar.tif", half),
        cloud=write("cloud.tif", layers["cloud"]),
    )  # fmt: skip
    predict_scene(inputs, model, tmp_path / "out", settings=KEEP)
    folder = tmp_path / "out" / "s"
    far = (..., slice(None), slice(200, None))  # the shift's few pixels aside
    clear = layers["cloud"].pixels_CHW[0] == 0
    assert (read(folder, "classes")[far] == 255).all()
    assert (read(folder, "confidence")[far] == 255).all()
    assert (read(folder, "origin")[0] == np.where(clear, Origin.MEASURED, Origin.NO_SAR))[far].all()
    assert (read(folder, "restored")[far][:, ~clear[far]] == 0).all()
    assert (read(folder, "restored")[far][:, clear[far]] > 0).any()
    assert (read(folder, "classes")[..., :180] < 6).all()


def test_nodata_of_the_optics_stays_nodata(write, model, layers, tmp_path):
    corner = (slice(0, 90), slice(0, 150))
    inputs = files_as_inputs(
        "s", optical=write("optical.tif", changed(layers["optical"], where=corner)),
        sar=write("sar.tif", layers["sar"]), cloud=write("cloud.tif", layers["cloud"]),
    )  # fmt: skip
    predict_scene(inputs, model, tmp_path / "out", settings=PLAIN)
    folder = tmp_path / "out" / "s"
    assert (read(folder, "restored")[:, *corner] == 0).all()
    assert (read(folder, "origin")[0][corner] == Origin.NO_DATA).all()
    assert (read(folder, "cloud")[0][corner] == 255).all()
    assert not raster.read(folder / "restored.tif").valid_HW[corner].any()
    assert raster.read(folder / "restored.tif").valid_HW[90:, 150:].all()


@pytest.mark.parametrize("cover", [0, 1])
def test_covers_of_none_and_all(write, model, layers, tmp_path, cover):
    mask = replace(layers["cloud"], pixels_CHW=np.full_like(layers["cloud"].pixels_CHW, cover))
    inputs = files_as_inputs(
        "s", optical=write("optical.tif", layers["optical"]), sar=write("sar.tif", layers["sar"]),
        cloud=write("cloud.tif", mask),
    )  # fmt: skip
    report = predict_scene(inputs, model, tmp_path / "out", settings=KEEP)
    assert report.cloud_cover == cover
    assert report.shift == ("unsure" if cover else "moved")
    same = (read(tmp_path / "out/s", "restored") == layers["optical"].pixels_CHW).all()
    assert same == (cover == 0)


def test_bands_are_taken_by_name_whatever_their_order_and_number(inputs, plain, write, model, layers, tmp_path):
    optical, sar = layers["optical"], layers["sar"]
    more = Raster(
        pixels_CHW=np.concatenate([optical.pixels_CHW[::-1], optical.pixels_CHW[:1] + 7]), valid_HW=optical.valid_HW,
        bands=(*optical.bands[::-1], "B01"), grid=optical.grid,
    )  # fmt: skip
    turned = replace(sar, pixels_CHW=sar.pixels_CHW[::-1], bands=sar.bands[::-1])
    other = files_as_inputs(
        "s", optical=write("more.tif", more), sar=write("turned.tif", turned),
        cloud=inputs.cloud,
    )  # fmt: skip
    predict_scene(other, model, tmp_path / "out", settings=PLAIN)
    for name in ("restored", "classes", "uncertainty"):
        np.testing.assert_array_equal(read(tmp_path / "out/s", name), read(plain.folder, name))


def tall(image: Raster) -> Raster:
    """The upper 300 rows three times, one below the other."""
    return Raster(
        pixels_CHW=np.concatenate([image.pixels_CHW[:, :300]] * 3, axis=1),
        valid_HW=np.concatenate([image.valid_HW[:300]] * 3),
        bands=image.bands,
        grid=image.grid.expand((900, image.grid.shape[1])),
    )


def test_a_crop_is_predicted_as_it_is_within_the_whole(write, model, layers, tmp_path):
    """No shift is removed here: it would be measured on other ground in the crop."""
    settings = replace(PLAIN, coregister=PLAIN.coregister.model_copy(update={"min_shift_px": 8.0}))
    images = {role: tall(layers[role]) for role in ("optical", "sar", "cloud")}
    for way, top in (("whole", 0), ("part", 77)):
        parts = {role: cut(image, layers["optical"].grid, top, 0, 900 - top, 320) for role, image in images.items()}
        files = {role: write(f"{way}/{role}.tif", part) for role, part in parts.items()}
        predict_scene(files_as_inputs("s", **files), model, tmp_path / way, settings=settings)
    for name in ("restored", "uncertainty"):
        whole, part = (
            read(tmp_path / way / "s", name)[:, begin:].astype(int) for way, begin in (("whole", 77), ("part", 0))
        )
        assert np.abs(whole - part)[:, WINDOW_PX:].max() <= 1, name  # farther than a window from the cut


def test_another_resolution_is_resampled_and_recorded(write, model, layers, tmp_path):
    optical = layers["optical"]
    coarse = raster.warp(
        optical, optical.grid.zoom_to(resolution=20), resampling=rasterio.enums.Resampling.average, fill=0
    )
    inputs = files_as_inputs("s", optical=write("optical.tif", coarse), sar=write("sar.tif", layers["sar"]))
    predict_scene(inputs, model, tmp_path / "out", settings=PLAIN)
    with rasterio.open(tmp_path / "out/s/restored.tif") as file:
        assert file.res == (10.0, 10.0)
        assert file.shape == (320, 320)
        assert "bilinear" in file.tags()["CGM2NET_GRID"]


def test_another_sensor_is_refused_and_leaves_nothing(write, model, layers, tmp_path):
    sar = write("sar.tif", layers["sar"])
    with pytest.raises(RasterError, match="lacks B02, B03"):
        predict_scene(files_as_inputs("s", optical=sar, sar=sar), model, tmp_path / "out", settings=PLAIN)
    assert not (tmp_path / "out/s").exists()


def test_an_answer_that_is_no_number_ends_it(inputs, model_dir, tmp_path):
    broken = load_model(str(model_dir))
    with torch.no_grad():
        broken.network.segment.head.bias.fill_(float("nan"))
    with pytest.raises(MetricError, match="not finite"):
        predict_scene(inputs, broken, tmp_path / "out", settings=PLAIN)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_scene_gives_the_same_bytes(inputs, plain, model, tmp_path):
    predict_scene(inputs, model, tmp_path / "again", settings=PLAIN)
    for path in sorted(plain.folder.iterdir()):
        assert path.read_bytes() == (tmp_path / "again/s" / path.name).read_bytes(), path.name


def test_reading_ahead_gives_the_same_one_step_early_and_ends_when_left():
    steps = [(0, 10, row) for row in range(4)]
    begun = []
    second = threading.Event()

    def read_step(step):
        begun.append(step[2])
        if len(begun) == 2:
            second.set()
        return step

    assert list(run._bands(read_step, steps, ahead=True)) == list(run._bands(read_step, steps, ahead=False))
    begun.clear(), second.clear()
    bands = run._bands(read_step, steps, ahead=True)
    assert next(bands) == steps[0]
    assert second.wait(30)  # the second is read though nobody asked for it; the third is not
    bands.close()
    assert begun == [0, 1]
    alone = run._bands(read_step, steps, ahead=False)
    begun.clear()
    assert next(alone) == steps[0]
    assert begun == [0]
