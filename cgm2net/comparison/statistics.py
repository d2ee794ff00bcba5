"""Means over seeds, and how sure a difference is: paired bootstrap over the test tiles.

Axes: R draws of the bootstrap, T tiles; the others as in :mod:`cgm2net.evaluation.metrics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cgm2net.comparison.runs import shown
from cgm2net.comparison.suites import Variant
from cgm2net.evaluation.resample import drawn_metrics
from cgm2net.evaluation.score import Scores

NUM_DRAWS = 1000
LOWER_IS_BETTER = ("mae", "rmse", "sam")


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One variant of a comparison."""

    variant: Variant
    steps: int
    scores: tuple[Scores, ...]
    "One a seed."
    by_seed: tuple[Mapping[str, float], ...]
    "Metrics of each seed."
    drawn: Mapping[str, np.ndarray]
    "Metric -> float (R,): its mean over the seeds on tiles drawn with replacement; the same tiles for every variant."

    def mean(self, metric: str) -> float:
        """Return the mean over seeds; NaN where the variant has no such metric."""
        values = [metrics[metric] for metrics in self.by_seed if metric in metrics]
        return float(np.mean(values)) if values else float("nan")

    def deviation(self, metric: str) -> float:
        """Return the standard deviation between seeds; NaN for fewer than two."""
        values = [metrics[metric] for metrics in self.by_seed if metric in metrics]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Between two variants, in one metric; positive where the first is larger."""

    mean: float
    low: float
    high: float
    "2.5 % and 97.5 % of the bootstrap."

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0.0 or self.high < 0.0


def summarise(variant: Variant, scores: Sequence[Scores], *, steps: int, num_draws: int = NUM_DRAWS) -> Result:
    """Gather the seeds of a variant.

    Args:
        variant: what was trained.
        scores: one a seed, of the same tiles in the same order.
        steps: that each was trained for.
        num_draws: of the bootstrap; 0 for none.
    """
    weights_RT = draws(len(scores[0].tiles), num_draws)
    per_seed = [_drawn_metrics(one, weights_RT) for one in scores]
    # A seed that never answers a rare class lacks that class's IoU.
    common = set.intersection(*(set(metrics) for metrics in per_seed))
    names = shown(variant, dict.fromkeys(sorted(common), 0.0))
    return Result(
        variant=variant,
        steps=steps,
        scores=tuple(scores),
        by_seed=tuple(shown(variant, one.metrics()) for one in scores),
        drawn={name: np.mean([metrics[name] for metrics in per_seed], axis=0) for name in names},
    )


def difference(one: Result, other: Result, metric: str) -> Difference | None:
    """Return ``one - other`` in a metric; None where either lacks it or there was no bootstrap."""
    if metric not in one.drawn or metric not in other.drawn:
        return None
    low, high = np.quantile(one.drawn[metric] - other.drawn[metric], (0.025, 0.975))
    return Difference(mean=one.mean(metric) - other.mean(metric), low=float(low), high=float(high))


def leaders(results: Sequence[Result], metric: str) -> set[str]:
    """Return the names of the best variant and of those that cannot be told from it."""
    known = [result for result in results if np.isfinite(result.mean(metric))]
    if not known:
        return set()
    sign = -1.0 if metric.rsplit("/", maxsplit=1)[-1] in LOWER_IS_BETTER else 1.0
    best = max(known, key=lambda result: sign * result.mean(metric))
    names = {best.variant.name}
    for result in known:
        found = difference(best, result, metric)
        if found is not None and not found.sure:
            names.add(result.variant.name)
    return names


def draws(num_tiles: int, num_draws: int) -> np.ndarray:
    """Return float (R, T): how often each tile is in each draw of as many tiles; the same at every call."""
    drawn_RT = np.random.default_rng(0).multinomial(num_tiles, np.full(num_tiles, 1.0 / num_tiles), size=num_draws)
    return drawn_RT.astype(float)


def _drawn_metrics(scores: Scores, weights_RT: np.ndarray) -> dict[str, np.ndarray]:
    drawn = drawn_metrics(scores.model_TGS, scores.confusion_TGKK, weights_RT, classes=scores.classes)
    # A draw without a cloudy pixel has no metric of cloudy ones; it says nothing about them.
    return {name: values_R for name, values_R in drawn.items() if np.isfinite(values_R).all()}
