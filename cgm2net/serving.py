"""The network behind MLflow's pyfunc interface, as a model from code: this file is the model, no object is pickled.

MLflow runs a copy of it that lies with the weights; nothing else imports it. Input and output are dicts of float32
arrays, named and shaped as the model's signature says (see :func:`cgm2net.registry.register_version`).
"""

from pathlib import Path

import mlflow
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from cgm2net.model import weights


class ServedNetwork(PythonModel):
    """Weights and card from the model's artifacts, on CUDA where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights, strictly."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network, self.card = weights.load(Path(context.artifacts["model"]))
        self.network = network.to(self.device)

    # mlflow reads hints at run time and warns of all that are not lists of records, and of there being none.
    _skip_type_hint_validation = True

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Restore and map.

        Args:
            context: not used here.
            model_input: ``optical`` (B, C_o, H, W) reflectance 0-1 and ``sar`` (B, C_s, H, W) 0-1, bands in the order
                of the card; ``cloud`` (B, 1, H, W) 0-1.
            params: none are known.

        Returns:
            ``clear`` (B, C_o, H, W) reflectance, not clamped, and ``logits`` (B, K, H', W').
        """
        inputs = (torch.from_numpy(model_input[name]).to(self.device) for name in ("optical", "sar", "cloud"))
        with torch.inference_mode():
            prediction = self.network(*inputs)
        return {"clear": prediction.clear_BCHW.cpu().numpy(), "logits": prediction.logits_BKHW.cpu().numpy()}


mlflow.models.set_model(ServedNetwork())
