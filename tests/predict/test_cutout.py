"""A window of a scene in files, as the network takes it, and the command that explains it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.__main__ import main
from cgm2net.errors import RasterError
from cgm2net.predict.cutout import cut_out
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.scene import SceneInputs, files_as_inputs, open_scene
from cgm2net.raster import Raster
from cgm2net.sensors import OPTICAL_NODATA, SAR_NODATA, to_unit_range
from cgm2net.settings import CloudmaskSettings, CoregisterSettings

cut = partial(cut_out, coregister=CoregisterSettings(), cloudmask=CloudmaskSettings())


def test_a_window_holds_what_the_network_is_shown_of_it(
    inputs: SceneInputs, layers: dict[str, Raster], model: LoadedModel
) -> None:
    found = cut(inputs, model.card)
    sample = found[0]
    assert (sample["id"], len(found), found.table["tile_id"].tolist()) == ("s_0_0", 1, ["s_0_0"])
    card = model.card
    wanted = to_unit_range(layers["optical"].pixels_CHW[:, :256, :256], card.optical_bands)
    assert np.array_equal(sample["optical_CHW"], wanted)
    np.testing.assert_allclose(sample["cloud_HW"], layers["cloud"].pixels_CHW[0, :256, :256], atol=0.5 / 250)
    with open_scene(inputs, card) as scene:  # SAR lies 1.5 px right of the optics and 2 px above them
        placed = scene.sar(Window(0, 0, 256, 256), to_content=Affine.translation(1.5, -2.0)).pixels_CHW[
            :, 16:-16, 16:-16
        ]
    error = np.abs(sample["sar_CHW"].numpy()[:, 16:-16, 16:-16] - to_unit_range(placed, card.sar_bands))
    assert error.mean() < 0.02
    assert sample["valid_HW"].float().mean() > 0.95


def small_scene(layers: dict[str, Raster], folder: Path, *, heard_px: int) -> SceneInputs:
    """The upper left 100 px of the scene; SAR ends after so many columns."""
    for name in ("optical", "sar"):
        image = layers[name]
        pixels_CHW = image.pixels_CHW[:, :100, :100].copy()
        if name == "sar":
            pixels_CHW[..., heard_px:] = SAR_NODATA
        cropped = Raster(
            pixels_CHW=pixels_CHW, valid_HW=np.ones((100, 100), bool), bands=image.bands, grid=image.grid[:100, :100]
        )
        raster.write(folder / f"{name}.tif", cropped, nodata=SAR_NODATA if name == "sar" else OPTICAL_NODATA)
    return files_as_inputs("small", optical=folder / "optical.tif", sar=folder / "sar.tif")


def test_a_scene_smaller_than_a_window_is_cut_to_the_networks_stride(
    layers: dict[str, Raster], model: LoadedModel, tmp_path: Path
) -> None:
    sample = cut(small_scene(layers, tmp_path, heard_px=100), model.card)[0]
    assert sample["optical_CHW"].shape == (6, 96, 96)


def test_a_scene_that_sar_hardly_covers_is_refused(
    layers: dict[str, Raster], model: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(RasterError, match="scene small: no window of it is measured by half in both optics and SAR"):
        cut(small_scene(layers, tmp_path, heard_px=40), model.card)


def test_the_command_explains_files(inputs: SceneInputs, model_dir: Path, tmp_path: Path) -> None:
    files = {name: str(getattr(inputs, name)[0].path) for name in ("optical", "sar")}
    arguments = ["explain", "--optical", files["optical"], "--model", str(model_dir), "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.output == "error: name a tile or scene, or its files by --optical and --sar\n"
    result = CliRunner().invoke(main, [*arguments, "--sar", files["sar"], "--cloud", str(inputs.cloud)])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "explain_optical_0_0.json").read_text())
    assert facts["classes"]["all"]["pixels"] == 0
    assert set(facts["error"]) == {"expected"}
    assert (tmp_path / "explain_optical_0_0.png").stat().st_size > 100_000
