"""A small model with weights that say something, and scenes on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pictured import BANDS

from cgm2net import raster, weights
from cgm2net.data import synthetic
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.predict.model import LoadedModel, load_model
from cgm2net.predict.run import PredictSettings, SceneReport, predict_scene
from cgm2net.predict.scene import SceneInputs, files_as_inputs
from cgm2net.raster import Raster
from cgm2net.sensors import LABEL_IGNORE, OPTICAL_NODATA, SAR_NODATA

CLASSES = ("forest", "rangeland", "agriculture", "urban", "barren", "water")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained network whose heads, which begin at zero, are drawn at random."""
    torch.manual_seed(0)
    network = CGM2Net(NetworkConfig(num_optical_bands=6, num_sar_bands=2, num_classes=6))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    folder = tmp_path_factory.mktemp("model")
    card = weights.Card(
        config=network.config, optical_bands=BANDS, sar_bands=("VV", "VH"), classes=CLASSES, gsd_m=10.0,
        data_hash="0" * 64, seed=0, steps=1, num_parameters=1, library_version="0",
        calibration=Calibration(interval_clear=(1.5,) * 6, interval_cloudy=(2.0,) * 6),
    )  # fmt: skip
    weights.save(folder, network, card)
    return folder


@pytest.fixture(scope="session")
def model(model_dir: Path) -> LoadedModel:
    return load_model(str(model_dir))


SPEC = synthetic.SceneSpec(region=4, date="2024-06-01", size_px=320, cover=0.4, shift=(1.5, -2.0), seed=3)


@pytest.fixture(scope="session")
def layers() -> dict[str, Raster]:
    """The rasters of one scene of 320 px, clouded to two fifths, whose SAR lies 1.5 px right of and 2 px above it."""
    return synthetic.render(SPEC)


Write = Callable[[str, Raster], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a raster below the test's folder."""
    return lambda name, image: write_raster(tmp_path / "files" / name, image)


@pytest.fixture(scope="session")
def inputs(layers: dict[str, Raster], tmp_path_factory: pytest.TempPathFactory) -> SceneInputs:
    """That scene in files."""
    folder = tmp_path_factory.mktemp("scene")
    paths = {role: write_raster(folder / f"{role}.tif", layers[role]) for role in ("optical", "sar", "cloud")}
    return files_as_inputs("s", **paths)


@pytest.fixture(scope="session")
def plain(inputs: SceneInputs, model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> SceneReport:
    """That scene predicted as the defaults say."""
    return predict_scene(inputs, model, tmp_path_factory.mktemp("plain"), settings=PredictSettings(num_threads=1))


def write_raster(path: Path, image: Raster) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nodata = {"B": OPTICAL_NODATA, "V": SAR_NODATA}.get(image.bands[0][0], LABEL_IGNORE)
    raster.write(path, image, nodata=nodata)
    return path
