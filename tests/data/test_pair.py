"""Where windows go on a pair of images, and what is cut out of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from cgm2net.data.pair import MAX_WINDOWS, ArrayPair, Cut, UsableShares


def counted(usable: np.ndarray, *, size: int, cuts: tuple[list[int], list[int]] = ([], [])) -> UsableShares:
    """Count an image that is cut at these rows and columns."""
    shares = UsableShares(usable.shape, window_px=size)
    rows, cols = ([0, *sorted(set(ends)), length] for ends, length in zip(cuts, usable.shape, strict=True))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            shares.add(usable[top:bottom, left:right], row=top, col=left)
    return shares


def test_windows_stand_half_overlapping_where_a_quarter_is_usable() -> None:
    usable = np.zeros((100, 150), bool)
    usable[:50, :75] = True
    places = counted(usable, size=50).places()
    # Starts are 0, 25, 50 down and 0, 25, 50, 75, 100 across.
    assert [(p.top, p.left, p.usable_share) for p in places] == [
        (0, 0, 1.0), (0, 25, 1.0), (0, 50, 0.5), (25, 0, 0.5), (25, 25, 0.5), (25, 50, 0.25),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), *[st.lists(st.integers(1, 89), max_size=6)] * 2, st.sampled_from([20, 33, 90, 120]))
def test_blocks_give_what_the_whole_gives(seed: int, rows: list[int], cols: list[int], size: int) -> None:
    usable = np.random.default_rng(seed).random((90, 110)) < 0.4
    assert counted(usable, size=size, cuts=(rows, cols)).places() == counted(usable, size=size).places()


def test_large_scenes_are_measured_in_a_fixed_number_of_windows_evenly_spread() -> None:
    places = counted(np.ones((1000, 3000), bool), size=64).places()
    assert len(places) == MAX_WINDOWS
    assert {(p.top + 32) * 8 // 1000 for p in places} == set(range(8))
    assert {(p.left + 32) * 8 // 3000 for p in places} == set(range(8))


@pytest.mark.parametrize(("top", "left"), [(3, 4), (-7, 2), (15, -5), (18, 25)])
def test_a_cut_beyond_the_image_is_filled_and_reads_inside_alone(top: int, left: int) -> None:
    image = np.arange(20 * 30.0).reshape(1, 20, 30)

    def read(window: Window) -> np.ndarray:
        assert min(window.col_off, window.row_off, window.width, window.height) >= 0
        assert (window.col_off + window.width, window.row_off + window.height) <= (30, 20)
        return ArrayPair(image, image, image[0] > 0).optical(window)

    got = Cut((20, 30), top, left, size=6, margin=2).of(read, -1)
    padded = np.pad(image, [(0, 0), (30, 30), (30, 30)], constant_values=-1)
    np.testing.assert_array_equal(got, padded[:, top + 28 : top + 38, left + 28 : left + 38])
