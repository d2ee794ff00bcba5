"""Windows over a scene and how their answers become one: arrays only.

The network sees a window of 256 px at a time. Windows stand on a grid that is anchored in the world, not at the image's
corner, and overlap by 64 px, over which their weights rise and fall as squared sines that add up to one. So a pixel's
answer does not depend on how the work is cut into blocks, nor (farther than a window from the edge) on where a scene
was cropped; and its window's rim, where the network sees least around it, never has the last word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from odc.geo.geobox import GeoBox

WINDOW_PX = 256
OVERLAP_PX = 64
STRIDE_PX = WINDOW_PX - OVERLAP_PX

_FUZZ_PX = 1e-3  # 399960 / 10 may come out as 39995.9999


def phases(grid: GeoBox) -> tuple[int, int]:
    """Return how far (rows, columns) the grid's upper-left pixel lies behind a world window's start, 0-191."""
    transform = grid.transform
    row = np.floor(-transform.f / abs(transform.e) + _FUZZ_PX)
    column = np.floor(transform.c / abs(transform.a) + _FUZZ_PX)
    return int(row % STRIDE_PX), int(column % STRIDE_PX)


def starts(length: int, phase: int) -> list[int]:
    """Return where windows begin along one side of a scene, the first at ``-phase``.

    A window of which no more than the overlap lies inside is left out: its neighbour holds all of that.
    """
    return [s for s in range(-phase, length, STRIDE_PX) if s == -phase or length - s > OVERLAP_PX]


def weights(begin: Sequence[int], length: int) -> np.ndarray:
    """Return each window's weight along one side, float32 (windows, 256); over the windows they add up to 1.

    Args:
        begin: starts of all windows of the side.
        length: of the side [px]; outside of it weights are 0.
    """
    rise = np.sin(np.pi / 2 * (np.arange(OVERLAP_PX) + 0.5) / OVERLAP_PX) ** 2
    profile = np.concatenate([rise, np.ones(WINDOW_PX - 2 * OVERLAP_PX), rise[::-1]])
    place_NW = np.asarray(begin)[:, None] + np.arange(WINDOW_PX)
    inside_NW = (place_NW >= 0) & (place_NW < length)
    total = np.zeros(length)
    np.add.at(total, place_NW[inside_NW], np.broadcast_to(profile, place_NW.shape)[inside_NW])
    weight_NW = np.zeros(place_NW.shape, np.float32)
    weight_NW[inside_NW] = (np.broadcast_to(profile, place_NW.shape)[inside_NW] / total[place_NW[inside_NW]]).astype(
        np.float32
    )
    return weight_NW


@dataclass(frozen=True, kw_only=True)
class Side:
    """The windows along one side of a scene."""

    length: int
    starts: tuple[int, ...]
    weight_NW: np.ndarray

    @classmethod
    def of(cls, length: int, phase: int) -> "Side":
        """Lay windows along a side of so many pixels."""
        begin = starts(length, phase)
        return cls(length=length, starts=tuple(begin), weight_NW=weights(begin, length))

    def over(self, first: int, last: int) -> range:
        """Return the numbers of the windows that weigh anything between two pixels, ``last`` excluded."""
        chosen = [n for n, s in enumerate(self.starts) if s < last and s + WINDOW_PX > first]
        return range(chosen[0], chosen[-1] + 1)

    def blocks(self, most_px: int) -> list[tuple[int, int]]:
        """Cut the side into blocks whose windows span no more than so many pixels, ends excluded.

        Borders lie where one window alone has a say: it is all that two neighbours both ask for.
        """
        if self.length <= most_px:
            return [(0, self.length)]
        step = max((most_px - WINDOW_PX) // STRIDE_PX, 1)
        borders = [self.starts[n] + WINDOW_PX // 2 for n in range(step, len(self.starts) - 1, step)]
        return list(pairwise([0, *borders, self.length]))


class Blend:
    """Weighted sums of windows over a block of columns, row of windows by row of windows.

    Holds as many rows as a window has, whatever the scene's height: after a row of windows, the rows above the next
    one's start are final and are handed out.

    Args:
        rows, columns: the windows of the scene.
        first, last: columns of the block, ``last`` excluded.
        channels: of what is blended.
    """

    def __init__(self, rows: Side, columns: Side, *, first: int, last: int, channels: int) -> None:
        self._rows, self._columns, self._first, self._last = rows, columns, first, last
        self._sum_CHW = np.zeros((channels, WINDOW_PX, last - first), np.float32)

    def add(self, row: int, column: int, answer_CHW: np.ndarray) -> None:
        """Add one window's answer, float32 (channels, 256, 256), by its numbers along both sides."""
        start = self._columns.starts[column]
        left, right = max(start, self._first), min(start + WINDOW_PX, self._last)
        mine = slice(left - start, right - start)
        across_W = self._columns.weight_NW[column][mine]
        down_H1 = self._rows.weight_NW[row][:, None]
        self._sum_CHW[:, :, left - self._first : right - self._first] += answer_CHW[:, :, mine] * (down_H1 * across_W)

    def finish(self, row: int) -> tuple[int, np.ndarray]:
        """Return the first row that became final with a row of windows, and the rows, (channels, rows, columns)."""
        start = self._rows.starts[row]
        top = max(start, 0)
        is_last = row == len(self._rows.starts) - 1
        bottom = self._rows.length if is_last else start + STRIDE_PX
        final = self._sum_CHW[:, top - start : bottom - start].copy()
        self._sum_CHW[:, :OVERLAP_PX] = self._sum_CHW[:, STRIDE_PX:]
        self._sum_CHW[:, OVERLAP_PX:] = 0.0
        return top, final
