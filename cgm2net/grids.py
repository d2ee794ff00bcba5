"""How pixel grids lie on each other: parts, blocks, pixel sizes; windows count from a grid's upper-left corner."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net.errors import RasterError

BLOCK_PX = 512
"""Images are resampled in blocks of this side, counted from the target's corner."""

MUCH_COARSER = 1.5
"""From so many source pixels a target pixel on, measurements are averaged."""

_MARGIN_PX = 16  # of source pixels around a block: interpolation, and what two projection libraries differ by
_SAME_SIZE = 0.01  # share by which pixel sizes may differ and count as one
_LATTICE = 17  # points a side at which a grid is looked up in another

Slices = tuple[slice, slice]


def describe_grid(grid: GeoBox) -> str:
    """Return a grid in one line: size, pixel size, CRS and upper-left corner."""
    transform, code = grid.transform, grid.crs.epsg if grid.crs else None
    crs = f"EPSG:{code}" if code else grid.crs
    return (
        f"{grid.shape[1]}x{grid.shape[0]} px of {abs(transform.a):g}x{abs(transform.e):g}, {crs},"
        f" upper left ({transform.c:.1f}, {transform.f:.1f})"
    )


def whole(grid: GeoBox) -> Window:
    """Return the window that is all of a grid."""
    return Window(0, 0, grid.shape[1], grid.shape[0])


def part_of(grid: GeoBox, window: Window) -> GeoBox:
    """Return the grid of a window, which may reach beyond."""
    moved = grid.translate_pix(window.col_off, window.row_off)
    return GeoBox((window.height, window.width), moved.transform, grid.crs)


def inside(grid: GeoBox, window: Window) -> Window | None:
    """Return the part of a window that lies inside the grid; None where there is none."""
    (rows, cols), _ = common(window, whole(grid))
    width, height = cols.stop - cols.start, rows.stop - rows.start
    return Window(window.col_off + cols.start, window.row_off + rows.start, width, height) if width * height else None


def padded(grid: GeoBox, window: Window, *, by_px: int) -> Window:
    """Return a window with so much more on every side, as far as the grid reaches."""
    around = Window(window.col_off - by_px, window.row_off - by_px, window.width + 2 * by_px, window.height + 2 * by_px)
    return inside(grid, around) or window


def common(first: Window, second: Window) -> tuple[Slices, Slices]:
    """Return the rows and columns that both windows have, counted in the first and in the second; may be empty."""
    (rows, cols), (other_rows, other_cols) = first.toranges(), second.toranges()
    top, left = max(rows[0], other_rows[0]), max(cols[0], other_cols[0])
    bottom, right = max(min(rows[1], other_rows[1]), top), max(min(cols[1], other_cols[1]), left)
    in_first, in_second = (
        (slice(top - row, bottom - row), slice(left - col, right - col))
        for row, col in ((rows[0], cols[0]), (other_rows[0], other_cols[0]))
    )
    return in_first, in_second


def blocks_in(grid: GeoBox, window: Window, *, height_px: int = BLOCK_PX, width_px: int = BLOCK_PX) -> Iterator[Window]:
    """Yield the blocks of a grid that a window touches, those at its right and lower edge smaller; row by row."""
    height, width = grid.shape
    (top, bottom), (left, right) = window.toranges()
    top, left = max(top, 0) // height_px * height_px, max(left, 0) // width_px * width_px
    for row in range(top, min(bottom, height), height_px):
        for col in range(left, min(right, width), width_px):
            yield Window(col, row, min(width_px, width - col), min(height_px, height - row))


def under(source: GeoBox, grid: GeoBox) -> Window | None:
    """Return the source pixels that a grid lies on and a margin around them; None where there are none.

    Raises:
        RasterError: if no way leads from one CRS to the other.
    """
    points_2N = _lookup(source, grid).reshape(2, -1)
    points_2N = points_2N[:, np.isfinite(points_2N).all(axis=0)]
    if not points_2N.size:
        return None
    first = np.maximum(np.floor(points_2N.min(axis=1)) - _MARGIN_PX, 0)
    last = np.minimum(np.ceil(points_2N.max(axis=1)) + _MARGIN_PX, source.shape[::-1])
    if (last <= first).any():
        return None
    (left, top), (width, height) = first.astype(int).tolist(), (last - first).astype(int).tolist()
    return Window(left, top, width, height)


def pixels_per_step(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Return how many source pixels a step along the grid's rows and columns is long; 1 where that is unknown."""
    points = _lookup(source, grid)
    height, width = grid.shape
    along, down = (np.hypot(*np.diff(points, axis=axis)).ravel() * (_LATTICE - 1) for axis in (2, 1))
    along, down = along[np.isfinite(along)] / width, down[np.isfinite(down)] / height
    return float(np.median(along)) if along.size else 1.0, float(np.median(down)) if down.size else 1.0


def smooth_resampling(source: GeoBox, grid: GeoBox) -> Resampling:
    """Return how measurements come onto a grid: averaged where it is much coarser than the source, else bilinear."""
    return Resampling.average if max(pixels_per_step(source, grid)) > MUCH_COARSER else Resampling.bilinear


def ground_size_m(grid: GeoBox) -> tuple[float, float]:
    """Return how wide and high the pixel in the middle of a grid is on the ground [m].

    Raises:
        RasterError: if the CRS leads nowhere on Earth.
    """
    row, col = grid.shape[0] / 2, grid.shape[1] / 2
    ends = np.array([[col - 0.5, col + 0.5, col, col], [row, row, row - 0.5, row + 0.5]])
    x, y = _apply(grid.transform, *ends)
    try:
        lon, lat = _transformer(str(grid.crs), "EPSG:4326").transform(x, y)
    except ProjError as error:
        raise RasterError(f"{describe_grid(grid)}: cannot be placed on Earth: {error}") from error
    if not (np.isfinite([lon, lat]).all() and np.abs(lat).max() <= 90):
        raise RasterError(f"{describe_grid(grid)}: does not lie on Earth; is its coordinate reference system right?")
    _, _, lengths = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    return float(lengths[0]), float(lengths[1])


def model_grid(grids: Sequence[GeoBox], *, gsd_m: float) -> GeoBox:
    """Return the grid that a model of this pixel size works on.

    Args:
        grids: of the optical bands.
        gsd_m: pixel size that the model was trained at [m].

    Returns:
        The first grid whose pixels are that large on the ground, to 1 %. If there is none, the extent of the finest
        in pixels of that size: in its own CRS where a metre of it is a metre on the ground, else in the local UTM.
    """
    for grid in grids:
        if _metric(grid) and all(abs(size / gsd_m - 1) <= _SAME_SIZE for size in ground_size_m(grid)):
            return grid
    finest = min(grids, key=lambda grid: max(ground_size_m(grid)))
    crs = CRS.utm(finest.geographic_extent.centroid)
    if _metric(finest) and finest.crs is not None:
        crs = finest.crs
    return GeoBox.from_bbox(finest.footprint(crs).boundingbox, crs, resolution=gsd_m)


def _metric(grid: GeoBox) -> bool:
    """Whether the CRS is projected and, in the middle of the grid, a metre of it is a metre on the ground to 1 %."""
    if grid.crs is None or not grid.crs.projected:
        return False
    transform = grid.transform
    nominal = np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)
    return all(abs(size / unit - 1) <= _SAME_SIZE for size, unit in zip(ground_size_m(grid), nominal, strict=True))


def coarser(grid: GeoBox, *, gsd_m: float) -> GeoBox:
    """Return a grid of larger pixels with the same upper-left corner, as far as whole ones fit.

    Raises:
        RasterError: if its pixels would be smaller, or the two sizes have no common multiple within 100 pixels.
    """
    share = pixel_share(grid, gsd_m=gsd_m)
    if share > 1:
        raise RasterError(f"pixels of {gsd_m:g} m are smaller than those of {describe_grid(grid)}; give larger ones")
    shape = (int(grid.shape[0] * share), int(grid.shape[1] * share))
    return GeoBox(shape, grid.transform * Affine.scale(float(1 / share)), grid.crs)


def pixel_share(grid: GeoBox, *, gsd_m: float) -> Fraction:
    """Return the side of a grid's pixel as a fraction of one of ``gsd_m``: 3/10 for 3 m in 10 m.

    Raises:
        RasterError: if the two sizes have no common multiple within 100 pixels.
    """
    share = Fraction(abs(grid.transform.a) / gsd_m).limit_denominator(100)
    if not share or abs(float(share) * gsd_m / abs(grid.transform.a) - 1) > 1e-6:
        raise RasterError(f"{describe_grid(grid)}: its pixels have no common multiple with {gsd_m:g} m")
    return share


def bounds_degrees(grid: GeoBox) -> tuple[float, float, float, float]:
    """Return west, south, east, north of a grid [degrees, WGS 84]; west is above east across the 180th meridian."""
    west, south, east, north = _transformer(str(grid.crs), "EPSG:4326").transform_bounds(*grid.boundingbox.bbox)
    return round(west, 7), round(south, 7), round(east, 7), round(north, 7)


def unrelated(source: GeoBox, grid: GeoBox, error: Exception) -> RasterError:
    """Return the error of a grid that cannot be brought onto another."""
    return RasterError(f"cannot resample {describe_grid(source)} to {describe_grid(grid)}: {error}")


def _lookup(source: GeoBox, grid: GeoBox) -> np.ndarray:
    """Return where evenly spread points of a grid lie in the source: columns, rows [px]; not finite where nowhere."""
    rows, cols = np.meshgrid(*(np.linspace(0, length, _LATTICE) for length in grid.shape), indexing="ij")
    x, y = _apply(grid.transform, cols, rows)
    if source.crs != grid.crs:
        try:
            x, y = _transformer(str(grid.crs), str(source.crs)).transform(x, y)
        except ProjError as error:
            raise unrelated(source, grid, error) from error
    with np.errstate(invalid="ignore"):  # infinite where a projection has no such place
        return np.stack(_apply(~source.transform, x, y))


def _apply(transform: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


@lru_cache(maxsize=16)
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)
