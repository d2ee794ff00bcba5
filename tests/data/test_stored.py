"""What stored numbers mean: DN, codes, and borders of SAR that no one declared."""

from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net.data.stored import Border, require_codes, to_codes, to_dn
from cgm2net.errors import RasterError
from cgm2net.raster import Raster


def image(values: object, dtype: str, *, valid: object = True) -> Raster:
    """Return one row of pixels."""
    pixels = np.array([[values]], dtype)
    return Raster(
        pixels_CHW=pixels, valid_HW=np.broadcast_to(np.array(valid, bool), pixels.shape[1:]).copy(), bands=("B02",),
        grid=GeoBox(pixels.shape[1:], Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632"),
    )  # fmt: skip


def test_computed_dn_below_one_are_dark_ground_and_stored_ones_are_kept() -> None:
    floats = to_dn(image([-200.0, 0.4, 0.6, 1.5, 2.5, 70_000.0, 9.0], "float32", valid=[True] * 6 + [False]))
    assert floats.pixels_CHW[0, 0].tolist() == [1, 1, 1, 2, 2, 65_535, 0]
    whole = to_dn(image([0, 1, 700, 65_535, 7], "uint16", valid=[True] * 4 + [False]))
    assert whole.pixels_CHW[0, 0].tolist() == [0, 1, 700, 65_535, 0]  # stored so: kept
    assert (floats.dtype, whole.dtype) == (np.uint16, np.uint16)


def test_codes_become_bytes_and_shares_stay() -> None:
    assert to_codes(image([0, 3, 300], "int16", valid=[True, True, False]), what="a").pixels_CHW[0, 0].tolist() == [
        0,
        3,
        255,
    ]
    shares = image([0.25, 1.0], "float32")
    assert to_codes(shares, what="a") is shares
    with pytest.raises(RasterError, match=r"label\.tif: label holds codes -1 to 300, wanted 0 to 255"):
        to_codes(image([-1, 300], "int16"), what="label.tif: label")


def test_masks_of_several_bands_or_without_a_zero_are_refused() -> None:
    require_codes("cloud", num_bands=1, nodata=255, path="c.tif")
    with pytest.raises(RasterError, match=r"c\.tif: cloud has 3 bands, wanted one"):
        require_codes("cloud", num_bands=3, nodata=None, path="c.tif")
    with pytest.raises(RasterError, match=r"c\.tif: cloud declares 0 as nodata, but 0 is clear ground"):
        require_codes("cloud", num_bands=1, nodata=0, path="c.tif")


def border(picture: str) -> tuple[np.ndarray, str]:
    """Read a picture, ``0`` for 0 dB; return SAR and the picture of its border, ``#``."""
    rows = picture.split()
    sar = np.array([[0.0 if pixel == "0" else -9.0 for pixel in row] for row in rows])
    found = Border(height=len(rows), width=len(rows[0]))
    found.add(sar[None].repeat(2, axis=0))
    mask = found.mask(Window(0, 0, len(rows[0]), len(rows)))
    return sar, " ".join(
        "".join("#" if m else p for m, p in zip(*pair, strict=True)) for pair in zip(mask, rows, strict=True)
    )


@pytest.mark.parametrize(("picture", "wanted"), [
    ("00... 0.... .....", "##... #.... ....."),  # a corner
    ("00000 0...0 00000", "##### #...# #####"),  # all around
    (".0... .00.. ..0..", ".#... .##.. ..#.."),  # each run ends at an edge, above or below
    ("..... .000. .....", "..... .000. ....."),  # a bright target
    ("..00. .000. ..0.. .....", "..##. .0##. ..#.. ....."),  # the same at the edge: what its runs reach
    ("00000 00000", "##### #####"),
    ("...", "..."),
])  # fmt: skip
def test_a_border_is_where_a_run_of_zeros_reaches_the_edge(picture: str, wanted: str) -> None:
    assert border(picture)[1] == wanted


def test_zero_in_one_band_alone_is_a_measurement() -> None:
    sar = np.full((2, 3, 3), -9.0)
    sar[0] = 0.0
    found = Border(height=3, width=3)
    found.add(sar)
    assert not found.mask(Window(0, 0, 3, 3)).any()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1), st.integers(1, 6), st.integers(0, 8))
def test_strips_find_what_the_whole_shows(seed: int, strips: list[int], row: int, col: int) -> None:
    height, width = sum(strips) + row, 9
    sar = np.where(np.random.default_rng(seed).random((1, height, width)) < 0.7, 0.0, -9.0)
    at_once, in_strips = (Border(height=height, width=width) for _ in range(2))
    at_once.add(sar)
    ends = np.cumsum([0, *strips, row])
    for first, last in pairwise(ends):
        in_strips.add(sar[:, first:last])
    whole = at_once.mask(Window(0, 0, width, height))
    np.testing.assert_array_equal(in_strips.mask(Window(0, 0, width, height)), whole)
    window = Window(col, row, width - col, height - row)
    np.testing.assert_array_equal(in_strips.mask(window), whole[row:, col:])
    assert not (whole & (sar[0] != 0)).any()
