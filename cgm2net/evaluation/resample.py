"""Metrics of resampled test sets, from the sums of each tile: how sure is what the set says?

Axes: R draws, T tiles; the others as in :mod:`cgm2net.evaluation.metrics`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cgm2net.evaluation.class_metrics import class_metrics
from cgm2net.evaluation.image_metrics import image_metrics, sum_names
from cgm2net.evaluation.metrics import GROUPS


def region_draws(regions: Sequence[str], num_draws: int) -> np.ndarray:
    """Draw as many regions as there are, with replacement, each with all its tiles (block bootstrap, Künsch 1989,
    doi:10.1214/aos/1176347265): tiles of one region are alike, and say less than their number.

    Args:
        regions: of each tile.
        num_draws: R.

    Returns:
        Float (R, T): how often each tile is in each draw; the same at every call.
    """
    names, of_tile_T = np.unique(np.asarray(regions, dtype=str), return_inverse=True)
    chances = np.full(len(names), 1.0 / len(names))
    return np.random.default_rng(0).multinomial(len(names), chances, size=num_draws)[:, of_tile_T].astype(float)


def sums_of(
    tiles: pd.DataFrame, *, optical_bands: Sequence[str], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Take image sums (T, G, S) and confusions (T, G, K, K) from ``tiles.parquet`` of the stage ``evaluate``."""
    pairs = [f"{actual}>{predicted}" for actual in classes for predicted in classes]
    images, confusions = (
        np.stack([tiles[[f"sum/{group}/{name}" for name in names]].to_numpy(float) for group in GROUPS], axis=1)
        for names in (sum_names(optical_bands), pairs)
    )
    return images, confusions.reshape(len(tiles), len(GROUPS), len(classes), len(classes))


def drawn_metrics(
    image_TGS: np.ndarray, confusion_TGKK: np.ndarray, weights_RT: np.ndarray, *, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return ``GROUP/METRIC`` of each draw, float (R,); NaN in draws that have no pixel for it."""
    sums_RGS = np.einsum("rt,tgs->rgs", weights_RT, image_TGS)
    confusion_RGKK = np.einsum("rt,tgij->rgij", weights_RT, confusion_TGKK)
    rows = [
        image_metrics(sums_GS) | class_metrics(confusion_GKK, classes)
        for sums_GS, confusion_GKK in zip(sums_RGS, confusion_RGKK, strict=True)
    ]
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
