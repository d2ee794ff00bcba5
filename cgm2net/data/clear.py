"""Where an optical image shows the ground, window by window: measured, and away from clouds and their shadows."""

from dataclasses import dataclass, replace

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy import ndimage

from cgm2net.data.cloud_methods import COVER_THRESHOLD, cloud_finder
from cgm2net.grids import blocks_in, common, padded, whole
from cgm2net.raster import Raster, Source

CLOUD_RIM_PX = 3
"""Kept away from clouds: masks leave thin rims outside, and a rim is an edge that SAR does not have."""


class ClearGround:
    """Clear ground of an image; a window costs its own size and finds, to the bit, what the whole holds there.

    Raises:
        RasterError: if the delivered file is neither a mask nor a classification, or the rule lacks a band.
    """

    def __init__(self, optical: Source, delivered: Source | None) -> None:
        """Look for clouds.

        Args:
            optical: cloudy image.
            delivered: mask or classification on the same grid; the rule finds clouds where there is none.
        """
        self._optical = optical
        method = "simple" if delivered is None else "scl" if _has_classes(delivered) else "given"
        self._cloud = cloud_finder(method, _Image(source=optical, mask=delivered), dilation_px=0)

    def __call__(self, window: Window) -> np.ndarray:
        """Return bool (H, W) for a window, which must lie inside."""
        around = padded(self._optical.grid, window, by_px=CLOUD_RIM_PX)
        cloud_HW = self._cloud(around) > COVER_THRESHOLD
        clear_HW = away_from_cloud(cloud_HW, self._optical.part(around).valid_HW)
        return np.asarray(clear_HW[common(window, around)[1]])


def clear_ground(optical: Raster, delivered: Raster | None) -> np.ndarray:
    """Return bool (H, W) for a whole image; see :class:`ClearGround`."""
    return ClearGround(optical, delivered)(whole(optical.grid))


def away_from_cloud(cloud_HW: np.ndarray, valid_HW: np.ndarray) -> np.ndarray:
    """Return bool (H, W): valid, and no cloud nearer than :data:`CLOUD_RIM_PX`."""
    return np.asarray(valid_HW & ~ndimage.binary_dilation(cloud_HW, iterations=CLOUD_RIM_PX))


@dataclass(frozen=True, kw_only=True)
class _Image:
    """A :class:`cgm2net.data.cloud_methods.CloudImage`; where its mask does not reach counts as cloud."""

    source: Source
    mask: Source | None

    @property
    def grid(self) -> GeoBox:
        return self.source.grid

    def optical(self, window: Window) -> Raster:
        return self.source.part(window)

    def delivered(self, window: Window) -> Raster | None:
        return None if self.mask is None else _known(self.mask.part(window))


def _known(mask: Raster) -> Raster:
    return replace(mask, pixels_CHW=np.where(mask.valid_HW, mask.pixels_CHW, 1).astype(mask.dtype))


def _has_classes(mask: Source) -> bool:
    return any(_known(mask.part(block)).pixels_CHW.max() > 1 for block in blocks_in(mask.grid, whole(mask.grid)))
