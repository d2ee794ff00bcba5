"""Panels in rows, rows in blocks, blocks on a page: where the pictures of a tile stand.

Axes: H and W pixels of a panel's image, 3 colours. Lengths are pixels of the page, from its upper left corner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgm2net import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT = "#222222", "#5c5c5c"
_PANEL, _GAP, _LEFT, _TITLE, _BELOW, _HEAD, _LINE = 256, 22, 46, 26, 52, 92, 22
_BAR, _BAR_ENDS, _HEADING = 9, 46, 30
_FRAME = 0.55  # grey


class Scale(NamedTuple):
    """Colours of a range of values."""

    colours: str
    "Name of a colour map."
    low: float
    high: float

    def image(self, map_HW: np.ndarray) -> np.ndarray:
        """Return the values as colours, (H, W, 3); those beyond an end have its colour."""
        from matplotlib import colormaps

        unit_HW = np.clip((map_HW - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.asarray(colormaps[self.colours](unit_HW)[..., :3])


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture with its title above and, below, its scale and a line of numbers."""

    title: str
    image_HW3: np.ndarray
    scale: Scale | None = None
    caption: str = ""
    capped: bool = False
    "Some values lie above the scale."
    marks: Callable[["Axes"], None] | None = None
    "Draws on the picture."


Row = tuple[str, Sequence[Panel | None]]
"""Label and panels; none leaves a gap."""


class Block(NamedTuple):
    """Rows that are read alike."""

    heading: str
    reading: str
    "How to read the rows."
    rows: Sequence[Row]

    @property
    def height(self) -> float:
        """Height on the page."""
        return self.head + len(self.rows) * (_TITLE + _PANEL + _BELOW) + 0.5 * _HEADING

    @property
    def head(self) -> float:
        """Height above the rows."""
        return _HEADING + _LINE * len(self.reading.splitlines()) + 4


def map_panel(title: str, map_HW: np.ndarray, scale: Scale, means: Mapping[str, float | None]) -> Panel:
    """Return a panel of a map, with its means over clouded and over clear pixels below."""
    known = [(name, means[group]) for name, group in (("cloud", "cloudy"), ("clear", "clear"))]
    return Panel(
        title=title,
        image_HW3=scale.image(map_HW),
        scale=scale,
        caption=" · ".join(f"{name} {short(mean)}" for name, mean in known if mean is not None),
        capped=bool(map_HW.max() > scale.high),
    )


def short(value: float) -> str:
    """Return two digits of a number that counts."""
    return f"{value:.3f}" if 0.0005 <= abs(value) < 0.095 else f"{value:.2g}" if abs(value) < 0.095 else f"{value:.2f}"


def page(blocks: Sequence[Block], *, title: str, facts: str, key: Sequence[tuple[str, str]]) -> "Figure":
    """Return the page.

    Args:
        blocks: from top to bottom; those without rows are left out. The last row of the first one leaves its last
            place to the key.
        title: first line.
        facts: second line.
        key: colours and what they mean.
    """
    from matplotlib.figure import Figure

    shown = [block for block in blocks if block.rows]
    columns = max(len(panels) for block in shown for _, panels in block.rows)
    width, height = _LEFT + columns * (_PANEL + _GAP), _HEAD + sum(block.height for block in shown)
    figure = Figure(figsize=(width / pictures.DPI, height / pictures.DPI), dpi=pictures.DPI, facecolor="white")
    sheet = _Sheet(figure, width, height)
    sheet.text(_LEFT, 30, title, size=13, weight="bold")
    sheet.text(_LEFT, 66, facts, size=8.5)
    top: float = _HEAD
    for block in shown:
        sheet.block(block, top)
        top += block.height
    rows = shown[0].rows
    y = _HEAD + shown[0].head + (len(rows) - 1) * (_TITLE + _PANEL + _BELOW) + _TITLE
    sheet.key(_LEFT + len(rows[-1][1]) * (_PANEL + _GAP), y, key)
    return figure


class _Sheet:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, figure: "Figure", width: float, height: float) -> None:
        self._figure, self._width, self._height = figure, width, height

    def text(
        self, x: float, y: float, words: str, *, size: float, weight: str = "normal", colour: str = _INK, **how: Any
    ) -> None:
        place = {"ha": "left", "va": "center"} | how
        x, y = x / self._width, 1 - y / self._height
        self._figure.text(x, y, words, fontsize=size, fontweight=weight, color=colour, **place)

    def axes(self, x: float, y: float, *, limits: tuple[int, int] = (1, 1)) -> "Axes":
        """Return see-through axes on a panel, for a picture of so many rows and columns."""
        left, bottom = x / self._width, 1 - (y + _PANEL) / self._height
        axes = self._figure.add_axes((left, bottom, _PANEL / self._width, _PANEL / self._height), zorder=1)
        axes.set(xlim=(-0.5, limits[1] - 0.5), ylim=(limits[0] - 0.5, -0.5))
        axes.set_axis_off()
        return axes

    def image(self, x: float, y: float, image_HW3: np.ndarray, *, width: int = _PANEL, height: int = _PANEL) -> None:
        """Put a picture on the page in a thin frame, by nearest neighbour; axes for each would take twice the time."""
        rows, columns = (
            np.arange(size) * there // size for size, there in zip((height, width), image_HW3.shape, strict=False)
        )
        framed_HW3 = np.full((height + 2, width + 2, 3), _FRAME)
        framed_HW3[1:-1, 1:-1] = image_HW3[rows][:, columns]
        self._figure.figimage(framed_HW3, round(x) - 1, round(self._height - y - height) - 1)

    def block(self, block: Block, top: float) -> None:
        self.text(_LEFT, top + _HEADING / 2, block.heading, size=10, weight="bold")
        for number, line in enumerate(block.reading.splitlines()):
            self.text(_LEFT, top + _HEADING + (number + 0.5) * _LINE, line, size=7.5, colour=_FAINT)
        top += block.head
        for label, panels in block.rows:
            self.text(20, top + _TITLE + _PANEL / 2, label, size=8, rotation=90, ha="center")
            for column, panel in enumerate(panels):
                if panel is not None:
                    self.panel(panel, _LEFT + column * (_PANEL + _GAP), top)
            top += _TITLE + _PANEL + _BELOW

    def panel(self, panel: Panel, x: float, y: float) -> None:
        self.text(x, y + 0.5 * _TITLE, panel.title, size=7.5)
        self.image(x, y + _TITLE, panel.image_HW3)
        if panel.marks is not None:
            panel.marks(self.axes(x, y + _TITLE, limits=panel.image_HW3.shape[:2]))
        below = y + _TITLE + _PANEL + 12
        if (scale := panel.scale) is not None:
            bar = scale.image(np.linspace(scale.low, scale.high, _PANEL)[None])
            self.image(x + _BAR_ENDS, below - _BAR // 2, bar, width=_PANEL - 2 * _BAR_ENDS, height=_BAR)
            end = f"≥ {scale.high:g}" if panel.capped else f"{scale.high:g}"
            self.text(x + _BAR_ENDS - 6, below, f"{scale.low:g}", size=6.5, colour=_FAINT, ha="right")
            self.text(x + _PANEL - _BAR_ENDS + 6, below, end, size=6.5, colour=_FAINT)
            below += 19
        self.text(x + _PANEL / 2, below, panel.caption, size=6.5, ha="center")

    def key(self, x: float, y: float, key: Sequence[tuple[str, str]]) -> None:
        from matplotlib.patches import Patch

        axes = self.axes(x, y)
        handles = [Patch(facecolor=colour, edgecolor="#888888", linewidth=0.5, label=words) for colour, words in key]
        axes.legend(handles=handles, loc="upper left", fontsize=6.5, frameon=False, borderaxespad=0, handlelength=1.2)
