"""Weights and card of an untrained network."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cgm2net import weights
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net


def save_model(folder: Path, *, optical_bands: Sequence[str], sar_bands: Sequence[str]) -> None:
    """Write a model of two classes."""
    torch.manual_seed(0)
    network = CGM2Net(
        NetworkConfig(num_optical_bands=len(optical_bands), num_sar_bands=len(sar_bands), num_classes=2)
    )  # fmt: skip
    ones = (1.0,) * len(optical_bands)
    card = weights.Card(
        config=network.config, optical_bands=tuple(optical_bands), sar_bands=tuple(sar_bands), classes=("a", "b"),
        gsd_m=10.0, data_hash="0", seed=0, steps=1, num_parameters=1, library_version="0",
        calibration=Calibration(interval_clear=ones, interval_cloudy=ones),
    )  # fmt: skip
    weights.save(folder, network, card)
