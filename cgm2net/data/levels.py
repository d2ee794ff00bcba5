"""What the values of a scene's images say of their units: DN or not, dB or not, an added offset, bands out of order.

Axes: C bands, N sampled pixels.
"""

from collections.abc import Mapping

import numpy as np

from cgm2net.compute import Facts
from cgm2net.sensors import BASELINE_OFFSET_DN, PLANETSCOPE, SENTINEL1, SENTINEL2

Quantiles = dict[str, list[float]]
"""Band name -> the 1, 50 and 99 % quantiles of its valid stored values."""

MIN_BANDS_FOR_OFFSET = 6
"""Bare soil in four bands looks like an offset."""

_QUANTILES = (0.01, 0.50, 0.99)
_SENTINEL2 = tuple(band.name for band in SENTINEL2)
_OPTICAL = (*_SENTINEL2, *(band.name for band in PLANETSCOPE))
_SAR = tuple(band.name for band in SENTINEL1)


def quantiles_of(sample_CN: np.ndarray, bands: tuple[str, ...]) -> Quantiles:
    """Return the quantiles of every band; nothing where there is no pixel."""
    if sample_CN.shape[1] == 0:
        return {}
    table = np.quantile(sample_CN.astype(np.float64), _QUANTILES, axis=1).T
    return {name: [round(float(value), 6) for value in row] for name, row in zip(bands, table, strict=True)}


def radiometry(quantiles: Mapping[str, Quantiles], *, cloudy_alone: bool = False) -> Facts:
    """Return the brightest optical level [DN], the suspicion of an added offset, and the SAR level.

    Args:
        quantiles: of the files ``optical``, ``reference`` and ``sar``, those there are.
        cloudy_alone: judge the dark ends of a cloudy image by themselves too: no reference will ever tell.
    """
    optical = {
        role: {name: values for name, values in quantiles[role].items() if name in _OPTICAL}
        for role in ("optical", "reference")
        if quantiles.get(role)
    }
    tops = [max(values[2] for values in bands.values()) for bands in optical.values() if bands]
    sar = {name: values for name, values in quantiles.get("sar", {}).items() if name in _SAR}
    return {
        "optical_top_dn": min(tops) if tops else None,
        "offset_suspected": "; ".join(_offset(optical, cloudy_alone=cloudy_alone)),
        "sar_median": max(values[1] for values in sar.values()) if sar else None,
    }


def _offset(optical: Mapping[str, Quantiles], *, cloudy_alone: bool) -> list[str]:
    """Say which file seems to carry the +1000 DN of Sentinel-2 baseline 04.00 and later, and by what sign.

    B10 decides where it is present: absorbed by water vapour on the way, it is near 0 wherever there is no cirrus.
    Without it, in a reference of six bands or more, the dark ends (1 % quantiles) of all bands must lie at the offset
    or above *and* half of them less than 1000 above it: vegetation, water and shadow are dark in half of the bands,
    while bright sand, salt, snow and cloud are dark in few or none, and pass. A cloudy image need not have dark ends,
    so it is compared with its reference: the dark ends of all bands moved by one and the same 1000 DN.
    """
    found = []
    optical = {
        role: {name: values for name, values in bands.items() if name in _SENTINEL2}
        for role, bands in optical.items()
        if set(bands) & set(_SENTINEL2)
    }
    for role, bands in optical.items():
        floor = sorted(values[0] for values in bands.values())
        near = BASELINE_OFFSET_DN - 50
        if "B10" in bands:
            b10 = bands["B10"][0]
            if near <= b10 <= BASELINE_OFFSET_DN + 150 and floor[0] >= near:
                found.append(f"{role}: dark end of B10 is {b10:.0f} DN")
        elif (
            (role == "reference" or cloudy_alone)
            and len(floor) >= MIN_BANDS_FOR_OFFSET
            and floor[0] >= near
            and floor[len(floor) // 2] <= 2 * BASELINE_OFFSET_DN
        ):
            found.append(f"{role}: dark end of its darkest band is {floor[0]:.0f} DN")
    common = [name for name in optical.get("reference", {}) if name in optical.get("optical", {})]
    if found or "B10" in common or len(common) < 3:
        return found
    moved = np.array([optical["optical"][name][0] - optical["reference"][name][0] for name in common])
    if np.ptp(moved) <= 300 and abs(abs(moved.mean()) - BASELINE_OFFSET_DN) <= 150:
        role = "optical" if moved.mean() > 0 else "reference"
        found.append(f"{role}: dark ends of all bands lie {abs(moved.mean()):.0f} DN above those of the other image")
    return found


def band_order(samples: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> Facts:
    """Return the largest share of pixels that no surface, cloud or sky can look like unless B02 and B08 are swapped.

    Such a pixel is bright in blue (above 0.15), 1.25 times brighter there than in green and red and 1.5 times than in
    NIR, while the neighbours of NIR (B8A, B11) are 1.2 times brighter than NIR. Vegetation and soil with swapped
    bands look so. Nothing natural does: clouds, snow and salt are flat from blue to red; water, shadow and haze are
    blue but dark, and darker still in SWIR than in NIR; sand and soil rise from blue on. So the share is near 0 in
    any true scene, and in a swapped one it is the share of clear vegetation: on 11 real scenes at most 0.0002 against
    at least 0.02. A scene of nothing but cloud, water, snow or sand, or without B8A and B11, gives 0: unsure passes.
    """
    shares: dict[str, float] = {}
    for role, (bands, sample_CN) in samples.items():
        if not {"B02", "B03", "B04", "B08"} <= set(bands) or not {"B8A", "B11"} & set(bands):
            continue
        if sample_CN.shape[1]:
            band = {name: row.astype(np.float32) for name, row in zip(bands, sample_CN, strict=True)}
            blue, nir = band["B02"], band["B08"]
            beside = np.max([band[name] for name in ("B8A", "B11") if name in band], axis=0)
            peak = (blue > 1500) & (blue > 1.25 * np.maximum(band["B03"], band["B04"])) & (blue > 1.5 * nir)
            shares[role] = float((peak & (beside > 1.2 * nir)).mean())
    return extreme("swapped", shares)


def extreme(name: str, shares: Mapping[str, float], *, largest: bool = True) -> Facts:
    """Return the largest (or least) share as ``NAME_share`` and whose it is as ``NAME_role``; None without any."""
    ranked = sorted(shares, key=shares.__getitem__, reverse=largest)
    return {f"{name}_share": shares[ranked[0]] if ranked else None, f"{name}_role": ranked[0] if ranked else None}
