"""Shadows of clouds in an optical image by rule: dark ground where the clouds would cast it; arrays only.

The direction in which shadows lie is found in the image itself, since a catalogue has no sun angles. It holds for the
whole image, :class:`ShadowGeometry`; all else looks no farther than a shadow falls. So an image is worked on in
windows, and every window gets to the bit what the whole would hold there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rasterio.windows import Window
from scipy import fft, ndimage
from scipy.special import expit

from cgm2net.data.clouds import CLOUD_REACH_PX, simple_cloud

MAX_SHADOW_PX = 128
"""Farthest that a shadow is looked for from its cloud."""

WHOLE_PX = 2048 * 2048
"""Larger images are searched for the shadows' direction in :data:`NUM_SAMPLES` windows, for memory's sake."""

NUM_SAMPLES = 4
SAMPLE_PX = 1024
"""Side of these windows."""

Look = Callable[[Window], tuple[np.ndarray, np.ndarray]]
"""Gives a window of an image, which does not reach beyond it: reflectance (C, H, W), 0-1, and valid mask (H, W)."""

_MIN_SHADOW_MATCH = 0.25
_MIN_SHADOW_PX = 3
_DARKER = 0.04
_DARKER_SHARE = 0.25
_CAST_PX = 5  # what a cast cloud is grown by: edges of shadows are not where whole pixels put them
_GLANCE_PX = 256  # of the middle of a window, when windows are chosen
_STRIP_PX = 256
_STEP_PX = 4  # at every fourth pixel the level of the surroundings is taken; windows begin at such a pixel
_AROUND = 17
_FILTERS_PX = _STEP_PX * (_AROUND // 2 + 2)  # reach of all filters together


@dataclass(frozen=True, kw_only=True)
class ShadowGeometry:
    """What the shadows of one image have in common."""

    offset_px: tuple[int, int]
    "Rows and columns from a cloud to its shadow."
    level: float
    "Median near-infrared reflectance of the ground between the clouds."


def shadow_geometry(look: Look, bands: Sequence[str], *, height: int, width: int) -> ShadowGeometry | None:
    """Return how clouds cast their shadows in an image; None where no direction explains its dark pixels.

    Candidates are pixels darker in near infrared than their surroundings (Fmask's flood fill). The offset between
    clouds and shadows is the one at which the moved clouds cover the candidates best.

    Args:
        look: gives parts of the image.
        bands: names of what it gives; without B08 no shadow is found.
        height: of the image.
        width: of the image.

    Raises:
        RasterError: if blue or red is missing.
    """
    if "B08" not in bands:
        return None
    views = [_view(look, window, bands) for window in _samples(look, bands, height=height, width=width)]
    ground_N = np.concatenate([view.nir_HW[view.ground_HW] for view in views]) if views else np.empty(0)
    if not ground_N.size or not any(view.cloud_HW.any() for view in views):
        return None
    level = float(np.median(ground_N, overwrite_input=True))
    offset = _best_offset(views, level)
    return None if offset is None else ShadowGeometry(offset_px=offset, level=level)


def cloud_or_shadow(
    look: Look, bands: Sequence[str], window: Window, *, height: int, width: int, geometry: ShadowGeometry | None
) -> np.ndarray:
    """Return the probability of cloud or shadow in a window of an image, float32 (H, W), 0-1.

    Args:
        look: gives parts of the image.
        bands: names of what it gives; B02 and B04 at least.
        window: must not reach beyond the image.
        height: of the image.
        width: of the image.
        geometry: of the image, by :func:`shadow_geometry`.

    Raises:
        RasterError: if blue or red is missing.
    """
    around = _around(window, geometry, height=height, width=width)
    reflectance_CHW, valid_HW = look(around)
    found = _valid_cloud(reflectance_CHW, bands, valid_HW)
    if geometry is not None:
        shadow = simple_shadow(reflectance_CHW, bands, cloud_HW=found, valid_HW=valid_HW, geometry=geometry)
        found = np.maximum(found, shadow)
    top, left = window.row_off - around.row_off, window.col_off - around.col_off
    return np.asarray(found[top : top + window.height, left : left + window.width], np.float32)


def simple_shadow(
    reflectance_CHW: np.ndarray,
    bands: Sequence[str],
    *,
    cloud_HW: np.ndarray,
    valid_HW: np.ndarray,
    geometry: ShadowGeometry,
) -> np.ndarray:
    """Return the probability of cloud shadow: dark ground where the clouds cast it.

    Water and dark forest that no cloud falls on are left alone.

    Args:
        reflectance_CHW: float32, 0-1; its first row and column are a multiple of 4 of the image's.
        bands: band names, B08 among them.
        cloud_HW: probability of cloud, 0-1.
        valid_HW: bool, True where the image was measured.
        geometry: of the image.

    Returns:
        float32 (H, W), 0-1.
    """
    cloud = cloud_HW > 0.5
    nir_HW = reflectance_CHW[list(bands).index("B08")]
    dark = _darker_than_surroundings(nir_HW, valid_HW & ~cloud, geometry.level)
    cast = ndimage.grey_dilation(_moved(cloud, *geometry.offset_px), size=(_CAST_PX, _CAST_PX))
    return np.asarray(cast * dark, np.float32)


class _View(NamedTuple):
    """A window as the search for the shadows' direction sees it."""

    cloud_HW: np.ndarray
    ground_HW: np.ndarray
    nir_HW: np.ndarray


def _view(look: Look, window: Window, bands: Sequence[str]) -> _View:
    """Look at a window in strips: all its bands at once would be what takes most memory."""
    shape = (window.height, window.width)
    view = _View(np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32))
    for top in range(0, window.height, _STRIP_PX):
        bottom = min(top + _STRIP_PX, window.height)
        first, last = max(top - CLOUD_REACH_PX, 0), min(bottom + CLOUD_REACH_PX, window.height)
        reflectance_CHW, valid_HW = look(Window(window.col_off, window.row_off + first, window.width, last - first))
        inner = slice(top - first, bottom - first)
        cloud_HW = (_valid_cloud(reflectance_CHW, bands, valid_HW) > 0.5)[inner]
        view.cloud_HW[top:bottom] = cloud_HW
        view.ground_HW[top:bottom] = valid_HW[inner] & ~cloud_HW
        view.nir_HW[top:bottom] = reflectance_CHW[list(bands).index("B08"), inner]
    return view


def _valid_cloud(reflectance_CHW: np.ndarray, bands: Sequence[str], valid_HW: np.ndarray) -> np.ndarray:
    return np.where(valid_HW, simple_cloud(reflectance_CHW, bands), np.float32(0))


def _samples(look: Look, bands: Sequence[str], *, height: int, width: int) -> list[Window]:
    """Return the image, or of a large one windows that hold both cloud and ground, from all quarters if they can."""
    if height * width <= WHOLE_PX:
        return [Window(0, 0, width, height)]
    side_rows, side_cols = min(SAMPLE_PX, height), min(SAMPLE_PX, width)
    rows, cols = ({*range(0, n - side, SAMPLE_PX), n - side} for n, side in ((height, side_rows), (width, side_cols)))
    shares: dict[tuple[int, int], float] = {}
    for row in sorted(rows):
        for col in sorted(cols):
            middle = _middle(Window(col, row, side_cols, side_rows))
            view = _view(look, middle, bands)
            shares[row, col] = float(min(view.cloud_HW.mean(), view.ground_HW.mean()))
    ranked = sorted((place for place in shares if shares[place]), key=lambda place: (-shares[place], place))
    quarters = [(2 * row + side_rows >= height, 2 * col + side_cols >= width) for row, col in ranked]
    first = [place for n, place in enumerate(ranked) if quarters[n] not in quarters[:n]]
    chosen = [*first, *(place for place in ranked if place not in first)][:NUM_SAMPLES]
    return [Window(col, row, side_cols, side_rows) for row, col in chosen]


def _middle(window: Window) -> Window:
    width, height = min(_GLANCE_PX, window.width), min(_GLANCE_PX, window.height)
    return Window(
        window.col_off + (window.width - width) // 2, window.row_off + (window.height - height) // 2, width, height
    )


def _around(window: Window, geometry: ShadowGeometry | None, *, height: int, width: int) -> Window:
    """Return a window with all that its result depends on."""
    offsets = (0, 0) if geometry is None else geometry.offset_px
    ends = []
    for (first, last), length, offset in zip(window.toranges(), (height, width), offsets, strict=True):
        begin = max(first - _FILTERS_PX - max(offset, 0), 0) // _STEP_PX * _STEP_PX
        ends.append((begin, min(last + _FILTERS_PX - min(offset, 0), length)))
    (top, bottom), (left, right) = ends
    return Window(left, top, right - left, bottom - top)


def _darker_than_surroundings(nir_HW: np.ndarray, ground_HW: np.ndarray, level: float) -> np.ndarray:
    seen = ndimage.median_filter(np.where(ground_HW, nir_HW, np.float32(level)), size=3)
    smooth = ndimage.percentile_filter(seen[::_STEP_PX, ::_STEP_PX], 75, size=_AROUND)
    rows, columns = (np.arange(length) // _STEP_PX for length in nir_HW.shape)
    expected = smooth[np.ix_(rows, columns)]
    margin = expected - seen
    margin -= np.maximum(_DARKER, _DARKER_SHARE * expected)
    margin /= 0.01
    return np.asarray(np.where(ground_HW, expit(margin, out=margin), 0.0), np.float32)


def _moved(cloud_HW: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return float32 (H, W): the mask moved down and right, 0 where nothing comes."""
    height, width = cloud_HW.shape
    cast = np.zeros(cloud_HW.shape, np.float32)
    if abs(rows) < height and abs(columns) < width:
        there = cloud_HW[max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)]
        cast[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = there
    return cast


def _best_offset(views: Sequence[_View], level: float) -> tuple[int, int] | None:
    """Return (rows, columns) from cloud to shadow [px], or None where no offset stands out."""
    dark_sum = 0.0
    match, landed = np.zeros((2, 2 * MAX_SHADOW_PX + 1, 2 * MAX_SHADOW_PX + 1))
    for view in views:
        dark = _darker_than_surroundings(view.nir_HW, view.ground_HW, level)
        dark_sum += float(dark.sum(dtype=np.float64))
        match += _correlation(view.cloud_HW, dark)
        landed += _correlation(view.cloud_HW, view.ground_HW)
    num_cloud = sum(int(view.cloud_HW.sum()) for view in views)
    num_ground = sum(int(view.ground_HW.sum()) for view in views)
    rows, columns = np.mgrid[-MAX_SHADOW_PX : MAX_SHADOW_PX + 1, -MAX_SHADOW_PX : MAX_SHADOW_PX + 1]
    distance = np.hypot(rows, columns)
    near = (distance >= _MIN_SHADOW_PX) & (distance <= MAX_SHADOW_PX) & (landed > 0.05 * num_cloud)
    # How much darker than all of the ground that is on which the clouds land.
    score = np.where(near, match / np.maximum(landed, 1.0) - dark_sum / num_ground, -np.inf)
    best = np.unravel_index(int(np.argmax(score)), score.shape)
    return None if score[best] < _MIN_SHADOW_MATCH else (int(rows[best]), int(columns[best]))


def _correlation(cloud_HW: np.ndarray, image_HW: np.ndarray) -> np.ndarray:
    """Return an image's sum under the clouds, moved by every offset up to the farthest shadow."""
    reach = MAX_SHADOW_PX
    shape = [fft.next_fast_len(length + reach, real=True) for length in cloud_HW.shape]
    spectrum = fft.rfft2(cloud_HW.astype(np.float32), shape)
    np.conjugate(spectrum, out=spectrum)
    spectrum *= fft.rfft2(image_HW.astype(np.float32, copy=False), shape)
    everywhere = fft.irfft2(spectrum, shape, overwrite_x=True)
    # What lies before the first row and column comes out at the end.
    around = np.concatenate([everywhere[-reach:], everywhere[: reach + 1]])
    return np.concatenate([around[:, -reach:], around[:, : reach + 1]], axis=1)
