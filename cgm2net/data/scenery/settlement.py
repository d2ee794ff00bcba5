"""Towns of blocks, houses, halls and streets, and the roads between them. Axes: H, W pixels of 10 m."""

from dataclasses import dataclass

import numpy as np

from cgm2net.data.scenery.geometry import axes, distance_to, fractal, mean_by
from cgm2net.data.scenery.materials import Material

_GARDENS, _PERIMETER, _HALLS, _GREEN = range(4)  # kinds of block
_STOREYS_M = np.array([6.5, 15.0, 9.5, 0.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Towns:
    """The towns of a landscape; values outside ``inside_HW`` mean nothing."""

    inside_HW: np.ndarray
    "bool; parks are not inside."
    block_HW: np.ndarray
    "int number of the block."
    material_HW: np.ndarray
    "int :class:`Material`."
    height_HW: np.ndarray
    "float height of buildings [m]."
    angle_HW: np.ndarray
    "float direction of the nearest town's streets [rad]."
    centres_xy: np.ndarray
    "(num, 2) middles of the towns [px], the largest first."


def make_towns(rng: np.random.Generator, size_px: int, *, free_HW: np.ndarray) -> Towns:
    """Draw two to four towns, only where ``free_HW`` is True.

    Each has its own street grid, slightly bent; whole blocks belong to it or not, so that its edge follows streets.
    """
    y, x = axes(size_px)
    num = int(rng.integers(2, 5))
    centres_xy = _place(rng, size_px, num)
    radius = np.sort(rng.uniform(0.05, 0.155, num) * size_px)[::-1]
    distance = np.stack([np.hypot(x - cx, y - cy) for cx, cy in centres_xy]) / radius[:, None, None]
    town_HW = distance.argmin(axis=0)
    angle_HW = rng.uniform(0, np.pi, num)[town_HW]
    bend = 2 * fractal(rng, size_px, slope=4, outer_px=150)
    across = x * np.cos(angle_HW) + y * np.sin(angle_HW) + bend + 4 * size_px
    along = y * np.cos(angle_HW) - x * np.sin(angle_HW) + 4 * size_px
    column, a, wide = _streets(rng, across, mean_px=8.5)
    row, b, deep = _streets(rng, along, mean_px=12.5)
    code = (town_HW * 4096 + column) * 4096 + row
    block_HW = np.unique(code, return_inverse=True)[1].reshape(code.shape)

    outness = mean_by(block_HW, distance.min(axis=0) + 0.3 * fractal(rng, size_px, slope=3, outer_px=50))
    kind_HW = _kinds(rng, outness, block_HW)
    roof_HW, street_HW = _buildings(rng, kind_HW, block_HW, a=a, b=b, wide=wide, deep=deep)
    by_block = rng.random((2, int(block_HW.max()) + 1))[:, block_HW]
    bright = by_block[0] < np.array([0.15, 0.35, 0.85, 0.0])[kind_HW]
    yard = np.where(street_HW | (kind_HW == _HALLS), Material.ASPHALT, Material.GARDEN)
    return Towns(
        inside_HW=(outness < 1) & (kind_HW != _GREEN) & free_HW,
        block_HW=block_HW,
        material_HW=np.where(roof_HW, np.where(bright, Material.ROOF_BRIGHT, Material.ROOF_TILE), yard),
        height_HW=np.where(roof_HW, _STOREYS_M[kind_HW] * (0.7 + 0.7 * by_block[1]), 0),
        angle_HW=angle_HW,
        centres_xy=centres_xy,
    )


def _place(rng: np.random.Generator, size_px: int, num: int) -> np.ndarray:
    candidates = rng.uniform(0.12, 0.88, (24, 2)) * size_px
    chosen = [candidates[0]]
    while len(chosen) < num:  # each next one as far from the others as it gets
        gaps = np.linalg.norm(candidates[:, None] - np.array(chosen)[None], axis=-1).min(axis=1)
        chosen.append(candidates[gaps.argmax()])
    return np.array(chosen)


def _streets(
    rng: np.random.Generator, position: np.ndarray, *, mean_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return block index, distance from the street before it [px] and block width [px]."""
    steps = rng.uniform(0.65, 1.4, int(position.max() / mean_px / 0.65) + 8) * mean_px
    edges = np.concatenate([[0.0], np.cumsum(steps)])
    index = np.searchsorted(edges, position, side="right") - 1
    return index, position - edges[index], steps[index]


def _kinds(rng: np.random.Generator, outness_HW: np.ndarray, block_HW: np.ndarray) -> np.ndarray:
    """Return the kind of block: dense in the middle of a town, halls and parks anywhere, gardens outwards."""
    draws = rng.random((2, int(block_HW.max()) + 1))[:, block_HW]
    dense = draws[0] < np.clip(0.75 - 0.9 * outness_HW, 0, 1)
    return np.select([draws[1] < 0.08, draws[1] < 0.24, dense], [_GREEN, _HALLS, _PERIMETER], _GARDENS)


def _buildings(
    rng: np.random.Generator,
    kind_HW: np.ndarray,
    block_HW: np.ndarray,
    *,
    a: np.ndarray,
    b: np.ndarray,
    wide: np.ndarray,
    deep: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return bool roofs and streets (H, W), from the place (a, b) in blocks of wide x deep pixels."""
    edge = np.minimum(np.minimum(a, wide - a), np.minimum(b, deep - b))
    street = edge < 0.55
    plot = (np.floor(a / 2.7) * 31 + np.floor(b / 2.7) * 17 + block_HW * 7).astype(np.int64) % 4096
    house = (edge >= 0.9) & (np.mod(a - 0.6, 2.7) < 1.75) & (np.mod(b - 0.6, 2.7) < 1.75)
    house &= rng.random(4096)[plot] < 0.82
    filled = rng.random(int(block_HW.max()) + 1)[block_HW] < 0.4
    perimeter = (edge >= 0.8) & ((edge < 2.7) | filled)
    hall = (edge >= 1.4) & (np.abs(b - deep / 2) > 0.7)
    roof = np.select([kind_HW == _GARDENS, kind_HW == _PERIMETER, kind_HW == _HALLS], [house, perimeter, hall], False)
    return roof & ~street, street


def make_roads(rng: np.random.Generator, size_px: int, *, centres_xy: np.ndarray) -> np.ndarray:
    """Return bool (H, W): roads from the largest town to the others, and two out of the canvas."""
    away = rng.uniform(0, np.pi, 2) + np.array([0, np.pi])
    exits = [size_px / 2 + 0.9 * size_px * np.array([np.cos(a), np.sin(a)]) for a in away]
    trips = [(centres_xy[0], end) for end in centres_xy[1:]] + list(zip(centres_xy[:2], exits, strict=True))
    roads = np.zeros((size_px, size_px), bool)
    t = np.linspace(0, 1, 4 * size_px)
    for start, end in trips:
        aside = np.array([start[1] - end[1], end[0] - start[0]])
        bow = np.sin(np.pi * t) * rng.normal(0, 0.12) + np.sin(3 * np.pi * t) * rng.normal(0, 0.02)
        line = start[:, None] + (end - start)[:, None] * t + aside[:, None] * bow
        distance, _ = distance_to(line[::-1], size_px)
        roads |= distance < rng.uniform(0.7, 1.3)
    return roads
