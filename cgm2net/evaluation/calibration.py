"""Does the network's doubt mean something: reliability of its class probabilities, coverage of its intervals.

Sums over a set first, ratios last, as :mod:`metrics` says; fitted on validation tiles, measured on test tiles.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from cgm2net.errors import DataError
from cgm2net.evaluation.metrics import GROUPS, checked, cloud_groups, with_all
from cgm2net.model.calibration import INTERVAL_SHARE, Calibration, half_width, probabilities
from cgm2net.model.interface import Prediction

NUM_BINS = 15
CALIBRATION_METRICS = ("ece", "coverage", "interval")

_MAX_PIXELS_A_TILE = 4096
_MAX_PIXELS = 200_000
_NUM_DRAWS, _SURE = 200, 0.95
_LOG_TEMPERATURES = (-2.0, 2.0)


class CalibrationMetrics:
    """Reliability and coverage of a set of tiles, batch by batch, in constant memory.

    Args:
        calibration: of the network.
        num_classes: codes that count; other labels are not scored.
        cloud_threshold: a pixel with a higher cloud probability is cloudy.
    """

    def __init__(self, calibration: Calibration, *, num_classes: int, cloud_threshold: float) -> None:
        self._calibration, self._num_classes, self._threshold = calibration, num_classes, cloud_threshold

    def update(self, prediction: Prediction, batch: Mapping[str, Any]) -> np.ndarray:
        """Return float64 (B, G, 3 x bins + 3): each tile's own sums.

        For each bin of confidence: pixels, their confidence added up, right answers; then values of the image, those
        inside their interval, and the intervals' half widths added up.
        """
        label_BHW, valid_BHW, cloud_BHW = batch["label_HW"], batch["valid_HW"], batch["cloud_HW"]
        cloud_label, valid_label = _on_label_grid(cloud_BHW, valid_BHW, label_BHW)
        sure_BHW, answer_BHW = probabilities(prediction.logits_BKHW, cloud_label, self._calibration).max(dim=1)
        known_BHW = valid_label & (label_BHW >= 0) & (label_BHW < self._num_classes)
        right_BHW = (answer_BHW == label_BHW).double()
        bin_BHW = (sure_BHW * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        half_BCHW = half_width(prediction.spread_BCHW, cloud_BHW, self._calibration)
        error_BCHW = (prediction.clear_BCHW.clamp(0.0, 1.0) - batch["clear_CHW"]).abs()
        inside_BHW = (error_BCHW <= half_BCHW).double().sum(dim=1)
        image_BSHW = torch.stack(
            [torch.full_like(inside_BHW, error_BCHW.shape[1]), inside_BHW, half_BCHW.double().sum(dim=1)], dim=1
        )
        known_BGHW = cloud_groups(cloud_label, known_BHW, threshold=self._threshold)
        valid_BGHW = cloud_groups(cloud_BHW, valid_BHW, threshold=self._threshold)
        coverage_BGS = torch.einsum("bghw,bshw->bgs", valid_BGHW.double(), image_BSHW)
        bins_BGS = _binned(bin_BHW, [torch.ones_like(right_BHW), sure_BHW.double(), right_BHW], known_BGHW)
        return torch.cat([bins_BGS, coverage_BGS], dim=2).cpu().numpy()


def calibration_metrics(sums_GS: np.ndarray) -> dict[str, float]:
    r"""Return ``GROUP/ece``, ``GROUP/coverage`` and ``GROUP/interval``; absent for a group without a pixel.

    ``ece``: expected calibration error, :math:`\sum_b n_b |acc_b - conf_b| / n` over 15 equal bins of confidence
    (Guo et al. 2017, doi:10.48550/arXiv.1706.04599). ``coverage``: share of the true image values inside the stated
    90 % interval, over all bands. ``interval``: mean half width of that interval, reflectance.
    """
    metrics: dict[str, float] = {}
    for group, sums_S in with_all(sums_GS):
        pixels, sure, right = sums_S[:-3].reshape(3, NUM_BINS)
        values, inside, half = sums_S[-3:]
        if pixels.sum():
            metrics[f"{group}/ece"] = float(np.abs(right - sure).sum() / pixels.sum())
        if values:
            metrics |= {f"{group}/coverage": float(inside / values), f"{group}/interval": float(half / values)}
    return checked(metrics)


def reliability_table(sums_GS: np.ndarray) -> pd.DataFrame:
    """Return one row a group and bin that holds pixels: ``group, low, high, pixels, confidence, accuracy``."""
    rows = []
    for group, sums_S in with_all(sums_GS):
        for index, (pixels, sure, right) in enumerate(sums_S[:-3].reshape(3, NUM_BINS).T):
            if pixels:
                edges = {"low": index / NUM_BINS, "high": (index + 1) / NUM_BINS}
                shares = {"confidence": sure / pixels, "accuracy": right / pixels}
                rows.append({"group": group, **edges, "pixels": int(pixels), **shares})
    return pd.DataFrame(rows, columns=["group", "low", "high", "pixels", "confidence", "accuracy"])


def fit(
    predictions: Iterable[tuple[Mapping[str, Any], Prediction]], *, num_classes: int, cloud_threshold: float
) -> Calibration:
    """Measure the calibration of a network on tiles that it was not trained on.

    The temperature of a group makes the labels likeliest; a band's factor is the quantile of its errors over its
    spreads that leaves at most 10 % above, for 19 of 20 draws of the tiles. A group without a pixel takes the other's
    figures, and without labels 1.

    Args:
        predictions: batches and what the network made of them.
        num_classes: codes that count.
        cloud_threshold: a pixel with a higher cloud probability is cloudy.

    Raises:
        DataError: if no pixel was measured.
    """
    ratios: dict[str, list[np.ndarray]] = {group: [] for group in GROUPS}
    answers: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {group: [] for group in GROUPS}
    for batch, prediction in predictions:
        error_BCHW = (prediction.clear_BCHW.clamp(0.0, 1.0) - batch["clear_CHW"]).abs()
        ratio_BHWC = (error_BCHW / prediction.spread_BCHW).permute(0, 2, 3, 1)
        logits_BHWK, label_BHW = prediction.logits_BKHW.permute(0, 2, 3, 1), batch["label_HW"]
        cloud_label, valid_label = _on_label_grid(batch["cloud_HW"], batch["valid_HW"], label_BHW)
        known_BHW = valid_label & (label_BHW >= 0) & (label_BHW < num_classes)
        image_BGHW = cloud_groups(batch["cloud_HW"], batch["valid_HW"], threshold=cloud_threshold)
        known_BGHW = cloud_groups(cloud_label, known_BHW, threshold=cloud_threshold)
        for index, group in enumerate(GROUPS):
            for tile in range(len(label_BHW)):
                ratios[group].append(_thinned(ratio_BHWC[tile][image_BGHW[tile, index]]).float().cpu().numpy())
                chosen = known_BGHW[tile, index]
                parts = logits_BHWK[tile][chosen], label_BHW[tile][chosen]
                answers[group].append((_thinned(parts[0]).float().cpu(), _thinned(parts[1]).cpu()))
    intervals = {group: _quantiles(parts) for group, parts in ratios.items()}
    if all(factors is None for factors in intervals.values()):
        raise DataError(
            "no pixel of the validation tiles has optical, SAR and reference measured: nothing to calibrate"
        )
    temperatures = {group: _temperature(parts) for group, parts in answers.items()}
    clear, cloudy = GROUPS
    of_clear = intervals[clear] or intervals[cloudy]
    of_cloudy = intervals[cloudy] or intervals[clear]
    if of_clear is None or of_cloudy is None:
        raise DataError(
            "no pixel of the validation tiles has optical, SAR and reference measured: nothing to calibrate"
        )
    return Calibration(
        temperature_clear=temperatures[clear] or temperatures[cloudy] or 1.0,
        temperature_cloudy=temperatures[cloudy] or temperatures[clear] or 1.0,
        interval_clear=of_clear,
        interval_cloudy=of_cloudy,
    )


def _on_label_grid(
    cloud_BHW: torch.Tensor, valid_BHW: torch.Tensor, label_BHW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if cloud_BHW.shape == label_BHW.shape:
        return cloud_BHW, valid_BHW
    size = (label_BHW.shape[1], label_BHW.shape[2])
    return F.adaptive_avg_pool2d(cloud_BHW.float(), size), F.adaptive_avg_pool2d(valid_BHW.float(), size) >= 0.5


def _binned(bin_BHW: torch.Tensor, values: list[torch.Tensor], chosen_BGHW: torch.Tensor) -> torch.Tensor:
    """Add each value up by bin over the chosen pixels: (B, G, values x bins)."""
    parts = []
    for value_BHW in values:
        weighed_BGN = (chosen_BGHW * value_BHW.unsqueeze(1)).flatten(2)
        where_BGN = bin_BHW.flatten(1).unsqueeze(1).expand_as(weighed_BGN)
        empty = weighed_BGN.new_zeros((*weighed_BGN.shape[:2], NUM_BINS))
        parts.append(empty.scatter_add(2, where_BGN, weighed_BGN))
    return torch.cat(parts, dim=2)


def _thinned(values_N: torch.Tensor) -> torch.Tensor:
    return values_N[:: max(1, -(-len(values_N) // _MAX_PIXELS_A_TILE))]


def _quantiles(parts: list[np.ndarray]) -> tuple[float, ...] | None:
    """Return the quantile of each band, so wide that it holds for 19 of 20 draws of as many tiles.

    The pixels of a tile err together: the quantile of a few tiles says little about the next ones, and half of the
    time too little.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    every = max(1, sum(map(len, parts)) // _MAX_PIXELS)
    parts = [part[::every] for part in parts]
    ratio_NC, tile_N = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    times_RT = np.random.default_rng(0).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), size=_NUM_DRAWS)
    factors: list[float] = []
    for ratio_N in ratio_NC.T:
        order_N = np.argsort(ratio_N, kind="stable")
        below_RN = (np.cumsum(times_T[tile_N[order_N]]) for times_T in times_RT)
        drawn = [ratio_N[order_N[np.searchsorted(below_N, INTERVAL_SHARE * below_N[-1])]] for below_N in below_RN]
        factors.append(max(float(np.quantile(drawn, _SURE)), 1e-3))
    return tuple(factors)


def _temperature(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> float | None:
    logits_NK, label_N = torch.cat([logits for logits, _ in parts]), torch.cat([label for _, label in parts])
    if not len(label_N):
        return None

    def surprise(log_temperature: float) -> float:
        return float(F.cross_entropy(logits_NK / float(np.exp(log_temperature)), label_N))

    found = minimize_scalar(surprise, bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))
