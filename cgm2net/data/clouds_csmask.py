"""Clouds and their shadows by ukis-csmask, a convolutional network for Sentinel-2 L1C and L2A; arrays only.

Wieland, Li and Martinis 2019, doi:10.1016/j.rse.2019.05.022. The package (Apache-2.0) brings the weights, which
onnxruntime runs; both are looked for when first needed. The network was made for pixels of about 30 m.

It sees tiles of 256 px. Here as in the package they stand every 204 px, counted from 51 px above and left of the
image's corner, the image is mirrored beyond its edges, and overlaps are blended: a grid that knows nothing of the
windows in which the answer is asked for.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rasterio.windows import Window
from scipy.signal.windows import tukey
from scipy.special import softmax

from cgm2net.errors import BackendError
from cgm2net.sensors import COMMON_NAMES
from cgm2net.settings import ProductLevel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGE = "ukis-csmask"
CLASSES = ("clear", "cloud", "shadow")

Look = Callable[[Window], np.ndarray]
"""Gives reflectance, float32 (C, H, W), not clipped, in a window that does not reach beyond the image."""

_FOUR = ("blue", "green", "red", "nir")
_SIX = (*_FOUR, "swir16", "swir22")

_TILE_PX, _STEP_PX, _MARGIN_PX = 256, 204, 51
_TILE_ROWS = 7  # that a block of 1024 rows can touch; kept over the width of the image, so that none is made twice


def bands_used(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the bands that the network sees of these, in its order: with short-wave infrared where both are there."""
    by_common = {COMMON_NAMES.get(name, name): name for name in bands}
    return tuple(by_common[common] for common in (_SIX if set(_SIX) <= set(by_common) else _FOUR))


def weights_path(bands: Sequence[str], *, level: ProductLevel) -> Path:
    """Return the file of the network for these bands.

    Raises:
        BackendError: if the package is not installed.
    """
    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise _absent(error) from error
    # Located, not imported: the package wants nothing but these files from us.
    return Path(str(found.locate_file(f"ukis_csmask/model_{len(bands_used(bands))}b_{level}.onnx")))


class TiledNetwork:
    """The network laid over an image; a window holds to the bit what the whole holds there."""

    def __init__(self, look: Look, bands: Sequence[str], *, level: ProductLevel, height: int, width: int) -> None:
        """Lay the network over an image.

        Args:
            look: gives parts of the image, in the bands of :func:`bands_used`.
            bands: of the image.
            level: of the product.
            height: of the image.
            width: of the image.

        Raises:
            BackendError: if the package or onnxruntime is not installed.
        """
        self._look, self._height, self._width = look, height, width
        self._network = _network(weights_path(bands, level=level))
        self._tile = lru_cache(maxsize=_TILE_ROWS * (width // _STEP_PX + 3))(self._make)
        taper = tukey(_TILE_PX, alpha=2 * _MARGIN_PX / (_TILE_PX - 1))
        self._weight_HW = taper[:, None] * taper[None, :]

    def classes(self, window: Window) -> np.ndarray:
        """Return the probabilities of :data:`CLASSES` in a window inside the image, float32 (3, H, W)."""
        (top, bottom), (left, right) = window.toranges()
        blended = np.zeros((len(CLASSES), bottom - top, right - left))
        for row in _tiles_over(top, bottom):
            for col in _tiles_over(left, right):
                there_rows, here_rows = _overlap(row, top, bottom)
                there_cols, here_cols = _overlap(col, left, right)
                weight_HW = self._weight_HW[there_rows, there_cols]
                blended[:, here_rows, here_cols] += self._tile(row, col)[:, there_rows, there_cols] * weight_HW
        return blended.astype(np.float32)

    def _make(self, row: int, col: int) -> np.ndarray:
        rows, cols = _mirrored(row, self._height), _mirrored(col, self._width)
        top, left = int(rows.min()), int(cols.min())
        part_CHW = self._look(Window(left, top, int(cols.max()) + 1 - left, int(rows.max()) + 1 - top))
        return self._network.run(part_CHW[:, rows - top][:, :, cols - left])


class _Network(NamedTuple):
    session: "InferenceSession"
    mean_C11: np.ndarray
    deviation_C11: np.ndarray

    def run(self, reflectance_CHW: np.ndarray) -> np.ndarray:
        """Return class probabilities of one tile, float32 (3, 256, 256)."""
        # Rounded to float32 in between, as the package does.
        centred = (reflectance_CHW - self.mean_C11).astype(np.float32)
        image_1CHW = (centred / self.deviation_C11).astype(np.float32)[None]
        (logits,) = self.session.run(None, {self.session.get_inputs()[0].name: image_1CHW})
        return np.asarray(softmax(logits, axis=1)[0], np.float32)


@lru_cache(maxsize=2)
def _network(path: Path) -> _Network:
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise _absent(error) from error
    options = SessionOptions()
    options.intra_op_num_threads = 1  # part of the last bits; scenes are worked on side by side in processes
    statistics = json.loads(path.with_suffix(".json").read_text())["data"]["dataset_statistics"]["img"]
    mean, deviation = (np.array(values)[:, None, None] for values in statistics)
    session = InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    return _Network(session, mean, deviation)


def _absent(error: Exception) -> BackendError:
    return BackendError(
        f"cloud method csmask: a package that it needs is not installed ({error}); pip install 'cgm2net[clouds]', or"
        " choose another method"
    )


def _tiles_over(first: int, last: int) -> range:
    """Return the numbers of the tiles that reach into pixels ``first`` to ``last`` - 1 along an axis."""
    return range(max(0, (first + _MARGIN_PX - _TILE_PX) // _STEP_PX + 1), (last - 1 + _MARGIN_PX) // _STEP_PX + 1)


def _overlap(tile: int, first: int, last: int) -> tuple[slice, slice]:
    """Return what a tile and a range of pixels have in common, counted in the tile and in the range."""
    start = tile * _STEP_PX - _MARGIN_PX
    begin, end = max(start, first), min(start + _TILE_PX, last)
    return slice(begin - start, end - start), slice(begin - first, end - first)


def _mirrored(tile: int, length: int) -> np.ndarray:
    """Return which pixels of an axis a tile holds, mirrored beyond the edges with the edge pixel repeated."""
    place = np.arange(_TILE_PX) + tile * _STEP_PX - _MARGIN_PX
    place %= 2 * length
    return np.asarray(np.minimum(place, 2 * length - 1 - place))
