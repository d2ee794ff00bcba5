"""What a training leaves behind: weights with their card, curves, metrics and a picture."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net import pictures, weights
from cgm2net.data.dataset import TileDataset
from cgm2net.evaluation.calibration import fit
from cgm2net.evaluation.metrics import nest
from cgm2net.evaluation.report import predicted_samples
from cgm2net.evaluation.score import predict
from cgm2net.files import write_json
from cgm2net.model.interface import Network
from cgm2net.settings import EvaluateSettings, TrainSettings

NUM_PICTURES = 4


def write_outputs(
    out_dir: Path, network: Network, curves: Sequence[Mapping[str, float]], tiles: TileDataset,
    validation: TileDataset, *, settings: TrainSettings, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Write all but the record of the run, the card last.

    Args:
        out_dir: new folder.
        network: with its averaged weights.
        curves: rows of ``curves.csv``; the last has the metrics of the validation split.
        tiles: that it was trained on.
        validation: that it is calibrated on.
        settings: of the training.
        seed: of the training.

    Returns:
        Metrics of the validation split, ``val/cloudy/psnr``.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(curves).to_csv(out_dir / "curves.csv", index=False, float_format="%.6g")
    last = {name.removeprefix("val/"): v for name, v in curves[-1].items() if name.startswith("val/")}
    write_json(out_dir / "metrics.json", nest(last))
    _draw_validation(network, validation, out_dir / "validation.png", settings)
    scoring = EvaluateSettings(num_threads=settings.num_threads)
    calibration = fit(
        predict(network, validation, range(len(validation)), settings=scoring),
        num_classes=len(validation.classes), cloud_threshold=scoring.cloud_threshold,
    )  # fmt: skip
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    card = weights.Card(
        config=network.config, optical_bands=tiles.optical_bands, sar_bands=tiles.sar_bands, classes=tiles.classes,
        gsd_m=tiles.gsd_m, data_hash=tiles.data_hash, seed=seed, steps=settings.steps,
        num_parameters=num_parameters, library_version=importlib.metadata.version("cgm2net"),
        calibration=calibration,
    )  # fmt: skip
    weights.save(out_dir, network, card)
    return {f"val/{name}": value for name, value in last.items()}


def _draw_validation(network: Network, validation: TileDataset, path: Path, settings: TrainSettings) -> None:
    by_cover = validation.table["cloud_cover"].sort_values(kind="stable").index
    chosen = [int(i) for i in by_cover[np.linspace(0, len(by_cover) - 1, min(NUM_PICTURES, len(by_cover))).astype(int)]]
    samples = predicted_samples(
        network, validation, chosen, settings=EvaluateSettings(num_threads=settings.num_threads)
    )
    pictures.draw_tiles(
        samples, path, optical_bands=validation.optical_bands, sar_bands=validation.sar_bands,
        classes=validation.classes,
    )  # fmt: skip
