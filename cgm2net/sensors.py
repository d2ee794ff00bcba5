"""One table of bands: name, wavelength, stored unit, scale, range, whom to cite.

Bands are asked for by name everywhere else; counts, scales and offsets stand only here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cgm2net.errors import RasterError


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band as files store it and as the network wants it."""

    name: str
    "Name that raster files carry as band description."
    low: float
    "Stored value that becomes 0."
    high: float
    "Stored value that becomes 1."
    unit: str
    "Unit of the stored value: ``DN`` (reflectance x 10000) or ``dB``."
    wavelength_nm: float | None = None
    "Centre wavelength [nm]; none for radar."


REFLECTANCE_SCALE = 10_000.0
"""Stored integers per unit of reflectance, for Sentinel-2 L1C and L2A and PlanetScope surface reflectance."""

_SENTINEL2_NM = {
    "B01": 443, "B02": 490, "B03": 560, "B04": 665, "B05": 705, "B06": 740, "B07": 783,
    "B08": 842, "B8A": 865, "B09": 945, "B10": 1375, "B11": 1610, "B12": 2190,
}  # fmt: skip

SENTINEL2 = tuple(
    Band(name=name, low=0.0, high=REFLECTANCE_SCALE, unit="DN", wavelength_nm=nm) for name, nm in _SENTINEL2_NM.items()
)
"""Sentinel-2 MSI, top-of-atmosphere (L1C) or surface (L2A) reflectance x 10000, uint16, nodata 0, in the order
of an L1C product. Processing baseline 04.00 and later add 1000 DN: :data:`BASELINE_OFFSET_DN`.
Drusch et al. 2012, doi:10.1016/j.rse.2011.11.026."""

_PLANETSCOPE_NM = {"blue": 485, "green": 545, "red": 630, "nir": 820}

PLANETSCOPE = tuple(
    Band(name=name, low=0.0, high=REFLECTANCE_SCALE, unit="DN", wavelength_nm=nm)
    for name, nm in _PLANETSCOPE_NM.items()
)
"""PlanetScope (Dove, four bands), surface reflectance x 10000, uint16, nodata 0, 3 m, in the order of the product and
of M3M-CR. Frazier and Hemingway 2021, doi:10.3390/rs13193930."""

SENTINEL1 = (
    Band(name="VV", low=-25.0, high=0.0, unit="dB"),
    Band(name="VH", low=-32.5, high=0.0, unit="dB"),
)
"""Sentinel-1 C-band GRD, backscatter (sigma or gamma nought) in dB, float32, nodata NaN. The clipping ranges are
those of SEN12MS-CR: Meraner et al. 2020, doi:10.1016/j.isprsjprs.2020.05.013."""

BASELINE_OFFSET_DN = 1000
"""What Sentinel-2 processing baseline 04.00 (January 2022) and later add to every DN."""

OPTICAL_NODATA = 0
SAR_NODATA = float("nan")
LABEL_IGNORE = 255

COMMON_NAMES = MappingProxyType({
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22", **{band.name: band.name for band in PLANETSCOPE},
})  # fmt: skip
"""Band name -> common name of the STAC electro-optical extension, version 2."""

BANDS = MappingProxyType({band.name: band for band in (*SENTINEL2, *PLANETSCOPE, *SENTINEL1)})


def band(name: str) -> Band:
    """Return a band by name.

    Raises:
        RasterError: if no sensor of the table has it.
    """
    if name not in BANDS:
        raise RasterError(f"unknown band {name!r}; known bands: {', '.join(BANDS)}")
    return BANDS[name]


def to_unit_range(pixels_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Scale stored values to 0-1, clipped, band by band.

    Args:
        pixels_CHW: stored values, one band a name of ``bands``.
        bands: band names.

    Returns:
        float32 (C, H, W); reflectance for optical bands, clipped dB for SAR; NaN becomes 0.
    """
    low, high = _limits(bands)
    scaled = (pixels_CHW.astype(np.float32) - low) / (high - low)
    return np.asarray(np.nan_to_num(np.clip(scaled, 0.0, 1.0), nan=0.0))


def from_unit_range(unit_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Undo :func:`to_unit_range` for values that were not clipped; float32 (C, H, W)."""
    low, high = _limits(bands)
    return np.asarray(unit_CHW * (high - low) + low, np.float32)


def _limits(bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    table = [band(name) for name in bands]
    low = np.array([b.low for b in table], np.float32)[:, None, None]
    high = np.array([b.high for b in table], np.float32)[:, None, None]
    return low, high
