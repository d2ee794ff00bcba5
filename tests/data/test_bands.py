"""What stored bands become: found by name, in DN and dB, with what was not measured left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import BANDS, CARD, box, write
from rasterio.windows import Window

from cgm2net.errors import RasterError
from cgm2net.predict.scene import Scene, files_as_inputs, open_scene


def opened(folder: Path, optical: np.ndarray, sar: np.ndarray, **options: object) -> Scene:
    """Write a scene of 64 px and open it, unchecked."""
    small = box(64, 64)
    names, sar_names = options.pop("names", BANDS), options.pop("sar_names", ("VV", "VH"))
    assert isinstance(names, tuple)
    assert isinstance(sar_names, tuple)
    write(folder / "optical.tif", optical, names, small)
    write(folder / "sar.tif", sar, sar_names, small)
    inputs = files_as_inputs("s", optical=folder / "optical.tif", sar=folder / "sar.tif", **options)  # type: ignore[arg-type]
    return open_scene(inputs, CARD, checked=False)


ALL = Window(0, 0, 64, 64)
DN = np.arange(1, 6 * 64 * 64 + 1, dtype=np.uint16).reshape(6, 64, 64)
DB = np.random.default_rng(2).normal(-12, 3, (2, 64, 64)).astype(np.float32)


def test_bands_are_taken_by_name_and_extra_ones_are_left_and_told(tmp_path: Path) -> None:
    order = ("B12", "B01", "B04", "B02", "B03", "B11", "B08")
    pixels = np.concatenate([DN, np.full((1, 64, 64), 9, np.uint16)])
    with opened(tmp_path, pixels, DB[::-1], names=order, sar_names=("VH", "VV")) as scene:
        got = scene.optical(ALL)
        assert got.bands == BANDS
        for band, values in zip(BANDS, got.pixels_CHW, strict=True):
            np.testing.assert_array_equal(values, pixels[order.index(band)])
        np.testing.assert_array_equal(scene.sar(ALL).pixels_CHW, DB)
        assert scene.facts["bands_ignored"] == {"optical": ["B01"], "sar": []}


def test_a_missing_band_is_refused_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"scene s: optical has bands B02, B03, B04, B08, B11, lacks B12; the model"):
        opened(tmp_path, DN[:5], DB, names=BANDS[:5])
    with pytest.raises(RasterError, match=r"scene s: sar has bands HH, HV, lacks VV, VH"):
        opened(tmp_path, DN, DB, sar_names=("HH", "HV"))


def test_files_without_band_names_take_those_that_are_given(tmp_path: Path) -> None:
    nameless = {"names": ("",) * 6, "sar_names": ("",) * 2}
    with pytest.raises(RasterError, match=r"optical\.tif: bands have no names; give the names of all 6"):
        opened(tmp_path, DN, DB, **nameless)
    with pytest.raises(RasterError, match=r"optical\.tif: has 6 bands, 2 names were given: B02, B03"):
        opened(tmp_path, DN, DB, **nameless, optical_bands=("B02", "B03"))
    with opened(tmp_path, DN, DB, **nameless, optical_bands=BANDS[::-1], sar_bands=("VH", "VV")) as scene:
        np.testing.assert_array_equal(scene.optical(ALL).pixels_CHW, DN[::-1])
        np.testing.assert_array_equal(scene.sar(ALL).pixels_CHW, DB[::-1])


def test_scale_and_offset_make_dn_and_dark_ground_is_no_nodata(tmp_path: Path) -> None:
    stored = np.full((6, 64, 64), 1900, np.uint16)
    stored[:, 0, 0], stored[:, 0, 1], stored[:, 0, 2], stored[0, 0, 3] = 0, 1000, 900, 0
    with opened(tmp_path, stored, DB, offset=-1000.0) as scene:
        image = scene.optical(ALL)
        assert image.pixels_CHW[0, 0, :5].tolist() == [0, 1, 1, 1, 900]
        assert image.valid_HW[0, :5].tolist() == [False, True, True, True, True]
    with opened(tmp_path, (stored / 10_000).astype(np.float32), DB, scale=10_000.0) as scene:
        assert scene.optical(ALL).pixels_CHW[:, 0, 4].tolist() == [1900] * 6


def test_linear_power_becomes_decibel(tmp_path: Path) -> None:
    power = np.full((2, 64, 64), 0.1, np.float32)
    power[0, 0, :3] = 0, -1, 10
    with opened(tmp_path, DN, power, linear=True) as scene:
        sar = scene.sar(ALL)
    np.testing.assert_allclose(sar.pixels_CHW[0, 0, 2:4], [10, -10], rtol=1e-6)
    assert sar.valid_HW[0, :4].tolist() == [False, False, True, True]
    assert np.isnan(sar.pixels_CHW[:, 0, 0]).all()


def test_a_border_of_0_db_is_no_measurement_in_any_window(tmp_path: Path) -> None:
    sar = DB.copy()
    sar[:, :, :5] = 0
    sar[:, 30:34, 40:44] = 0  # a bright target
    with opened(tmp_path, DN, sar) as scene:
        valid = scene.sar(ALL).valid_HW
        assert not valid[:, :5].any()
        assert valid[:, 5:].all()
        np.testing.assert_array_equal(scene.sar(Window(3, 20, 30, 30)).valid_HW, valid[20:50, 3:33])


def test_bands_that_are_not_there_twice_there_or_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="scene s: optical has two bands of one name"):
        opened(tmp_path, DN, DB, names=(*BANDS[:5], "B02"))
    with pytest.raises(RasterError, match=r"sar\.tif: holds complex64 values, wanted real numbers"):
        opened(tmp_path, DN, DB.astype(np.complex64))
    inputs = opened(tmp_path, DN, DB).inputs
    wrong = (*inputs.optical[:5], replace(inputs.optical[5], index=7))
    with pytest.raises(RasterError, match=r"optical\.tif: has 6 bands, band 7 was asked for B12"):
        open_scene(replace(inputs, optical=wrong), CARD)
