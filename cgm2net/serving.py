"""The network behind MLflow's pyfunc interface, as a model from code: this file is the model, no object is pickled.

MLflow runs a copy of it that lies with the weights and the library's sources; nothing else imports it. It takes either

* arrays: a dict of ``optical`` (B, C_o, H, W) reflectance 0-1, ``sar`` (B, C_s, H, W) 0-1 and ``cloud`` (B, 1, H, W)
  0-1, bands in the order of the card, height and width multiples of 8. Over HTTP ``{"inputs": {"optical": …}}``. Or
* a table of scenes: columns ``optical`` and ``sar`` (paths of rasters), and where wanted ``cloud``, ``scene_id``,
  ``out`` (folder, ``maps`` by default). Over HTTP ``{"dataframe_records": [{"optical": …}]}``. Paths are below the
  folder that the environment names in ``CGM2NET_SERVE_ROOT``; without it, and for paths that leave it, the request is
  refused.

Scoring servers call from several threads; the network works for one at a time.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cgm2net.errors import CGM2NetError, ModelError
from cgm2net.files import sha256_file
from cgm2net.model.calibration import half_width, probabilities
from cgm2net.predict.model import load_model
from cgm2net.predict.run import PredictSettings, predict_scene
from cgm2net.predict.scene import files_as_inputs

ROOT_VARIABLE = "CGM2NET_SERVE_ROOT"
LIMIT_VARIABLE = "CGM2NET_SERVE_MAX_PIXELS"
DEFAULT_MAX_PIXELS = 4096 * 4096
"""Of one request of arrays, over the whole batch."""

_INPUTS = ("optical", "sar", "cloud")
_COLUMNS = {"optical", "sar", "cloud", "scene_id", "out"}


class ServedNetwork(PythonModel):
    """Weights and card from the model's artifacts, on CUDA where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights, strictly."""
        self.model = load_model(context.artifacts["model"])
        self.settings = PredictSettings()
        self._turn = threading.Lock()
        torch.set_num_threads(self.settings.num_threads)

    # mlflow reads hints at run time and warns of all that are not lists of records, and of there being none.
    _skip_type_hint_validation = True

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Restore and map.

        Args:
            context: not used here.
            model_input: arrays or a table; see the module.
            params: none are known.

        Returns:
            Of arrays, a dict of ``clear`` (B, C_o, H, W) reflectance, not clamped, ``half_width`` of its 90 % interval,
            ``logits`` and ``probabilities`` (B, K, H, W). Of a table, one of ``scene_id``, ``folder`` and ``products``
            (file name -> SHA-256).

        Raises:
            MlflowException: ``INVALID_PARAMETER_VALUE`` (400 over HTTP), saying what is wrong with the request.
        """
        try:
            if isinstance(model_input, pd.DataFrame):
                return self._scenes(model_input)
            return self._arrays(_checked(model_input))
        except CGM2NetError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(arrays[name]).to(self.model.device) for name in _INPUTS]
        cloud_BHW = tensors[2].flatten(0, 1)
        with self._turn, torch.inference_mode():
            prediction = self.model.network(*tensors)
            calibration = self.model.card.calibration
            answers = {
                "clear": prediction.clear_BCHW,
                "half_width": half_width(prediction.spread_BCHW, cloud_BHW, calibration),
                "logits": prediction.logits_BKHW,
                "probabilities": probabilities(prediction.logits_BKHW, cloud_BHW, calibration),
            }
            return {name: tensor.cpu().numpy() for name, tensor in answers.items()}

    def _scenes(self, table: pd.DataFrame) -> pd.DataFrame:
        if unknown := set(table.columns) - _COLUMNS or {"optical", "sar"} - set(table.columns):
            raise ModelError(
                f"the table has columns {', '.join(map(str, table.columns))}; wanted optical and sar, and where wanted"
                f" cloud, scene_id, out (wrong or missing: {', '.join(sorted(map(str, unknown)))})"
            )
        if table.empty:
            raise ModelError("the table has no row; wanted one a scene")
        rows = [{key: value for key, value in row.items() if isinstance(value, str)} for row in _records(table)]
        return pd.DataFrame([self._scene(row) for row in rows])

    def _scene(self, row: Mapping[str, str]) -> dict[str, object]:
        root = _root()
        files = {role: _below(root, row[role]) for role in _INPUTS if row.get(role)}
        if missing := {"optical", "sar"} - set(files):
            raise ModelError(f"a row has no {' and no '.join(sorted(missing))}")
        out = _below(root, row.get("out") or "maps")
        inputs = files_as_inputs(
            row.get("scene_id") or files["optical"].stem, optical=files["optical"], sar=files["sar"],
            cloud=files.get("cloud"),
        )  # fmt: skip
        _below(root, str(out / inputs.scene_id))
        with self._turn:
            report = predict_scene(inputs, self.model, out, settings=self.settings)
        products = {path.name: sha256_file(path) for path in sorted(report.folder.iterdir())}
        return {"scene_id": inputs.scene_id, "folder": str(report.folder.relative_to(root)), "products": products}


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def _checked(arrays: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a request as float32, refused before any work if they are wrong, large or not finite."""
    if not isinstance(arrays, Mapping) or set(arrays) != set(_INPUTS):
        got = ", ".join(sorted(map(str, arrays))) if isinstance(arrays, Mapping) else type(arrays).__name__
        raise ModelError(f"got {got}; wanted a dict of the arrays {', '.join(_INPUTS)}, or a table of paths")
    limit = int(os.environ.get(LIMIT_VARIABLE, DEFAULT_MAX_PIXELS))
    try:
        numbers = {name: np.asarray(arrays[name], np.float32) for name in _INPUTS}
    except (TypeError, ValueError) as error:
        raise ModelError(f"the arrays are not of numbers in rows of equal length: {error}") from error
    return {name: _small(name, array, limit=limit) for name, array in numbers.items()}


def _small(name: str, array: np.ndarray, *, limit: int) -> np.ndarray:
    if array.ndim != 4:
        raise ModelError(f"{name} has shape {array.shape}; wanted (batch, bands, height, width)")
    if (pixels := array.shape[0] * array.shape[2] * array.shape[3]) > limit:
        raise ModelError(
            f"{name} has {pixels} pixels, at most {limit} are taken at once ({LIMIT_VARIABLE}); send less at once, or a"
            " table of raster paths"
        )
    if not np.isfinite(array).all():
        raise ModelError(
            f"{name} holds values that are no finite numbers; wanted 0-1, and cloud 1 where nothing is known"
        )
    return array


def _root() -> Path:
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        raise ModelError(f"this server takes no paths: {ROOT_VARIABLE} names no folder that it may read and write")
    return Path(root).resolve()


def _below(root: Path, path: str) -> Path:
    """Return a path below the root, links followed; a relative one is meant from there."""
    if "\0" in path or not (found := (root / path).resolve()).is_relative_to(root):
        raise ModelError(f"path {path!r} leads out of the folder that this server may use")
    return found


mlflow.models.set_model(ServedNetwork())
