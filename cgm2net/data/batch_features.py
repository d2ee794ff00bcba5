"""What a batch of validated scenes looks like in numbers: for every feature one row a scene, read from stage outputs.

Axes: N scenes, K values that stand for a scene, B classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cgm2net.catalog import read_scenes
from cgm2net.data.facts import SPREAD
from cgm2net.errors import DataError
from cgm2net.files import read_json
from cgm2net.sensors import BANDS, LABEL_IGNORE

Kind = Literal["optical", "reference", "sar", "cloud", "shift", "time", "classes", "confidence"]

CLASS_MIX = "class mix"
CLASS_CONFIDENCE = "class confidence"
HALF_WIDTH = "half-width of the interval"

_STAGES = ("cloudmask", "coregister", "validate")  # the last that has run knows all that the earlier ones found
_MEASURED: tuple[Kind, ...] = ("optical", "reference", "sar")
_NUM_VALUES = 50
SHARES = (np.arange(_NUM_VALUES) + 0.5) / _NUM_VALUES
"""Of a scene's pixels, below the quantiles that stand for it."""

_CONFIDENCE_UNITS = {CLASS_CONFIDENCE: "share", HALF_WIDTH: "reflectance"}

# Feature: column of the scene table, kind, unit.
_COLUMNS: dict[str, tuple[str, Kind, str]] = {
    "cloud cover": ("cloud_cover", "cloud", "share"),
    "SAR shift": ("shift_px", "shift", "px"),
    "SAR shift residual": ("shift_rmse_px", "shift", "px"),
    "gap between acquisitions": ("gap_days", "time", "days"),
}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature of a batch."""

    kind: Kind
    "What it is a feature of."
    unit: str
    "Of its values."
    values_NK: np.ndarray
    "Values that stand for each scene, equally likely: evenly spread quantiles of a band's pixels, or one number."


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The accepted scenes of a run of the data stages."""

    num_scenes: int
    "Accepted ones."
    num_refused: int
    "Those that are not looked at."
    features: dict[str, Feature]
    "By name; of scenes that have it, in the order of their ids."
    class_shares: tuple[dict[int, float], ...]
    "Label code -> share of the labelled pixels, for every scene with labels."


def read_batch(folder: Path, *, confidence: Path | None = None) -> Batch:
    """Read what the data stages found of a batch.

    Args:
        folder: holds the outputs of `validate` and, where they ran, `coregister` and `cloudmask`, by these names; or
            is the output of one of them, with ``scenes.csv`` and perhaps ``verdicts.json``.
        confidence: file of :func:`cgm2net.predict.confidence.measure_confidence`, where that ran.

    Raises:
        CatalogError: if there is no scene table.
        DataError: if no scene of it is accepted.
    """
    stages = [folder / name for name in _STAGES if (folder / name / "scenes.csv").is_file()]
    table = read_scenes((stages[0] if stages else folder) / "scenes.csv").sort_values("scene_id")
    accepted = table[table["accepted"]]
    if accepted.empty:
        raise DataError(f"{folder}: none of {len(table)} scenes is accepted; read the reasons in its scenes.csv")
    verdicts = next(
        (path for path in (folder / "validate/verdicts.json", folder / "verdicts.json") if path.is_file()), None
    )
    found = {} if verdicts is None else read_json(verdicts)
    files = [_files_of(found.get(scene_id)) for scene_id in accepted["scene_id"]]
    return Batch(
        num_scenes=len(accepted), num_refused=len(table) - len(accepted),
        features={**_spreads(files), **_numbers(accepted), **_confidence(confidence)},
        class_shares=tuple(shares for scene in files if (shares := _class_shares(scene.get("label", {})))),
    )  # fmt: skip


def _files_of(verdict: object) -> dict[str, dict[str, object]]:
    files = verdict.get("files", {}) if isinstance(verdict, dict) else {}
    return files if isinstance(files, dict) else {}


def _spreads(files: list[dict[str, dict[str, object]]]) -> dict[str, Feature]:
    rows: dict[tuple[Kind, str], list[np.ndarray]] = {}
    for scene in files:
        for role in _MEASURED:
            spread = scene.get(role, {}).get("spread", {})
            assert isinstance(spread, dict)
            for band, quantiles in spread.items():
                rows.setdefault((role, band), []).append(np.interp(SHARES, SPREAD, quantiles))
    return {
        f"{'SAR' if role == 'sar' else role} {band}": Feature(
            kind=role, unit=BANDS[band].unit if band in BANDS else "", values_NK=np.stack(values)
        )
        for (role, band), values in sorted(rows.items(), key=lambda item: _MEASURED.index(item[0][0]))
    }


def _numbers(accepted: pd.DataFrame) -> dict[str, Feature]:
    table = accepted
    if {"dx_px", "dy_px"} <= set(table.columns):  # where nothing could be measured, zeros stand there
        measured = table["shift_status"] != "unsure"
        length_px = pd.Series(np.hypot(table["dx_px"], table["dy_px"]), index=table.index)
        residual_px = table["shift_rmse_px"].where(measured)
        table = table.assign(shift_px=length_px.where(measured), shift_rmse_px=residual_px)
    features = {}
    for name, (column, kind, unit) in _COLUMNS.items():
        if column in table.columns and len(values := table[column].dropna()):
            features[name] = Feature(kind=kind, unit=unit, values_NK=values.to_numpy(float)[:, None])
    return features


def _confidence(path: Path | None) -> dict[str, Feature]:
    found = {} if path is None else read_json(path)
    features = {}
    for name, unit in _CONFIDENCE_UNITS.items():
        scenes = found.get(name, {})
        assert isinstance(scenes, dict)
        if scenes:
            rows = np.array([values for _, values in sorted(scenes.items())], float)
            features[name] = Feature(kind="confidence", unit=unit, values_NK=rows)
    return features


def _class_shares(label: dict[str, object]) -> dict[int, float]:
    counts = label.get("counts", {})
    assert isinstance(counts, dict)
    known = {int(code): int(count) for code, count in counts.items() if int(code) != LABEL_IGNORE}
    total = sum(known.values())
    return {code: count / total for code, count in known.items()}
