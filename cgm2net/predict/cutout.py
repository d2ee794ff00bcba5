"""One window of a scene that lies in files, prepared as for a prediction, as a tile that can be explained.

Axes: C bands, H, W pixels.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.cloud_methods import COVER_THRESHOLD
from cgm2net.data.dataset import to_inputs
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, whole
from cgm2net.model.interface import STRIDE
from cgm2net.predict.prepare import Prepared, prepare
from cgm2net.predict.scene import Scene, SceneInputs, open_scene
from cgm2net.predict.windows import WINDOW_PX
from cgm2net.settings import CloudmaskSettings, CoregisterSettings
from cgm2net.weights import Card

_MIN_KNOWN = 0.5  # share of a window that optics and SAR must both have measured


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """A set of one tile without reference and labels, as :class:`cgm2net.evaluation.score.Tiles`."""

    sample: Mapping[str, Any] = field(repr=False)
    optical_bands: tuple[str, ...]
    sar_bands: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """One row, with ``tile_id``."""
        return pd.DataFrame({"tile_id": [self.sample["id"]]})

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        return (self.sample,)[index]


def cut_out(inputs: SceneInputs, card: Card, *, coregister: CoregisterSettings, cloudmask: CloudmaskSettings) -> Cutout:
    """Prepare a scene and take the window of it that is nearest to half clouded.

    Args:
        inputs: the scene's files.
        card: of the model.
        coregister: when a shift of SAR is believed.
        cloudmask: how clouds are found.

    Raises:
        RasterError: if a file cannot be used, or no window is measured by half in optics and SAR.
    """
    with open_scene(inputs, card) as scene, tempfile.TemporaryDirectory() as aside:
        prepared = prepare(scene, Path(aside), coregister=coregister, cloudmask=cloudmask)
        for window in _half_clouded_first(scene, prepared):
            sample = _sample(scene, prepared, window)
            if sample["valid_HW"].float().mean() >= _MIN_KNOWN:
                names = {name: getattr(card, name) for name in ("optical_bands", "sar_bands", "classes")}
                return Cutout(sample=sample, **names)
    raise RasterError(f"scene {inputs.scene_id}: no window of it is measured by half in both optics and SAR")


def _half_clouded_first(scene: Scene, prepared: Prepared) -> list[Window]:
    """Return the whole windows of a scene, those that are cut short by its edge left out where it is larger."""
    height, width = (min(WINDOW_PX, side // STRIDE * STRIDE) for side in scene.grid.shape)
    blocks = blocks_in(scene.grid, whole(scene.grid), height_px=height, width_px=width)
    windows = [block for block in blocks if (block.height, block.width) == (height, width)]
    cover = {window: float((prepared.cloud(window) > COVER_THRESHOLD).mean()) for window in windows}
    return sorted(windows, key=lambda window: abs(cover[window] - 0.5))


def _sample(scene: Scene, prepared: Prepared, window: Window) -> dict[str, Any]:
    optical, sar = scene.optical(window), scene.sar(window, to_content=prepared.shift.to_content)
    card = scene.card
    given = to_inputs(
        optical.pixels_CHW, sar.pixels_CHW, prepared.cloud(window), optical_bands=card.optical_bands,
        sar_bands=card.sar_bands,
    )  # fmt: skip
    optical_CHW, sar_CHW, cloud_HW = (torch.from_numpy(np.ascontiguousarray(array)) for array in given)
    return {
        "id": f"{scene.inputs.scene_id}_{window.row_off}_{window.col_off}",
        "optical_CHW": optical_CHW,
        "sar_CHW": sar_CHW,
        "cloud_HW": cloud_HW,
        "label_HW": torch.full(cloud_HW.shape, sensors.LABEL_IGNORE),
        "valid_HW": torch.from_numpy(optical.valid_HW & sar.valid_HW),
    }
