"""Clouds over a synthetic scene: a fractal field of optical thickness, the veil around it, and the shadow it throws.

.. math:: L_\\lambda = \\rho_\\lambda \\, s_\\lambda \\, T_\\lambda + c_\\lambda (1 - T_\\lambda)

with surface ρ, shadow factor s, transmittance T and cloud reflectance c. Thin haze dims blue most (Ångström exponent
1.3; Ångström 1929, doi:10.1080/20014422.1929.11880498), droplets dim all bands alike.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cgm2net.data.scenery.geometry import fractal
from cgm2net.data.scenery.radiometry import OPTICAL_BANDS, Sun
from cgm2net.sensors import band

CLOUD_TRANSMITTANCE = 0.8
"""A pixel counts as cloud where less than this of the ground's light comes through (at 490 nm)."""

SHADOW_FACTOR = 0.75
"""A pixel counts as shadow where less than this of the light arrives (mean over bands)."""

_CLOUD = np.array([0.70, 0.70, 0.71, 0.74, 0.52, 0.40], np.float32)
_HAZE = np.array([0.34, 0.30, 0.27, 0.24, 0.14, 0.09], np.float32)
_DIRECT = np.array([0.58, 0.66, 0.72, 0.78, 0.84, 0.86], np.float32)
_WAVELENGTH = np.array([band(name).wavelength_nm for name in OPTICAL_BANDS], float) / 490.0


@dataclass(frozen=True, kw_only=True, eq=False)
class CloudLayer:
    """Clouds and shadow over a scene."""

    thickness_HW: np.ndarray
    "float32 optical thickness of the clouds, 0 where there are none."
    haze_HW: np.ndarray
    "float32 optical thickness of the haze at 490 nm."
    shaded_HW: np.ndarray
    "float32 share of direct sunlight that clouds take away from the ground, 0-1."
    sheen_HW: np.ndarray
    "float32 factor on the clouds' brightness: lit and dark sides."

    def transmittance(self) -> np.ndarray:
        """Share of the ground's light at 490 nm that comes through, 0-1."""
        return np.asarray(np.exp(-self.thickness_HW - self.haze_HW))

    def shadow(self) -> np.ndarray:
        """Share of the light that reaches the ground, mean over bands, 0-1."""
        return np.asarray(1 - _DIRECT.mean() * self.shaded_HW)

    def mask(self) -> np.ndarray:
        """bool: cloud or shadow that changes the pixel; :data:`CLOUD_TRANSMITTANCE`, :data:`SHADOW_FACTOR`."""
        return np.asarray((self.transmittance() < CLOUD_TRANSMITTANCE) | (self.shadow() < SHADOW_FACTOR))


def shadow_offset(sun: Sun, *, height_m: float) -> tuple[int, int]:
    """Return (dx, dy) [px of 10 m, right and down] from a cloud to its shadow: away from the sun."""
    reach = height_m * np.tan(min(sun.zenith, np.radians(70))) / 10.0
    return round(-reach * np.sin(sun.azimuth)), round(reach * np.cos(sun.azimuth))


def make_clouds(rng: np.random.Generator, *, size_px: int, cover: float, sun: Sun) -> CloudLayer:
    """Draw clouds that hide or shade a share ``cover`` of the scene.

    Args:
        rng: source of the field.
        size_px: height and width.
        cover: wanted share of :attr:`CloudLayer.mask`, 0-0.95; reached to about a hundredth.
        sun: where it stands.
    """
    margin = 80  # shadows come in from clouds outside the frame
    canvas = size_px + 2 * margin
    shape = fractal(rng, canvas, slope=rng.uniform(3.0, 3.6), outer_px=rng.uniform(70, 200))
    shape = ndimage.gaussian_filter(shape, 0.8, mode="wrap")
    density, height_m = rng.uniform(1.0, 4.5), rng.uniform(250, 900)
    haze = 0.05 + 0.05 * fractal(rng, canvas, slope=3.6, outer_px=240)
    haze = np.clip(haze, 0, 0.16) * rng.random() * (cover > 0)
    dx, dy = (int(np.clip(d, -2 * margin, 2 * margin)) for d in shadow_offset(sun, height_m=height_m))
    frame = (slice(margin, margin + size_px),) * 2
    sheen = _sheen(shape, sun)

    def layer(threshold: float) -> CloudLayer:
        thickness = density * np.clip(shape - threshold, 0, None) ** 1.3
        shaded = np.roll(1 - np.exp(-1.2 * thickness), (dy, dx), (0, 1))
        parts = (p[frame].astype(np.float32) for p in (thickness, haze, shaded, sheen))
        return CloudLayer(**dict(zip(("thickness_HW", "haze_HW", "shaded_HW", "sheen_HW"), parts, strict=True)))

    low, high = float(shape.min()) - 1, float(shape.max())
    if cover <= 0:
        return layer(high)
    for _ in range(11):
        middle = (low + high) / 2
        low, high = (middle, high) if layer(middle).mask().mean() > cover else (low, middle)
    return layer((low + high) / 2)


def _sheen(shape_HW: np.ndarray, sun: Sun) -> np.ndarray:
    """Return how bright the clouds' tops are, about 1: lit towards the sun, dark behind."""
    down, right = np.gradient(ndimage.gaussian_filter(shape_HW, 2.5, mode="wrap"))
    facing = -(right * np.sin(sun.azimuth) - down * np.cos(sun.azimuth))
    return np.asarray(np.clip(0.97 + 0.8 * facing, 0.75, 1.15))


def see_through(surface_CHW: np.ndarray, clouds: CloudLayer) -> np.ndarray:
    """Return the reflectance at the sensor, float32 (6, H, W): shaded ground under haze under clouds."""
    seen = np.empty_like(surface_CHW)
    for c in range(len(surface_CHW)):
        cloud = np.exp(-clouds.thickness_HW)
        haze = np.exp(-clouds.haze_HW * _WAVELENGTH[c] ** -1.3)
        ground = surface_CHW[c] * (1 - _DIRECT[c] * clouds.shaded_HW) * haze + _HAZE[c] * (1 - haze)
        seen[c] = ground * cloud + _CLOUD[c] * clouds.sheen_HW * (1 - cloud)
    return seen
