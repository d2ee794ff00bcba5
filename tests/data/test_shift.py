"""Shifts that are known because the test made them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cgm2net.data import information
from cgm2net.data import shift as shift_module
from cgm2net.data.information import objection
from cgm2net.data.pair import ArrayPair, UsableShares
from cgm2net.data.shift import Shift, measure_shift
from cgm2net.settings import CoregisterSettings

SETTINGS = CoregisterSettings(window_px=64)


def ground(seed: int, *, size: int, values: int) -> np.ndarray:
    """Fields with straight borders, (bands, H, W): what one sensor sees has nothing to do with what another does."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, size, (size * size // 400, 2))
    y, x = np.mgrid[:size, :size]
    field = np.argmin([(y - p) ** 2 + (x - q) ** 2 for p, q in points], axis=0)
    return np.random.default_rng(seed + values).uniform(0.05, 0.4, (values, len(points)))[:, field]


def optics_and_sar(
    seed: int = 1, *, size: int = 192, dx: float = 0.0, dy: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Optics, and SAR [dB] with 4.4-look speckle whose content is ``dx`` px to the right and ``dy`` px down."""
    optical = ground(seed, size=size, values=3)
    speckle = np.random.default_rng(seed + 100).gamma(4.4, 1 / 4.4, (2, size, size))
    power = ndimage.shift(ground(seed, size=size, values=2), (0, dy, dx), order=1, mode="nearest")
    return optical, 10 * np.log10(power * speckle)


def measured(optical: np.ndarray, sar: np.ndarray, usable: np.ndarray | None = None, **changes: float) -> Shift:
    usable = np.ones(optical.shape[1:], bool) if usable is None else usable
    return measure_shift(optical, sar, usable_HW=usable, settings=SETTINGS.model_copy(update=changes))


def test_sar_content_to_the_right_and_up_is_positive_dx_and_negative_dy() -> None:
    optical, sar = optics_and_sar()
    rolled = np.roll(sar, (-4, 3), axis=(1, 2))  # rows move up by 4, columns right by 3
    found = measured(optical, rolled)
    assert found.status == "moved"
    assert found.dx_px == pytest.approx(3.0, abs=0.3)
    assert found.dy_px == pytest.approx(-4.0, abs=0.3)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(dx=st.floats(-7, 7), dy=st.floats(-7, 7))
def test_a_fraction_of_a_pixel_is_measured(dx: float, dy: float) -> None:
    found = measured(*optics_and_sar(dx=dx, dy=dy))
    assert found.status != "unsure", found.reason
    assert np.hypot(found.dx_px - dx, found.dy_px - dy) < 0.35


def test_too_small_a_shift_is_aligned() -> None:
    found = measured(*optics_and_sar(dx=0.3), min_shift_px=0.8)
    assert (found.status, found.reason) == ("aligned", "")
    assert found.agreement >= 0.35
    assert found.rmse_px < 1.0


def test_what_windows_do_not_pin_down_is_unsure() -> None:
    optical, sar = optics_and_sar(dx=3.0)
    found = measured(optical, sar)
    assert 0 < found.error_px < 0.3
    noisy = sar + np.random.default_rng(0).normal(0, 9, sar.shape)
    doubtful = measured(optical, noisy)
    assert doubtful.error_px > found.error_px
    refused = measured(optical, sar, max_error_px=0.9 * found.error_px)
    assert (refused.status, refused.displacement) == ("unsure", found.displacement)
    assert f"known to {found.error_px:.2f} px only" in refused.reason


def test_the_error_of_a_consensus_is_that_of_other_windows() -> None:
    """Windows say 1 px to the left or to the right of it, as many each: a third of twelve is four draws, whose mean is
    off by 1 px in 2 of 16 cases, by 0.5 px in 8."""
    away = np.array([[1.0, 0.0], [-1.0, 0.0]] * 6)
    assert shift_module._error_of_bend(away) == pytest.approx(1.0)  # 12.5 % lie at 1 px: more than the tenth left out
    assert shift_module._error_of_bend(0 * away) == 0.0
    dy, dx = np.mgrid[-4:5, -4:5]
    same = np.repeat(1.0 - ((dx - 1.25) ** 2 + (dy + 0.5) ** 2)[None], 12, axis=0)
    move = shift_module.Displacement(dx_px=1.25, dy_px=-0.5)
    assert shift_module._error_of_peak(same, move) == pytest.approx(0.0, abs=1e-9)
    assert shift_module._error_of_peak(same, shift_module.Displacement(dx_px=0.25, dy_px=-0.5)) == pytest.approx(1.0)


def test_images_of_different_places_are_unsure() -> None:
    for seed in range(3):
        found = measured(optics_and_sar(seed)[0], optics_and_sar(seed + 50)[1])
        assert found.status == "unsure"
        assert "windows agree" in found.reason


def test_a_shift_beyond_the_limit_is_not_believed() -> None:
    found = measured(*optics_and_sar(dx=6.0), max_shift_px=4.0)
    assert found.status == "unsure"
    assert "beyond the 4 px" in found.reason
    assert found.dx_px == pytest.approx(6.0, abs=0.4)


def test_clouds_under_the_mask_change_nothing_and_clouded_windows_drop_out() -> None:
    optical, sar = optics_and_sar(size=256, dx=2.0, dy=5.0)
    usable = np.ones((256, 256), bool)
    usable[:, :110] = False
    clouded = np.where(usable, optical, 0.9 * ndimage.gaussian_filter(np.random.default_rng(0).random((256, 256)), 4))
    clear, found = measured(optical, sar, usable), measured(clouded, sar, usable)
    assert found.num_windows < measured(optical, sar).num_windows
    assert (found.status, found.dx_px, found.dy_px) == ("moved", clear.dx_px, clear.dy_px)
    assert np.hypot(found.dx_px - 2, found.dy_px - 5) < 0.4


def test_nothing_to_see_is_unsure() -> None:
    optical, sar = optics_and_sar()
    dark = measured(optical, sar, np.zeros(optical.shape[1:], bool))
    assert (dark.status, dark.num_windows, dark.windows) == ("unsure", 0, ())
    assert np.isnan(dark.dx_px)
    assert "0 windows of 64 px" in dark.reason
    assert measured(optical, np.full_like(sar, np.nan)).num_windows == 0
    assert measured(optical, np.full_like(sar, -12.0)).status == "unsure"
    assert measured(optical[:, :80, :80], sar[:, :80, :80]).reason.startswith("4 windows")


def test_nodata_in_sar_is_no_edge() -> None:
    optical, sar = optics_and_sar(size=256, dx=-3.0, dy=1.0)
    sar[:, :, :70] = np.nan
    found = measured(optical, sar)
    assert found.status == "moved"
    assert np.hypot(found.dx_px + 3, found.dy_px - 1) < 0.35


def test_unit_of_reflectance_does_not_matter() -> None:
    optical, sar = optics_and_sar(dx=1.5)
    stored = measured(np.round(optical * 10_000).astype(np.uint16), sar)
    assert stored.dx_px == pytest.approx(measured(optical, sar).dx_px, abs=0.01)


def test_window_table_is_what_the_verdict_is_made_of() -> None:
    found = measured(*optics_and_sar(dx=2.0))
    agreeing = [w for w in found.windows if w.agrees]
    away = [np.hypot(w.dx_px - found.dx_px, w.dy_px - found.dy_px) for w in agreeing]
    assert found.num_windows == len(found.windows) == 25  # starts 0, 32, 64, 96, 128 on either axis of 192
    assert found.agreement == len(agreeing) / 25
    assert found.rmse_px == pytest.approx(np.sqrt(np.mean(np.square(away))))
    assert (found.windows[0].row, found.windows[0].col, found.windows[0].usable_share) == (32, 32, 1.0)


def test_peak_of_a_quadratic_is_found_exactly() -> None:
    dy, dx = np.mgrid[-4:5, -4:5]
    surface = 1.0 - (dx - 1.25) ** 2 - 0.5 * (dy + 2.4) ** 2 + 0.3 * (dx - 1.25) * (dy + 2.4)
    assert shift_module._peak(surface)[:2] == pytest.approx((1.25, -2.4))


def test_correlation_is_that_of_the_overlap_alone() -> None:
    rng = np.random.default_rng(3)
    template, search = rng.normal(size=(8, 8)), rng.normal(size=(12, 12))
    weight = (rng.random((12, 12)) > 0.2).astype(float)
    got = shift_module._correlate(template, np.ones((8, 8)), search * weight, weight)
    seen = weight[3:11, 1:9] > 0
    by_hand = np.corrcoef(template[seen], search[3:11, 1:9][seen])[0, 1]
    assert got.shape == (5, 5)
    assert got[3, 1] == pytest.approx(by_hand, abs=1e-9)


def test_mutual_information_of_known_tables() -> None:
    a = np.repeat(np.arange(16), 16)
    assert information._information(a, a) == pytest.approx(np.log(16))
    assert information._information(a, np.tile(np.arange(16), 16)) == pytest.approx(0.0, abs=1e-12)


def test_mutual_information_objects_to_a_move_the_wrong_way() -> None:
    optical, sar = optics_and_sar(dx=4.0)
    pair = ArrayPair(optical, sar, np.ones(optical.shape[1:], bool))
    shares = UsableShares(pair.shape, window_px=64)
    shares.add(pair.usable_HW, row=0, col=0)
    places = shares.places()
    there = np.tile([4.0, 0.0], (len(places), 1))
    assert objection(pair, places, there, size=64) == ""
    assert "mutual information" in objection(pair, places, -there, size=64)
