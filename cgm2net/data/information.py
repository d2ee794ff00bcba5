"""Mutual information of optics and SAR (Viola and Wells 1997, doi:10.1023/A:1007958904918): knows nothing of edges."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cgm2net.data.pair import Cut, ImagePair, Place

_BINS = 16


def objection(pair: ImagePair, places: Sequence[Place], moves_N2: np.ndarray, *, size: int) -> str:
    """Say so if mutual information does not rise when SAR is moved back window by window; empty if it rises.

    Args:
        pair: the images.
        places: the windows.
        moves_N2: where the SAR content of each lies, dx and dy [px]; taken to whole pixels.
        size: side of the windows.
    """
    optical, moved, left = [], [], []
    for place, (dx, dy) in zip(places, moves_N2, strict=True):
        here = Cut(pair.shape, place.top, place.left, size=size, margin=0)
        there = Cut(pair.shape, place.top + round(dy), place.left + round(dx), size=size, margin=0)
        # Every second pixel: the despeckled echo between them adds nothing.
        echo = [ndimage.gaussian_filter(c.of(pair.sar, np.nan).mean(axis=0), 1)[::2, ::2] for c in (there, here)]
        usable = here.of(pair.usable, False)[::2, ::2] & np.isfinite(echo[0]) & np.isfinite(echo[1])
        optical.append(here.of(pair.optical, 0)[:, ::2, ::2][:, usable])
        moved.append(echo[0][usable])
        left.append(echo[1][usable])
    bands = [_bins(band_N) for band_N in np.concatenate(optical, axis=1)]
    echoes = [_bins(np.concatenate(echo)) for echo in (moved, left)]
    there_nat, here_nat = (float(np.mean([_information(band, echo) for band in bands])) for echo in echoes)
    if there_nat > here_nat:
        return ""
    dx, dy = moves_N2.mean(axis=0)
    return f"mutual information is {there_nat:.4f} nat when moved by ({dx:.1f}, {dy:.1f}) px, {here_nat:.4f} in place"


def _bins(values_N: np.ndarray) -> np.ndarray:
    """Return the number of each value's bin, 0 to 15; all bins hold equally many."""
    return np.searchsorted(np.quantile(values_N, np.linspace(0, 1, _BINS + 1)[1:-1]), values_N)


def _information(a_N: np.ndarray, b_N: np.ndarray) -> float:
    joint = np.bincount(a_N * _BINS + b_N, minlength=_BINS**2).reshape(_BINS, _BINS) / a_N.size
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / product[filled])))
