"""An optical and a SAR image of the same ground, looked at in cut-outs: what that needs of them, and where windows go.

Whole images in memory serve, and so do scenes that are read where they are looked at.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from rasterio.windows import Window

MAX_WINDOWS = 64
"""On larger scenes, the best window in each cell of an even grid."""

_MIN_USABLE_SHARE = 0.25


class ImagePair(Protocol):
    """Two images on one grid; windows lie inside."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width [px]."""
        ...

    def optical(self, window: Window) -> np.ndarray:
        """Return reflectance in any unit, (C, H, W)."""
        ...

    def sar(self, window: Window) -> np.ndarray:
        """Return backscatter [dB], float (C, H, W), NaN where there is none."""
        ...

    def usable(self, window: Window) -> np.ndarray:
        """Return bool (H, W), True where the optical image shows the ground."""
        ...


class ArrayPair(NamedTuple):
    """An :class:`ImagePair` in memory."""

    optical_CHW: np.ndarray
    sar_CHW: np.ndarray
    usable_HW: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width [px]."""
        height, width = self.usable_HW.shape
        return height, width

    def optical(self, window: Window) -> np.ndarray:
        """Return a part of the optical image."""
        return self.optical_CHW[:, *window.toslices()]

    def sar(self, window: Window) -> np.ndarray:
        """Return a part of the SAR image."""
        return self.sar_CHW[:, *window.toslices()]

    def usable(self, window: Window) -> np.ndarray:
        """Return a part of the mask."""
        return np.asarray(self.usable_HW[window.toslices()])


class Place(NamedTuple):
    """A window: rows and columns of its upper-left corner, and the share of its pixels that can be used."""

    top: int
    left: int
    usable_share: float


class Cut:
    """A square piece of an image with a margin, filled where it reaches beyond; some of it lies inside."""

    def __init__(self, shape: tuple[int, int], top: int, left: int, *, size: int, margin: int) -> None:
        height, width = shape
        rows, cols = ((start - margin, start + size + margin) for start in (top, left))
        (first_row, last_row), (first_col, last_col) = (
            (min(max(start, 0), length), min(max(stop, 0), length))
            for (start, stop), length in ((rows, height), (cols, width))
        )
        self._inside = Window(first_col, first_row, last_col - first_col, last_row - first_row)
        self._beyond = [(first_row - rows[0], rows[1] - last_row), (first_col - cols[0], cols[1] - last_col)]

    def of(self, read: Callable[[Window], np.ndarray], fill: float) -> np.ndarray:
        """Return the piece of what ``read`` gives."""
        part = read(self._inside)
        return np.pad(part, [(0, 0)] * (part.ndim - 2) + self._beyond, constant_values=fill)


class UsableShares:
    """Counts usable pixels in all windows that could be looked at, from blocks that come one by one."""

    def __init__(self, shape: tuple[int, int], *, window_px: int) -> None:
        self._shape, self._size = shape, window_px
        self._tops, self._lefts = (np.array(_starts(length, window_px)) for length in shape)
        self._counts = np.zeros((len(self._tops), len(self._lefts)))

    def add(self, usable_HW: np.ndarray, *, row: int, col: int) -> None:
        """Count a block whose upper-left corner stands at this row and column; blocks do not overlap."""
        height, width = usable_HW.shape
        rows, cols = np.arange(row, row + height), np.arange(col, col + width)
        in_rows, in_cols = (
            ((starts[:, None] <= pixels) & (pixels < starts[:, None] + self._size)).astype(np.float32)
            for starts, pixels in ((self._tops, rows), (self._lefts, cols))
        )
        self._counts += in_rows @ usable_HW.astype(np.float32) @ in_cols.T

    def places(self) -> list[Place]:
        """Return windows at half a window's distance that are usable enough, at most :data:`MAX_WINDOWS`."""
        found = [
            Place(int(top), int(left), float(count) / self._size**2)
            for top, counts in zip(self._tops, self._counts, strict=True)
            for left, count in zip(self._lefts, counts, strict=True)
            if float(count) / self._size**2 >= _MIN_USABLE_SHARE
        ]
        return found if len(found) <= MAX_WINDOWS else self._best_of_cells(found)

    def _best_of_cells(self, found: list[Place]) -> list[Place]:
        side, half = int(np.sqrt(MAX_WINDOWS)), self._size // 2
        height, width = self._shape
        best: dict[tuple[int, int], Place] = {}
        for place in found:
            cell = ((place.top + half) * side // height, (place.left + half) * side // width)
            if cell not in best or place.usable_share > best[cell].usable_share:
                best[cell] = place
        return list(best.values())


def _starts(length: int, size: int) -> list[int]:
    last = max(length - size, 0)
    return sorted({*range(0, last, size // 2), last})
