"""Clouds in an optical image by rule: brightness, haze and whiteness; arrays only.

The spectral tests are those of Fmask (Zhu and Woodcock 2012, doi:10.1016/j.rse.2011.10.028), made soft so that they
give a probability. The rule needs blue and red; green, near and short-wave infrared sharpen it where they are.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.special import expit

from cgm2net.errors import RasterError

RULE_BANDS = ("B02", "B03", "B04", "B08", "B11")
"""What the rule and that of shadows look at, where it is there."""

CLOUD_REACH_PX = 2
"""How far from a pixel lies what its probability depends on."""

_SMALLEST_PX = 3


def simple_cloud(reflectance_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Return the probability of cloud by rule; what is smaller than 3 x 3 pixels (white roofs) is no cloud.

    Args:
        reflectance_CHW: float32, 0-1.
        bands: Sentinel-2 band names; B02 and B04 at least.

    Returns:
        float32 (H, W), 0-1; shadows are not in it.

    Raises:
        RasterError: if blue or red is missing.
    """
    have = dict(zip(bands, reflectance_CHW, strict=True))
    missing = [name for name in ("B02", "B04") if name not in have]
    if missing:
        raise RasterError(f"the cloud rule needs bands B02 and B04, got {', '.join(bands)}; choose another method")
    blue, red = have["B02"], have["B04"]
    visible = np.stack([have[name] for name in ("B02", "B03", "B04") if name in have])
    mean = visible.mean(axis=0)
    whiteness = np.abs(visible - mean).sum(axis=0) / np.maximum(mean, 1e-3)
    # Fmask's haze line is blue - 0.5 red = 0.08; bright soil lies below it because its red exceeds its blue.
    probability = _soft(blue - 0.5 * red - 0.08, 0.012) * _soft(0.7 - whiteness, 0.08) * _soft(mean - 0.12, 0.015)
    if "B08" in have:
        probability *= _soft(0.75 - _ratio(have["B08"] - red, have["B08"] + red), 0.05)
    if "B11" in have:
        green = have.get("B03", blue)
        snow = _ratio(green - have["B11"], green + have["B11"])
        probability *= _soft(0.75 - snow, 0.05)
    return np.asarray(ndimage.grey_opening(probability, size=(_SMALLEST_PX, _SMALLEST_PX)), np.float32)


def _soft(margin: np.ndarray, width: float) -> np.ndarray:
    return np.asarray(expit(margin / width))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.asarray(numerator / np.maximum(denominator, 1e-3))
