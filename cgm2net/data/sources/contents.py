"""What a small raster file holds, whatever it is called: a SAR image, a Sentinel-2 image, a cloud mask, a label map."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from rasterio.coords import BoundingBox, disjoint_bounds
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from cgm2net.errors import RasterError
from cgm2net.sensors import SENTINEL1, SENTINEL2

Kind = Literal["sar", "image", "mask", "label"]

KINDS: dict[Kind, str] = {
    "sar": "a SAR image in dB", "image": f"an image of {len(SENTINEL2)} bands", "mask": "a cloud mask",
    "label": "a label map",
}  # fmt: skip

_DB = (-100.0, 60.0)
_LARGEST_CODE = 255
_B10 = [band.name for band in SENTINEL2].index("B10")


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file, looked at whole."""

    kinds: tuple[Kind, ...]
    "What it may be: a map of 0 and 1 in whole numbers may be a mask and a label map; nothing where it is neither."
    words: str
    "What it is, for an error."
    digest: str
    "SHA-256 of its pixels."
    b10_low: float
    "1 % quantile of the measured pixels of B10 [DN]; 0 where it has none."
    crs: rasterio.CRS | None
    bounds: BoundingBox

    def lies_on(self, other: "Content") -> bool:
        """Whether the file says by itself, in coordinates that lead to Earth, that it shows the same ground."""
        if self.crs is None or not (self.crs.is_projected or self.crs.is_geographic):
            return False
        return self.crs != other.crs or not disjoint_bounds(self.bounds, other.bounds)


def look_at(path: Path, *, num_classes: int) -> Content:
    """Read a file and say what it holds.

    Args:
        path: raster file that fits into memory.
        num_classes: codes of a label map are below; 255 is unknown.

    Raises:
        RasterError: if it cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), rasterio.open(path) as file:
            pixels_CHW, crs, bounds = file.read(), file.crs, file.bounds
    except RasterioIOError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error.__cause__ or error}") from error
    finite = pixels_CHW[np.isfinite(pixels_CHW)]
    kinds = _kinds(pixels_CHW, finite, num_classes)
    low, high = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
    count = "1 band" if len(pixels_CHW) == 1 else f"{len(pixels_CHW)} bands"
    plain = f"{count} of {pixels_CHW.dtype}, values {low:g} to {high:g}"
    digest = hashlib.sha256(f"{pixels_CHW.shape} {pixels_CHW.dtype}".encode() + pixels_CHW.tobytes()).hexdigest()
    return Content(
        kinds=kinds, words=" or ".join(KINDS[kind] for kind in kinds) or plain, digest=digest,
        b10_low=_b10_low(pixels_CHW) if "image" in kinds else 0.0, crs=crs, bounds=bounds,
    )  # fmt: skip


def _kinds(pixels_CHW: np.ndarray, finite: np.ndarray, num_classes: int) -> tuple[Kind, ...]:
    count, kind = len(pixels_CHW), pixels_CHW.dtype.kind
    if not finite.size:
        return ()
    if count == len(SENTINEL1) and kind == "f":
        low, middle, high = np.quantile(finite, (0.01, 0.5, 0.99))
        return ("sar",) if _DB[0] <= low and middle < 0 and high <= _DB[1] else ()
    if count == len(SENTINEL2) and kind in "uif":
        return ("image",) if finite.max() > _LARGEST_CODE else ()
    if count != 1:
        return ()
    codes = np.unique(finite)
    if np.isin(codes, (0, 1)).all():
        return ("mask",) if kind == "f" else ("mask", "label")
    return ("label",) if np.isin(codes, (*range(num_classes), _LARGEST_CODE)).all() else ()


def _b10_low(pixels_CHW: np.ndarray) -> float:
    b10 = pixels_CHW[_B10][(pixels_CHW != 0).any(axis=0)]
    return float(np.quantile(b10, 0.01)) if b10.size else 0.0
