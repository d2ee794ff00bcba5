"""Command ``explain``, and what ``evaluate`` shows beside its metrics: what the network did with a tile, in numbers.

Axes: Q tokens that are followed, h and w tokens of a stage, H and W pixels, K classes.
"""

import difflib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from cgm2net.data.dataset import TABLE, TileDataset
from cgm2net.errors import DataError
from cgm2net.evaluation.explain_pictures import draw, error_maps
from cgm2net.evaluation.explain_record import Record, StageRecord, record
from cgm2net.evaluation.report import ranked_tiles
from cgm2net.evaluation.score import Tiles
from cgm2net.files import write_json
from cgm2net.model.interface import Network

VERDICTS = ("both_right", "only_before", "only_after", "both_wrong")
"""Who names a pixel's class right: the network before it has seen the restored features, or after."""
NOT_JUDGED = 255
_RANKS = ("median", "worst")

Groups = dict[str, float | None]
"""Mean of ``all``, ``clear`` and ``cloudy`` pixels; none where there is none."""


def find_tile(tiles_dir: Path, name: str) -> tuple[TileDataset, int]:
    """Return the split that holds a tile, and its row: the tile of this id, or the most clouded of this scene.

    Raises:
        DataError: if no tile or scene is called so; names those that are nearly.
    """
    if not (tiles_dir / TABLE).is_file():
        raise DataError(f"{tiles_dir}: no tiles there; run the stage `tile`")
    table = pd.read_parquet(tiles_dir / TABLE)
    rows = table[table["tile_id"] == name]
    if rows.empty:
        rows = table[table["scene_id"] == name].sort_values("cloud_cover", ascending=False, kind="stable")
    if rows.empty:
        known = [*table["scene_id"].unique(), *table["tile_id"]]
        near = difflib.get_close_matches(name, known, n=4) or sorted(known)[:4]
        raise DataError(f"{name}: no tile or scene of {tiles_dir}; did you mean {', '.join(near)}?")
    dataset = TileDataset(tiles_dir, split=rows.iloc[0]["split"])
    return dataset, dataset.table["tile_id"].tolist().index(rows.iloc[0]["tile_id"])


def explain_tile(
    network: Network, tiles: Tiles, index: int, out_dir: Path, *, cloud_threshold: float = 0.5, rank: str = ""
) -> tuple[Path, Path]:
    """Draw what the network did with a tile, and write the numbers behind.

    Args:
        network: a CGM2Net.
        tiles: the set that the tile is of.
        index: its row.
        out_dir: gets ``explain_TILE.png`` and ``explain_TILE.json``.
        cloud_threshold: a pixel with a higher cloud probability counts as cloudy.
        rank: where it stands among the others, for the title.

    Returns:
        Picture and numbers.

    Raises:
        ModelError: if the network is another, which has no such parts.
    """
    sample = tiles[index]
    device = next(network.parameters()).device
    pixels, labels = tuple(sample["optical_CHW"].shape[1:]), tuple(sample["label_HW"].shape)
    given = (sample["optical_CHW"], sample["sar_CHW"], sample["cloud_HW"].unsqueeze(0))
    seen = record(
        network.eval(), *(tensor.unsqueeze(0).to(device) for tensor in given),
        label_shape=None if labels == pixels else labels,
    )  # fmt: skip
    found = numbers(seen, sample, cloud_threshold=cloud_threshold)
    picture, facts = (out_dir / f"explain_{sample['id']}.{kind}" for kind in ("png", "json"))
    verdicts = agreement(*class_maps(seen), _known_labels(sample, num_classes=len(tiles.classes)))
    draw(
        seen, sample, found, verdicts, picture, title=" · ".join([str(sample["id"]), *([rank] if rank else [])]),
        optical_bands=tiles.optical_bands, sar_bands=tiles.sar_bands, classes=tiles.classes,
    )  # fmt: skip
    write_json(facts, found)
    return picture, facts


def explain_ranked(
    network: Network, tiles: Tiles, table: pd.DataFrame, out_dir: Path, *, cloud_threshold: float
) -> None:
    """Explain the middle and the worst tile of an evaluation.

    Args:
        network: a CGM2Net.
        tiles: what was scored.
        table: as :func:`cgm2net.evaluation.report.tile_table` makes it.
        out_dir: see :func:`explain_tile`.
        cloud_threshold: likewise.
    """
    ranked = ranked_tiles(table, 1)
    rows = {row: rank for rank in _RANKS for row in ranked[rank]}
    for row, rank in rows.items():
        explain_tile(network, tiles, row, out_dir, cloud_threshold=cloud_threshold, rank=f"the {rank} test tile")


def numbers(seen: Record, sample: Mapping[str, Any], *, cloud_threshold: float) -> dict[str, Any]:
    """Return what the pictures show as means over clouded and clear pixels, ready for JSON.

    Args:
        seen: what the network did with the sample.
        sample: a dataset's sample.
        cloud_threshold: a pixel, or a token, with a higher cloud probability counts as cloudy.
    """
    cloud_HW, valid_HW = (np.asarray(sample[name]) for name in ("cloud_HW", "valid_HW"))
    split = partial(groups, cloud_HW=cloud_HW, known_HW=valid_HW, threshold=cloud_threshold)
    expected_HW = _first(seen.prediction.spread_BCHW).mean(axis=0)
    errors = error_maps(seen, sample) | {"expected": expected_HW}
    return {
        "tile_id": str(sample["id"]),
        "cloud_cover": float((cloud_HW > cloud_threshold)[valid_HW].mean()) if valid_HW.any() else None,
        "cloud": split(cloud_HW),
        "error": {name: split(error_HW) for name, error_HW in errors.items()},
        "gate": split(seen.gate_HW),
        "classes": _class_numbers(seen, sample, cloud_threshold=cloud_threshold),
        "followed": seen.followed_Q2.tolist(),
        "stages": [_stage_numbers(stage, threshold=cloud_threshold) for stage in seen.stages],
    }


def groups(map_HW: np.ndarray, *, cloud_HW: np.ndarray, known_HW: np.ndarray, threshold: float) -> Groups:
    """Return the mean of a map over all, clear and cloudy pixels; what is not known does not count."""
    cloudy_HW = cloud_HW > threshold
    chosen = {"all": known_HW, "clear": known_HW & ~cloudy_HW, "cloudy": known_HW & cloudy_HW}
    return {name: float(map_HW[part].mean(dtype=float)) if part.any() else None for name, part in chosen.items()}


def class_maps(seen: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return class codes (H, W) on the label grid, before the restored features are seen and after."""
    return seen.coarse_KHW.argmax(axis=0), _first(seen.prediction.logits_BKHW).argmax(axis=0)


def agreement(before_HW: np.ndarray, after_HW: np.ndarray, label_HW: np.ndarray) -> np.ndarray:
    """Return the place in :data:`VERDICTS` of every pixel, uint8; :data:`NOT_JUDGED` where the label is negative."""
    verdict_HW = 2 * (before_HW != label_HW) + (after_HW != label_HW)
    return np.where(label_HW < 0, NOT_JUDGED, verdict_HW).astype(np.uint8)


def _class_numbers(seen: Record, sample: Mapping[str, Any], *, cloud_threshold: float) -> dict[str, object]:
    """Return, for all, clear and cloudy pixels, how many are judged and the percentage of every verdict."""
    before_HW, after_HW = class_maps(seen)
    verdict_HW = agreement(before_HW, after_HW, _known_labels(sample, num_classes=len(seen.coarse_KHW)))
    cloudy_HW = _on_label_grid(sample["cloud_HW"], verdict_HW.shape) > cloud_threshold
    chosen = {"all": np.ones_like(cloudy_HW), "clear": ~cloudy_HW, "cloudy": cloudy_HW}
    found: dict[str, object] = {}
    for name, part in chosen.items():
        verdicts = verdict_HW[part & (verdict_HW != NOT_JUDGED)]
        shares = np.bincount(verdicts, minlength=len(VERDICTS)) / max(verdicts.size, 1) * 100.0
        found[name] = {"pixels": int(verdicts.size)} | dict(zip(VERDICTS, shares.tolist(), strict=True))
    return found


def _known_labels(sample: Mapping[str, Any], *, num_classes: int) -> np.ndarray:
    """Return class codes (H, W), -1 where there is none or half of the pixels were not measured."""
    label_HW = np.asarray(sample["label_HW"])
    known_HW = (label_HW < num_classes) & (_on_label_grid(sample["valid_HW"], label_HW.shape) >= 0.5)
    return np.where(known_HW, label_HW, -1)


def _on_label_grid(pixels_HW: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(F.adaptive_avg_pool2d(pixels_HW[None].float(), (shape[0], shape[1]))[0])


def _stage_numbers(stage: StageRecord, *, threshold: float) -> dict[str, object]:
    every_hw = np.ones(stage.cloud_hw.shape, bool)
    split = partial(groups, cloud_HW=stage.cloud_hw, known_HW=every_hw, threshold=threshold)
    nothing = {name.removeprefix("found_"): 1.0 - map_hw for name, map_hw in stage.maps.items() if "found_" in name}
    return {
        "stride": stage.stride,
        "tokens": list(stage.cloud_hw.shape),
        "cloud": split(stage.cloud_hw),
        "means": {name: split(map_hw) for name, map_hw in stage.maps.items()},
        "found_nothing": {pool: split(map_hw) for pool, map_hw in nothing.items()},
        "followed_found": {str(look.pool): look.weights_Qhw.sum(axis=(1, 2)).tolist() for look in stage.looks},
    }


def _first(batch: torch.Tensor) -> np.ndarray:
    return np.asarray(batch[0].float().cpu())
