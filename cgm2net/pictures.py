"""Pictures of tiles: arrays to colours by fixed rules, and panels of them as PNG files of reproducible bytes.

The stretches do not look at the data, so that two pictures can be compared: equal values, equal colours.
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cgm2net.files import write_aside
from cgm2net.sensors import COMMON_NAMES, from_unit_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150

TRUE_COLOURS = ("red", "green", "blue")
"""Common names of the bands that are shown as the three colours."""
TRUE_COLOUR_WHITE = 0.30
"""Reflectance shown as full brightness; clouds saturate."""
TRUE_COLOUR_GAMMA = 1.4

SAR_STRETCH_DB = {"VV": (-22.0, 0.0), "VH": (-28.0, -5.0), "ratio": (-2.0, 20.0)}
"""dB shown as dark and as full red (VV), green (VH) and blue (VV over VH)."""

_CLASS_COLOURS = {
    ("water", "river", "lake", "sea"): "#3182bd",
    ("wetland", "marsh"): "#66c2a4",
    ("forest", "tree", "wood"): "#1b7837",
    ("shrub",): "#a1874b",
    ("grass", "meadow", "pasture", "rangeland", "vegetation"): "#a6d96a",
    ("crop", "agricultur", "farm", "field", "cultivated"): "#ecd25a",
    ("road", "transport"): "#54545c",
    ("built", "urban", "building", "impervious", "settlement", "artificial"): "#d6403a",
    ("bare", "soil", "barren", "sand", "rock"): "#c49a6c",
    ("snow", "ice", "glacier"): "#cfe8ff",
    ("tundra", "moss", "lichen"): "#9e9ac8",
}
UNLABELLED_COLOUR = "#efefef"

_PANELS = {
    "optical_CHW": "cloudy",
    "sar_CHW": "SAR",
    "cloud_HW": "cloud",
    "restored_CHW": "restored",
    "clear_CHW": "reference",
    "label_HW": "label",
    "predicted_HW": "predicted classes",
}


def true_colour(optical_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Show reflectance as red, green and blue.

    Args:
        optical_CHW: reflectance 0-1; values outside are clipped.
        bands: names of the C bands; without red, green and blue the first three are shown as they come, or the first
            one in grey.

    Returns:
        float (H, W, 3) in 0-1: ``(reflectance / TRUE_COLOUR_WHITE) ** (1 / TRUE_COLOUR_GAMMA)``, clipped.
    """
    names = list(bands)
    if shown := true_colour_bands(names):
        index = [names.index(name) for name in shown]
    else:
        index = [0, 1, 2] if len(names) >= 3 else [0, 0, 0]
    brightness_CHW = np.clip(np.asarray(optical_CHW, float)[index] / TRUE_COLOUR_WHITE, 0.0, 1.0)
    return np.moveaxis(brightness_CHW ** (1 / TRUE_COLOUR_GAMMA), 0, -1)


def true_colour_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Return which of these bands are red, green and blue, of whatever sensor; nothing where one is missing."""
    by_colour = {COMMON_NAMES.get(name): name for name in reversed(bands)}
    shown = tuple(by_colour[colour] for colour in TRUE_COLOURS if colour in by_colour)
    return shown if len(shown) == len(TRUE_COLOURS) else ()


def sar_composite(sar_CHW: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Show VV as red, VH as green and their ratio as blue, between the limits of :data:`SAR_STRETCH_DB`.

    Args:
        sar_CHW: backscatter scaled to 0-1 by :func:`cgm2net.sensors.to_unit_range`.
        bands: names of the C bands; without both VV and VH the first one is shown in grey, 0 black and 1 white.

    Returns:
        float (H, W, 3) in 0-1.
    """
    unit_CHW = np.asarray(sar_CHW, float)
    names = list(bands)
    if not {"VV", "VH"} <= set(names):
        return np.repeat(np.clip(unit_CHW[0], 0.0, 1.0)[..., None], 3, axis=-1)
    decibel_CHW = from_unit_range(unit_CHW, names).astype(float)
    vv_HW, vh_HW = decibel_CHW[names.index("VV")], decibel_CHW[names.index("VH")]
    shown = zip((vv_HW, vh_HW, vv_HW - vh_HW), SAR_STRETCH_DB.values(), strict=True)
    return np.stack([np.clip((image - low) / (high - low), 0.0, 1.0) for image, (low, high) in shown], axis=-1)


def cloud_map(cloud_HW: np.ndarray) -> np.ndarray:
    """Show cloud probability 0-1 in grey, white where it is cloudy; float (H, W, 3)."""
    return np.repeat(np.clip(np.asarray(cloud_HW, float), 0.0, 1.0)[..., None], 3, axis=-1)


def class_colours(classes: Sequence[str]) -> list[str]:
    """Return one ``#rrggbb`` a class: the usual one for a land cover known by name, else one fixed by its code."""
    colours: list[str] = []
    for code, name in enumerate(classes):
        usual = next((c for words, c in _CLASS_COLOURS.items() if any(w in name.lower() for w in words)), None)
        # Two classes may share a word ("broadleaf forest", "needle forest"): only the first gets the usual colour.
        colours.append(usual if usual is not None and usual not in colours else _colour_of_code(code))
    return colours


def class_map(label_HW: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Show class codes in their colours, anything else in :data:`UNLABELLED_COLOUR`; float (H, W, 3) in 0-1."""
    codes_HW = np.asarray(label_HW)
    palette = np.array([_rgb(colour) for colour in (*class_colours(classes), UNLABELLED_COLOUR)])
    known_HW = (codes_HW >= 0) & (codes_HW < len(classes))
    return np.asarray(palette[np.where(known_HW, codes_HW, len(classes))])


def draw_tiles(
    samples: Sequence[Mapping[str, object]],
    path: Path,
    *,
    optical_bands: Sequence[str],
    sar_bands: Sequence[str],
    classes: Sequence[str],
    captions: Sequence[str] = (),
) -> None:
    """Draw one row a tile: cloudy, SAR, cloud, restored, reference, label, predicted classes, and a legend.

    Args:
        samples: dataset samples; ``restored_CHW`` (reflectance) and ``predicted_HW`` (codes) may be added to them.
            Only panels that the first sample has are drawn; label grids may be coarser than pixels.
        path: PNG file.
        optical_bands: names of the optical bands.
        sar_bands: names of the SAR bands.
        classes: name of each label code.
        captions: text at the left of each row; the tile ids where none are given.
    """
    from matplotlib.figure import Figure

    keys = [key for key in _PANELS if key in samples[0]]
    rows = captions or [str(sample["id"]) for sample in samples]
    colour: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "optical_CHW": lambda image: true_colour(image, optical_bands),
        "restored_CHW": lambda image: true_colour(image, optical_bands),
        "clear_CHW": lambda image: true_colour(image, optical_bands),
        "sar_CHW": lambda image: sar_composite(image, sar_bands),
        "cloud_HW": cloud_map,
        "label_HW": lambda codes: class_map(codes, classes),
        "predicted_HW": lambda codes: class_map(codes, classes),
    }
    side, left, top, bottom = 1.7, 0.55, 0.3, 0.4  # inches
    width, height = left + side * len(keys) + 0.05, top + side * len(samples) + bottom
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.subplots(len(samples), len(keys), squeeze=False)
    figure.subplots_adjust(left / width, bottom / height, 1 - 0.05 / width, 1 - top / height, wspace=0.04, hspace=0.04)
    for row, (sample, caption) in enumerate(zip(samples, rows, strict=True)):
        for column, key in enumerate(keys):
            show(axes[row, column], colour[key](np.asarray(sample[key])))
            if row == 0:
                axes[row, column].set_title(_PANELS[key], fontsize=9)
        axes[row, 0].set_ylabel(caption, fontsize=7)
    if {"label_HW", "predicted_HW"} & set(keys):
        _legend(figure, [*classes, "no label"], [*class_colours(classes), UNLABELLED_COLOUR])
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, aside and renamed; equal figures give equal bytes."""
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", metadata={"Software": None})


def show(axes: "Axes", image_HW3: np.ndarray) -> None:
    """Show red, green and blue, 0-1, in a thin frame without ticks."""
    axes.imshow(image_HW3, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="#888888")


def _legend(figure: "Figure", names: Sequence[str], colours: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, edgecolor="#888888", linewidth=0.5, label=name)
        for name, colour in zip(names, colours, strict=True)
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False, handlelength=1.2,
        columnspacing=1.2,
    )  # fmt: skip


def _colour_of_code(code: int) -> str:
    # Steps of the golden ratio keep the hues of any number of codes apart.
    red, green, blue = colorsys.hls_to_rgb((0.83 + code * 0.618034) % 1.0, 0.45 + 0.2 * (code % 2), 0.55)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red / 255, green / 255, blue / 255
