"""The key by which a finished prediction is left alone: changes with what its products depend on, and with no more."""

from pathlib import Path

import pytest
import torch
from drawn import BANDS as OPTICAL
from drawn import CARD, box, echo, land, write

from cgm2net.predict import provenance
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.provenance import key_of
from cgm2net.predict.run import PredictSettings
from cgm2net.predict.scene import files_as_inputs
from cgm2net.settings import CloudmaskSettings


def test_the_key_follows_the_cloud_package_but_not_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = box(32, 32)
    inputs = files_as_inputs(
        "s", optical=write(tmp_path / "optical.tif", land(grid), OPTICAL, grid, nodata=0),
        sar=write(tmp_path / "sar.tif", echo(grid), ("VV", "VH"), grid),
    )  # fmt: skip
    model = LoadedModel(
        network=torch.nn.Identity(), card=CARD, device=torch.device("cpu"), name="n", version="", sha256="0", lineage={}
    )

    def key(**cloudmask: object) -> str:
        settings = CloudmaskSettings.model_validate({"method": "csmask", **cloudmask})
        return key_of(inputs, model, PredictSettings(cloudmask=settings))

    monkeypatch.setattr(provenance, "version_of", lambda _method: "1.0.0")
    first = key()
    assert key(compare_with="simple", min_agreement=0.5) == first
    assert key(product_level="l2a") != first
    monkeypatch.setattr(provenance, "version_of", lambda _method: "1.0.1")
    assert key() != first
