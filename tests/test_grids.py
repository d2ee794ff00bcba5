"""How grids lie on each other: parts and blocks counted by hand, pixel sizes on the ground, the grid of a model."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net import grids
from cgm2net.errors import RasterError
from cgm2net.grids import BLOCK_PX, blocks_in, common, inside, model_grid, padded, part_of, smooth_resampling, under

UTM = "EPSG:32632"


def grid(height: int, width: int, *, x: float = 500_000.0, y: float = 5_000_000.0, gsd: float = 10.0) -> GeoBox:
    return GeoBox((height, width), Affine(gsd, 0, x, 0, -gsd, y), UTM)


def test_a_part_lies_where_it_lies_in_the_whole_even_beyond() -> None:
    whole = grid(100, 200)
    assert part_of(whole, Window(3, 2, 50, 40)) == whole[2:42, 3:53]
    assert part_of(whole, Window(-1, -2, 4, 3)) == grid(3, 4, x=499_990.0, y=5_000_020.0)
    assert part_of(whole, grids.whole(whole)) == whole


@settings(deadline=None)
@given(*[st.integers(-30, 60)] * 2, *[st.integers(1, 50)] * 2)
def test_what_two_windows_share_is_the_same_pixels_in_both(col: int, row: int, width: int, height: int) -> None:
    image = np.arange(40 * 50).reshape(40, 50)
    first, second = Window(5, 3, 30, 20), Window(col, row, width, height)
    beyond = np.pad(image, 100, constant_values=-1)
    parts = [beyond[100 + w.row_off :, 100 + w.col_off :][: w.height, : w.width] for w in (first, second)]
    in_first, in_second = common(first, second)
    assert np.array_equal(parts[0][in_first], parts[1][in_second])
    assert parts[0][in_first].size == np.isin(parts[0], parts[1][parts[1] >= 0]).sum()


def test_windows_end_at_the_grid() -> None:
    whole = grid(100, 200)
    assert inside(whole, Window(-10, 90, 30, 30)) == Window(0, 90, 20, 10)
    assert inside(whole, Window(200, 0, 10, 10)) is None
    assert padded(whole, Window(5, 50, 10, 10), by_px=8) == Window(0, 42, 23, 26)


@settings(deadline=None)
@given(*[st.integers(-300, 1500)] * 2, *[st.integers(1, 1100)] * 2)
def test_blocks_are_counted_from_the_corner_and_cover_what_a_window_shows(
    col: int, row: int, width: int, height: int
) -> None:
    whole = grid(700, 1300)
    window = Window(col, row, width, height)
    blocks = list(blocks_in(whole, window))
    for block in blocks:
        assert (block.row_off % BLOCK_PX, block.col_off % BLOCK_PX) == (0, 0)
        assert block.height == min(BLOCK_PX, 700 - block.row_off)
        assert block.width == min(BLOCK_PX, 1300 - block.col_off)
        assert common(block, window)[0] != (slice(0, 0), slice(0, 0))
    within = inside(whole, window)
    shared = [common(block, within)[1] for block in blocks] if within else []
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in shared) == (
        within.height * within.width if within else 0
    )


def test_source_pixels_under_a_block_have_a_margin() -> None:
    source = grid(1000, 1000)
    block = grid(100, 200, x=502_000.0, y=4_997_000.0)  # begins at column 200, row 300
    assert under(source, block) == Window(200 - 16, 300 - 16, 200 + 32, 100 + 32)
    assert under(source, grid(100, 100, x=600_000.0)) is None
    assert under(source, grid(5, 5)) == Window(0, 0, 21, 21)


def test_averaging_begins_beyond_one_and_a_half_pixels() -> None:
    target = grid(100, 100)
    for gsd, wanted in ((20, "bilinear"), (10, "bilinear"), (6.7, "bilinear"), (6.6, "average"), (2.5, "average")):
        assert smooth_resampling(grid(400, 400, gsd=gsd), target) == Resampling[wanted]


@pytest.mark.parametrize(("crs", "pixel", "wanted"), [
    (UTM, (10.0, 10.0), 10.0),
    ("EPSG:4326", (8.993e-5, 8.993e-5), 10.0),  # 1e-5 degrees are 1.11 m, along a parallel less: cos(lat)
    ("EPSG:3857", (10.0, 10.0), 10.0),
])  # fmt: skip
@pytest.mark.parametrize("latitude", [0.0, 45.0])
def test_pixel_size_on_the_ground(crs: str, pixel: tuple[float, float], wanted: float, latitude: float) -> None:
    x, y = {UTM: (5e5, latitude * 110_800), "EPSG:4326": (9, latitude), "EPSG:3857": (1e6, 0)}[crs]
    if crs == "EPSG:3857":
        y = 6_378_137 * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    box = GeoBox((10, 10), Affine(pixel[0], 0, x, 0, -pixel[1], y), crs)
    width, height = grids.ground_size_m(box)
    shrink = 1.0 if crs == UTM else np.cos(np.radians(latitude))
    assert width == pytest.approx(wanted * shrink, rel=0.008)
    assert height == pytest.approx(wanted * (shrink if crs == "EPSG:3857" else 1.0), rel=0.008)


def test_a_grid_of_the_models_pixel_size_is_taken_as_it_is() -> None:
    coarse, fine = grid(50, 50, gsd=20), grid(100, 100, gsd=10.05)
    assert model_grid([coarse, fine], gsd_m=10.0) is fine
    assert model_grid([coarse, grid(100, 100, gsd=10.2)], gsd_m=20.0) is coarse


def test_another_pixel_size_keeps_crs_and_extent() -> None:
    made = model_grid([grid(50, 60, gsd=20), grid(17, 20, gsd=60)], gsd_m=10.0)
    assert made == grid(100, 120)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_degrees_and_stretched_metres_become_the_local_utm(crs: str) -> None:
    utm = grid(200, 300, y=5_400_000.0)
    box = utm.to_crs(crs)
    made = model_grid([box], gsd_m=10.0)
    assert made.crs.epsg == 32632
    assert (made.transform.a, made.transform.e) == (10.0, -10.0)
    assert made.extent.contains(utm.extent.buffer(-10))
    for size, least in zip(made.shape, utm.shape, strict=True):
        assert least <= size <= least * 1.1  # a turned rectangle needs a larger one around it


def test_grids_that_lead_nowhere_are_refused() -> None:
    nowhere = GeoBox((4, 4), Affine(10, 0, 0, 0, -10, 0), 'LOCAL_CS["plan",UNIT["metre",1]]')
    with pytest.raises(RasterError, match=r"4x4 px of 10x10.*cannot be placed on Earth"):
        model_grid([nowhere], gsd_m=10.0)
    with pytest.raises(RasterError, match=r"cannot resample 4x4 px of 10x10.* to 5x5 px of 10x10, EPSG:32632"):
        under(nowhere, grid(5, 5))
    far = GeoBox((4, 4), Affine(10, 0, 5e7, 0, -10, 5e7), "EPSG:4326")
    with pytest.raises(RasterError, match="does not lie on Earth"):
        model_grid([far], gsd_m=10.0)


def test_a_row_of_blocks_is_walked_before_the_next() -> None:
    starts = [(b.row_off, b.col_off) for b in blocks_in(grid(90, 90), Window(0, 0, 90, 90), height_px=30, width_px=45)]
    assert starts == list(product((0, 30, 60), (0, 45)))


def test_a_coarser_grid_has_whole_pixels_alone_and_shares_the_corner() -> None:
    planet = grid(300, 305, gsd=3.0)
    coarse = grids.coarser(planet, gsd_m=10.0)
    assert coarse == grid(90, 91, gsd=10.0)  # 305 px are 91.5 of them
    assert grids.pixel_share(planet, gsd_m=10.0) == Fraction(3, 10)
    assert grids.coarser(planet, gsd_m=3.0) == planet
    with pytest.raises(RasterError, match="smaller than those of 305x300 px of 3x3"):
        grids.coarser(planet, gsd_m=1.0)
    with pytest.raises(RasterError, match="no common multiple"):
        grids.pixel_share(planet, gsd_m=9.8765)
