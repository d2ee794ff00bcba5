"""Exported forms give the network's numbers; minutes if they were large, so the windows here are small."""

import builtins
import json

import numpy as np
import onnxruntime
import pytest
import torch

from cgm2net import weights
from cgm2net.errors import BackendError
from cgm2net.predict.export import export


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export(model_dir, folder, window_px=16), folder


def drawn(count: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(count)
    return tuple(torch.rand(count, bands, 16, 16) for bands in (6, 2, 1))


def test_both_forms_and_the_card_are_there_and_close_to_the_network(exported, model_dir):
    report, folder = exported
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.pt2", "card.json"}
    assert json.loads((folder / "card.json").read_text()) == json.loads((model_dir / "card.json").read_text())
    assert set(report.parity) == {"onnx", "torch"}
    for found in report.parity.values():
        assert set(found) == {"clear", "logits", "spread"}
        assert max(found.values()) <= 1e-4
    assert "model.onnx" in str(report)


@pytest.mark.parametrize("count", [1, 5])
def test_onnx_takes_any_batch_by_name(exported, model_dir, count):
    session = onnxruntime.InferenceSession(str(exported[1] / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = drawn(count)
    got = session.run(["clear"], dict(zip(("optical", "sar", "cloud"), (t.numpy() for t in inputs), strict=True)))[0]
    network, _ = weights.load(model_dir)
    with torch.no_grad():
        wanted = network(*inputs).clear_BCHW.numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_without_the_packages_it_says_what_to_install(model_dir, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "onnxruntime":
            raise ImportError("no", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r"needs onnxruntime: pip install 'cgm2net\[export\]'"):
        export(model_dir, tmp_path / "out", formats=["onnx"])
    assert not (tmp_path / "out").exists()
