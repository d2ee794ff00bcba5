"""Reliability and coverage worked by hand; a fit that finds what was put in."""

import numpy as np
import pytest
import torch

from cgm2net.errors import DataError
from cgm2net.evaluation.calibration import CalibrationMetrics, calibration_metrics, fit, reliability_table
from cgm2net.model.calibration import Calibration, half_width, probabilities
from cgm2net.model.interface import Prediction

PLAIN = Calibration(interval_clear=(1.0,), interval_cloudy=(1.0,))


def batch(label, cloud, clear, valid=None):
    label_HW, cloud_HW = torch.tensor([label]), torch.tensor([cloud], dtype=torch.float32)
    valid_HW = torch.ones_like(label_HW, dtype=torch.bool) if valid is None else torch.tensor([valid])
    return {
        "label_HW": label_HW[None], "cloud_HW": cloud_HW[None], "valid_HW": valid_HW[None],
        "clear_CHW": torch.tensor([[[clear]]], dtype=torch.float32),
    }  # fmt: skip


def answer(sure, clear, spread):
    """Two classes; class 0 has the probability ``sure``."""
    sure = torch.tensor(sure, dtype=torch.float32)
    logits_KW = torch.stack([sure.log(), (1 - sure).log()])
    image, width = (torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1) for values in (clear, spread))
    return Prediction(image, logits_KW.reshape(1, 2, 1, -1), width)


def test_reliability_and_coverage_worked_by_hand():
    # four pixels: confident 0.9 and right, 0.9 and wrong, 0.7 and right (cloudy), unlabelled
    seen = batch([0, 1, 0, 255], [0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5])
    prediction = answer([0.9, 0.9, 0.7, 0.9], clear=[0.55, 0.7, 0.5, 0.45], spread=[0.1, 0.1, 0.2, 0.1])
    metrics = CalibrationMetrics(PLAIN, num_classes=2, cloud_threshold=0.5)
    sums_GS = metrics.update(prediction, seen).sum(axis=0)
    found = calibration_metrics(sums_GS)
    assert found["clear/ece"] == pytest.approx(abs(0.9 - 0.5))
    assert found["cloudy/ece"] == pytest.approx(0.3)
    assert found["all/ece"] == pytest.approx((2 * 0.4 + 1 * 0.3) / 3)
    # errors 0.05, 0.2, 0.05 of the clear pixels within 0.1: two of three; the unlabelled one counts
    assert found["clear/coverage"] == pytest.approx(2 / 3)
    assert found["clear/interval"] == pytest.approx(0.1)
    assert (found["cloudy/coverage"], found["cloudy/interval"]) == pytest.approx((1.0, 0.2))
    table = reliability_table(sums_GS).set_index("group")
    assert table.loc["clear", ["low", "high", "pixels", "confidence", "accuracy"]].tolist() == pytest.approx(
        [13 / 15, 14 / 15, 2, 0.9, 0.5]
    )


def test_a_group_without_a_pixel_has_no_figure():
    seen = batch([0, 255], [0.0, 0.0], [0.5, 0.5])
    sums_GS = CalibrationMetrics(PLAIN, num_classes=2, cloud_threshold=0.5).update(
        answer([0.9, 0.9], clear=[0.5, 0.5], spread=[0.1, 0.1]), seen
    )
    assert {name.split("/")[0] for name in calibration_metrics(sums_GS.sum(axis=0))} == {"all", "clear"}


def test_between_clear_and_cloudy_the_cloud_interpolates():
    calibration = Calibration(
        temperature_clear=1.0, temperature_cloudy=3.0, interval_clear=(1.0,), interval_cloudy=(5.0,)
    )
    cloud_BHW = torch.tensor([[[0.0, 0.5, 1.0]]])
    logits_BKHW = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 3)
    odds = probabilities(logits_BKHW, cloud_BHW, calibration)[0, 0, 0].logit()
    assert odds.tolist() == pytest.approx([2.0, 1.0, 2 / 3])
    half = half_width(torch.full((1, 1, 1, 3), 0.1), cloud_BHW, calibration)
    assert half.flatten().tolist() == pytest.approx([0.1, 0.3, 0.5])


def test_the_fit_finds_temperature_and_factor_that_were_put_in():
    rng = np.random.default_rng(0)
    side = 64
    truth_KHW = rng.normal(0, 2, (3, side, side))
    odds = np.exp(truth_KHW) / np.exp(truth_KHW).sum(axis=0)
    label = (rng.uniform(size=(side, side)) > odds.cumsum(axis=0)[..., :, :]).sum(axis=0)
    spread = rng.uniform(0.01, 0.05, (2, side, side))
    error = rng.uniform(0, 1, (2, side, side)) * np.array([2.0, 4.0])[:, None, None] * spread
    seen = {
        "label_HW": torch.from_numpy(label)[None], "cloud_HW": torch.zeros(1, side, side),
        "valid_HW": torch.ones(1, side, side, dtype=torch.bool),
        "clear_CHW": torch.full((1, 2, side, side), 0.3, dtype=torch.float64),
    }  # fmt: skip
    prediction = Prediction(
        torch.from_numpy(0.3 + error)[None], torch.from_numpy(2.5 * truth_KHW)[None], torch.from_numpy(spread)[None]
    )
    found = fit([(seen, prediction)], num_classes=3, cloud_threshold=0.5)
    assert found.temperature_clear == pytest.approx(2.5, rel=0.1)
    # of errors that are uniform up to f spreads, 90 % lie below 0.9 f
    assert found.interval_clear == pytest.approx((1.8, 3.6), rel=0.05)
    # no clouded pixel: what holds in the clear is the best guess
    assert found.temperature_cloudy == found.temperature_clear
    assert found.interval_cloudy == found.interval_clear
    covered = CalibrationMetrics(found, num_classes=3, cloud_threshold=0.5).update(prediction, seen).sum(axis=0)
    assert calibration_metrics(covered)["clear/coverage"] == pytest.approx(0.9, abs=0.01)
    assert calibration_metrics(covered)["clear/ece"] < 0.03


def test_without_a_measured_pixel_there_is_nothing_to_fit():
    seen = batch([0], [0.0], [0.5], valid=[False])
    with pytest.raises(DataError, match="nothing to calibrate"):
        fit([(seen, answer([0.9], clear=[0.5], spread=[0.1]))], num_classes=2, cloud_threshold=0.5)


def test_a_factor_holds_for_most_draws_of_the_tiles():
    """Errors of 1 spread everywhere, but of 3 in one tile: does the tenth that may lie outside take it in?"""

    def factor(num_tiles: int) -> float:
        ratio_B = torch.ones(num_tiles)
        ratio_B[0] = 3.0
        clear = torch.zeros(num_tiles, 1, 4, 4)
        prediction = Prediction(
            clear + 0.1 * ratio_B.view(-1, 1, 1, 1), torch.zeros(num_tiles, 2, 4, 4), torch.full_like(clear, 0.1)
        )
        batch = {
            "clear_CHW": clear, "cloud_HW": torch.zeros(num_tiles, 4, 4),
            "label_HW": torch.zeros(num_tiles, 4, 4).long(),
            "valid_HW": torch.ones(num_tiles, 4, 4, dtype=torch.bool),
        }  # fmt: skip
        return fit([(batch, prediction)], num_classes=2, cloud_threshold=0.5).interval_clear[0]

    # 21 tiles: drawn anew, the odd one is more than a tenth of them (three times or more) in 8 draws of 100
    assert factor(21) == pytest.approx(3.0)
    # 60 tiles: six times or more in less than one draw of 1000
    assert factor(60) == pytest.approx(1.0)
