"""What synthetic ground is made of: class, spectrum, season and C-band backscatter of each material.

Figures are rounded typical values, not measurements of a place. Spectra of green canopies, dry vegetation, soils,
rocks, roofs and water follow the ECOSTRESS library (Meerdink et al. 2019, doi:10.1016/j.rse.2019.05.015) and the USGS
library version 7 (Kokaly et al. 2017, doi:10.3133/ds1035), lowered where a pixel holds shade between crowns or
houses. Backscatter follows the Sentinel-1 Global Backscatter Model (Bauer-Marschallinger et al. 2021,
doi:10.1038/s41597-021-01059-7), crops through the year Veloso et al. 2017, doi:10.1016/j.rse.2017.07.015.
The seasons are those of central Europe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

FOREST, RANGELAND, AGRICULTURE, URBAN, BARREN, WATER = range(6)
"""Class codes of the label, those of M3M-CR's level 1."""


class Material(IntEnum):
    """What an object is made of; finer than its class, because classes are mixed."""

    BROADLEAF = 0
    CONIFER = 1
    GRASS = 2
    SHRUB = 3
    WINTER_CEREAL = 4
    MAIZE = 5
    RAPESEED = 6
    ROOT_CROP = 7
    ROOF_TILE = 8
    ROOF_BRIGHT = 9
    ASPHALT = 10
    GARDEN = 11
    ROCK = 12
    SAND = 13
    BARE_SOIL = 14
    RIVER = 15
    LAKE = 16


CROPS = (Material.WINTER_CEREAL, Material.MAIZE, Material.RAPESEED, Material.ROOT_CROP)
WOODY = (Material.BROADLEAF, Material.CONIFER, Material.SHRUB)
OPEN_WATER = (Material.RIVER, Material.LAKE)

Spectrum = tuple[float, float, float, float, float, float]
Curve = tuple[tuple[float, float], ...]

LEAFLESS: Spectrum = (0.035, 0.050, 0.062, 0.150, 0.180, 0.115)
DRY: Spectrum = (0.075, 0.108, 0.150, 0.270, 0.350, 0.255)
SOIL: Spectrum = (0.072, 0.098, 0.132, 0.200, 0.290, 0.245)


@dataclass(frozen=True, kw_only=True)
class Properties:
    """How a material looks; spectra are reflectance of B02 B03 B04 B08 B11 B12."""

    code: int
    "Class code."
    background: Spectrum
    "Where no leaf covers it."
    bare_db: tuple[float, float]
    "VV, VH [dB] without leaves."
    canopy: Spectrum = LEAFLESS
    "Under a closed green canopy."
    green_db: tuple[float, float] | None = None
    "VV, VH [dB] under a closed canopy; none: as bare."
    spread_db: float = 1.2
    "Deviation between objects [dB]."
    texture_db: float = 0.6
    "Deviation within objects [dB]."
    roughness: float = 0.1
    "Deviation of the reflectance within objects, relative."
    green: Curve = ((0, 0.0),)
    "Green share: (day of year, 0-1), linear between."
    dry: Curve = ((0, 0.0),)
    "Share of dead leaves or stubble: (day of year, 0-1), linear between."


_SOIL_DB = (-11.0, -19.2)

PROPERTIES: dict[Material, Properties] = {
    Material.BROADLEAF: Properties(
        code=FOREST, background=LEAFLESS, canopy=(0.022, 0.046, 0.025, 0.400, 0.195, 0.085),
        bare_db=(-9.6, -15.2), green_db=(-9.0, -14.4), spread_db=0.7, texture_db=0.7, roughness=0.30,
        green=((0, 0.08), (105, 0.10), (135, 0.95), (265, 0.92), (310, 0.10), (366, 0.08)),
    ),
    Material.CONIFER: Properties(
        code=FOREST, background=LEAFLESS, canopy=(0.017, 0.031, 0.021, 0.235, 0.105, 0.048),
        bare_db=(-9.8, -15.6), green_db=(-9.4, -14.9), spread_db=0.7, texture_db=0.7, roughness=0.30,
        green=((0, 0.88), (120, 0.92), (200, 0.95), (366, 0.88)),
    ),
    Material.GRASS: Properties(
        code=RANGELAND, background=DRY, canopy=(0.036, 0.072, 0.042, 0.390, 0.230, 0.118),
        bare_db=(-13.4, -19.8), green_db=(-13.8, -19.0), spread_db=0.8, roughness=0.13,
        green=((0, 0.42), (75, 0.50), (125, 0.88), (165, 0.80), (220, 0.58), (290, 0.66), (366, 0.42)),
    ),
    Material.SHRUB: Properties(
        code=RANGELAND, background=(0.055, 0.075, 0.100, 0.200, 0.270, 0.190),
        canopy=(0.030, 0.055, 0.037, 0.285, 0.185, 0.098),
        bare_db=(-12.6, -18.0), green_db=(-12.2, -17.2), spread_db=0.8, texture_db=1.0, roughness=0.26,
        green=((0, 0.42), (100, 0.48), (150, 0.78), (260, 0.68), (310, 0.45), (366, 0.42)),
    ),
    Material.WINTER_CEREAL: Properties(
        code=AGRICULTURE, background=SOIL, canopy=(0.028, 0.060, 0.028, 0.480, 0.220, 0.100),
        bare_db=_SOIL_DB, green_db=(-15.0, -21.4), spread_db=0.9, texture_db=0.4,
        green=((0, 0.24), (70, 0.32), (118, 0.92), (155, 0.92), (185, 0.10), (200, 0), (290, 0), (366, 0.24)),
        dry=((0, 0), (160, 0), (186, 0.80), (215, 0.65), (238, 0.0), (366, 0)),
    ),
    Material.MAIZE: Properties(
        code=AGRICULTURE, background=SOIL, canopy=(0.026, 0.058, 0.029, 0.455, 0.235, 0.105),
        bare_db=_SOIL_DB, green_db=(-10.2, -16.4), spread_db=0.9, texture_db=0.4,
        green=((0, 0), (135, 0.02), (190, 0.88), (245, 0.90), (272, 0.20), (280, 0), (366, 0)),
        dry=((0, 0.25), (95, 0.15), (110, 0), (250, 0), (274, 0.70), (300, 0.45), (366, 0.25)),
    ),
    Material.RAPESEED: Properties(
        code=AGRICULTURE, background=SOIL, canopy=(0.034, 0.085, 0.050, 0.510, 0.250, 0.115),
        bare_db=_SOIL_DB, green_db=(-10.4, -15.2), spread_db=0.9, texture_db=0.4,
        green=((0, 0.52), (75, 0.60), (105, 0.93), (160, 0.88), (190, 0.10), (198, 0), (250, 0.05), (366, 0.52)),
        dry=((0, 0), (170, 0), (192, 0.75), (225, 0.40), (240, 0), (366, 0)),
    ),
    Material.ROOT_CROP: Properties(
        code=AGRICULTURE, background=SOIL, canopy=(0.030, 0.068, 0.030, 0.520, 0.210, 0.095),
        bare_db=_SOIL_DB, green_db=(-10.2, -16.8), spread_db=0.9, texture_db=0.4,
        green=((0, 0), (118, 0.02), (168, 0.92), (255, 0.88), (275, 0.6), (285, 0), (366, 0)),
    ),
    Material.ROOF_TILE: Properties(
        code=URBAN, background=(0.088, 0.105, 0.165, 0.230, 0.275, 0.250),
        bare_db=(-6.6, -14.6), spread_db=1.8, texture_db=1.5, roughness=0.20,
    ),
    Material.ROOF_BRIGHT: Properties(
        code=URBAN, background=(0.225, 0.245, 0.262, 0.295, 0.300, 0.275),
        bare_db=(-5.6, -14.2), spread_db=2.2, texture_db=1.8, roughness=0.18,
    ),
    Material.ASPHALT: Properties(
        code=URBAN, background=(0.092, 0.102, 0.112, 0.142, 0.170, 0.158),
        bare_db=(-13.0, -20.5), spread_db=1.0, texture_db=0.8, roughness=0.06,
    ),
    Material.GARDEN: Properties(
        code=URBAN, background=(0.085, 0.100, 0.118, 0.190, 0.240, 0.205),
        canopy=(0.034, 0.064, 0.040, 0.340, 0.205, 0.108),
        bare_db=(-9.8, -16.4), green_db=(-9.4, -15.6), texture_db=1.0, roughness=0.24,
        green=((0, 0.25), (110, 0.35), (150, 0.68), (260, 0.60), (310, 0.30), (366, 0.25)),
    ),
    Material.ROCK: Properties(
        code=BARREN, background=(0.135, 0.160, 0.185, 0.235, 0.280, 0.255),
        bare_db=(-13.8, -23.6), spread_db=1.1, texture_db=1.3, roughness=0.20,
    ),
    Material.SAND: Properties(
        code=BARREN, background=(0.165, 0.210, 0.255, 0.325, 0.395, 0.360),
        bare_db=(-16.4, -25.4), spread_db=1.1, texture_db=0.7, roughness=0.08,
    ),
    Material.BARE_SOIL: Properties(
        code=BARREN, background=(0.095, 0.135, 0.190, 0.260, 0.360, 0.320),
        bare_db=(-14.8, -24.0), spread_db=1.1, texture_db=0.9, roughness=0.14,
    ),
    Material.RIVER: Properties(
        code=WATER, background=(0.052, 0.066, 0.054, 0.026, 0.011, 0.008),
        bare_db=(-20.5, -27.5), spread_db=0.6, texture_db=0.5, roughness=0.06,
    ),
    Material.LAKE: Properties(
        code=WATER, background=(0.038, 0.040, 0.024, 0.012, 0.006, 0.005),
        bare_db=(-21.5, -28.0), spread_db=0.8, texture_db=0.5, roughness=0.06,
    ),
}  # fmt: skip


def per_material(value: Callable[[Properties], object]) -> np.ndarray:
    """Return a property of all materials as an array, to be indexed by material; float64 (17, …)."""
    return np.array([value(PROPERTIES[material]) for material in Material], float)


CODES = per_material(lambda p: p.code).astype(np.uint8)
"""Class code of each material."""
