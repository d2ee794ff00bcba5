"""What the numbers in a scene's files mean, for training and prediction alike: DN, dB, codes, and borders of SAR."""

from dataclasses import replace

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.errors import RasterError
from cgm2net.grids import part_of, smooth_resampling
from cgm2net.raster import Raster, Source, Warped


def to_dn(image: Raster) -> Raster:
    """Return DN as uint16, 0 where nothing was measured; what was computed and lies below 1 (dark ground, its offset
    taken away) becomes 1, what was stored stays as it is."""
    dn_CHW = image.pixels_CHW
    if dn_CHW.dtype != np.uint16:
        known_CHW = np.where(image.valid_HW, dn_CHW, 1)
        dn_CHW = np.clip(np.rint(known_CHW), 1, np.iinfo(np.uint16).max).astype(np.uint16)
    return replace(image, pixels_CHW=np.where(image.valid_HW, dn_CHW, np.uint16(sensors.OPTICAL_NODATA)))


def to_codes(image: Raster, *, what: str) -> Raster:
    """Return a label or a mask with its integers as uint8, 255 where there is none; fractions stay as they are.

    Args:
        image: one band as stored.
        what: file and role, for the error.

    Raises:
        RasterError: if it holds codes that uint8 cannot.
    """
    if image.dtype.kind == "f":
        return image
    codes = np.where(image.valid_HW, image.pixels_CHW, sensors.LABEL_IGNORE)
    if codes.min() < 0 or codes.max() > np.iinfo(np.uint8).max:
        raise RasterError(f"{what} holds codes {codes.min()} to {codes.max()}, wanted 0 to 255")
    return replace(image, pixels_CHW=codes.astype(np.uint8))


def require_codes(role: str, *, num_bands: int, nodata: float | None, path: object) -> None:
    """Refuse a file that cannot be a label or a mask.

    Raises:
        RasterError: if it has several bands, or declares its first code nodata.
    """
    if num_bands != 1:
        raise RasterError(f"{path}: {role} has {num_bands} bands, wanted one; keep the one that is meant")
    if nodata == 0:
        raise RasterError(
            f"{path}: {role} declares 0 as nodata, but 0 is {'clear ground' if role == 'cloud' else 'the first class'};"
            " unset it (`rio edit-info --unset-nodata`), or give unknown pixels the code 255"
        )


class Border:
    """Where 0 dB is a border without declared nodata, and no measurement.

    Exactly 0 dB in every band is a border where a run of such pixels along a row or a column reaches the image's
    edge; elsewhere it is a bright target that someone clipped. An image is looked through once, in strips from the
    top; what is kept is as long as its edges.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self._shape = (height, width)
        self._left, self._right = np.zeros(height, np.int64), np.zeros(height, np.int64)
        self._top, self._bottom = np.zeros(width, np.int64), np.zeros(width, np.int64)
        self._seen = 0

    def add(self, sar_CHW: np.ndarray) -> None:
        """Look at the next rows [dB], whole width."""
        zero_HW = (sar_CHW == 0).all(axis=0)
        rows = slice(self._seen, self._seen + len(zero_HW))
        self._left[rows], self._right[rows] = _run(zero_HW.T), _run(zero_HW.T[::-1])
        self._top += np.where(self._top == self._seen, _run(zero_HW), 0)
        below = _run(zero_HW[::-1])
        self._bottom = np.where(below == len(zero_HW), self._bottom + below, below)
        self._seen = rows.stop

    def mask(self, window: Window) -> np.ndarray:
        """Return bool (H, W): True where a window, which must lie inside, shows border."""
        height, width = self._shape
        rows, cols = (np.arange(*ends) for ends in window.toranges())
        row, col = rows[:, None], cols[None, :]
        along = (col < self._left[row]) | (col >= width - self._right[row])
        return np.asarray(along | (row < self._top[col]) | (row >= height - self._bottom[col]))


def _run(zero_HW: np.ndarray) -> np.ndarray:
    """Return how many rows from the first one on are True, column by column."""
    return np.where(zero_HW.all(axis=0), len(zero_HW), (~zero_HW).argmax(axis=0))


def without_border(sar: Raster, border_HW: np.ndarray) -> Raster:
    """Return SAR with NaN where it has no measurement, the border among it."""
    valid = sar.valid_HW & ~border_HW
    return replace(sar, pixels_CHW=np.where(valid, sar.pixels_CHW, np.float32(np.nan)), valid_HW=valid)


class Placed:
    """A source on the optical grid, its content moved to where it belongs; a :class:`cgm2net.raster.Source`.

    The grid that is resampled to is laid where the content lies instead, and called the optical grid: one
    interpolation for both, whatever grid and projection the source has.
    """

    def __init__(
        self,
        source: Source,
        grid: GeoBox,
        *,
        fill: float,
        resampling: Resampling | None = None,
        to_content: Affine | None = None,
        num_kept: int = 0,
    ) -> None:
        """Lay a source on a grid.

        Args:
            source: on its own grid.
            grid: of the optical image.
            fill: value where nothing was measured.
            resampling: by default what suits measurements.
            to_content: takes a place (column, row) of the grid to where its content lies; by default they are one.
            num_kept: as for :class:`cgm2net.raster.Warped`.
        """
        moved = grid
        if to_content is not None and to_content != Affine.identity():
            moved = GeoBox(grid.shape, grid.transform * to_content, grid.crs)
        how = smooth_resampling(source.grid, grid) if resampling is None else resampling
        self._warped = Warped(source, moved, resampling=how, fill=fill, num_kept=num_kept)
        self.bands, self.grid, self.dtype, self._fill = source.bands, grid, source.dtype, fill

    def part(self, window: Window) -> Raster:
        """Return what lies in a window, which may reach beyond; ``fill`` where nothing was measured."""
        part = self._warped.part(window)
        pixels = np.where(part.valid_HW, part.pixels_CHW, np.asarray(self._fill, self.dtype))
        return replace(part, pixels_CHW=pixels, grid=part_of(self.grid, window))
