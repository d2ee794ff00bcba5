"""Sources seen on another grid part by part: the same to the bit as at once, without seams, at the cost of a part."""

from functools import cache

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.windows import Window
from scipy import ndimage

from cgm2net import raster
from cgm2net.grids import BLOCK_PX
from cgm2net.raster import Raster, Warped

CRS = "EPSG:32632"


def grid(height: int, width: int, *, x: float = 500_000.0, y: float = 5_000_000.0, gsd: float = 10.0) -> GeoBox:
    return GeoBox((height, width), Affine(gsd, 0, x, 0, -gsd, y), CRS)


SIDE_M = 13_000


def ground(gsd: float, *, offset_m: float = 0.0) -> Raster:
    """Return 13 km of an image that rises by 0.01 a metre eastwards and 0.003 southwards, a wedge without data."""
    side = round(SIDE_M / gsd)
    source = grid(side, side, x=500_000 + offset_m, y=5_000_000 - offset_m, gsd=gsd)
    row, col = np.mgrid[:side, :side] + 0.5
    pixels = (col * gsd + offset_m) * 0.01 + (row * gsd + offset_m) * 0.003
    valid = 3 * row + col > side
    return Raster(pixels_CHW=pixels[None].astype(np.float32), valid_HW=valid, bands=("VV",), grid=source)


# Larger than two blocks, and not by whole ones; the last three reach beyond the image.
TARGETS = {
    "half a pixel off": (ground(10, offset_m=5.0), grid(1250, 1250)),
    "20 m onto 10 m, a third of a pixel off": (ground(20, offset_m=3.3), grid(1250, 1250)),
    "10 m onto 11.3 m": (ground(10), grid(1250, 1200, gsd=11.3)),
    "another zone": (ground(10), grid(1300, 1300).to_crs("EPSG:32633", resolution=10)),
    "degrees": (ground(10), grid(1100, 1100, x=501_000).to_crs("EPSG:4326")),
}


@pytest.mark.parametrize("case", TARGETS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(*[st.integers(-50, 1300)] * 2, *[st.integers(1, 700)] * 2)
def test_a_window_holds_to_the_bit_what_the_whole_holds_there(
    case: str, row: int, col: int, height: int, width: int
) -> None:
    source, target = TARGETS[case]
    full, window = warped(case), Window(col, row, width, height)
    part = Warped(source, target, resampling=Resampling.bilinear, fill=np.nan, num_kept=2).part(window)
    beyond = [(50, 2100), (50, 2100)]
    rows, cols = slice(row + 50, row + 50 + height), slice(col + 50, col + 50 + width)
    padded = np.pad(full.pixels_CHW[0], beyond, constant_values=np.nan)[rows, cols]
    np.testing.assert_array_equal(part.pixels_CHW[0], padded)
    np.testing.assert_array_equal(part.valid_HW, np.pad(full.valid_HW, beyond)[rows, cols])
    assert part.grid.transform.almost_equals((target.translate_pix(col, row)).transform)


@cache
def warped(case: str) -> Raster:
    source, target = TARGETS[case]
    return raster.warp(source, target, resampling=Resampling.bilinear, fill=np.nan)


@pytest.mark.parametrize("case", TARGETS)
def test_blocks_meet_without_a_seam(case: str) -> None:
    source, target = TARGETS[case]
    made = warped(case)
    rows, cols = np.mgrid[: target.shape[0], : target.shape[1]] + 0.5
    transform = target.transform
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    if target.crs != source.grid.crs:
        x, y = Transformer.from_crs(str(target.crs), CRS, always_xy=True).transform(x, y)
    expected = (x - 500_000) * 0.01 + (5_000_000 - y) * 0.003
    # At edges and wedges fewer pixels are interpolated between.
    near_edge = ndimage.binary_dilation(~made.valid_HW, iterations=3, border_value=1)
    wrong = np.abs(made.pixels_CHW[0] - expected)[~near_edge]
    assert wrong.size > 400_000
    # 0.13 a pixel: a tenth of one where the filter is scaled, else a thousandth.
    assert wrong.max() < (0.013 if case in ("10 m onto 11.3 m", "degrees") else 0.00013)


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_begins_elsewhere_holds_the_same(case: str) -> None:
    source, target = TARGETS[case]
    crop = raster.warp(source, target[37:400, 91:900], resampling=Resampling.bilinear, fill=np.nan)
    whole_of_it = warped(case).part(Window(91, 37, 809, 363))
    assert (crop.valid_HW != whole_of_it.valid_HW).sum() <= 2  # nearest pixels at equal distance
    wrong = np.abs(crop.pixels_CHW - whole_of_it.pixels_CHW)
    assert np.nanmax(wrong) < 0.0002  # a thousandth of a pixel


class _Counted:
    """A source that counts the pixels that are read of it."""

    def __init__(self, image: Raster) -> None:
        self.image, self.bands, self.grid, self.dtype = image, image.bands, image.grid, image.dtype
        self.num_read = 0

    def part(self, window: Window) -> Raster:
        self.num_read += window.width * window.height
        return self.image.part(window)


def test_a_window_costs_the_blocks_that_it_touches_and_kept_blocks_nothing() -> None:
    source, target = TARGETS["half a pixel off"]
    counted = _Counted(source)
    seen = Warped(counted, target, resampling=Resampling.bilinear, fill=np.nan, num_kept=2)
    seen.part(Window(100, 100, 50, 50))
    once = counted.num_read
    assert once < (BLOCK_PX + 40) ** 2
    seen.part(Window(300, 200, 100, 100))
    assert counted.num_read == once
    seen.part(Window(500, 200, 20, 20))  # over the edge into the next block
    assert once < counted.num_read < 2.1 * once
