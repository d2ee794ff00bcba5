"""A comparison as Markdown, CSV and a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net.comparison.cost import WINDOW_PX, Cost
from cgm2net.comparison.statistics import Result, difference, leaders
from cgm2net.comparison.suites import REFERENCE
from cgm2net.evaluation.report import cover_table

_COLUMNS = {
    "psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "mae": ("MAE", 4), "sam": ("SAM, °", 2), "cc": ("CC", 3),
    "oa": ("OA", 3), "f1": ("F1", 3), "miou": ("mIoU", 3),
}  # fmt: skip
_COVERED = ("cloudy/psnr", "cloudy/miou")


def quality_table(results: Sequence[Result], group: str) -> str:
    """Return mean ± deviation over seeds for one group of pixels; the best and what cannot be told from it is bold."""
    best = {name: leaders(results, f"{group}/{name}") for name in _COLUMNS}
    rows = []
    for result in results:
        cells = [
            _value(result, f"{group}/{name}", digits=digits, bold=result.variant.name in best[name])
            for name, (_, digits) in _COLUMNS.items()
        ]
        rows.append([result.variant.title, str(result.steps), *cells])
    return _markdown([f"{group} pixels", "steps", *(title for title, _ in _COLUMNS.values())], rows)


def difference_table(results: Sequence[Result]) -> str:
    """Return by how much the reference is above each variant, with the interval of the bootstrap."""
    reference = next(result for result in results if result.variant.name == REFERENCE)
    metrics = {"cloudy/psnr": 1.0, "clear/psnr": 1.0, "cloudy/miou": 100.0, "clear/miou": 100.0}
    rows = []
    for result in results:
        if result is not reference:
            cells = []
            for name, scale in metrics.items():
                found = difference(reference, result, name)
                cells.append(
                    "–"
                    if found is None
                    else f"{scale * found.mean:+.2f} ({scale * found.low:+.2f} to {scale * found.high:+.2f})"
                )
            rows.append([result.variant.title, *cells])
    heads = ["cloudy PSNR, dB", "clear PSNR, dB", "cloudy mIoU, points", "clear mIoU, points"]
    return _markdown([f"{reference.variant.title} above", *heads], rows)


def by_cover_table(results: Sequence[Result], bins: Sequence[float], metric: str) -> str:
    """Return a metric of cloudy pixels against the cloud cover of the tile, mean over seeds."""
    digits = _COLUMNS[metric.split("/")[1]][1]
    rows: list[list[str]] = []
    heads: list[str] = []
    for result in results:
        if math.isfinite(result.mean(metric)):
            found = [cover_table(scores, bins, majority=None).set_index("cover")[metric] for scores in result.scores]
            means = pd.concat(found, axis=1).mean(axis=1)
            heads = [str(name) for name in means.index]  # of the same tiles, so the same for all
            rows.append([result.variant.title, *(_number(value, digits) for value in means)])
    return _markdown([f"{metric} by cover of the tile", *heads], rows)


def cost_table(results: Sequence[Result], costs: Mapping[str, Cost]) -> str:
    """Return what each variant costs, and its step against the reference's."""
    base = costs[REFERENCE].seconds_a_step
    rows = [
        [
            result.variant.title, f"{cost.num_parameters / 1e6:.2f}", f"{cost.gflops:.1f}",
            f"{cost.seconds_a_step:.2f}", f"{cost.seconds_a_step / base:.2f}", f"{cost.predict_ms:.0f}",
            f"{cost.peak_mib:.0f}",
        ]
        for result in results
        if (cost := costs.get(result.variant.name)) is not None
    ]  # fmt: skip
    window = f"{WINDOW_PX}²"
    heads = ["parameters, M", f"GFLOP, {window}", "s a step", "ratio", f"predict {window}, ms", "training peak, MiB"]
    return _markdown(["cost", *heads], rows)


def runs_table(results: Sequence[Result]) -> pd.DataFrame:
    """Return one row a run, with all of its metrics."""
    return pd.DataFrame(
        [
            {"variant": result.variant.name, "steps": result.steps, "seed": seed, **metrics}
            for result in results
            for seed, metrics in enumerate(result.by_seed)
        ]
    )


def draw(results: Sequence[Result], costs: Mapping[str, Cost], path: Path) -> None:
    """Draw both tasks under cloud against each other, seeds as dots, and both against the cost of a step."""
    from matplotlib.figure import Figure

    from cgm2net import pictures

    figure = Figure(figsize=(11, 4), dpi=pictures.DPI, layout="constrained")
    both, image, classes = figure.subplots(1, 3)
    for index, result in enumerate(results):
        style = {"color": f"C{index % 10}", "marker": "*" if result.variant.name == REFERENCE else "os^Dv"[index // 10]}
        psnr, miou = result.mean("cloudy/psnr"), 100 * result.mean("cloudy/miou")
        if math.isfinite(psnr) and math.isfinite(miou):
            dots = [(one["cloudy/psnr"], 100 * one["cloudy/miou"]) for one in result.by_seed]
            both.plot(*np.array(dots).T, ".", color=style["color"], alpha=0.5)
            both.plot(psnr, miou, markersize=9, linestyle="", label=result.variant.title, **style)
        cost = costs.get(result.variant.name)
        if cost is not None:
            for axes, value in ((image, psnr), (classes, miou)):
                axes.plot(cost.seconds_a_step, value, markersize=8, linestyle="", **style)
    both.set(xlabel="PSNR of cloudy pixels [dB]", ylabel="mIoU of cloudy pixels [%]")
    image.set(xlabel="a training step [s]", ylabel="PSNR of cloudy pixels [dB]")
    classes.set(xlabel="a training step [s]", ylabel="mIoU of cloudy pixels [%]")
    for axes in (both, image, classes):
        axes.grid(alpha=0.3)
    handles, names = both.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    pictures.save(figure, path)


def _value(result: Result, metric: str, *, digits: int, bold: bool) -> str:
    mean, deviation = result.mean(metric), result.deviation(metric)
    if not math.isfinite(mean):
        return "–"
    text = f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if math.isfinite(deviation) else "")
    return f"**{text}**" if bold else text


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
