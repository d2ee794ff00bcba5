"""The evaluation's tables as the rows that the page shows; numbers stay numbers, the template writes them.

Axes as in :mod:`cgm2net.evaluation.metrics`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cgm2net.evaluation.class_metrics import class_metrics
from cgm2net.evaluation.image_metrics import image_metrics, sum_names
from cgm2net.evaluation.metrics import GROUPS

ALL_GROUPS = ("all", *GROUPS)
TRIVIAL_NAMES = {"copy": "copying", "majority": "majority"}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is called and written."""

    name: str
    unit: str = ""
    "As it follows a figure, with its space."
    digits: int = 3
    trivial: str = "majority"
    "The trivial answer that it is held against."
    lower_is_better: bool = False
    meaning: str = ""

    def gain(self, value: float | None, other: float | None) -> float | None:
        """Return by how much ``value`` is better than ``other``; none where either is unknown."""
        if value is None or other is None:
            return None
        return other - value if self.lower_is_better else value - other


METRICS = {
    "psnr": Metric(
        name="PSNR", unit="\N{NO-BREAK SPACE}dB", digits=2, trivial="copy",
        meaning="peak signal-to-noise ratio of the restored image; 1 dB more is a fifth less squared error",
    ),
    "ssim": Metric(name="SSIM", trivial="copy", meaning="structural similarity to the reference, 1 where equal"),
    "sam": Metric(
        name="SAM", unit="°", digits=2, trivial="copy", lower_is_better=True,
        meaning="angle between restored and true spectrum; less is better",
    ),
    "miou": Metric(name="mIoU", meaning="overlap of mapped and true class over their union, mean of the classes"),
    "oa": Metric(name="OA", meaning="overall accuracy, the share of pixels whose class is right"),
}  # fmt: skip
"""The headline, in order."""

_OTHERS = {
    "mae": Metric(name="MAE", digits=4, trivial="copy", lower_is_better=True),
    "rmse": Metric(name="RMSE", digits=4, trivial="copy", lower_is_better=True),
    "cc": Metric(name="CC", trivial="copy"),
    "accuracy": Metric(name="mean recall"),
    "f1": Metric(name="mean F1"),
    "ece": Metric(name="ECE", digits=4, lower_is_better=True),
}


@dataclass(frozen=True, kw_only=True)
class Stat:
    """One figure of the headline."""

    metric: Metric
    value: float
    trivial: float | None
    gain: float | None
    "Over the trivial answer."
    champion: float | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One row of the comparison: who, and the figures of all, clear and cloudy pixels."""

    who: str
    values: tuple[float | None, ...]


def main_group(metrics: Mapping[str, float]) -> str:
    """Return ``cloudy``, or ``all`` where no tile has a cloud."""
    return "cloudy" if "cloudy/psnr" in metrics else "all"


def headline(metrics: Mapping[str, float], *, champion: Mapping[str, float] | None) -> dict[str, Stat]:
    """Return the figures of the main group of pixels by metric, those that there are."""
    group = main_group(metrics)
    stats = {}
    for key, metric in METRICS.items():
        value = metrics.get(f"{group}/{key}")
        trivial = metrics.get(f"{metric.trivial}/{group}/{key}")
        if value is not None:
            before = None if champion is None else champion.get(f"{group}/{key}")
            gain = metric.gain(value, trivial)
            stats[key] = Stat(metric=metric, value=value, trivial=trivial, gain=gain, champion=before)
    return stats


def comparison(
    metrics: Mapping[str, float], *, champion: Mapping[str, float] | None
) -> list[tuple[Metric, list[Answer]]]:
    """Return the headline's metrics of every group: the network, the trivial answer, the champion."""
    rows = []
    for key, metric in METRICS.items():
        if f"all/{key}" in metrics:
            answers = [_answer("this model", key, metrics)]
            answers.append(_answer(TRIVIAL_NAMES[metric.trivial], key, metrics, prefix=f"{metric.trivial}/"))
            if champion is not None:
                answers.append(_answer("champion", key, champion))
            rows.append((metric, answers))
    return rows


def losses(metrics: Mapping[str, float]) -> Iterator[tuple[Metric, str, float]]:
    """Yield metric, group and difference wherever the network is worse than the trivial answer."""
    for key, metric in METRICS.items():
        for group in ALL_GROUPS:
            gain = metric.gain(metrics.get(f"{group}/{key}"), metrics.get(f"{metric.trivial}/{group}/{key}"))
            if gain is not None and gain < 0.0:
                yield metric, group, -gain


def named_metric(path: str) -> tuple[Metric, str]:
    """Return how ``GROUP/METRIC`` is written, and its group; a metric unknown here goes by its own name."""
    group, _, key = path.partition("/")
    if key.startswith("iou_"):
        return Metric(name=f"IoU of {key.removeprefix('iou_')}"), group
    return {**METRICS, **_OTHERS}.get(key, Metric(name=key)), group


def class_rows(by_class: pd.DataFrame, colours: Sequence[str]) -> list[dict[str, object]]:
    """Return one row a class: ``name``, ``colour``, ``pixels``, ``share`` of all, ``precision``, ``recall`` and
    ``iou``, a mapping by group; none where a class has no score.
    """
    total = max(1, int(by_class["all/pixels"].sum()))
    return [
        {
            "name": row["class"], "colour": colour, "pixels": int(row["all/pixels"]),
            "share": row["all/pixels"] / total, "precision": known(row["all/precision"]),
            "recall": known(row["all/recall"]), "iou": {group: known(row[f"{group}/iou"]) for group in ALL_GROUPS},
        }
        for row, colour in zip(by_class.to_dict("records"), colours, strict=True)
    ]  # fmt: skip


def confusions(table: pd.DataFrame, classes: Sequence[str]) -> list[tuple[str, list[list[float] | None]]]:
    """Return ``(group, rows)`` of the groups with labelled pixels, of all and of cloudy ones.

    A row holds the shares (0-1) of one true class's pixels that were given each class; none for a class without any.
    """
    shown = []
    for group in ("all", "cloudy"):
        pixels_KK = table[group].to_numpy().reshape(len(classes), len(classes))
        if pixels_KK.sum():
            rows = [(row_K / row_K.sum()).tolist() if row_K.sum() else None for row_K in pixels_KK]
            shown.append((group, rows))
    return shown


def cover_rows(by_cover: pd.DataFrame) -> list[dict[str, object]]:
    """Return one row a bin of cloud cover: ``low`` and ``high`` [%], ``tiles``, and metrics by path where known."""
    edges = by_cover["cover"].str.extract(r"^([\d.]+(?:e-\d+)?)-([\d.]+(?:e-\d+)?)$").astype(float) * 100.0
    return [
        {"low": low, "high": high, **{str(name): known(value) for name, value in row.items() if name != "cover"}}
        for low, high, row in zip(edges[0], edges[1], by_cover.to_dict("records"), strict=True)
    ]


def pooled(tiles: pd.DataFrame, *, bands: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Return the metrics of the network, and ``copy/``, on any tiles of the table, from their sums."""
    totals = tiles.filter(regex="^sum/").sum()
    names = sum_names(bands)
    pairs = [f"{actual}>{predicted}" for actual in classes for predicted in classes]
    model_GS, copy_GS, confusion_GP = (
        np.array([[totals[f"sum/{part}{group}/{name}"] for name in columns] for group in GROUPS])
        for part, columns in (("", names), ("copy/", names), ("", pairs))
    )
    copied = {f"copy/{name}": value for name, value in image_metrics(copy_GS).items()}
    confusion_GKK = confusion_GP.reshape(len(GROUPS), len(classes), len(classes))
    return image_metrics(model_GS) | class_metrics(confusion_GKK, classes) | copied


def region_rows(tiles: pd.DataFrame, *, bands: Sequence[str], classes: Sequence[str]) -> list[dict[str, object]]:
    """Return one row a test region, by name: ``region``, ``scenes``, ``tiles``, ``cover`` and its ``metrics``."""
    return [
        {
            "region": str(region), "scenes": part["scene_id"].nunique(), "tiles": len(part),
            "cover": float(part["cover"].mean()), "metrics": pooled(part, bands=bands, classes=classes),
        }
        for region, part in tiles.groupby("region", sort=True)
    ]  # fmt: skip


def known(value: object) -> float | None:
    """Return a number as float, and a missing one as None."""
    return None if pd.isna(value) else float(value)  # type: ignore[arg-type,call-overload]


def _answer(who: str, key: str, metrics: Mapping[str, float], *, prefix: str = "") -> Answer:
    return Answer(who=who, values=tuple(metrics.get(f"{prefix}{group}/{key}") for group in ALL_GROUPS))
