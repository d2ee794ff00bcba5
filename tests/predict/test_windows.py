"""Windows cover a scene with weights that add up to one, wherever it begins and however it is cut into blocks."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from cgm2net.predict.windows import OVERLAP_PX, STRIDE_PX, WINDOW_PX, Blend, Side, phases, starts, weights


def grid(row: int, column: int) -> GeoBox:
    """A grid of 10 m whose upper-left pixel is this one of the world's, counted from its origin."""
    return GeoBox((100, 100), Affine(10, 0, 10 * column, 0, -10, -10 * row), "EPSG:32632")


def test_a_scene_at_the_worlds_origin_begins_with_a_window():
    assert phases(grid(0, 0)) == (0, 0)
    assert phases(grid(191, 193)) == (191, 1)
    assert phases(grid(-1, -192)) == (191, 0)


def test_rounding_in_a_transform_moves_no_window():
    # 0.1 + 0.2 pixels of 0.1 m is a little more than 3 in binary, 0.7 / 0.1 a little less than 7
    for metres, column in ((0.1 + 0.2, 3), (0.7, 7)):
        assert phases(GeoBox((8, 8), Affine(0.1, 0, metres, 0, -0.1, 0), "EPSG:32632"))[1] == column


def test_windows_of_a_scene_of_500_px():
    # 0-256, 192-448 and 384-640; what lies beyond would begin at 576
    assert starts(500, 0) == [0, 192, 384]
    # of a window that begins at 384, 64 px lie inside a scene of 448: its neighbour holds them all
    assert starts(448, 0) == [0, 192]
    assert starts(449, 0) == [0, 192, 384]
    assert starts(10, 150) == [-150]


def test_where_two_windows_overlap_one_fades_into_the_other():
    first, second = weights([0, STRIDE_PX], STRIDE_PX + WINDOW_PX)
    assert (first[:STRIDE_PX] == 1).all()
    # 32.5 of 64 steps into the overlap: sin² of 45.7 degrees
    assert second[32] == pytest.approx(np.sin(np.pi / 2 * 32.5 / 64) ** 2)
    np.testing.assert_allclose(first[STRIDE_PX:] + second[:OVERLAP_PX], 1.0, atol=1e-6)


def test_blocks_meet_where_one_window_alone_has_a_say():
    # ten windows span 9 * 192 + 256 = 1984 px; of the tenth, from 1728 on, 1792-1920 is its own, 1856 the middle
    side = Side.of(3000, 0)
    assert side.blocks(2048) == [(0, 1856), (1856, 3000)]
    assert [side.over(*block) for block in side.blocks(2048)] == [range(10), range(9, 16)]
    assert Side.of(2048, 100).blocks(2048) == [(0, 2048)]


@given(length=st.integers(1, 5000), phase=st.integers(0, STRIDE_PX - 1), most_px=st.integers(448, 2048))
def test_a_blocks_windows_span_no_more_than_what_is_read_at_once(length, phase, most_px):
    side = Side.of(length, phase)
    blocks = side.blocks(most_px)
    assert [place for block in blocks for place in range(*block)] == list(range(length))
    for block in blocks:
        over = side.over(*block)
        first, last = max(side.starts[over[0]], 0), min(side.starts[over[-1]] + WINDOW_PX, length)
        assert last - first <= most_px
    assert sum(len(side.over(*block)) for block in blocks) == len(side.starts) + len(blocks) - 1


@given(length=st.integers(1, 1500), phase=st.integers(0, STRIDE_PX - 1))
def test_weights_add_up_to_one_in_every_pixel(length, phase):
    begin = starts(length, phase)
    total = np.zeros(length)
    for start, weight_W in zip(begin, weights(begin, length), strict=True):
        for place, weight in zip(range(start, start + WINDOW_PX), weight_W, strict=True):
            if 0 <= place < length:
                total[place] += weight
            else:
                assert weight == 0
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def blended(image_HW: np.ndarray, phase: tuple[int, int], *, block_px: int) -> np.ndarray:
    """Blend windows that answer with the image itself, plus what depends on the window's place in the world alone."""
    height, width = image_HW.shape
    rows, columns = Side.of(height, phase[0]), Side.of(width, phase[1])
    padded = np.pad(image_HW, WINDOW_PX)
    whole = np.full((1, height, width), np.nan, np.float32)
    for first in range(0, width, block_px):
        last = min(first + block_px, width)
        blend = Blend(rows, columns, first=first, last=last, channels=1)
        for row, top in enumerate(rows.starts):
            for column in columns.over(first, last):
                left = columns.starts[column]
                view = padded[top + WINDOW_PX :, left + WINDOW_PX :][:WINDOW_PX, :WINDOW_PX]
                number = (top + phase[0]) // STRIDE_PX + 3 * ((left + phase[1]) // STRIDE_PX)
                blend.add(row, column, (view + number)[None].astype(np.float32))
            begin, final = blend.finish(row)
            whole[:, begin : begin + final.shape[1], first:last] = final
    assert np.isfinite(whole).all()
    return whole[0]


@given(
    height=st.integers(1, 700), width=st.integers(1, 700), row=st.integers(0, 191), column=st.integers(0, 191),
    block_px=st.sampled_from([64, 200, 512]),
)  # fmt: skip
def test_blocks_make_no_difference(height, width, row, column, block_px):
    image_HW = np.random.default_rng(0).uniform(0, 1, (height, width))
    whole = blended(image_HW, (row, column), block_px=10_000)
    np.testing.assert_array_equal(blended(image_HW, (row, column), block_px=block_px), whole)


def test_a_crop_gives_the_same_answers_a_window_from_its_edge():
    image_HW = np.random.default_rng(0).uniform(0, 1, (1000, 900))
    whole = blended(image_HW, (5, 100), block_px=512)
    top, left = 77, 130
    crop = blended(image_HW[top:, left:], ((5 + top) % STRIDE_PX, (100 + left) % STRIDE_PX), block_px=300)
    # windows carry a number here that counts from the crop's own first window: compare what they add over a step
    inner = (slice(WINDOW_PX, -WINDOW_PX), slice(WINDOW_PX, -WINDOW_PX))
    difference = (whole[top:, left:] - crop)[inner]
    np.testing.assert_allclose(difference, difference[0, 0], atol=1e-5)
    assert difference[0, 0] == pytest.approx((5 + top) // STRIDE_PX + 3 * ((100 + left) // STRIDE_PX), abs=1e-5)
