"""Scenes that would be predicted for nothing: refused after a look at a few places, before any long work.

The rules are those of validation; what holds for learning only is left out.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net.data.expectations import failures
from cgm2net.data.facts import footprint_on
from cgm2net.data.levels import band_order, quantiles_of, radiometry
from cgm2net.errors import RasterError
from cgm2net.grids import BLOCK_PX, blocks_in, describe_grid
from cgm2net.raster import Raster
from cgm2net.settings import ValidateSettings

if TYPE_CHECKING:
    from cgm2net.predict.scene import Scene

_PLACES = 5  # looked at along rows and along columns
_PLACE_PX = 256
_STEP_PX = 4  # pixels from one looked at to the next

_HINTS = MappingProxyType({
    "optical_top_dn": "say how, by the bands' scale and offset",
    "offset_suspected": "say so, by the bands' offset: `--offset -1000`",
    "swapped_share": "give the names in the order of the file",
    "sar_median": "say that its bands are in linear power",
})  # fmt: skip


def require_use(scene: "Scene", *, sar_grids: tuple[GeoBox, ...]) -> None:
    """Refuse a scene whose files do not hold what they should.

    Args:
        scene: opened scene.
        sar_grids: of its SAR files.

    Raises:
        RasterError: if SAR lies elsewhere or is not in dB, or the optical image is not in DN, carries an offset or
            has its bands in another order.
    """
    for grid in sar_grids:
        footprint = footprint_on(grid, scene.grid)
        if footprint is None or footprint.intersection(scene.grid.extent).area == 0:
            raise RasterError(
                f"scene {scene.inputs.scene_id}: SAR lies elsewhere: {describe_grid(grid)}, the optical image"
                f" {describe_grid(scene.grid)}; is one of the coordinate reference systems wrong?"
            )
    optical_CN, sar_CN = _sample(scene, scene.optical), _sample(scene, scene.sar)
    if optical_CN.size and not sar_CN.size:
        raise RasterError(
            f"scene {scene.inputs.scene_id}: SAR has no measurement wherever looked; is the right file named? Of bands"
            " in linear power, values of 0 and below are none"
        )
    card = scene.card
    quantiles = {
        "optical": quantiles_of(optical_CN, card.optical_bands), "sar": quantiles_of(sar_CN, card.sar_bands)
    }  # fmt: skip
    facts = {
        **radiometry(quantiles, cloudy_alone=True), **band_order({"optical": (card.optical_bands, optical_CN)})
    }  # fmt: skip
    settings = ValidateSettings(required_optical_bands=card.optical_bands, required_sar_bands=card.sar_bands)
    for column, reason in failures(facts, settings).items():
        raise RasterError(f"scene {scene.inputs.scene_id}: {reason}; or {_HINTS[column]}")


def _sample(scene: "Scene", read: Callable[[Window], Raster]) -> np.ndarray:
    """Return measured values, (C, N), from places all over the scene; each lies in one block of the grid."""
    height, width = scene.grid.shape
    thin = (slice(None, None, _STEP_PX),) * 2
    samples = []
    for row in _spread(height):
        for col in _spread(width):
            (block,) = blocks_in(scene.grid, Window(col, row, 1, 1))
            part = read(_middle(block))
            samples.append(part.pixels_CHW[:, *thin][:, part.valid_HW[thin]])
    return np.concatenate(samples, axis=1)


def _spread(length: int) -> list[int]:
    starts = range(0, length, BLOCK_PX)
    return sorted({starts[i] for i in np.linspace(0, len(starts) - 1, _PLACES).astype(int)})


def _middle(block: Window) -> Window:
    width, height = min(_PLACE_PX, block.width), min(_PLACE_PX, block.height)
    left, top = block.col_off + (block.width - width) // 2, block.row_off + (block.height - height) // 2
    return Window(left, top, width, height)
