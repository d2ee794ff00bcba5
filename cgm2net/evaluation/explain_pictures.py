"""One page a tile that shows what the network did with it: the tile, then every part, one row a stage.

Axes: H and W pixels, h and w tokens, Q tokens that are followed, 3 colours.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgm2net import pictures
from cgm2net.evaluation.explain_layout import Block, Panel, Row, Scale, map_panel, page, short
from cgm2net.evaluation.explain_record import Look, Record, StageRecord
from cgm2net.model.restoration import WINDOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR_SHOWN = 0.15
"""Mean error of the bands, reflectance, that is shown as the brightest."""
SHARE_SHOWN = 0.05
"""Deviation of MBF's weight from an even share that is at least needed for the full colour."""

_FOLLOWED = ("#e6194b", "#0072ff", "#c77700")
_VERDICTS = {
    "both_right": ("#dcdcdc", "both right"),
    "only_before": ("#d7301f", "only before"),
    "only_after": ("#1a9641", "only after"),
    "both_wrong": ("#3f3f46", "both wrong"),
}
_ERROR, _SHARE, _CLOUD = Scale("inferno", 0.0, ERROR_SHOWN), Scale("viridis", 0.0, 1.0), Scale("gray", 0.0, 1.0)

_TILE_READING = """\
Errors: mean |difference| of the bands to the reference, in reflectance; expected is what the network itself says. \
The gate is the share of the network's own image in the answer; the rest is the input.
Classes before: from the fused features alone, at half resolution; after: once the restored features were seen. \
Below every map: its scale, and its means over clouded and over clear pixels (further down, tokens)."""
_CGFR_READING = """\
Gate: how much of a token's optical feature is replaced. Changed: how far that moves it. \
Found clear: the share of the window attention that landed on clear tokens; the rest went to the null token.
Looked: three clouded tokens (rings) and the tokens that they took optical values from, in their colours, inside their \
windows (squares), with what each found clear; wider ones look at cells of tokens."""
_CGSI_READING = """\
Step: how much an optical token writes into the scan's state; damped by the mask, a clouded one hardly does, so that \
the state is carried across. Handed: what a stream was given by the other, |r| / (|r| + |its own|).
Moved: how far CGSI as a whole moves each stream. Weight of MBF: that of optics over that of both, mean of the \
channels; white is even, blue leans on optics, red on SAR."""


def draw(
    seen: Record,
    sample: Mapping[str, Any],
    numbers: Mapping[str, Any],
    verdict_HW: np.ndarray,
    path: Path,
    *,
    title: str,
    optical_bands: Sequence[str],
    sar_bands: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Draw the page.

    Args:
        seen: what the network did with the sample.
        sample: a dataset's sample.
        numbers: of :func:`cgm2net.evaluation.explain.numbers`.
        verdict_HW: who names each pixel's class right, a place in ``VERDICTS`` there, on the label grid.
        path: PNG file; equal arguments give equal bytes.
        title: first line of the page.
        optical_bands: names of the optical bands.
        sar_bands: names of the SAR bands.
        classes: name of each label code.
    """
    cloudy_HW3 = pictures.true_colour(np.asarray(sample["optical_CHW"]), optical_bands)
    tile: list[Row] = [
        ("images", _images(seen, sample, numbers, bands=optical_bands, sar_bands=sar_bands)),
        ("doubt and classes", _classes(seen, sample, numbers, verdict_HW, classes)),
    ]
    blocks = [
        Block("The tile", _TILE_READING, tile),
        Block("CGFR restores: o' = o + m g (c - o)", _CGFR_READING, _cgfr(seen, numbers, cloudy_HW3)),
        Block("CGSI lets the streams interact, MBF fuses them", _CGSI_READING, _cgsi(seen, numbers)),
    ]
    key = _key(numbers["classes"], classes)
    pictures.save(page(blocks, title=title, facts=_facts(numbers), key=key), path)


def _key(judged: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return colours and what they mean: verdicts with their shares, classes."""
    key = list(zip(pictures.class_colours(classes), classes, strict=True))
    if not judged["all"]["pixels"]:
        return key
    in_cloud = judged["cloudy"] if judged["cloudy"]["pixels"] else None
    verdicts = [
        (colour, f"{words} {judged['all'][name]:.1f} %" + (f", cloud {in_cloud[name]:.1f} %" if in_cloud else ""))
        for name, (colour, words) in _VERDICTS.items()
    ]
    return [*verdicts, *key, (pictures.UNLABELLED_COLOUR, "no label")]


def _facts(numbers: Mapping[str, Any]) -> str:
    cover, facts = numbers["cloud_cover"], []
    if cover is not None:
        facts.append(f"{100 * cover:.0f} % cloud")
    for group, words in (("cloudy", "under cloud"), ("clear", "where clear")):
        errors = {name: means[group] for name, means in numbers["error"].items() if means[group] is not None}
        said = []
        if "restored" in errors:
            said.append(f"error {short(errors['cloudy_image'])}, restored {short(errors['restored'])}")
        judged = numbers["classes"][group]
        if judged["pixels"]:
            before, after = (judged["both_right"] + judged[name] for name in ("only_before", "only_after"))
            said.append(f"classes right {before:.1f} % before, {after:.1f} % after restoration")
        facts += [f"{words}: {'; '.join(said)}"] if said else []
    return "   ·   ".join(facts)


def error_maps(seen: Record, sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the mean error of the bands of ``cloudy_image`` and ``restored``, (H, W), where there is a reference."""
    if "clear_CHW" not in sample:
        return {}
    images = {"cloudy_image": np.asarray(sample["optical_CHW"]), "restored": _restored(seen)}
    return {name: np.abs(image - np.asarray(sample["clear_CHW"])).mean(axis=0) for name, image in images.items()}


def _images(
    seen: Record,
    sample: Mapping[str, Any],
    numbers: Mapping[str, Any],
    *,
    bands: Sequence[str],
    sar_bands: Sequence[str],
) -> list[Panel]:
    errors = error_maps(seen, sample)
    panels = [
        _coloured("cloudy image", np.asarray(sample["optical_CHW"]), bands),
        Panel(title="SAR", image_HW3=pictures.sar_composite(np.asarray(sample["sar_CHW"]), sar_bands)),
        map_panel("cloud mask", np.asarray(sample["cloud_HW"]), _CLOUD, numbers["cloud"]),
        _coloured("restored", _restored(seen), bands),
    ]
    if not errors:
        return panels
    return [
        *panels,
        _coloured("reference", np.asarray(sample["clear_CHW"]), bands),
        map_panel("error of the cloudy image", errors["cloudy_image"], _ERROR, numbers["error"]["cloudy_image"]),
        map_panel("error of the restored image", errors["restored"], _ERROR, numbers["error"]["restored"]),
    ]


def _coloured(title: str, image_CHW: np.ndarray, bands: Sequence[str]) -> Panel:
    return Panel(title=title, image_HW3=pictures.true_colour(image_CHW, bands))


def _restored(seen: Record) -> np.ndarray:
    return np.asarray(seen.prediction.clear_BCHW[0].float().cpu())


def _classes(
    seen: Record, sample: Mapping[str, Any], numbers: Mapping[str, Any], verdict_HW: np.ndarray, classes: Sequence[str]
) -> list[Panel]:
    expected_HW = seen.prediction.spread_BCHW[0].float().cpu().numpy().mean(axis=0)
    judged = bool(numbers["classes"]["all"]["pixels"])
    codes = {
        **({"label": np.asarray(sample["label_HW"])} if judged else {}),
        "classes before restoration": seen.coarse_KHW.argmax(axis=0),
        "classes after restoration": seen.prediction.logits_BKHW[0].cpu().numpy().argmax(axis=0),
    }
    palette = np.array([_rgb(colour) for colour, _ in _VERDICTS.values()] + [_rgb("#ffffff")])
    right = Panel(title="who named the class right", image_HW3=palette[np.minimum(verdict_HW, len(_VERDICTS))])
    return [
        map_panel("error that it expected", expected_HW, _ERROR, numbers["error"]["expected"]),
        map_panel("gate of the answer", seen.gate_HW, _SHARE, numbers["gate"]),
        *(Panel(title=name, image_HW3=pictures.class_map(codes_HW, classes)) for name, codes_HW in codes.items()),
        *([right] if judged else []),
    ]


def _cgfr(seen: Record, numbers: Mapping[str, Any], cloudy_HW3: np.ndarray) -> list[Row]:
    if not all("gate" in stage.maps for stage in seen.stages):
        return []
    grey_HW3 = np.repeat(0.4 + 0.6 * cloudy_HW3.mean(axis=-1, keepdims=True), 3, axis=-1)
    changed = Scale("magma", 0.0, _highest(seen, "restored") or 1.0)
    num_looks = max(len(stage.looks) for stage in seen.stages)
    rows: list[Row] = []
    for label, stage, means in _stages(seen, numbers):
        found, looked = [], []
        for look in stage.looks:
            name, reach = f"found_{look.pool}", f"window of {WINDOW * look.pool * stage.stride} px"
            found.append(map_panel(f"found clear, {reach}", stage.maps[name], _SHARE, means[name]))
            image_HW3 = _tinted(grey_HW3, look, stage.stride)
            marks = partial(_mark, look=look, stride=stage.stride, followed_Q2=seen.followed_Q2)
            looked.append(Panel(title=f"looked, {reach}", image_HW3=image_HW3, marks=marks))
        gap = [None] * (num_looks - len(stage.looks))
        head = [
            map_panel("cloud", stage.cloud_hw, _CLOUD, numbers["stages"][len(rows)]["cloud"]),
            map_panel("gate m g", stage.maps["gate"], _SHARE, means["gate"]),
            map_panel("changed, |o' - o| / |o|", stage.maps["restored"], changed, means["restored"]),
        ]
        rows.append((label, [*head, *found, *gap, *looked, *gap]))
    return rows


def _cgsi(seen: Record, numbers: Mapping[str, Any]) -> list[Row]:
    step = Scale("magma", 0.0, _highest(seen, "delta") or 1.0)
    moved = Scale("magma", 0.0, _highest(seen, "moved_optical", "moved_sar") or 1.0)
    apart = max(SHARE_SHOWN, _highest(seen, "optical_share", around=0.5))
    weight = Scale("RdBu", round(0.5 - apart, 4), round(0.5 + apart, 4))
    shown = {
        "delta": ("optical step", step),
        "damped": ("optical step, damped", step),
        "to_optical": ("SAR handed to optics", _SHARE),
        "to_sar": ("optics handed to SAR", _SHARE),
        "moved_optical": ("moved optics, |o'' - o'| / |o'|", moved),
        "moved_sar": ("moved SAR, |s'' - s'| / |s'|", moved),
        "optical_share": ("MBF's weight of optics", weight),
    }
    rows: list[Row] = []
    for label, stage, means in _stages(seen, numbers):
        here = [name for name in shown if name in stage.maps]
        panels = [map_panel(shown[name][0], stage.maps[name], shown[name][1], means[name]) for name in here]
        rows += [(label, panels)] if panels else []
    return rows


def _stages(seen: Record, numbers: Mapping[str, Any]) -> list[tuple[str, StageRecord, Mapping[str, Any]]]:
    return [
        (f"stage {index + 1}, tokens of {stage.stride} px", stage, numbers["stages"][index]["means"])
        for index, stage in enumerate(seen.stages)
    ]


def _highest(seen: Record, *names: str, around: float = 0.0) -> float:
    """Return the largest value of maps in all stages, or deviation from a middle, rounded up to two digits."""
    maps = [stage.maps[name] for stage in seen.stages for name in names if name in stage.maps]
    highest = max((float(np.abs(map_hw - around).max()) for map_hw in maps), default=0.0)
    if highest == 0.0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(highest)) - 1)
    return round(math.ceil(highest / unit) * unit, 12)


def _tinted(grey_HW3: np.ndarray, look: Look, stride: int) -> np.ndarray:
    """Lay the attention of the followed tokens over the image; the largest weight of each in its full colour."""
    image_HW3 = grey_HW3
    for weight_hw, colour in zip(look.weights_Qhw, _FOLLOWED, strict=False):
        strength_hw = np.sqrt(weight_hw / max(float(weight_hw.max()), 1e-6))
        strength_HW1 = strength_hw.repeat(stride, axis=0).repeat(stride, axis=1)[..., None]
        image_HW3 = image_HW3 + strength_HW1 * (np.array(_rgb(colour)) - image_HW3)
    return image_HW3


def _mark(axes: "Axes", *, look: Look, stride: int, followed_Q2: np.ndarray) -> None:
    """Draw ring, window and found share of the followed tokens."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    side = WINDOW * look.pool * stride
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    for (row, column), weight_hw, colour in zip(followed_Q2, look.weights_Qhw, _FOLLOWED, strict=False):
        corner = column // side * side - 0.5, row // side * side - 0.5
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=0.8))
        for thick, ink in ((2.0, "white"), (1.0, colour)):
            axes.plot(
                column, row, "o", markersize=6, markerfacecolor="none", markeredgecolor=ink, markeredgewidth=thick
            )
        x, y = np.clip(column, 0.12 * width, 0.88 * width), row + (0.08 if row < 0.85 * height else -0.08) * height
        found = f"{100 * weight_hw.sum():.0f} %"
        words = axes.text(x, y, found, fontsize=6.5, color=colour, ha="center", va="center", fontweight="bold")
        words.set_path_effects([withStroke(linewidth=1.8, foreground="white")])


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
