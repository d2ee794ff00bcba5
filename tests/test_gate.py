"""The rule, on metrics and sums chosen by hand."""

import numpy as np
import pytest
from fake_evaluation import BANDS, tiles_reaching
from hypothesis import given
from hypothesis import strategies as st

from cgm2net.errors import DataError
from cgm2net.evaluation.resample import drawn_metrics, region_draws, sums_of
from cgm2net.gate import Judged, as_table, compare, gain_chances, reason_of
from cgm2net.settings import RegisterSettings

CLASSES = ("water", "forest")
RULE = RegisterSettings(min_gain={"cloudy/psnr": 0.0}, max_loss={"clear/psnr": 0.5}, max_class_loss=None)


@pytest.mark.parametrize(
    ("metric", "champion", "challenger", "passes"),
    [
        ("cloudy/miou", 0.60, 0.58, True),  # falls by just what is allowed, and by a little more in binary
        ("cloudy/miou", 0.60, 0.5799, False),
        ("cloudy/sam", 5.00, 5.02, True),  # of an angle less is better
        ("cloudy/sam", 5.00, 5.03, False),
        ("cloudy/sam", 5.00, 1.00, True),
    ],
)
def test_allowed_loss(metric: str, champion: float, challenger: float, passes: bool) -> None:
    rule = RegisterSettings(min_gain={"all/psnr": 0.0}, max_loss={metric: 0.02})
    rows = compare({metric: champion, "all/psnr": 1.0}, {metric: challenger, "all/psnr": 1.0}, settings=rule)
    assert [row.passed for row in rows] == [True, passes]


Value = st.floats(-50, 50)


@given(st.sampled_from(["psnr", "mae", "miou", "rmse"]), Value, Value, st.floats(0.001, 5))
def test_two_models_never_both_beat_each_other(metric: str, a: float, b: float, least: float) -> None:
    rule = RegisterSettings(min_gain={f"cloudy/{metric}": least}, max_loss={})
    forth, back = (
        compare({f"cloudy/{metric}": x}, {f"cloudy/{metric}": y}, settings=rule)[0] for x, y in ((a, b), (b, a))
    )
    assert not (forth.passed and back.passed)
    assert forth.gain == -back.gain if back.gain is not None else False


def judged(cloudy_psnr: dict[str, float], **metrics: float) -> Judged:
    """A model with this PSNR under cloud, region by region."""
    tiles = tiles_reaching({name: {"cloudy/psnr": value, "clear/psnr": 30.0} for name, value in cloudy_psnr.items()})
    pooled = -10 * np.log10(np.mean([10 ** (-value / 10) for value in cloudy_psnr.values()]))
    return Judged(metrics={"cloudy/psnr": float(pooled), "clear/psnr": 30.0, **metrics}, tiles=tiles)


def chances(champion: Judged, challenger: Judged) -> dict[str, float]:
    return gain_chances(champion, challenger, settings=RULE, optical_bands=BANDS, classes=CLASSES)


def test_sums_of_tiles_come_to_the_metrics_they_were_made_for() -> None:
    tiles = tiles_reaching({"a": {"cloudy/psnr": 23.0, "cloudy/miou": 0.625, "clear/psnr": 31.0, "clear/miou": 0.75}})
    drawn = drawn_metrics(*sums_of(tiles, optical_bands=BANDS, classes=CLASSES), np.ones((1, 1)), classes=CLASSES)
    found = {name: drawn[name][0] for name in ("cloudy/psnr", "cloudy/miou", "clear/psnr", "clear/iou_forest")}
    assert found == pytest.approx({"cloudy/psnr": 23, "cloudy/miou": 0.625, "clear/psnr": 31, "clear/iou_forest": 0.75})


def test_regions_are_drawn_whole() -> None:
    weights = region_draws(["a", "b", "a", "c", "a"], 500)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # as many regions as there are
    assert weights[:, 1].mean() == pytest.approx(1.0, abs=0.15)


def test_a_gain_in_every_region_is_sure() -> None:
    found = chances(judged({"a": 20.0, "b": 22.0, "c": 25.0}), judged({"a": 20.1, "b": 22.1, "c": 25.1}))
    assert found == {"cloudy/psnr": 1.0, "clear/psnr": 1.0}


def test_a_gain_that_one_region_alone_brings_is_not_sure() -> None:
    """Three regions: draws without the one that gains, (2/3)^3 = 30 % of them, show the loss of the others."""
    before, after = judged(dict.fromkeys("abc", 20.0)), judged({"a": 26.0, "b": 19.9, "c": 19.9})
    assert after.metrics["cloudy/psnr"] > before.metrics["cloudy/psnr"]
    chance = chances(before, after)
    assert chance["cloudy/psnr"] == pytest.approx(19 / 27, abs=0.05)
    rows = compare(before.metrics, after.metrics, settings=RULE, chances=chance)
    assert [row.passed for row in rows] == [False, True]
    reason = reason_of(rows, min_chance=RULE.min_chance)
    assert reason.startswith("cloudy/psnr 21.16 against 20: gain 1.158, at least +0 in ")
    assert reason.endswith(" of the resampled test sets, the rule asks for 90%")
    lenient = RULE.model_copy(update={"min_chance": 0.5})
    assert all(row.passed for row in compare(before.metrics, after.metrics, settings=lenient, chances=chance))


def test_no_class_may_fall_by_more_than_allowed() -> None:
    rule = RULE.model_copy(update={"max_class_loss": 0.1})
    before = {"cloudy/psnr": 20.0, "clear/psnr": 30.0, "cloudy/iou_water": 0.8, "clear/iou_water": 0.8}
    after = before | {"cloudy/psnr": 22.0, "cloudy/iou_water": 0.65}
    rows = compare(before, after, settings=rule)
    assert {row.metric: row.passed for row in rows} == {
        "cloudy/psnr": True, "clear/psnr": True, "clear/iou_water": True, "cloudy/iou_water": False
    }  # fmt: skip
    assert reason_of(rows, min_chance=0.9) == (
        "cloudy/iou_water 0.65 against 0.8: gain -0.15, the rule asks for at least -0.1"
    )
    assert "| cloudy/iou_water | 0.8 | 0.65 | -0.15 | -0.1 |  | failed |" in as_table(rows)
    assert [row.metric for row in compare(None, after, settings=rule)] == ["cloudy/psnr", "clear/psnr"]


def test_models_judged_on_other_tiles_are_not_compared() -> None:
    with pytest.raises(DataError, match="different tiles"):
        chances(judged({"a": 20.0}), judged({"b": 20.0}))
