"""Clouds and their shadows from one optical image by rule: brightness, haze and whiteness; arrays only.

The spectral tests are those of Fmask (Zhu and Woodcock 2012, doi:10.1016/j.rse.2011.10.028), made soft so that they
give a probability; the direction in which shadows lie is found in the image itself, since a catalogue has no sun
angles. The rule needs blue and red; green, near and short-wave infrared sharpen it where they are.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, signal
from scipy.special import expit

from cgm2net.errors import RasterError

MAX_SHADOW_PX = 128
"""Farthest that a shadow is looked for from its cloud."""

_MIN_SHADOW_MATCH = 0.25
_DARKER = 0.04
_DARKER_SHARE = 0.25
_SMALLEST_PX = 3
_FINE_PX = 2048
"""Larger images are searched for the shadows' direction at a quarter of their resolution, for memory's sake."""
_COARSE_STEP_PX = 4


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


def simple_shadow(
    reflectance_CHW: np.ndarray, bands: Sequence[str], *, cloud_HW: np.ndarray, valid_HW: np.ndarray
) -> np.ndarray:
    """Return the probability of cloud shadow: dark ground where the clouds of this image would cast it.

    Candidates are pixels darker in near infrared than their surroundings (Fmask's flood fill). The offset between
    clouds and shadows is the one at which the moved clouds cover the candidates best; water and dark forest that no
    cloud falls on are left alone.

    Args:
        reflectance_CHW: float32, 0-1.
        bands: band names; without B08 no shadow is found.
        cloud_HW: probability of cloud, 0-1.
        valid_HW: bool, True where the image was measured.

    Returns:
        float32 (H, W), 0-1; all 0 where no offset explains the dark pixels.
    """
    nothing = np.zeros(cloud_HW.shape, np.float32)
    cloud = cloud_HW > 0.5
    ground = valid_HW & ~cloud
    if "B08" not in bands or not cloud.any() or not ground.any():
        return nothing
    dark = _darker_than_surroundings(reflectance_CHW[list(bands).index("B08")], ground)
    coarse = 1 if max(cloud.shape) <= _FINE_PX else _COARSE_STEP_PX
    found = _best_offset(cloud[::coarse, ::coarse], dark[::coarse, ::coarse], ground[::coarse, ::coarse], step=coarse)
    if found is None:
        return nothing
    offset = found[0] * coarse, found[1] * coarse
    cast = ndimage.shift(cloud.astype(np.float32), offset, order=0)
    cast = ndimage.grey_dilation(cast, size=(4 + coarse, 4 + coarse))
    return np.asarray(cast * dark, np.float32)


def _darker_than_surroundings(nir_HW: np.ndarray, ground_HW: np.ndarray) -> np.ndarray:
    level = np.median(nir_HW[ground_HW])
    seen = ndimage.median_filter(np.where(ground_HW, nir_HW, level), size=3)
    smooth = ndimage.percentile_filter(seen[::4, ::4], 75, size=17)
    rows, columns = (np.minimum(np.arange(n) // 4, m - 1) for n, m in zip(nir_HW.shape, smooth.shape, strict=True))
    expected = smooth[np.ix_(rows, columns)]
    wanted = np.maximum(_DARKER, _DARKER_SHARE * expected)
    return np.asarray(np.where(ground_HW, expit((expected - seen - wanted) / 0.01), 0.0), np.float32)


def _best_offset(
    cloud_HW: np.ndarray, dark_HW: np.ndarray, ground_HW: np.ndarray, *, step: int
) -> tuple[int, int] | None:
    """Return (rows, columns) from cloud to shadow, in steps of so many pixels, or None where no offset stands out."""
    if not cloud_HW.any() or not ground_HW.any():
        return None
    centred = np.where(ground_HW, dark_HW - dark_HW[ground_HW].mean(), 0.0)
    cloud = cloud_HW.astype(np.float32)
    match = signal.correlate(centred, cloud, mode="full", method="fft")
    landed = signal.correlate(ground_HW.astype(np.float32), cloud, mode="full", method="fft")
    height, width = cloud_HW.shape
    rows, columns = np.ogrid[1 - height : height, 1 - width : width]
    distance = np.hypot(rows, columns)
    near = (distance >= max(1, 3 / step)) & (distance <= MAX_SHADOW_PX / step) & (landed > 0.05 * cloud_HW.sum())
    score = np.where(near, match / np.maximum(landed, 1.0), -np.inf)
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    if not np.isfinite(score[row, column]) or score[row, column] < _MIN_SHADOW_MATCH:
        return None
    return int(row) - height + 1, int(column) - width + 1


def _soft(margin: np.ndarray, width: float) -> np.ndarray:
    return np.asarray(expit(margin / width))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.asarray(numerator / np.maximum(denominator, 1e-3))
