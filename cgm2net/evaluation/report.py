"""What an evaluation leaves behind: tables that DVC draws, plots and pictures for people, sums for later tests."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn

from cgm2net import pictures
from cgm2net.errors import MetricError
from cgm2net.evaluation.calibration import reliability_table
from cgm2net.evaluation.class_metrics import CLASS_METRICS, class_scores
from cgm2net.evaluation.image_metrics import IMAGE_METRICS, sum_names
from cgm2net.evaluation.metrics import GROUPS, nest, with_all
from cgm2net.evaluation.score import Scores, Tiles, predict
from cgm2net.files import write_aside, write_json
from cgm2net.settings import EvaluateSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_RANKED_COVER = 0.05
"""Tiles with a smaller share of cloudy pixels are not ranked: a few pixels say little, and show nothing."""


def write_report(
    scores: Scores,
    network: nn.Module,
    dataset: Tiles,
    *,
    majority: int | None,
    out_dir: Path,
    settings: EvaluateSettings,
) -> dict[str, float]:
    """Write every file of an evaluation, the table of tiles last.

    Args:
        scores: of ``network`` on ``dataset``.
        network: draws the pictures of best, median and worst tiles.
        dataset: tiles.
        majority: code of the class that the trivial answer always gives; none where nothing is labelled.
        out_dir: new folder.
        settings: bins of cloud cover, number of pictures.

    Returns:
        The flat metrics, as ``metrics.json`` nests them.

    Raises:
        MetricError: if no pixel can be scored, or a metric is not finite.
    """
    metrics = scores.metrics(majority=majority)
    if not metrics:
        raise MetricError(f"none of {len(dataset)} tiles has a pixel with optical, SAR and reference measured")
    tiles = tile_table(scores, majority=majority)
    by_cover = cover_table(scores, settings.cover_bins, majority=majority)
    write_json(out_dir / "metrics.json", nest(metrics))
    write_csv(out_dir / "by_cover.csv", by_cover)
    write_csv(out_dir / "by_class.csv", class_table(scores))
    write_csv(out_dir / "confusion.csv", confusion_table(scores))
    if scores.calibration_TGS is not None:
        write_csv(out_dir / "reliability.csv", reliability_table(scores.calibration_TGS.sum(axis=0)))
    draw_by_cover(by_cover, out_dir / "by_cover.png")
    draw_confusion(scores, out_dir / "confusion.png")
    draw_ranked(network, dataset, tiles, out_dir, settings=settings)
    with write_aside(out_dir / "tiles.parquet") as aside:
        tiles.to_parquet(aside, index=False)
    return metrics


def cover_table(scores: Scores, bins: Sequence[float], *, majority: int | None) -> pd.DataFrame:
    """Return one row a bin of cloud cover that has tiles: its edges, tiles and metrics, without IoU by class."""
    bin_T = np.minimum(np.searchsorted(bins, scores.cover, side="right") - 1, len(bins) - 2)
    rows = []
    for index, (low, high) in enumerate(pairwise(bins)):
        chosen = np.flatnonzero(bin_T == index)
        if chosen.size:
            head = {"cover": f"{low:g}-{high:g}", "tiles": chosen.size}
            rows.append(head | _without_iou(scores.metrics(chosen, majority=majority)))
    return pd.DataFrame(rows)


def class_table(scores: Scores) -> pd.DataFrame:
    """Return one row a class: pixels of truth and precision, recall, F1 and IoU, for each group of pixels.

    A class that is neither in a group's truth nor in its answers has no scores there.
    """
    columns: dict[str, Any] = {"class": scores.classes}
    for group, confusion_KK in with_all(scores.confusion_TGKK.sum(axis=0)):
        values = class_scores(confusion_KK)
        present_K = values.pop("present").astype(bool)
        columns[f"{group}/pixels"] = confusion_KK.sum(axis=1)
        columns |= {f"{group}/{name}": np.where(present_K, value_K, np.nan) for name, value_K in values.items()}
    return pd.DataFrame(columns)


def confusion_table(scores: Scores) -> pd.DataFrame:
    """Return one row a pair of classes: ``actual``, ``predicted`` and the pixels of each group."""
    pairs = [(actual, predicted) for actual in scores.classes for predicted in scores.classes]
    table = pd.DataFrame(pairs, columns=["actual", "predicted"])
    for group, confusion_KK in with_all(scores.confusion_TGKK.sum(axis=0)):
        table[group] = confusion_KK.ravel()
    return table


def tile_table(scores: Scores, *, majority: int | None) -> pd.DataFrame:
    """Return one row a tile: its metrics, and the sums that any set's metrics can be made of.

    Sums are ``sum/GROUP/NAME`` of the network, ``sum/copy/GROUP/NAME`` of copying, with the names of
    :func:`cgm2net.evaluation.image_metrics.sum_names`, and ``sum/GROUP/ACTUAL>PREDICTED`` pixels; groups are clear and
    cloudy, whose sum is all. Metrics that a tile has no pixel for are missing.
    """
    metrics = [_without_iou(scores.metrics(slice(t, t + 1), majority=majority)) for t in range(len(scores.tiles))]
    sums: dict[str, np.ndarray] = {}
    pairs = [f"{actual}>{predicted}" for actual in scores.classes for predicted in scores.classes]
    for index, group in enumerate(GROUPS):
        for code, name in enumerate(sum_names(scores.optical_bands)):
            sums[f"sum/{group}/{name}"] = scores.model_TGS[:, index, code]
            sums[f"sum/copy/{group}/{name}"] = scores.copy_TGS[:, index, code]
        pixels_TP = scores.confusion_TGKK[:, index].reshape(len(scores.tiles), -1)
        sums |= {f"sum/{group}/{pair}": pixels_TP[:, code] for code, pair in enumerate(pairs)}
    cover = pd.DataFrame({"cover": scores.cover})
    return pd.concat([scores.tiles, cover, pd.DataFrame(metrics, dtype=float), pd.DataFrame(sums)], axis=1)


def ranked_tiles(table: pd.DataFrame, num: int) -> dict[str, list[int]]:
    """Return the rows of the ``best``, ``median`` and ``worst`` tiles by RMSE of cloudy pixels, best first.

    Tiles below :data:`MIN_RANKED_COVER` are left out; if all are, tiles are ranked by the RMSE of all pixels.

    Args:
        table: as :func:`tile_table` makes it.
        num: rows of each, fewer where there are fewer tiles.
    """
    clouded = table[table["cover"] >= MIN_RANKED_COVER]
    rmse = clouded["cloudy/rmse"] if len(clouded) else table["all/rmse"].dropna()
    order = rmse.sort_values(kind="stable").index.tolist()
    middle = max(0, (len(order) - num) // 2)
    return {"best": order[:num], "median": order[middle : middle + num], "worst": order[-num:]}


def draw_ranked(
    network: nn.Module, dataset: Tiles, table: pd.DataFrame, out_dir: Path, *, settings: EvaluateSettings
) -> None:
    """Draw ``best.png``, ``median.png`` and ``worst.png``; the captions give PSNR of cloudy pixels, and of copying."""
    for name, rows in ranked_tiles(table, settings.num_pictures).items():
        pictures.draw_tiles(
            predicted_samples(network, dataset, rows, settings=settings),
            out_dir / f"{name}.png",
            optical_bands=dataset.optical_bands,
            sar_bands=dataset.sar_bands,
            classes=dataset.classes,
            captions=[_caption(row) for row in table.loc[rows].to_dict("records")],
        )


def predicted_samples(
    network: nn.Module, dataset: Tiles, rows: Sequence[int], *, settings: EvaluateSettings
) -> list[dict[str, object]]:
    """Return samples with ``restored_CHW`` and ``predicted_HW``, as :func:`cgm2net.pictures.draw_tiles` takes them."""
    samples: list[dict[str, object]] = []
    for batch, prediction in predict(network, dataset, rows, settings=settings):
        answers = {"restored_CHW": prediction.clear_BCHW, "predicted_HW": prediction.logits_BKHW.argmax(dim=1)}
        samples += [_sample(batch | answers, index) for index in range(len(batch["id"]))]
    return samples


def draw_confusion(scores: Scores, path: Path) -> None:
    """Draw the confusions of all and of cloudy pixels, as shares of each true class in percent."""
    from matplotlib.figure import Figure

    shown = [(g, m) for g, m in with_all(scores.confusion_TGKK.sum(axis=0)) if g != "clear"]
    side = 1.6 + 0.5 * len(scores.classes)  # inches
    figure = Figure(figsize=(2 * side, side), dpi=pictures.DPI, layout="constrained")
    for axes, (group, confusion_KK) in zip(figure.subplots(1, 2, sharey=True), shown, strict=True):
        share_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
        axes.imshow(share_KK, cmap="Blues", vmin=0.0, vmax=1.0)
        ticks = range(len(scores.classes))
        axes.set_xticks(ticks, scores.classes, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(ticks, scores.classes, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_title(f"{group} pixels, % of each true class", fontsize=9)
        for actual, predicted in np.ndindex(*share_KK.shape):
            share = share_KK[actual, predicted]
            text = f"{100 * share:.0f}" if confusion_KK[actual].any() else "–"
            axes.text(predicted, actual, text, ha="center", va="center", fontsize=8, color="w" if share > 0.5 else "k")
    figure.axes[0].set_ylabel("truth")
    pictures.save(figure, path)


def draw_by_cover(table: pd.DataFrame, path: Path) -> None:
    """Draw PSNR and mIoU of all and of cloudy pixels against cloud cover, beside the trivial answers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=pictures.DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curves(left, table, metric="psnr", trivial="copy")
    left.set_ylabel("PSNR [dB]")
    left.set_title("trivial answer: the cloudy image as it is", fontsize=9)
    _draw_curves(right, table, metric="miou", trivial="majority")
    right.set(ylabel="mIoU", ylim=(0.0, 1.0))
    right.set_title("trivial answer: always the most frequent class", fontsize=9)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    pictures.save(figure, path)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, aside and renamed, numbers to nine digits; missing ones are empty."""
    with write_aside(path) as aside:
        table.to_csv(aside, index=False, float_format="%.9g", lineterminator="\n")


def _without_iou(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.split("/")[-1] in (*IMAGE_METRICS, *CLASS_METRICS)}


def _sample(batch: Mapping[str, Any], index: int) -> dict[str, object]:
    return {
        name: values[index] if isinstance(values, list) else values[index].cpu().numpy()
        for name, values in batch.items()
    }


def _caption(row: Mapping[Any, Any]) -> str:
    group = "cloudy" if row["cover"] >= MIN_RANKED_COVER else "all"
    return f"{row['tile_id']}\n{group}: {row[f'{group}/psnr']:.1f} dB, copy {row[f'copy/{group}/psnr']:.1f} dB"


def _draw_curves(axes: "Axes", table: pd.DataFrame, *, metric: str, trivial: str) -> None:
    styles = {
        f"cloudy/{metric}": ("network, cloudy pixels", "#d6403a", "-"),
        f"all/{metric}": ("network, all pixels", "#1b4f8a", "-"),
        f"{trivial}/cloudy/{metric}": ("trivial, cloudy pixels", "#d6403a", ":"),
        f"{trivial}/all/{metric}": ("trivial, all pixels", "#1b4f8a", ":"),
    }
    for name, (text, colour, style) in styles.items():
        if name in table.columns:
            axes.plot(table["cover"], table[name], style, color=colour, marker="o", markersize=3, label=text)
    axes.set_xlabel("cloud cover of the tile")
    axes.margins(x=0.08)
    axes.grid(alpha=0.3)
