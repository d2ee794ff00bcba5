"""The network in forms that other programs run: ONNX and torch.export, for one window with an open batch."""

import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cgm2net import weights
from cgm2net.errors import BackendError, ModelError
from cgm2net.model.interface import Network, Prediction
from cgm2net.predict.windows import WINDOW_PX
from cgm2net.weights import CARD_FILE

_log = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
FILES: Mapping[Format, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
INPUTS = ("optical", "sar", "cloud")
OUTPUTS = tuple(field.rsplit("_", 1)[0] for field in Prediction._fields)

MAX_BATCH = 63
"""Of the torch.export form, whose guards tell a batch from a number of channels."""

TOLERANCE = 1e-4
"""Largest difference from the network that is let pass."""

_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """How far each form is from the network."""

    folder: Path
    window_px: int
    parity: Mapping[Format, Mapping[str, float]]
    "Form -> output -> largest absolute difference, over batches of 1 and 3."

    def __str__(self) -> str:
        head = f"{self.folder}: windows of {self.window_px} x {self.window_px} px; largest difference from the network"
        rows = [
            f"{FILES[form]:12} " + "  ".join(f"{name} {value:.1e}" for name, value in found.items())
            for form, found in self.parity.items()
        ]
        return "\n".join([head, *rows])


def export(
    model_dir: Path, out_dir: Path, *, formats: Sequence[Format] = ("onnx", "torch"), window_px: int = WINDOW_PX
) -> ExportReport:
    """Write ``model.onnx``, ``model.pt2`` and the card, and hold them to the network.

    Inputs are ``optical`` (B, C_o, P, P) reflectance 0-1, ``sar`` (B, C_s, P, P) 0-1 and ``cloud`` (B, 1, P, P) 0-1,
    bands in the order of the card; outputs ``clear``, ``logits``, ``spread`` as in
    :class:`cgm2net.model.interface.Prediction`. The batch is open, the size fixed: whole scenes are predicted in
    windows of one size. It takes minutes: the scans' steps are written out one by one.

    Args:
        model_dir: folder with weights and card.
        out_dir: new folder.
        formats: ``onnx``, ``torch``, or both.
        window_px: height and width, a multiple of the network's stride.

    Raises:
        BackendError: if onnx, onnxscript or onnxruntime is not installed.
        ModelError: if a form gives other numbers than the network.
    """
    network, card = weights.load(model_dir)
    runtime = _runtime() if "onnx" in formats else None
    channels = (card.config.num_optical_bands, card.config.num_sar_bands, 1)
    example = _drawn(2, channels, window_px)
    batch = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    _log.info("export: tracing")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its tree specs
        program = torch.export.export(_Plain(network), example, dynamic_shapes=(batch, batch, batch), strict=False)
    out_dir.mkdir(parents=True, exist_ok=True)
    parity: dict[Format, dict[str, float]] = {}
    for form in formats:
        path = out_dir / FILES[form]
        _log.info("export: %s", path.name)
        answer = _write_torch(program, path) if form == "torch" else _write_onnx(program, path, runtime)
        parity[form] = _parity(network, answer, channels, window_px)
    shutil.copyfile(model_dir / CARD_FILE, out_dir / CARD_FILE)
    worst = max(value for found in parity.values() for value in found.values())
    if not worst <= TOLERANCE:
        raise ModelError(f"{out_dir}: an exported form is off by {worst:.1e}, at most {TOLERANCE:.0e} is let pass")
    return ExportReport(folder=out_dir, window_px=window_px, parity=parity)


class _Plain(nn.Module):
    """The network, answering in a plain tuple: torch saves no other library's records."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, optical: Tensor, sar: Tensor, cloud: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(optical, sar, cloud))


_Answer = Callable[[tuple[Tensor, ...]], Sequence[np.ndarray]]


def _write_torch(program: torch.export.ExportedProgram, path: Path) -> _Answer:
    torch.export.save(program, path)
    module = torch.export.load(path).module()

    def answer(inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in module(*inputs)]

    return answer


def _write_onnx(program: torch.export.ExportedProgram, path: Path, runtime: Any) -> _Answer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # Not optimised here: that takes minutes on so many small nodes, and the runtime does it when it loads.
        made = torch.onnx.export(
            program, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, optimize=False, verbose=False
        )
    assert made is not None
    made.save(path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # it warns of every node that it does not fold
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def answer(inputs: tuple[Tensor, ...]) -> Sequence[np.ndarray]:
        named = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        found: Sequence[np.ndarray] = session.run(list(OUTPUTS), named)
        return found

    return answer


def _parity(network: Network, answer: _Answer, channels: tuple[int, int, int], window_px: int) -> dict[str, float]:
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for count in _CHECKED_BATCHES:
        inputs = _drawn(count, channels, window_px)
        with torch.no_grad():
            wanted = network(*inputs)
        for name, got, want in zip(OUTPUTS, answer(inputs), wanted, strict=True):
            worst[name] = max(worst[name], float(np.abs(got - want.numpy()).max()))
    return worst


def _drawn(count: int, channels: tuple[int, int, int], window_px: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.rand(count, bands, window_px, window_px, generator=generator) for bands in channels)


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BackendError(f"the form onnx needs {error.name}: pip install 'cgm2net[export]'") from error
    return onnxruntime
