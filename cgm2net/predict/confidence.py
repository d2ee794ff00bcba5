"""How sure a model is of scenes: what of its class probabilities and intervals `drift` compares.

Both sides are measured in one way: some windows of each scene, as the data stages left it. Of the training set only
scenes that the network did not learn from are taken, for it is surer of what it has learned by heart.

Axes: C bands, K classes, H, W pixels.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rasterio.windows import Window

from cgm2net.catalog import accepted_scenes, read_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.batch_features import CLASS_CONFIDENCE, HALF_WIDTH, SHARES
from cgm2net.data.dataset import TABLE
from cgm2net.errors import CatalogError, DataError, ModelError, RasterError, SceneError
from cgm2net.files import write_json
from cgm2net.predict.answer import Band, answers
from cgm2net.predict.model import LoadedModel, load_model
from cgm2net.predict.windows import WINDOW_PX
from cgm2net.streams import RasterFile

NUM_WINDOWS = 9
"""Windows that are looked at of a scene, spread over it: of a large one, the whole would take as long as a map."""

_ROLES = ("optical", "sar", "cloud")


def measure_confidence(incoming: Path, reference: Path, out_dir: Path, *, model: str) -> str:
    """Measure how sure a model is of two sets of scenes; each scene under a model is measured once and then kept.

    Args:
        incoming: folder like ``artifacts/``, with the outputs of the data stages up to ``cloudmask``.
        reference: the same of the training set, with those of ``tile``.
        out_dir: gets ``incoming.json`` and ``reference.json``, feature -> scene -> quantiles, and ``confidence.json``
            with the model, or why there is nothing to compare, last.
        model: as of :func:`cgm2net.predict.model.load_model`.

    Returns:
        What was measured, or why nothing was.

    Raises:
        BackendError: if the registry cannot be asked.
        MetricError: if the network's answer is not finite.
    """
    try:
        _require_store(model)
        tables = {"incoming": _scenes(incoming), "reference": _unlearned(reference)}
        loaded = load_model(model)
    except (ModelError, DataError, CatalogError) as error:
        write_json(out_dir / "confidence.json", {"why_not": str(error)})
        return f"{out_dir}: nothing measured: {error}"
    for side, table in tables.items():
        write_json(out_dir / f"{side}.json", _measured(table, loaded, out_dir / side))
    write_json(out_dir / "confidence.json", {"why_not": "", "model": f"{loaded.name} {loaded.version}".strip()})
    return f"{out_dir}: how sure {model} is of {' and '.join(f'{len(t)} {side}' for side, t in tables.items())} scenes"


def _require_store(model: str) -> None:
    """Refuse to ask a registry that is not there: asked, MLflow would make one."""
    if model.startswith("models:") and not os.environ.get("MLFLOW_TRACKING_URI") and not Path("mlflow.db").is_file():
        raise ModelError(f"{model}: no mlflow.db here and no MLFLOW_TRACKING_URI, so there is no champion yet")


def _unlearned(reference: Path) -> pd.DataFrame:
    """Return the scenes of the training set that training did not see."""
    path = reference / "tile" / TABLE
    if not path.is_file():
        raise DataError(f"{path}: not there, so nothing says which scenes the model was not trained on; run `tile`")
    tiles = pd.read_parquet(path, columns=["scene_id", "split"])
    scenes = _scenes(reference)
    return scenes[scenes["scene_id"].isin(tiles["scene_id"][tiles["split"] != "train"])]


def _scenes(folder: Path) -> pd.DataFrame:
    table = accepted_scenes(read_scenes(folder / "cloudmask" / "scenes.csv"))
    return table[(table[[*_ROLES]] != "").all(axis=1)].sort_values("scene_id")


def _measured(table: pd.DataFrame, model: LoadedModel, aside: Path) -> Mapping[str, Mapping[str, object]]:
    jobs = [
        SceneJob(
            scene_id=row["scene_id"], parameters={"model": model.sha256},
            inputs={role: Path(row[role]) for role in _ROLES},
        )
        for row in table.to_dict("records")
    ]  # fmt: skip
    results, _ = map_scenes(partial(_look, model=model), jobs, stage="confidence", out_dir=aside, num_workers=1)
    aside.rmdir()  # a scene leaves no file, only numbers
    sure = [found for found in results if found["accepted"]]
    return {name: {str(found["scene_id"]): found[name] for found in sure} for name in (CLASS_CONFIDENCE, HALF_WIDTH)}


def _look(job: SceneJob, _folder: Path, *, model: LoadedModel) -> Facts:
    """Measure one scene.

    Raises:
        SceneError: if its files do not fit the model, or nothing of it is measured by both sensors.
    """
    bands = {"optical": model.card.optical_bands, "sar": model.card.sar_bands, "cloud": None}
    confidences: list[np.ndarray] = []
    widths: list[np.ndarray] = []
    try:
        optical, sar, cloud = (RasterFile(job.inputs[role], bands=bands[role]) for role in _ROLES)
        with optical, sar, cloud:
            for window in _windows(*optical.grid.shape):
                sure_N, width_N = _answered(_band(optical, sar, cloud, window), model)
                confidences.append(sure_N)
                widths.append(width_N)
    except RasterError as error:
        raise SceneError(job.scene_id, str(error)) from error
    if not sum(part.size for part in confidences):
        raise SceneError(job.scene_id, "no pixel of its windows is measured by both sensors")
    return {CLASS_CONFIDENCE: _quantiles(confidences), HALF_WIDTH: _quantiles(widths)}


def _windows(height: int, width: int) -> list[Window]:
    """Return windows spread evenly over a scene; one that is smaller than a window is one."""
    ends = (max(side - WINDOW_PX, 0) for side in (height, width))
    tops, lefts = (sorted({*range(0, last, WINDOW_PX), last}) for last in ends)
    places = [(top, left) for top in tops for left in lefts]
    chosen = np.linspace(0, len(places) - 1, min(NUM_WINDOWS, len(places))).round().astype(int)
    return [
        Window(left, top, min(WINDOW_PX, width - left), min(WINDOW_PX, height - top))
        for top, left in (places[number] for number in chosen)
    ]


def _band(optical: RasterFile, sar: RasterFile, cloud: RasterFile, window: Window) -> Band:
    seen, heard = optical.part(window), sar.part(window)
    return Band(
        window=window,
        optical_CHW=seen.pixels_CHW,
        sar_CHW=np.where(heard.valid_HW, heard.pixels_CHW, np.nan).astype(np.float32),
        cloud_HW=cloud.part(window).pixels_CHW[0].astype(np.float32),
        measured_HW=seen.valid_HW,
        heard_HW=heard.valid_HW,
    )


def _answered(band: Band, model: LoadedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence 0-1 and half-width [reflectance, mean over bands] of the pixels that both sensors measured."""
    usable_HW = band.measured_HW & band.heard_HW
    height, width = usable_HW.shape
    num_bands = len(model.card.optical_bands)
    for _, answer_CHW in answers(band, [(band.window.row_off, band.window.col_off)], model=model, batch_size=1):
        inside_CHW = answer_CHW[:, :height, :width][:, usable_HW]
        return inside_CHW[2 * num_bands :].max(axis=0), inside_CHW[num_bands : 2 * num_bands].mean(axis=0)
    return np.empty(0, np.float32), np.empty(0, np.float32)


def _quantiles(parts: Sequence[np.ndarray]) -> list[float]:
    return [round(float(value), 6) for value in np.quantile(np.concatenate(parts), SHARES)]
