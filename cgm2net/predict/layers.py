"""The layers of a scene's products: names, numbers and codes, and their pixels block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

import numpy as np

from cgm2net.pictures import UNLABELLED_COLOUR, class_colours
from cgm2net.sensors import LABEL_IGNORE, OPTICAL_NODATA, REFLECTANCE_SCALE

PROBABILITY_SCALE = 0.004
"""Probability that one step of ``confidence.tif`` and ``cloud.tif`` is worth: 0-250 are 0-1."""
CODE_NODATA = 255
UNCERTAINTY_NODATA = 65_535


class Origin(IntEnum):
    """Codes of ``origin.tif``: where a pixel of the restored image comes from."""

    NO_DATA = 0
    MEASURED = 1
    RESTORED = 2
    NO_SAR = 3


ORIGINS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        Origin.NO_DATA: ("no data", UNLABELLED_COLOUR),
        Origin.MEASURED: ("measured", "#b9c9d6"),
        Origin.RESTORED: ("restored", "#e8892b"),
        Origin.NO_SAR: ("no SAR, not predicted", "#6a4c93"),
    }
)
"""Name and colour of each origin."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One file of the products."""

    name: str
    "Stem of the file, and of the field of :class:`Block` that fills it."
    title: str
    "What it is, in a few words."
    bands: tuple[str, ...]
    "Band descriptions."
    dtype: str
    nodata: int
    scale: float = 1.0
    "What one step of the stored numbers is worth, in ``unit``."
    unit: str = ""
    codes: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    "Name and ``#rrggbb`` of each code, counted from 0; empty where the numbers are quantities."

    @property
    def file(self) -> str:
        """File name within the scene's folder."""
        return f"{self.name}.tif"


def layers(*, optical_bands: Sequence[str], classes: Sequence[str]) -> tuple[Layer, ...]:
    """Return every layer of a scene's products.

    Args:
        optical_bands: names of the network's optical bands, in its order.
        classes: name of each class code.
    """
    bands, step = tuple(optical_bands), 1 / REFLECTANCE_SCALE
    class_codes = dict(enumerate(zip(classes, class_colours(classes), strict=True)))
    return (
        Layer(
            name="restored", title="Restored reflectance", bands=bands, dtype="uint16", nodata=OPTICAL_NODATA,
            scale=step, unit="reflectance",
        ),
        Layer(
            name="uncertainty", title="Half width of the 90 % interval of reflectance", bands=bands, dtype="uint16",
            nodata=UNCERTAINTY_NODATA, scale=step, unit="reflectance",
        ),
        Layer(
            name="classes", title="Land cover", bands=("class",), dtype="uint8", nodata=LABEL_IGNORE,
            codes=class_codes,
        ),
        Layer(
            name="confidence", title="Probability of the mapped class", bands=("confidence",), dtype="uint8",
            nodata=CODE_NODATA, scale=PROBABILITY_SCALE, unit="probability",
        ),
        Layer(
            name="cloud", title="Probability of cloud or shadow", bands=("cloud",), dtype="uint8",
            nodata=CODE_NODATA, scale=PROBABILITY_SCALE, unit="probability",
        ),
        Layer(
            name="origin", title="Where the restored pixel comes from", bands=("origin",), dtype="uint8",
            nodata=Origin.NO_DATA, codes=ORIGINS,
        ),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Final results for a rectangle of the scene, as the files store them."""

    restored_CHW: np.ndarray
    "uint16 DN (reflectance x 10000), nodata 0."
    uncertainty_CHW: np.ndarray
    "uint16 half width of the 90 % interval (reflectance x 10000), nodata 65535."
    classes_HW: np.ndarray
    "uint8 class codes, nodata 255."
    confidence_HW: np.ndarray
    "uint8 probability of the mapped class in steps of 0.004, nodata 255."
    cloud_HW: np.ndarray
    "uint8 probability of cloud or shadow in steps of 0.004, nodata 255."
    origin_HW: np.ndarray
    "uint8 codes of :class:`Origin`."

    def of(self, layer: Layer) -> np.ndarray:
        """Return a layer's pixels, (C, H, W)."""
        if hasattr(self, f"{layer.name}_CHW"):
            return np.asarray(getattr(self, f"{layer.name}_CHW"))
        return np.asarray(getattr(self, f"{layer.name}_HW"))[None]
