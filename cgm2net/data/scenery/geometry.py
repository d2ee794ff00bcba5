"""Shapes on a square grid: fractal fields, wavy cells, the distance to a line. Axes: H, W pixels."""

import numpy as np
from scipy import fft, ndimage
from scipy.spatial import cKDTree


def fractal(rng: np.random.Generator, size_px: int, *, slope: float, outer_px: float) -> np.ndarray:
    """Return a random field with power ~ (k² + k0²)^(-slope/2): zero mean, unit deviation, periodic; float32 (H, W).

    Args:
        rng: source of the noise.
        size_px: height and width.
        slope: of the power spectrum; 2 is rough, 4 smooth.
        outer_px: size of the largest features.
    """
    noise = rng.standard_normal((size_px, size_px), np.float32)
    k2 = fft.fftfreq(size_px)[:, None] ** 2 + fft.rfftfreq(size_px)[None] ** 2
    spectrum = fft.rfft2(noise) * ((k2 + outer_px**-2.0) ** (-slope / 4)).astype(np.float32)
    spectrum[0, 0] = 0
    field = fft.irfft2(spectrum, s=noise.shape)
    return np.asarray(field / field.std(), np.float32)


def axes(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column number of each pixel, float32 (H, W) each."""
    y, x = np.mgrid[:size_px, :size_px].astype(np.float32)
    return y, x


def cells(rng: np.random.Generator, size_px: int, *, spacing_px: float, warp_px: float) -> np.ndarray:
    """Return a Voronoi partition with wavy borders: int (H, W), cells about ``spacing_px`` across."""
    y, x = axes(size_px)
    y = y + warp_px * fractal(rng, size_px, slope=3.2, outer_px=4 * spacing_px)
    x = x + warp_px * fractal(rng, size_px, slope=3.2, outer_px=4 * spacing_px)
    reach = size_px + 4 * warp_px
    num = max(4, int((reach / spacing_px) ** 2))
    seeds = rng.uniform(-2 * warp_px, size_px + 2 * warp_px, (num, 2))
    points = np.stack([y, x], axis=-1).reshape(-1, 2)
    return np.asarray(cKDTree(seeds).query(points)[1]).reshape(size_px, size_px)


def distance_to(points_yx: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance [px] of each pixel to a densely sampled line, and the number of its nearest point."""
    y, x = np.rint(points_yx).astype(int)
    inside = (y >= 0) & (y < size_px) & (x >= 0) & (x < size_px)
    number = np.full((size_px, size_px), -1)
    number[y[inside], x[inside]] = np.flatnonzero(inside)
    if not inside.any():
        return np.full((size_px, size_px), float(size_px)), np.zeros((size_px, size_px), int)
    distance, (row, column) = ndimage.distance_transform_edt(number < 0, return_indices=True)
    return distance, number[row, column]


def mean_by(number_HW: np.ndarray, field_HW: np.ndarray) -> np.ndarray:
    """Return at each pixel the mean of the field over the pixels of the same number, float (H, W)."""
    count = np.bincount(number_HW.ravel())
    return np.asarray((np.bincount(number_HW.ravel(), field_HW.ravel()) / np.maximum(count, 1))[number_HW])
