"""How far two cloud masks of a scene agree, counted window by window, and a picture of where they do not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rasterio.windows import Window

from cgm2net import pictures, sensors
from cgm2net.compute import Facts
from cgm2net.data.cloud_methods import COVER_THRESHOLD, Find
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, whole
from cgm2net.streams import RasterFile, small_cache

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MASK_FILE, OTHER_FILE = "cloud.tif", "compared.tif"

_THUMBNAIL_PX = 256
_DIFFERENCE = np.array([[0.93, 0.93, 0.93], [0.84, 0.19, 0.15], [0.19, 0.51, 0.74], [0.35, 0.35, 0.35]])
"""Colours of: neither, the scene's method alone, the other alone, both."""


class Comparison:
    """A second method that looks at what the first one does; where it cannot, it says why and stops."""

    def __init__(self, find: Find) -> None:
        """Compare with what ``find`` gives."""
        self._find = find
        self._equal = self._both = self._either = self._measured = 0
        self.problem = ""
        "Why the scene could not be compared; empty where it could."

    def add(self, window: Window, probability_HW: np.ndarray, valid_HW: np.ndarray) -> np.ndarray:
        """Count a window's pixels; return the other method's probability, float32 (H, W), zeros where it failed."""
        nothing_HW = np.zeros(probability_HW.shape, np.float32)
        if self.problem:
            return nothing_HW
        try:
            other_HW = self._find(window)
        except RasterError as error:
            self.problem = str(error)
            return nothing_HW
        mine, theirs = probability_HW[valid_HW] > COVER_THRESHOLD, other_HW[valid_HW] > COVER_THRESHOLD
        self._measured += mine.size
        self._equal += int((mine == theirs).sum())
        self._both += int((mine & theirs).sum())
        self._either += int((mine | theirs).sum())
        return other_HW

    def facts(self) -> Facts:
        """Return agreement (share of equal measured pixels) and IoU of cloud, 1 where neither mask holds any."""
        if self.problem or not self._measured:
            return {"cloud_not_compared": self.problem or "the scene has no measured pixel"}
        iou = self._both / self._either if self._either else 1.0
        return {"cloud_agreement": round(self._equal / self._measured, 6), "cloud_iou": round(iou, 6)}


@dataclass(frozen=True, kw_only=True)
class ComparedScene:
    """What is drawn of one scene."""

    optical: Path
    folder: Path
    "Holds :data:`MASK_FILE` and :data:`OTHER_FILE`."
    title: str


def draw_agreement(scenes: Sequence[ComparedScene], path: Path, *, other: str) -> None:
    """Draw a row a scene: true colour, both masks, and where they differ; as a PNG file of reproducible bytes.

    Args:
        scenes: at least one.
        path: PNG file.
        other: the second method's name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.2 * len(scenes) + 0.3), layout="constrained")
    axes = figure.subplots(len(scenes), 4, squeeze=False)
    for row, scene in zip(axes, scenes, strict=True):
        _draw_scene(row, scene)
        row[0].set_ylabel(scene.title, fontsize=7)
    for axis, title in zip(
        axes[0], ("cloudy", "mask", other, f"red: mask alone\nblue: {other} alone, grey: both"), strict=True
    ):
        axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_scene(row: Sequence["Axes"], scene: ComparedScene) -> None:
    with small_cache():
        optical_CHW, bands = _thumbnail(scene.optical)
        (mine_HW,), _ = _thumbnail(scene.folder / MASK_FILE)
        (theirs_HW,), _ = _thumbnail(scene.folder / OTHER_FILE)
    code_HW = (mine_HW > COVER_THRESHOLD) + 2 * (theirs_HW > COVER_THRESHOLD)
    shown = (
        pictures.true_colour(sensors.to_unit_range(optical_CHW, bands), bands),
        pictures.cloud_map(mine_HW), pictures.cloud_map(theirs_HW), _DIFFERENCE[code_HW],
    )  # fmt: skip
    for axis, image in zip(row, shown, strict=True):
        axis.imshow(image)
        axis.set_xticks([])
        axis.set_yticks([])


def _thumbnail(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return every n-th pixel of a file (C, H, W), and its band names; reads block by block."""
    with RasterFile(path) as file:
        step = -(-max(file.grid.shape) // _THUMBNAIL_PX)
        shape = [-(-length // step) for length in file.grid.shape]
        small = np.zeros((len(file.bands), *shape), file.dtype)
        for block in blocks_in(file.grid, whole(file.grid)):
            pixels = file.part(block).pixels_CHW[:, -block.row_off % step :: step, -block.col_off % step :: step]
            top, left = -(-block.row_off // step), -(-block.col_off // step)
            small[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return small, file.bands
