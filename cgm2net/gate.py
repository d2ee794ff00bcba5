"""The rule by which a challenger becomes the champion: gains and losses on one test set, and how sure they are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cgm2net.errors import DataError, MetricError
from cgm2net.evaluation.resample import drawn_metrics, region_draws, sums_of
from cgm2net.settings import RegisterSettings

NUM_DRAWS = 1000
LOWER_IS_BETTER = ("mae", "rmse", "sam", "ece")
_ROUNDING = 1e-9  # 0.62 - 0.60 is a little more than 0.02 in binary


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of the rule."""

    metric: str
    champion: float | None
    "None while there is no champion."
    challenger: float
    gain: float | None
    "Positive is better, whichever way the metric runs."
    limit: float
    "The gain must not be less."
    chance: float | None = None
    "Share of the resampled test sets in which the gain is not less than the limit; None where that cannot be said."
    passed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a model reached on the test set."""

    metrics: Mapping[str, float]
    "Flat, ``cloudy/psnr``."
    tiles: pd.DataFrame
    "``tile_id``, ``region`` and the sums of every tile, as ``tiles.parquet`` of the stage ``evaluate`` has them."


def compare(
    champion: Mapping[str, float] | None,
    challenger: Mapping[str, float],
    *,
    settings: RegisterSettings,
    chances: Mapping[str, float] | None = None,
) -> tuple[Comparison, ...]:
    """Compare the metrics of the rule: those that must gain, those that may lose a little, the IoU of every class.

    Args:
        champion: its metrics; without a champion all pass.
        challenger: its metrics.
        settings: the rule.
        chances: see :func:`gain_chances`; a metric that must gain and has none here is judged by its gain alone.
    """
    chances = chances or {}
    rows = []
    for name, limit in limits(champion, challenger, settings=settings).items():
        before = None if champion is None else champion[name]
        gain = None if before is None else _sign(name) * (challenger[name] - before)
        chance = chances.get(name)
        sure = name not in settings.min_gain or chance is None or chance >= settings.min_chance
        passed = gain is None or (gain >= limit - _ROUNDING and sure)
        rows.append(
            Comparison(
                metric=name, champion=before, challenger=challenger[name], gain=gain, limit=limit, chance=chance,
                passed=passed,
            )
        )  # fmt: skip
    return tuple(rows)


def limits(
    champion: Mapping[str, float] | None, challenger: Mapping[str, float], *, settings: RegisterSettings
) -> dict[str, float]:
    """Return the least gain of every metric of the rule, negative where a loss is allowed; classes last."""
    found = dict(sorted(settings.min_gain.items()))
    found |= {name: -loss for name, loss in sorted(settings.max_loss.items())}
    if champion is not None and settings.max_class_loss is not None:
        classes = [name for name in champion if name.startswith(("clear/iou_", "cloudy/iou_"))]
        of_class = {name: -settings.max_class_loss for name in sorted(classes) if name in challenger}
        found = found | {name: limit for name, limit in of_class.items() if name not in found}
    return found


def gain_chances(
    champion: Judged,
    challenger: Judged,
    *,
    settings: RegisterSettings,
    optical_bands: Sequence[str],
    classes: Sequence[str],
) -> dict[str, float]:
    """Return for each metric of the rule in which share of test sets, resampled by regions, the gain is enough.

    Both models are judged on the same draws. Metrics that sums of tiles do not tell (``ece``) have none.

    Raises:
        DataError: if the two were judged on other tiles.
    """
    if list(champion.tiles["tile_id"]) != list(challenger.tiles["tile_id"]):
        raise DataError("champion and challenger were judged on different tiles; run `dvc repro` from evaluate on")
    weights_RT = region_draws(list(challenger.tiles["region"]), NUM_DRAWS)
    before, after = (
        drawn_metrics(
            *sums_of(judged.tiles, optical_bands=optical_bands, classes=classes), weights_RT, classes=classes
        )
        for judged in (champion, challenger)
    )  # fmt: skip
    chances = {}
    for name, limit in limits(champion.metrics, challenger.metrics, settings=settings).items():
        if name in before and name in after:
            gains_R = _sign(name) * (after[name] - before[name])
            known_R = gains_R[np.isfinite(gains_R)]
            if known_R.size:
                chances[name] = float((known_R >= limit - _ROUNDING).mean())
    return chances


def require_metrics(metrics: Mapping[str, float], wanted: Sequence[str], *, where: str) -> None:
    """Refuse metrics that the rule cannot be applied to.

    Raises:
        DataError: if one is absent.
        MetricError: if one is not finite.
    """
    if absent := [name for name in wanted if name not in metrics]:
        raise DataError(
            f"{where}: lacks {absent}, which register.min_gain or register.max_loss of params.yaml name; there are"
            f" {sorted(metrics)[:20]}; name others, or test on scenes that have clouds and labels"
        )
    if broken := [name for name in wanted if not math.isfinite(metrics[name])]:
        raise MetricError(f"{where}: {broken} are not finite; look for a diverged training")


def reason_of(comparisons: Sequence[Comparison], *, min_chance: float) -> str:
    """Say in words why the rule promotes or does not."""
    if all(row.champion is None for row in comparisons):
        return "the first version: there is no champion"
    if all(row.passed for row in comparisons):
        return "better than the champion as the rule asks, and nowhere worse than it allows"
    return "; ".join(_objection(row, min_chance=min_chance) for row in comparisons if not row.passed)


def as_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the lines of a Markdown table."""
    rows = [
        f"| {row.metric} | {number(row.champion)} | {number(row.challenger)} | {number(row.gain)} |"
        f" {row.limit:+g} | {'' if row.chance is None else f'{row.chance:.0%}'} |"
        f" {'passed' if row.passed else 'failed'} |"
        for row in comparisons
    ]
    titles = "| metric | champion | challenger | gain | least gain | sure to | verdict |"
    return [titles, "|---|---|---|---|---|---|---|", *rows]


def number(value: float | None) -> str:
    """Return four digits; nothing for None."""
    return "" if value is None else f"{value:.4g}"


def _objection(row: Comparison, *, min_chance: float) -> str:
    said = f"{row.metric} {number(row.challenger)} against {number(row.champion)}: gain {number(row.gain)}"
    if row.gain is not None and row.gain >= row.limit - _ROUNDING and row.chance is not None:
        return (
            f"{said}, at least {row.limit:+g} in {row.chance:.0%} of the resampled test sets, the rule asks for"
            f" {min_chance:.0%}"
        )
    return f"{said}, the rule asks for at least {row.limit:+g}"


def _sign(metric: str) -> float:
    return -1.0 if metric.split("/")[1] in LOWER_IS_BETTER else 1.0
