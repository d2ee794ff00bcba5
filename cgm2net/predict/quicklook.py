"""One picture of a scene's products, to be looked at before a GIS is opened."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from cgm2net import pictures
from cgm2net.errors import RasterError
from cgm2net.predict.layers import ORIGINS, Layer, Origin, layers
from cgm2net.sensors import OPTICAL_NODATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cgm2net.weights import Card

QUICKLOOK_FILE = "quicklook.png"
NODATA_COLOUR = pictures.UNLABELLED_COLOUR
UNCERTAINTY_SHOWN = 0.10
"""Half width of the 90 % interval, reflectance, mean over the bands, that is shown as the darkest."""

_SCALES = {"uncertainty": ("Reds", UNCERTAINTY_SHOWN), "confidence": ("YlGn", 1.0)}
_SCALE_TEXTS = {"uncertainty": "reflectance, half of the 90 % interval", "confidence": "probability"}
_TITLES = {
    "cloudy": "Cloudy image",
    "restored": "Restored",
    "classes": "Land cover",
    "uncertainty": "Uncertainty of the restored image",
    "confidence": "Confidence in the class",
    "origin": "Origin of the restored pixels",
}
_NUM_COLUMNS = 3
_KEY_COLUMNS = 3
_INK, _FRAME = "#333333", "#999999"
# Inches.
_CELL, _GAP, _MARGIN, _HEAD, _TITLE, _LINE = 3.4, 0.15, 0.15, 0.42, 0.28, 0.19


def draw_quicklook(folder: Path, *, cloudy_CHW: np.ndarray, card: "Card", title: str) -> Path:
    """Draw a scene before and after, its classes, and how sure they are, as ``quicklook.png``.

    The layers are read at the size of ``cloudy_CHW``, from their overviews: a large scene costs what a small one does.
    Colours are fixed, so that two scenes can be compared; where there is no data it is light grey.

    Args:
        folder: holds the finished layers; gets the picture.
        cloudy_CHW: the scene's optical image, reflectance 0-1, made small; 0 in every band is no data.
        card: of the model; names bands and classes.
        title: one line above the panels.

    Returns:
        The picture; equal products give equal bytes.

    Raises:
        RasterError: if a layer cannot be read.
    """
    bands, shape = list(card.optical_bands), cloudy_CHW.shape[1:]
    by_name = {layer.name: layer for layer in layers(optical_bands=bands, classes=card.classes)}
    restored_HW3 = _true_colour(_read(folder, by_name["restored"], shape), bands)
    codes = {name: _read(folder, by_name[name], shape)[0] for name in ("classes", "origin")}
    images = {
        "cloudy": _true_colour(np.where((cloudy_CHW == OPTICAL_NODATA).all(axis=0), np.nan, cloudy_CHW), bands),
        "restored": restored_HW3,
        "classes": _coded(codes["classes"], by_name["classes"]),
        "uncertainty": _scaled(_read(folder, by_name["uncertainty"], shape).mean(axis=0), *_SCALES["uncertainty"]),
        "confidence": _scaled(_read(folder, by_name["confidence"], shape)[0], *_SCALES["confidence"]),
        "origin": _coded(codes["origin"], by_name["origin"]),
    }
    there = set(np.unique(np.nan_to_num(codes["origin"], nan=Origin.NO_DATA)))
    keys = {
        "classes": list(by_name["classes"].codes.values()),
        "origin": [words for code, words in ORIGINS.items() if code in there],
    }
    pictures.save(_figure(images, keys, title=title), folder / QUICKLOOK_FILE)
    return folder / QUICKLOOK_FILE


def _read(folder: Path, layer: Layer, shape: Sequence[int]) -> np.ndarray:
    """Return a layer made small, float (C, H, W) in its unit, NaN where it has no data."""
    path = folder / layer.file
    how = Resampling.nearest if layer.codes else Resampling.average
    try:
        with rasterio.open(path) as file:
            stored = file.read(out_shape=(file.count, *shape), resampling=how, masked=True)
    except RasterioError as error:
        raise RasterError(f"{path}: cannot be read as a raster: {error}") from error
    return np.asarray((stored.astype(np.float32) * layer.scale).filled(np.nan))


def _true_colour(image_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    missing_HW = ~np.isfinite(image_CHW).all(axis=0)
    return _greyed(pictures.true_colour(np.nan_to_num(image_CHW), bands), missing_HW)


def _coded(codes_HW: np.ndarray, layer: Layer) -> np.ndarray:
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(layer.codes[code][1]) for code in sorted(layer.codes)])
    missing_HW = ~np.isfinite(codes_HW)
    return _greyed(palette[np.where(missing_HW, 0, codes_HW).astype(int)], missing_HW)


def _scaled(values_HW: np.ndarray, colours: str, highest: float) -> np.ndarray:
    from matplotlib import colormaps

    image_HW3 = colormaps[colours](np.nan_to_num(np.clip(values_HW / highest, 0.0, 1.0)))[..., :3]
    return _greyed(image_HW3, ~np.isfinite(values_HW))


def _greyed(image_HW3: np.ndarray, missing_HW: np.ndarray) -> np.ndarray:
    """Return uint8, by the rule of matplotlib, which would keep eight times as much of every panel."""
    from matplotlib.colors import to_rgb

    shown_HW3 = np.where(missing_HW[..., None], to_rgb(NODATA_COLOUR), image_HW3)
    return np.asarray((shown_HW3 * 255).astype(np.uint8))


def _figure(images: Mapping[str, np.ndarray], keys: Mapping[str, Sequence[tuple[str, str]]], *, title: str) -> "Figure":
    """Lay the panels out in rows of three, with what explains their colours beneath each."""
    from matplotlib.figure import Figure

    height_px, width_px = images["cloudy"].shape[:2]
    panel = np.array([width_px, height_px]) * _CELL / max(height_px, width_px)
    rows = [list(images)[first : first + _NUM_COLUMNS] for first in range(0, len(images), _NUM_COLUMNS)]
    beneath = [_LINE * (1 + max(-(-len(keys.get(name, ())) // _KEY_COLUMNS) for name in row)) for row in rows]
    width = 2 * _MARGIN + _NUM_COLUMNS * (_CELL + _GAP) - _GAP
    height = _HEAD + sum(_TITLE + panel[1] + space for space in beneath)
    figure = Figure(figsize=(width, height), dpi=pictures.DPI)
    figure.text(_MARGIN / width, 1 - 0.55 * _HEAD / height, title, fontsize=11, color=_INK, va="center")
    top = height - _HEAD
    for row, space in zip(rows, beneath, strict=True):
        bottom = top - _TITLE - panel[1]
        for column, name in enumerate(row):
            left = _MARGIN + column * (_CELL + _GAP)
            axes = figure.add_axes((left / width, bottom / height, panel[0] / width, panel[1] / height))
            pictures.show(axes, images[name])
            axes.set_title(_TITLES[name], fontsize=9, color=_INK, loc="left", pad=4)
            if name in keys:
                _add_key(axes, keys[name])
            elif name in _SCALES:
                _add_scale(axes, name, panel)
        top = bottom - space
    return figure


def _add_key(axes: "Axes", key: Sequence[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    axes.legend(
        handles=[Patch(facecolor=colour, edgecolor=_FRAME, linewidth=0.5, label=name) for name, colour in key],
        loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=_KEY_COLUMNS, fontsize=7.5, labelcolor=_INK, frameon=False,
        borderpad=0.3, borderaxespad=0.2, handlelength=1.2, handleheight=0.9, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip


def _add_scale(axes: "Axes", name: str, panel: np.ndarray) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    (colours, highest), (across, up) = _SCALES[name], panel
    bar = axes.inset_axes((0.1 / across, -0.16 / up, 1.0 / across, 0.09 / up))
    drawn = axes.figure.colorbar(ScalarMappable(Normalize(0, highest), colours), cax=bar, orientation="horizontal")
    drawn.set_ticks([0, highest], labels=["0", f"{highest:g}"])
    drawn.outline.set(linewidth=0.5, edgecolor=_FRAME)
    bar.tick_params(labelsize=7, labelcolor=_INK, length=2, width=0.5, color=_FRAME, pad=1)
    bar.text(1.12, 0.5, _SCALE_TEXTS[name], transform=bar.transAxes, fontsize=7.5, color=_INK, va="center")
