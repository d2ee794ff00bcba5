"""Many scenes: one after another, those done before left as they are, those refused kept as rows with a reason."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cgm2net.errors import DataError, RasterError
from cgm2net.files import write_aside
from cgm2net.predict.inputs import row_as_inputs
from cgm2net.predict.item import ITEM_FILE
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.provenance import key_of
from cgm2net.predict.run import PredictSettings, predict_scene
from cgm2net.predict.scene import SceneInputs

_log = logging.getLogger(__name__)

COLUMNS = (
    "scene_id",
    "status",
    "reason",
    "cloud_cover",
    "shift",
    "megapixels",
    "seconds",
    "model",
    "version",
    "folder",
)


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What became of the scenes."""

    made: int
    kept: int
    "Predicted before, with the same files, model, settings and code."
    refused: int
    table: Path
    "``scenes.csv``, one row a scene, with the reason of each refusal."


def predict_scenes(
    rows: Iterable[Mapping[str, str]], model: LoadedModel, out_dir: Path, *, settings: PredictSettings
) -> BatchReport:
    """Predict every scene of a catalogue or folder.

    Interrupted and started again, it goes on with the first scene that is not complete.

    Args:
        rows: see :mod:`cgm2net.predict.inputs`.
        model: see :func:`cgm2net.predict.model.load_model`.
        out_dir: gets a folder a scene, and ``scenes.csv``.
        settings: of every scene.

    Raises:
        DataError: if every scene is refused; names the first reasons.
        FetchError: at a fault of the network; what is done stays.
    """
    results = []
    for row in sorted(rows, key=lambda row: row["scene_id"]):
        results.append(_one(row, model, out_dir, settings=settings))
        _write(results, model, out_dir / "scenes.csv")
    counts = pd.Series([result["status"] for result in results]).value_counts()
    if counts.get("refused", 0) == len(results):
        reasons = "; ".join(f"{result['scene_id']}: {result['reason']}" for result in results[:5])
        raise DataError(f"none of {len(results)} scenes could be predicted: {reasons}")
    return BatchReport(
        made=int(counts.get("made", 0)), kept=int(counts.get("kept", 0)), refused=int(counts.get("refused", 0)),
        table=out_dir / "scenes.csv",
    )  # fmt: skip


def is_done(inputs: SceneInputs, model: LoadedModel, out_dir: Path, *, settings: PredictSettings) -> bool:
    """Whether a scene's products are there and made of the same files, by the same model, settings and code."""
    item = out_dir / inputs.scene_id / ITEM_FILE
    if not item.is_file():
        return False
    properties = json.loads(item.read_text()).get("properties", {})
    return bool(properties.get("cgm2net:key") == key_of(inputs, model, settings))


def _one(row: Mapping[str, str], model: LoadedModel, out_dir: Path, *, settings: PredictSettings) -> dict[str, object]:
    result: dict[str, object] = {"scene_id": row["scene_id"], "reason": "", "folder": row["scene_id"]}
    try:
        inputs = row_as_inputs(row)
        if is_done(inputs, model, out_dir, settings=settings):
            return {**result, "status": "kept"}
        report = predict_scene(inputs, model, out_dir, settings=settings)
    except RasterError as error:
        _log.warning("scene %s is refused: %s", row["scene_id"], error)
        return {**result, "status": "refused", "reason": str(error), "folder": ""}
    _log.info("%s", report)
    return {
        **result, "status": "made", "cloud_cover": report.cloud_cover, "shift": report.shift,
        "megapixels": report.megapixels, "seconds": sum(report.seconds.values()),
    }  # fmt: skip


def _write(results: list[dict[str, object]], model: LoadedModel, path: Path) -> None:
    table = pd.DataFrame(results, columns=list(COLUMNS))
    table["model"], table["version"] = model.name, model.version
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n", float_format="%.6g")
