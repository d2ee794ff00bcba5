"""Means over seeds and the paired bootstrap, with sums chosen by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgm2net.comparison.statistics import difference, draws, leaders, summarise
from cgm2net.comparison.suites import Variant
from cgm2net.evaluation.image_metrics import sum_names
from cgm2net.evaluation.score import Scores

FULL, OTHER = Variant(name="cgm2net", title="Full"), Variant(name="other", title="Other")


def scores(squared_T: list[float], right_T: list[int]) -> Scores:
    """Tiles of 100 cloudy pixels in one band: their squared errors, and how many of 100 labels are right."""
    names = sum_names(("B02",))
    model_TGS = np.zeros((len(squared_T), 2, len(names)))
    model_TGS[:, 1, names.index("pixels")] = 100.0
    model_TGS[:, 1, names.index("squared")] = squared_T
    confusion_TGKK = np.zeros((len(squared_T), 2, 2, 2), int)
    confusion_TGKK[:, 1, 0, 0] = right_T
    confusion_TGKK[:, 1, 0, 1] = 100 - np.array(right_T)
    table = pd.DataFrame({"tile_id": [f"t{t}" for t in range(len(squared_T))], "scene_id": "s", "region": "r"})
    return Scores(
        tiles=table, model_TGS=model_TGS, copy_TGS=model_TGS, confusion_TGKK=confusion_TGKK, calibration_TGS=None,
        optical_bands=("B02",), classes=("a", "b"),
    )  # fmt: skip


def test_mean_and_deviation_are_over_seeds():
    # 1 / 100 of squared error is 20 dB, 0.1 / 100 is 30 dB: mean 25, deviation of two (30 - 20) / sqrt(2)
    result = summarise(FULL, [scores([1.0, 1.0], [90, 90]), scores([0.1, 0.1], [90, 90])], steps=1, num_draws=2)
    assert result.mean("cloudy/psnr") == pytest.approx(25.0)
    assert result.deviation("cloudy/psnr") == pytest.approx(10 / math.sqrt(2))
    assert result.mean("cloudy/oa") == pytest.approx(0.9)
    assert math.isnan(result.mean("clear/psnr"))  # not a clear pixel
    assert math.isnan(summarise(FULL, [scores([1.0], [90])], steps=1, num_draws=2).deviation("cloudy/psnr"))


def test_a_difference_on_every_tile_is_sure_and_one_that_hangs_on_a_tile_is_not():
    even = summarise(OTHER, [scores([1.0] * 8, [80] * 8)], steps=1)
    better = summarise(FULL, [scores([0.5] * 8, [80] * 8)], steps=1)
    found = difference(better, even, "cloudy/psnr")
    assert found is not None
    # every tile has half of the error, so every draw says 10 log10(2)
    assert (found.low, found.mean, found.high) == pytest.approx((3.0103, 3.0103, 3.0103), abs=1e-4)
    assert found.sure
    mixed = summarise(FULL, [scores([0.5, 2.0] * 4, [80] * 8)], steps=1)
    found = difference(mixed, even, "cloudy/psnr")
    assert found is not None
    assert found.low < 0 < found.high
    assert not found.sure


def test_the_same_tiles_are_drawn_for_every_variant():
    """Errors that go together cancel: unpaired, tiles this different would hide the difference."""
    hard = [0.1, 10.0, 0.1, 10.0]
    one = summarise(FULL, [scores(hard, [50] * 4)], steps=1)
    two = summarise(OTHER, [scores([2 * value for value in hard], [50] * 4)], steps=1)
    found = difference(one, two, "cloudy/psnr")
    assert found is not None
    assert found.low == pytest.approx(found.high)


def test_leaders_are_the_best_and_whoever_cannot_be_told_from_it():
    best = summarise(FULL, [scores([0.5] * 8, [80] * 8)], steps=1)
    close = summarise(OTHER, [scores([0.4, 0.7] * 4, [80] * 8)], steps=1)
    far = summarise(Variant(name="far", title="Far"), [scores([2.0] * 8, [80] * 8)], steps=1)
    assert leaders([best, close, far], "cloudy/psnr") == {"cgm2net", "other"}
    assert leaders([best, close, far], "clear/psnr") == set()
    assert leaders([best, far], "cloudy/rmse") == {"cgm2net"}  # less is better


def test_a_task_that_is_not_learned_has_no_metrics():
    alone = Variant(name="alone", title="Alone", changes={"segmentation_weight": 0.0})
    result = summarise(alone, [scores([1.0], [90])], steps=1, num_draws=3)
    assert math.isfinite(result.mean("cloudy/psnr"))
    assert math.isnan(result.mean("cloudy/miou"))
    assert difference(result, result, "cloudy/miou") is None


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 20))
def test_every_draw_has_as_many_tiles_as_there_are_and_is_the_same_again(num_tiles, num_draws):
    drawn_RT = draws(num_tiles, num_draws)
    assert drawn_RT.shape == (num_draws, num_tiles)
    assert (drawn_RT.sum(axis=1) == num_tiles).all()
    assert (draws(num_tiles, num_draws) == drawn_RT).all()
