"""The ways to find clouds by name, each looking at an image in windows; training and prediction both use them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy import ndimage

from cgm2net import raster, sensors
from cgm2net.data import clouds_csmask, clouds_s2cloudless
from cgm2net.data.clouds import RULE_BANDS
from cgm2net.data.shadows import cloud_or_shadow, shadow_geometry
from cgm2net.errors import BackendError, RasterError
from cgm2net.files import sha256_file
from cgm2net.grids import blocks_in, common, padded, whole
from cgm2net.raster import Raster
from cgm2net.settings import CLOUD_BANDS, CloudmaskSettings, ProductLevel, missing_cloud_bands

COVER_THRESHOLD = 0.5
"""A pixel with a higher probability counts into the cover."""

_SCL_PROBABILITY = {0: 1.0, 3: 1.0, 8: 0.6, 9: 1.0, 10: 1.0}


class CloudImage(Protocol):
    """An optical image and the mask that came with it, to be had in windows that lie inside."""

    @property
    def grid(self) -> GeoBox: ...  # noqa: D102
    def optical(self, window: Window) -> Raster: ...  # noqa: D102
    def delivered(self, window: Window) -> Raster | None: ...  # noqa: D102


Find = Callable[[Window], np.ndarray]
"""Gives the probability of cloud or shadow in a window, float32 (H, W), 0-1: to the bit what the whole holds there."""


class CloudMethod(NamedTuple):
    """A way to find clouds."""

    version: str
    "Goes into the table and the cache key; raised when the answer changes. Empty where a package's version counts."
    find: Callable[[CloudImage, ProductLevel], Find]
    "Looks at an image as a whole, as far as it must, and returns what finds clouds in its windows."
    grow: bool = False
    """Whether the edge is grown by ``dilation_px``: a delivered mask is taken as it is, and the rule is soft enough to
    reach where clouds thin out (grown by 1 px it agrees less with true masks)."""
    package: str = ""
    "That must be installed."
    weights: Callable[[Sequence[str], ProductLevel], Path] | None = None
    "The package's file that decides, for an image of these bands."


def _given(image: CloudImage, _level: ProductLevel) -> Find:
    def find(window: Window) -> np.ndarray:
        delivered = image.delivered(window)
        if delivered is None:
            raise RasterError("the catalogue has no cloud mask for this scene; name one, or choose another method")
        # Where the mask does not reach nothing is known: that counts as cloud.
        values = np.where(delivered.valid_HW, delivered.pixels_CHW[0], 1).astype(np.float32)
        if values.min() < 0.0 or values.max() > 1.0:
            raise RasterError(
                f"the delivered mask holds values from {values.min():g} to {values.max():g}, expected 0-1; a Sentinel-2"
                " scene classification is read by method `scl`"
            )
        return np.asarray(values)

    return find


def _scl(image: CloudImage, _level: ProductLevel) -> Find:
    if all(_codes(image, block).max() <= 1 for block in blocks_in(image.grid, whole(image.grid))):
        found = np.unique(_codes(image, next(blocks_in(image.grid, whole(image.grid)))))
        raise _no_classification(found)

    def find(window: Window) -> np.ndarray:
        codes = _codes(image, window)
        probability = np.zeros(codes.shape, np.float32)
        for code, value in _SCL_PROBABILITY.items():
            probability[codes == code] = value
        return probability

    return find


def _codes(image: CloudImage, window: Window) -> np.ndarray:
    delivered = image.delivered(window)
    if delivered is None:
        raise RasterError(
            "method `scl` reads the scene classification from the catalogue's cloud column, which is empty"
        )
    codes = np.where(delivered.valid_HW, delivered.pixels_CHW[0], 0)
    if not np.isin(codes, np.arange(12)).all():
        raise _no_classification(np.unique(codes))
    return codes


def _no_classification(codes: np.ndarray) -> RasterError:
    return RasterError(f"not a Sentinel-2 scene classification: codes {codes[:8].tolist()}, expected 0-11")


def _simple(image: CloudImage, _level: ProductLevel) -> Find:
    size = {"height": image.grid.shape[0], "width": image.grid.shape[1]}
    bands = tuple(name for name in RULE_BANDS if name in _bands(image))

    def look(window: Window) -> tuple[np.ndarray, np.ndarray]:
        optical = image.optical(window)
        return sensors.to_unit_range(optical.select(bands).pixels_CHW, bands), optical.valid_HW

    geometry = shadow_geometry(look, bands, **size)
    return lambda window: cloud_or_shadow(look, bands, window, geometry=geometry, **size)


def _s2cloudless(image: CloudImage, _level: ProductLevel) -> Find:
    bands = _required(image, "s2cloudless")

    def find(window: Window) -> np.ndarray:
        around = padded(image.grid, window, by_px=clouds_s2cloudless.REACH_PX)
        optical = image.optical(around)
        found_HW = clouds_s2cloudless.boosted_cloud(_reflectance(optical, bands))
        return np.where(optical.valid_HW, found_HW, np.float32(0))[common(window, around)[1]]

    return find


def _csmask(image: CloudImage, level: ProductLevel) -> Find:
    _required(image, "csmask")
    bands = clouds_csmask.bands_used(_bands(image))
    network = clouds_csmask.TiledNetwork(
        lambda window: _reflectance(image.optical(window), bands), bands, level=level,
        height=image.grid.shape[0], width=image.grid.shape[1],
    )  # fmt: skip

    def find(window: Window) -> np.ndarray:
        _clear, cloud_HW, shadow_HW = network.classes(window)
        hidden_HW = np.minimum(cloud_HW + shadow_HW, np.float32(1))
        return np.where(image.optical(window).valid_HW, hidden_HW, np.float32(0))

    return find


def _bands(image: CloudImage) -> tuple[str, ...]:
    return image.optical(Window(0, 0, 1, 1)).bands


def _required(image: CloudImage, method: str) -> tuple[str, ...]:
    """Return the bands that a method needs; refuse an image that lacks one."""
    have, wanted = _bands(image), CLOUD_BANDS[method]
    if missing := missing_cloud_bands(method, have):
        raise RasterError(
            f"cloud method {method} needs bands {', '.join(wanted)}; the image has {', '.join(have)}, lacks"
            f" {', '.join(missing)}: name those in coregister.extra_optical_bands, or choose another method"
        )
    return wanted


def _reflectance(optical: Raster, bands: Sequence[str]) -> np.ndarray:
    """Return float32 (C, H, W), not clipped: clouds exceed 1, and the packages have learned so."""
    return optical.select(bands).pixels_CHW.astype(np.float32) / np.float32(sensors.REFLECTANCE_SCALE)


METHODS = MappingProxyType({
    "given": CloudMethod("1", _given),
    "scl": CloudMethod("1", _scl, grow=True),
    "simple": CloudMethod("1", _simple),
    "s2cloudless": CloudMethod(
        "", _s2cloudless, package=clouds_s2cloudless.PACKAGE,
        weights=lambda _bands, _level: clouds_s2cloudless.weights_path(),
    ),
    "csmask": CloudMethod(
        "", _csmask, package=clouds_csmask.PACKAGE,
        weights=lambda bands, level: clouds_csmask.weights_path(bands, level=level),
    ),
})  # fmt: skip
"""`given`: the mask that the catalogue names. `scl`: Sentinel-2 L2A scene classification; 9, 10 (cloud, cirrus) and 3
(shadow) count 1, as does 0 (no data), 8 (cloud, medium probability) 0.6. `simple`: :mod:`cgm2net.data.clouds` and
:mod:`cgm2net.data.shadows`. `s2cloudless` and `csmask`: the modules of their names, by packages of the extra `clouds`;
`csmask` gives the probability that a pixel is cloud or shadow."""


def method_of(settings: CloudmaskSettings, *, delivered: bool, classified: bool = False) -> str:
    """Return the method for a scene that comes with a mask, or a classification, or without."""
    if settings.method == "given_or_simple":
        return "scl" if classified else "given" if delivered else "simple"
    return settings.method


def version_of(method: str) -> str:
    """Return a method's version: its package's where it has one.

    Raises:
        BackendError: if the package is not installed.
    """
    chosen = METHODS[method]
    try:
        return version(chosen.package) if chosen.package else chosen.version
    except PackageNotFoundError as error:
        raise BackendError(
            f"cloud method {method} needs the package {chosen.package}, which is not installed; pip install"
            " 'cgm2net[clouds]', or choose another method"
        ) from error


def weights_of(method: str, bands: Sequence[str], *, product_level: ProductLevel) -> str:
    """Return the SHA-256 of the weights that a method uses on an image of these bands; empty where it has none.

    Raises:
        BackendError: if the package is not installed.
    """
    locate = METHODS[method].weights
    return "" if locate is None else sha256_file(locate(bands, product_level))


def cloud_finder(method: str, image: CloudImage, *, dilation_px: int, product_level: ProductLevel = "l1c") -> Find:
    """Return what finds clouds in the windows of an image; training and prediction both call this.

    Args:
        method: one of :data:`METHODS`.
        image: is looked at in windows.
        dilation_px: see :attr:`CloudMethod.grow`.
        product_level: of the image; tells `csmask` which of its networks to take.

    Raises:
        RasterError: if the method cannot work with what there is; so may what is returned.
        BackendError: if a package is needed and absent.
    """
    chosen = METHODS[method]
    find = chosen.find(image, product_level)
    if not chosen.grow or not dilation_px:
        return find

    def grown(window: Window) -> np.ndarray:
        around = padded(image.grid, window, by_px=dilation_px)
        size = 2 * dilation_px + 1
        (_, here) = common(window, around)
        return np.asarray(ndimage.grey_dilation(find(around), size=(size, size))[here])

    return grown


@dataclass(frozen=True, kw_only=True)
class _InMemory:
    """A :class:`CloudImage` that was read whole."""

    image: Raster
    mask: Raster | None

    @property
    def grid(self) -> GeoBox:
        return self.image.grid

    def optical(self, window: Window) -> Raster:
        return self.image.part(window)

    def delivered(self, window: Window) -> Raster | None:
        return None if self.mask is None else self.mask.part(window)


def find_cloud(
    method: str, optical: Raster, delivered: Raster | None, *, dilation_px: int, product_level: ProductLevel = "l1c"
) -> np.ndarray:
    """Return the probability of cloud or shadow in an image, float32 (H, W), 0-1; see :func:`cloud_finder`.

    Raises:
        RasterError: if the method cannot work with what there is.
    """
    if delivered is not None:
        raster.require_same_grid(optical, delivered, what="optical and cloud mask")
    image = _InMemory(image=optical, mask=delivered)
    return cloud_finder(method, image, dilation_px=dilation_px, product_level=product_level)(whole(optical.grid))
