"""Clouds by s2cloudless, boosted trees over ten bands of single Sentinel-2 L1C pixels; arrays only.

It finds no shadows. Compared with others in Skakun et al. 2022, doi:10.1016/j.rse.2022.112990. The package
(CC BY-SA 4.0) brings the weights; it is imported when first needed.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from cgm2net.errors import BackendError

if TYPE_CHECKING:
    from s2cloudless.cloud_detector import S2PixelCloudDetector

PACKAGE = "s2cloudless"

THRESHOLD = 0.7
"""Averaged probability above which a pixel is cloud; it becomes 0.5."""

_AVERAGE_PX, _DILATION_PX = 4, 2  # radii of the discs, as the masks that data sets deliver were made with

REACH_PX = _AVERAGE_PX + _DILATION_PX
"""How far from a pixel lies what its probability depends on."""


def boosted_cloud(reflectance_CHW: np.ndarray) -> np.ndarray:
    """Return the probability of cloud, scaled so that above 0.5 it is what s2cloudless masks at :data:`THRESHOLD`.

    Averaging and growing are done here: OpenCV's filters give last bits that depend on where a pixel stands in the
    array, and windows could not hold what the whole holds.

    Args:
        reflectance_CHW: float32, not clipped; the bands of ``CLOUD_BANDS["s2cloudless"]`` in that order.

    Returns:
        float32 (H, W), 0-1.

    Raises:
        BackendError: if the package is not installed.
    """
    detector = _detector()
    pixels_1HWC = np.ascontiguousarray(np.moveaxis(reflectance_CHW, 0, -1))[None]
    # One thread: scenes are worked on side by side in processes.
    probability_HW = detector.get_cloud_probability_maps(pixels_1HWC, num_threads=1)[0]
    averaged = ndimage.correlate(probability_HW, detector.conv_filter, output=np.float32, mode="reflect")
    grown = ndimage.grey_dilation(averaged, footprint=detector.dilation_filter, mode="constant", cval=0.0)
    return _centred(grown)


def weights_path() -> Path:
    """Return the file of the trees.

    Raises:
        BackendError: if the package is not installed.
    """
    return Path(_detector().model_filename)


def _centred(probability_HW: np.ndarray) -> np.ndarray:
    """Scale linearly on either side so that the threshold becomes 0.5; what exceeds it stays above in float32."""
    below = np.minimum(probability_HW * np.float32(0.5 / THRESHOLD), np.float32(0.5))
    above = np.float32(0.5) + (probability_HW - np.float32(THRESHOLD)) * np.float32(0.5 / (1 - THRESHOLD))
    above = np.clip(above, np.nextafter(np.float32(0.5), np.float32(1)), np.float32(1))
    return np.where(probability_HW > np.float32(THRESHOLD), above, below)


@lru_cache(maxsize=1)
def _detector() -> "S2PixelCloudDetector":
    try:
        from s2cloudless.cloud_detector import S2PixelCloudDetector
    except ImportError as error:
        raise BackendError(
            f"cloud method s2cloudless: its package cannot be imported ({error}); pip install 'cgm2net[clouds]', or"
            " choose another method"
        ) from error
    return S2PixelCloudDetector(threshold=THRESHOLD, average_over=_AVERAGE_PX, dilation_size=_DILATION_PX)
