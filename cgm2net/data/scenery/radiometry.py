"""What a landscape looks like on a day: reflectance and backscatter of the ground, then what the sensors make of it.

What the figures rest on is said in :mod:`cgm2net.data.scenery.materials`. Axes: C bands, H, W, N objects.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy import ndimage, special

from cgm2net.data.scenery.geometry import fractal
from cgm2net.data.scenery.landscape import Landscape
from cgm2net.data.scenery.materials import CROPS, DRY, OPEN_WATER, PROPERTIES, WOODY, Material, per_material

OPTICAL_BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
SAR_BANDS = ("VV", "VH")

_SWIR = ("B11", "B12")
_NOISE_FLOOR = 10 ** (-29.0 / 10)
_LOOK_TILT = np.radians(12)  # the radar looks this far off east or west


@dataclass(frozen=True, kw_only=True)
class Sun:
    """Where the sun stands at the overpass."""

    azimuth: float
    "Clockwise from north [rad]."
    zenith: float
    "From the vertical [rad]."


def sun_at(day: date) -> Sun:
    """Return the sun's place at 48° N, 10:30 local solar time."""
    latitude, hour_angle = np.radians(48.0), np.radians(-22.5)
    declination = np.radians(-23.44) * np.cos(2 * np.pi * (day.timetuple().tm_yday + 10) / 365.25)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    east = -np.cos(declination) * np.sin(hour_angle)
    return Sun(azimuth=float(np.arctan2(east, north) % (2 * np.pi)), zenith=float(np.arccos(up)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """A landscape with what each object and pixel keeps through the year: its deviation from its kind."""

    landscape: Landscape
    delay_N: np.ndarray
    "Days by which an object's season is late."
    brightness_NC: np.ndarray
    "Factor on its spectrum, per band."
    backscatter_NC: np.ndarray
    "Deviation of VV, VH [standard deviations of its kind]."
    fine_HW: np.ndarray
    "Unit-variance texture at 1-2 px: crowns, houses, stones."
    coarse_HW: np.ndarray
    "Unit-variance texture at 4-30 px: soil, vigour, moisture."


def make_ground(landscape: Landscape, rng: np.random.Generator) -> Ground:
    """Draw the lasting deviations of objects and pixels."""
    num, size_px = len(landscape.material_N), len(landscape.object_HW)
    common = rng.normal(0, 0.10, (num, 1))
    return Ground(
        landscape=landscape,
        delay_N=rng.normal(0, 9, num),
        brightness_NC=np.exp(common + rng.normal(0, 0.045, (num, len(OPTICAL_BANDS)))),
        backscatter_NC=0.75 * rng.standard_normal((num, 1)) + 0.66 * rng.standard_normal((num, 2)),
        fine_HW=fractal(rng, size_px, slope=2.2, outer_px=2.2),
        coarse_HW=fractal(rng, size_px, slope=3.0, outer_px=28),
    )


def surface_reflectance(ground: Ground, *, day: date, rng: np.random.Generator) -> np.ndarray:
    """Return the reflectance of the ground, float32 (6, H, W), before sensor and clouds.

    Args:
        ground: landscape and lasting deviations.
        day: decides season and sun.
        rng: the day's own chance: moisture, residual of the atmospheric correction, early harvests.
    """
    land = ground.landscape
    green_N, dry_N = _season(ground, day=day, rng=rng)
    moisture, calibration = rng.normal(0, 0.05), 1 + rng.normal(0, 0.015, len(OPTICAL_BANDS))
    calibration *= 1 + rng.normal(0, 0.03)
    canopy = per_material(lambda p: p.canopy)[land.material_N] * ground.brightness_NC
    background = per_material(lambda p: p.background)[land.material_N] * ground.brightness_NC * (1 - moisture)
    stubble_N = np.clip(dry_N / np.maximum(1 - green_N, 1e-6), 0, 1)
    background += stubble_N[:, None] * (np.array(DRY) * ground.brightness_NC - background)
    texture = per_material(lambda p: p.roughness).astype(np.float32)[land.material_HW]
    green = green_N.astype(np.float32)[land.object_HW]
    # Vigour varies within fields; rows show where the canopy is not closed.
    rows = 0.05 * np.sin(2 * np.pi / 3.1 * land.rows_HW) * np.isin(land.material_HW, CROPS)
    green = np.clip(green * (1 + 0.10 * ground.coarse_HW) + rows * green * (1 - green) * 4, 0, 1)
    light = _shading(ground, sun_at(day)) * np.maximum(1 + texture * 0.75 * ground.fine_HW, 0.3)
    light *= 1 + 0.04 * ground.coarse_HW
    surface = np.empty((len(OPTICAL_BANDS), *green.shape), np.float32)
    for c in range(len(OPTICAL_BANDS)):
        low = (background[:, c] * calibration[c]).astype(np.float32)[land.object_HW]
        high = (canopy[:, c] * calibration[c]).astype(np.float32)[land.object_HW]
        surface[c] = (low + (high - low) * green) * light
    return surface


def _season(ground: Ground, *, day: date, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the green and the dry share of each object, (N,)."""
    material_N = ground.landscape.material_N
    when_N = (day.timetuple().tm_yday - ground.delay_N) % 366
    green_N, dry_N = np.zeros(len(material_N)), np.zeros(len(material_N))
    for material, properties in PROPERTIES.items():
        chosen = material_N == material
        green_N[chosen] = np.interp(when_N[chosen], *np.array(properties.green, float).T)
        dry_N[chosen] = np.interp(when_N[chosen], *np.array(properties.dry, float).T)
    harvested = np.isin(material_N, CROPS) & (rng.random(len(material_N)) < 0.03) & (green_N > 0.3)
    green_N[harvested], dry_N[harvested] = 0.05, 0.6
    return green_N, dry_N


def _shading(ground: Ground, sun: Sun) -> np.ndarray:
    """Return the illumination of slopes and crowns relative to level ground, (H, W)."""
    land = ground.landscape
    rough = np.isin(land.material_HW, WOODY) * ground.fine_HW * 0.7
    down, right = np.gradient((land.terrain_HW + rough) / 10.0)
    facing = -(right * np.sin(sun.azimuth) - down * np.cos(sun.azimuth))
    return np.asarray(np.clip(1 + facing * min(np.tan(sun.zenith), 1.7), 0.55, 1.45), np.float32)


def optical_image(radiance_CHW: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return what the sensor stores: blur, noise, uint16 reflectance x 10000 with 0 kept for nodata.

    B11 and B12 are measured at 20 m, so they are blurred more.
    """
    noise = rng.standard_normal(radiance_CHW.shape, np.float32)
    stored = np.empty(radiance_CHW.shape, np.uint16)
    for c, name in enumerate(OPTICAL_BANDS):
        seen = ndimage.gaussian_filter(radiance_CHW[c], 0.85 if name in _SWIR else 0.5)
        seen += noise[c] * (0.0012 + 0.006 * seen)
        stored[c] = np.clip(np.rint(seen * 10_000), 1, 16_000)
    return stored


def backscatter(ground: Ground, *, day: date, rng: np.random.Generator, looks_east: bool) -> np.ndarray:
    """Return the mean backscatter of the ground in linear power, float32 (2, H, W), without speckle.

    Args:
        ground: landscape and lasting deviations.
        day: decides the season.
        rng: the day's own chance: moisture and wind.
        looks_east: ascending pass, the radar lights west-facing walls; else descending, east-facing ones.
    """
    land = ground.landscape
    green_N, dry_N = _season(ground, day=day, rng=rng)
    bare_db = per_material(lambda p: p.bare_db)[land.material_N]
    green_db = per_material(lambda p: p.green_db or p.bare_db)[land.material_N]
    spread_db, texture_db = (
        per_material(value)[land.material_N] for value in (lambda p: p.spread_db, lambda p: p.texture_db)
    )
    soil, wind = rng.normal(0, 0.8), rng.normal(0, 1.3)
    bare = (1 - green_N) * np.isin(land.material_N, (*CROPS, Material.GRASS, Material.BARE_SOIL, Material.SAND))
    level = bare_db + green_N[:, None] * (green_db - bare_db) + spread_db[:, None] * ground.backscatter_NC
    level += (bare * soil - 1.2 * dry_N)[:, None]
    level += wind * np.isin(land.material_N, OPEN_WATER)[:, None]
    texture = texture_db.astype(np.float32)[land.object_HW] * (0.8 * ground.fine_HW + 0.6 * ground.coarse_HW)
    towards = np.gradient(land.terrain_HW / 10.0, axis=1) * (1 if looks_east else -1)
    texture += 8.0 * np.clip(towards, -0.3, 0.3)
    corner = _double_bounce(land, looks_east=looks_east)
    power = np.empty((2, *texture.shape), np.float32)
    for c, gain in enumerate((1.0, 0.11)):
        power[c] = (
            10 ** ((level[:, c].astype(np.float32)[land.object_HW] + texture) / 10) + gain * corner + _NOISE_FLOOR
        )
    return power


def _double_bounce(land: Landscape, *, looks_east: bool) -> np.ndarray:
    """Return the power (VV) that walls facing the radar add, brightest where streets run along the flight path."""
    step = 1 if looks_east else -1
    rise = land.building_HW - np.roll(land.building_HW, step, axis=1)
    wall = np.roll(np.clip(rise, 0, None), -step, axis=1)  # layover: one pixel towards the sensor
    aligned = np.abs(np.cos(2 * (land.street_angle_HW - _LOOK_TILT))) ** 4
    return np.asarray(wall / 10.0 * (0.35 + 1.6 * aligned), np.float32)


def speckle(rng: np.random.Generator, shape: tuple[int, ...], *, looks: float) -> np.ndarray:
    """Return multiplicative speckle, float32: gamma with mean 1 and ``looks`` equivalent looks.

    Neighbours are correlated by about 0.5, because a ground-range product samples its 20 m resolution every 10 m: a
    correlated normal field, each value carried to the gamma quantile of its probability. Goodman 1976,
    doi:10.1364/JOSA.66.001145.
    """
    normal = rng.standard_normal(shape, np.float32)
    for image in normal:
        image[:] = ndimage.gaussian_filter(image, 0.6, mode="wrap")
    normal /= normal.std(axis=(-2, -1), keepdims=True)
    nodes = np.linspace(-5, 5, 2001)
    return np.asarray(np.interp(normal, nodes, special.gammaincinv(looks, special.ndtr(nodes)) / looks), np.float32)
