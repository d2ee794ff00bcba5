"""What image and class metrics share: sums over a set, divided once at the end, by groups of pixels.

Every number is a ratio of sums over the pixels of a group, whatever tiles they lie in: a set's PSNR is that of its
pooled mean squared error, not the mean of its tiles' PSNRs. One tile's numbers are the same ratios of its own sums.
A group without a pixel has no numbers: its keys are absent, never NaN.

Not scored: pixels that were not measured (``valid`` False) and, for classes, labels that are no class.

Axes here and in :mod:`image_metrics` and :mod:`class_metrics`: B tiles of a batch, C bands, H, W pixels, K classes,
G groups (:data:`GROUPS`), S sums.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch

from cgm2net.errors import MetricError

GROUPS = ("clear", "cloudy")
"""Groups that are summed; every scored pixel is in one of them, and ``all`` is their sum."""


def require_finite(values_B: torch.Tensor, *, what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        MetricError: says what it is, in which tiles of the batch (counted from 0) and in how many values.
    """
    bad_BN = ~torch.isfinite(values_B).flatten(1)
    if bad_BN.any():
        tiles = bad_BN.any(dim=1).nonzero().flatten().tolist()
        raise MetricError(
            f"{what}: {int(bad_BN.sum())} of {bad_BN.numel()} values are not finite, in tiles {tiles} of the batch;"
            " look for a diverged training or for nodata that reached the arrays"
        )


def flatten(nested: Mapping[str, object], *, prefix: str = "") -> dict[str, float]:
    """Turn ``{"cloudy": {"psnr": 20.0}}`` into ``{"cloudy/psnr": 20.0}``, to any depth."""
    flat: dict[str, float] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, prefix=f"{prefix}{key}/")
        else:
            assert isinstance(value, int | float), f"{prefix}{key}: {value!r}"
            flat[f"{prefix}{key}"] = float(value)
    return flat


def nest(flat: Mapping[str, float]) -> dict[str, object]:
    """Undo :func:`flatten`."""
    nested: dict[str, object] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        level = nested
        for key in path:
            inner = level.setdefault(key, {})
            assert isinstance(inner, dict), name
            level = inner
        level[last] = value
    return nested


def cloud_groups(cloud_BHW: torch.Tensor, scored_BHW: torch.Tensor, *, threshold: float) -> torch.Tensor:
    """Return bool (B, G, H, W): the scored pixels at or below the threshold, and above it."""
    cloudy_BHW = cloud_BHW > threshold
    return torch.stack([scored_BHW & ~cloudy_BHW, scored_BHW & cloudy_BHW], dim=1)


def with_all(sums: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return ``(group, sums)`` for all, clear and cloudy pixels; the first axis of ``sums`` is G."""
    return [("all", sums.sum(axis=0)), *zip(GROUPS, sums, strict=True)]


def checked(metrics: dict[str, float]) -> dict[str, float]:
    """Return metrics as they are.

    Raises:
        MetricError: names those that are not finite.
    """
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        raise MetricError(f"metrics that are not finite: {', '.join(bad)}")
    return metrics
