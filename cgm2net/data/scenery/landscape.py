"""Landscapes: seeded label maps made of objects — parcels, stands, lakes, a river, towns with streets, roads.

A region has one landscape for good; :mod:`cgm2net.data.scenery.radiometry` says what it looks like on a day.
Axes: H, W pixels of 10 m, row 0 north, column 0 west; N objects.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cgm2net.data.scenery.geometry import axes, cells, distance_to, fractal, mean_by
from cgm2net.data.scenery.materials import AGRICULTURE, BARREN, CODES, CROPS, FOREST, RANGELAND, URBAN, Material
from cgm2net.data.scenery.settlement import make_roads, make_towns


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """A region's ground, for all dates."""

    object_HW: np.ndarray
    "int32 number of the object that a pixel belongs to."
    material_N: np.ndarray
    "uint8 :class:`Material` of each object."
    material_HW: np.ndarray
    "uint8 :class:`Material` of each pixel."
    label_HW: np.ndarray
    "uint8 class code of each pixel."
    terrain_HW: np.ndarray
    "float32 elevation [m]."
    building_HW: np.ndarray
    "float32 height of buildings [m], 0 elsewhere."
    rows_HW: np.ndarray
    "float32 distance across the rows of the parcel mosaic [px]; gives fields their direction."
    street_angle_HW: np.ndarray
    "float32 direction of the nearest town's streets [rad]."


def make_landscape(rng: np.random.Generator, *, size_px: int) -> Landscape:
    """Draw a landscape of ``size_px`` x ``size_px`` pixels; all six classes, in shares that vary with the draw."""
    relief = fractal(rng, size_px, slope=4.6, outer_px=230)
    stand_HW = cells(rng, size_px, spacing_px=19, warp_px=7)
    parcel_HW, hedge_HW, rows_HW = _parcels(rng, size_px)
    bank_HW = _river(rng, size_px)
    towns = make_towns(rng, size_px, free_HW=bank_HW >= 6)
    river_HW, lake_HW = bank_HW < 0, _lakes(rng, size_px) & ~towns.inside_HW

    class_HW = _countryside(rng, relief, bank_HW=bank_HW, parcel_HW=parcel_HW)
    class_HW[hedge_HW & (class_HW == AGRICULTURE)] = RANGELAND
    material_HW = _natural_materials(
        rng, class_HW, stand_HW=stand_HW, parcel_HW=parcel_HW, hedge_HW=hedge_HW, bank_HW=bank_HW
    )
    parcelled = (class_HW == AGRICULTURE) | ((class_HW == RANGELAND) & (stand_HW % 2 == 1))
    key_HW = np.where(parcelled, 1_000_000 + parcel_HW, stand_HW)
    road_HW = make_roads(rng, size_px, centres_xy=towns.centres_xy) & ~(towns.inside_HW & (towns.height_HW > 0))
    for mask_HW, key, material in (
        (towns.inside_HW, 2_000_000 + towns.block_HW, towns.material_HW),
        (river_HW, 3_000_000, Material.RIVER),
        (lake_HW & ~river_HW, 4_000_000 + ndimage.label(lake_HW)[0], Material.LAKE),
        (road_HW, 5_000_000, Material.ASPHALT),
    ):
        key_HW, material_HW = np.where(mask_HW, key, key_HW), np.where(mask_HW, material, material_HW)
    found, object_HW = np.unique(key_HW.astype(np.int64) * 32 + material_HW, return_inverse=True)
    label_HW = CODES[material_HW]
    return Landscape(
        object_HW=object_HW.reshape(label_HW.shape).astype(np.int32),
        material_N=(found % 32).astype(np.uint8),
        material_HW=material_HW.astype(np.uint8),
        label_HW=label_HW,
        terrain_HW=(30.0 * relief).astype(np.float32),
        building_HW=np.where((label_HW == URBAN) & towns.inside_HW & ~road_HW, towns.height_HW, 0).astype(np.float32),
        rows_HW=rows_HW.astype(np.float32),
        street_angle_HW=towns.angle_HW.astype(np.float32),
    )


def _parcels(rng: np.random.Generator, size_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parcel numbers, hedges between estates, and the coordinate across rows, each (H, W).

    The land is parted into estates; each has a direction and a parcel size, and is cut into strips, those into fields.
    """
    estate_HW = cells(rng, size_px, spacing_px=85, warp_px=5)
    num = int(estate_HW.max()) + 1
    angle, width, length = rng.uniform(0, np.pi, num), rng.uniform(8, 19, num), rng.uniform(18, 46, num)
    y, x = axes(size_px)
    bend = 1.5 * fractal(rng, size_px, slope=4, outer_px=120)
    cos, sin = np.cos(angle)[estate_HW], np.sin(angle)[estate_HW]
    across, along = x * cos + y * sin + bend, y * cos - x * sin
    jitter = rng.uniform(0, 0.55, 8192)

    def cut(position: np.ndarray, key: np.ndarray) -> np.ndarray:
        index = np.floor(position).astype(np.int64)
        return np.asarray(index - (position - index < jitter[(index * 37 + key * 1013) % jitter.size]))

    strip = cut(across / width[estate_HW], estate_HW)
    key = strip + 211 * estate_HW
    field = cut(along / (length[estate_HW] * (0.6 + jitter[key % jitter.size] * 1.4)), key)
    code = (estate_HW * 4096 + strip + 2048) * 4096 + field + 2048
    parcel_HW = np.unique(code, return_inverse=True)[1].reshape(code.shape)
    hedged = rng.random(num) < 0.35
    edge = ndimage.maximum_filter(estate_HW, 2) != ndimage.minimum_filter(estate_HW, 2)
    return parcel_HW, edge & hedged[estate_HW], across


def _river(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Return the distance to the bank of a river that meanders through [px], negative in it; float (H, W)."""
    t = np.linspace(-0.3, 1.3, 6 * size_px) * size_px
    swing = rng.uniform(-0.22, 0.22) * size_px + 0 * t
    for wavelength, amplitude in ((rng.uniform(220, 340), 26), (rng.uniform(75, 130), 12), (rng.uniform(34, 60), 3)):
        wobble = np.sin(2 * np.pi * t / (2.7 * wavelength) + rng.uniform(0, 6.28))
        swing = swing + amplitude * (1 + 0.5 * wobble) * np.sin(2 * np.pi * t / wavelength + rng.uniform(0, 6.28))
    angle = rng.uniform(0, np.pi)
    a, half = t - size_px / 2, size_px / 2
    points = np.stack(
        [half + a * np.sin(angle) + swing * np.cos(angle), half + a * np.cos(angle) - swing * np.sin(angle)]
    )
    width = rng.uniform(6, 14) * (1 + 0.25 * np.sin(2 * np.pi * t / 160 + rng.uniform(0, 6.28)))
    distance, nearest = distance_to(points, size_px)
    return np.asarray(distance - width[nearest] / 2)


def _lakes(rng: np.random.Generator, size_px: int) -> np.ndarray:
    field = fractal(rng, size_px, slope=5.5, outer_px=60) + 0.05 * fractal(rng, size_px, slope=3, outer_px=12)
    return np.asarray(field > np.quantile(field, 1 - rng.uniform(0.02, 0.06)))


def _countryside(
    rng: np.random.Generator, relief: np.ndarray, *, bank_HW: np.ndarray, parcel_HW: np.ndarray
) -> np.ndarray:
    """Return uint8 (H, W): barren, forest, rangeland or agriculture everywhere, by suitability and drawn shares."""
    size_px = len(relief)
    near_river = np.exp(-np.maximum(bank_HW, 0) / 10)
    barren = fractal(rng, size_px, slope=4.2, outer_px=65) + 0.5 * relief + 0.8 * near_river
    forest = fractal(rng, size_px, slope=3.1, outer_px=120) + 0.5 * relief
    range_ = fractal(rng, size_px, slope=3.0, outer_px=110) + 0.6 * near_river + 0.25 * relief
    # In the lowland borders follow parcels, as where people drew them; on hills they are nature's.
    lowland = relief < 0.5
    forest, range_ = (np.where(lowland, mean_by(parcel_HW, f), f) for f in (forest, range_))
    range_ = range_ + np.where(lowland, rng.normal(0, 0.65, parcel_HW.max() + 1)[parcel_HW], 0)
    classes = np.full(relief.shape, AGRICULTURE, np.uint8)
    free = np.ones(relief.shape, bool)
    for code, field, share in (
        (BARREN, barren, rng.uniform(0.08, 0.13)),
        (FOREST, forest, rng.uniform(0.25, 0.36)),
        (RANGELAND, range_, rng.uniform(0.28, 0.42)),
    ):
        chosen = free & (field > np.quantile(field[free], 1 - share))
        classes[chosen] = code
        free &= ~chosen
    return classes


def _natural_materials(
    rng: np.random.Generator,
    class_HW: np.ndarray,
    *,
    stand_HW: np.ndarray,
    parcel_HW: np.ndarray,
    hedge_HW: np.ndarray,
    bank_HW: np.ndarray,
) -> np.ndarray:
    """Return a :class:`Material` for each pixel of the countryside, int (H, W); one for each stand or parcel."""
    stands, parcels = int(stand_HW.max()) + 1, int(parcel_HW.max()) + 1
    broadleaf_share = rng.uniform(0.25, 0.75)
    leaf = np.where(rng.random(stands) < broadleaf_share, Material.BROADLEAF, Material.CONIFER)[stand_HW]
    wild = np.where(rng.random(stands) < 0.62, Material.GRASS, Material.SHRUB)[stand_HW]
    meadow = np.where(rng.random(parcels) < 0.85, Material.GRASS, Material.SHRUB)[parcel_HW]
    grass = np.where(hedge_HW, Material.SHRUB, np.where(stand_HW % 2 == 1, meadow, wild))
    crop = rng.choice(CROPS, parcels, p=(0.42, 0.28, 0.13, 0.17))[parcel_HW]
    stony = np.where(rng.random(stands) < 0.6, Material.ROCK, Material.BARE_SOIL)[stand_HW]
    barren = np.where(mean_by(stand_HW, bank_HW) < 25, Material.SAND, stony)
    return np.select(
        [class_HW == code for code in (FOREST, RANGELAND, AGRICULTURE, BARREN)], [leaf, grass, crop, barren], 0
    )
