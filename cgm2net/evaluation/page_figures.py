"""Charts of the page as geometry: where lines, dots and ticks lie, in units of the drawing; the template draws them.

x runs right, y runs down, as in SVG.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

WIDTH, LEFT, RIGHT, TOP = 360.0, 34.0, 346.0, 12.0


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A measured point, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """Measured points that belong together."""

    name: str
    style: str
    "Class names for the style sheet."
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A share, as a bar that stands on the floor of the chart."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart; its plot reaches from ``left`` to ``right`` and from ``top`` to ``bottom``."""

    title: str
    x_title: str
    height: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    bars: tuple[Bar, ...] = ()
    diagonal: bool = False
    "A line from the lower left to the upper right."
    width: float = WIDTH
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Values from ``low`` to ``high`` on drawing units from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, texts: Mapping[float, str]) -> tuple[Tick, ...]:
        return tuple(Tick(at=self(value), text=text) for value, text in texts.items())


def round_steps(low: float, high: float, *, num: int) -> list[float]:
    """Return at least two round numbers, 1, 2 or 5 times a power of ten apart, that enclose ``low`` and ``high``.

    Args:
        low: the smallest value.
        high: the largest value.
        num: about how many steps.
    """
    span = (high - low) or max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / num))
    step = power * next(factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor * num >= span * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(step * index, 12) for index in range(first, last + 1)]


def cover_chart(
    rows: Sequence[Mapping[str, object]], *, key: str, title: str, trivial: str, share: bool, digits: int
) -> Chart | None:
    """Return a metric against cloud cover, of cloudy and of all pixels, the network's and the trivial answer's.

    Args:
        rows: as :func:`cgm2net.evaluation.page_tables.cover_rows` makes them.
        key: the metric.
        title: its name and unit.
        trivial: name of the trivial answer, before the group in its path.
        share: whether the metric runs from 0 to 1.
        digits: behind the point, in the texts of the dots.

    Returns:
        None where no row has the metric.
    """
    wanted = {
        f"cloudy/{key}": ("this model, cloudy pixels", "cloudy"),
        f"all/{key}": ("this model, all pixels", "all"),
        f"{trivial}/cloudy/{key}": ("trivial answer, cloudy pixels", "cloudy trivial"),
        f"{trivial}/all/{key}": ("trivial answer, all pixels", "all trivial"),
    }
    measured = {path: _measured(rows, path) for path in wanted}
    values = [value for points in measured.values() for _, value in points]
    if not values:
        return None
    steps = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] if share else round_steps(min(values), max(values), num=5)
    bottom = 190.0
    across = _Axis(low=0.0, high=100.0, start=LEFT, end=RIGHT)
    up = _Axis(low=steps[0], high=steps[-1], start=bottom, end=TOP)
    lines = []
    for path, points in measured.items():
        name, style = wanted[path]
        dots = tuple(
            Dot(x=across(cover), y=up(value), text=f"{name}, {cover:.0f} % cloud cover: {value:.{digits}f}")
            for cover, value in points
        )
        if dots:
            lines.append(Line(name=name, style=style, dots=dots))
    return Chart(
        title=title, x_title="cloud cover of the tile, %", height=bottom + 38, bottom=bottom,
        x_ticks=across.ticks({float(value): str(value) for value in range(0, 101, 20)}),
        y_ticks=up.ticks({value: f"{value:g}" for value in steps}), lines=tuple(lines),
    )  # fmt: skip


def reliability_chart(table: pd.DataFrame) -> Chart:
    """Return accuracy against confidence of all and of cloudy pixels, over the share of all pixels in each bin.

    Args:
        table: ``group``, ``low``, ``high``, ``pixels``, ``confidence`` and ``accuracy``, one row a group and bin.
    """
    floor, bottom = 296.0, 344.0
    across = _Axis(low=0.0, high=100.0, start=LEFT, end=RIGHT)
    up = _Axis(low=0.0, high=100.0, start=floor, end=TOP)
    filled = table[table["pixels"] > 0]
    lines = []
    for group, style in (("cloudy", "cloudy"), ("all", "all")):
        dots = tuple(
            Dot(
                x=across(100 * row["confidence"]), y=up(100 * row["accuracy"]),
                text=f"{group} pixels, said {100 * row['confidence']:.1f} %: right in {100 * row['accuracy']:.1f} %",
            )
            for row in filled[filled["group"] == group].to_dict("records")
        )  # fmt: skip
        if dots:
            lines.append(Line(name=f"{group} pixels", style=style, dots=dots))
    percent = {float(value): str(value) for value in range(0, 101, 20)}
    return Chart(
        title="share that is right, %", x_title="stated probability of the mapped class, %", height=bottom + 38,
        bottom=bottom, x_ticks=across.ticks(percent), y_ticks=up.ticks(percent), lines=tuple(lines), diagonal=True,
        bars=_bars(filled[filled["group"] == "all"], across=across, floor=bottom, highest=bottom - floor - 10),
    )  # fmt: skip


def _measured(rows: Sequence[Mapping[str, object]], path: str) -> list[tuple[float, float]]:
    found = []
    for row in rows:
        low, high, value = row["low"], row["high"], row.get(path)
        if isinstance(value, float) and isinstance(low, float) and isinstance(high, float):
            found.append(((low + high) / 2, value))
    return found


def _bars(bins: pd.DataFrame, *, across: _Axis, floor: float, highest: float) -> tuple[Bar, ...]:
    if bins.empty:
        return ()
    share = bins["pixels"] / bins["pixels"].sum()
    bars = []
    for row, part in zip(bins.to_dict("records"), share.tolist(), strict=True):
        left, right = across(100 * row["low"]), across(100 * row["high"])
        height = highest * part / share.max()
        text = f"{100 * part:.1f} % of the pixels are said with {100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        bars.append(Bar(x=left + 0.5, y=floor - height, width=right - left - 1.0, height=height, text=text))
    return tuple(bars)
