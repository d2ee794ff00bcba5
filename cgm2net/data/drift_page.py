"""The page that says of a batch of scenes what drifted and what to do, with a small chart a feature; one HTML file."""

import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from cgm2net.data.batch_features import CLASS_MIX, Batch, Feature, Kind
from cgm2net.data.drift import DriftReport, FeatureDrift, measure_drift, read_both, write_drift
from cgm2net.errors import DataError
from cgm2net.files import write_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ADVICE: dict[Kind, str] = {
    "optical": "Optical values moved. If cloud cover moved too, that may be all of it. Else compare product level,"
    " processing baseline (+1000 DN) and season with the training scenes; where the scenes are right, train on some of"
    " them as well.",
    "reference": "Clear images moved: another season, land or processing level. Train on some of them as well.",
    "sar": "SAR moved. Look for another calibration (sigma or gamma nought), orbit, or scaling; where the scenes are"
    " right (wet or frozen ground), train on some of them as well.",
    "cloud": "Cloud cover moved. Read the scores by cloud cover in the evaluation for what to expect of these scenes,"
    " and look at their masks.",
    "shift": "SAR lies otherwise on the optics than in training. Look at shifts.png and windows.csv of coregister; a"
    " common shift points at another terrain correction.",
    "time": "Optics and SAR lie otherwise apart in time. Choose nearer pairs, or lower validate.max_gap_days.",
    "classes": "The mix of classes moved. Scores over all classes will not carry over; read those of each class, and"
    " take scenes of such ground into training.",
    "confidence": "The champion is otherwise sure of these scenes than of those it was tested on. If cloud cover or"
    " values moved too, that may be all of it. Less sure: look at maps of them (`python -m cgm2net explain`), and train"
    " on some of them as well. Surer: look whether it is right, for it may not know such ground.",
}
_OLD, _NEW = "#4d4d4d", "#d6403a"
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.25em .9em .25em 0;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}"
    ".verdict{padding:.8em 1em;border-left:.4em solid #1b7837;background:#f3f8f3}"
    ".bad{border-color:#d6403a;background:#fdf3f2}.yes{color:#b5221c;font-weight:600}svg{max-width:100%;height:auto}"
)
_COLUMNS = ("feature", "unit", "reference", "incoming", "PSI", "distance", "chance", "drifted", "note")


def report_drift(
    *,
    incoming: Path,
    reference: Path,
    confidence: Path | None,
    out_dir: Path,
    max_psi: float,
    max_chance: float,
    min_scenes: int,
    fail: bool,
) -> str:
    """Write ``drift.json``, ``drift.csv`` and ``drift.html``; see ``python -m cgm2net drift -h``.

    Raises:
        DataError: if something drifted and ``fail`` is set, after everything is written.
    """
    limits = {"max_psi": max_psi, "max_chance": max_chance}
    report = measure_drift(incoming, reference, confidence=confidence, min_scenes=min_scenes, **limits)
    write_drift(report, out_dir)
    docs = incoming / "validate" / "data_docs" / "index.html"
    write_page(
        report, *read_both(incoming, reference, confidence=confidence), path=out_dir / "drift.html",
        data_docs=docs if docs.is_file() else None,
    )  # fmt: skip
    if fail and report.drifted:
        raise DataError(f"{report}; read {out_dir / 'drift.html'} for what to do")
    return f"{report}; {out_dir / 'drift.html'}"


def write_page(report: DriftReport, new: Batch, old: Batch, *, path: Path, data_docs: Path | None = None) -> None:
    """Write the page of a report; needs nothing beside itself to be read.

    Args:
        report: of :func:`cgm2net.data.drift.measure_drift`.
        new: the incoming batch, for the charts.
        old: the training set.
        path: HTML file.
        data_docs: page with the verdict on every incoming scene, which is linked to.
    """
    link = "" if data_docs is None else _link(os.path.relpath(data_docs, path.parent))
    parts = [
        f"<title>{html.escape(str(report))}</title><style>{_STYLE}</style>",
        "<h1>Drift of incoming scenes</h1>", _verdict(report), link, _advice(report), _table(report), _limits(report),
        _charts(report, old, new),
    ]  # fmt: skip
    text = '<!doctype html><html lang="en"><meta charset="utf-8">' + "\n".join(parts) + "</html>\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as aside:
        aside.write_text(text)


def _verdict(report: DriftReport) -> str:
    names = ", ".join(report.drifted)
    said = f"{names} drifted." if names else "Nothing drifted." if report.num_judged else "Nothing could be judged."
    refused = f" {report.num_refused} more were refused and are not looked at." if report.num_refused else ""
    return (
        f'<p class="verdict{" bad" if names or not report.num_judged else ""}"><b>{html.escape(said)}</b>'
        f" {report.num_incoming} incoming scenes against {report.num_reference} of the reference, {report.num_judged}"
        f" of {len(report.features)} features judged.{refused}</p>"
    )


def _link(place: str) -> str:
    return f'<p><a href="{html.escape(quote(place))}">Every incoming scene, and why some were refused</a></p>'


def _advice(report: DriftReport) -> str:
    kinds = dict.fromkeys(feature.kind for feature in report.features if feature.drifted)
    if not kinds:
        return "" if report.num_judged else f"<p>Gather at least {report.min_scenes} scenes on either side.</p>"
    return "<h2>What to do</h2><ul>" + "".join(f"<li>{html.escape(_ADVICE[kind])}</li>" for kind in kinds) + "</ul>"


def _table(report: DriftReport) -> str:
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    ranked = sorted(report.features, key=lambda f: (not f.drifted, f.psi is None, -(f.psi or 0.0), f.feature))
    return f"<h2>Features</h2><table><tr>{head}</tr>" + "".join(_row(feature) for feature in ranked) + "</table>"


def _row(feature: FeatureDrift) -> str:
    verdict = "" if feature.psi is None else "yes" if feature.drifted else "no"
    numbers = (feature.reference, feature.incoming, feature.psi, feature.distance, feature.chance)
    cells = [feature.feature, feature.unit, *("" if n is None else f"{n:.4g}" for n in numbers), verdict, feature.note]
    return f'<tr class="{verdict}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _limits(report: DriftReport) -> str:
    return (
        f"<p>A feature drifted where its population stability index (PSI) is above {report.max_psi:g} and at most"
        f" {report.max_chance:.1%} of random deals of the same scenes lie as far apart (chance). Reference and incoming"
        " are medians; the distance is the largest between the two distribution functions, for classes half the sum of"
        " the differences in share.</p>"
    )


def _charts(report: DriftReport, old: Batch, new: Batch) -> str:
    """Return one SVG with a chart a judged feature: the reference grey, the incoming batch red."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    judged = [feature for feature in report.features if feature.psi is not None]
    if not judged:
        return ""
    columns = 4
    rows = -(-len(judged) // columns)
    with rc_context({"svg.hashsalt": "drift", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3 * columns, 2.1 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, feature in zip(axes, judged, strict=False):
            _draw(axis, feature, old, new)
        for axis in axes[len(judged) :]:
            axis.set_axis_off()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return "<h2>Distributions</h2><p>Grey: reference; red: incoming.</p>" + svg[svg.index("<svg") :]


def _draw(axis: "Axes", feature: FeatureDrift, old: Batch, new: Batch) -> None:
    axis.set_title(f"{feature.feature}, PSI {feature.psi:.2f}", color=_NEW if feature.drifted else "black", fontsize=8)
    if feature.feature == CLASS_MIX:
        codes = sorted({code for batch in (old, new) for scene in batch.class_shares for code in scene})
        for side, (batch, colour) in enumerate(((old, _OLD), (new, _NEW))):
            shares = [np.mean([scene.get(code, 0.0) for scene in batch.class_shares]) for code in codes]
            axis.bar(np.arange(len(codes)) + 0.4 * side, shares, width=0.4, color=colour)
        axis.set_xticks(np.arange(len(codes)) + 0.2, [str(code) for code in codes])
        return
    for batch, colour in ((old, _OLD), (new, _NEW)):
        _curve(axis, batch.features[feature.feature], colour)
    axis.set_xlabel(feature.unit)
    axis.set_ylim(0, 1)


def _curve(axis: "Axes", feature: Feature, colour: str) -> None:
    """Draw the distribution function of a batch by its percentiles: all values would be a file of megabytes."""
    shares = np.linspace(0, 1, 101)
    axis.plot(np.quantile(feature.values_NK, shares), shares, color=colour, linewidth=1.2)
