"""How sure a model is of scenes as the data stages leave them: of a scene of 72 px, one window says all."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pictured import BANDS
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.__main__ import main
from cgm2net.catalog import COLUMNS, write_scenes
from cgm2net.data import synthetic
from cgm2net.files import read_json
from cgm2net.predict.answer import answers
from cgm2net.predict.confidence import _band, _windows, measure_confidence
from cgm2net.predict.model import LoadedModel
from cgm2net.raster import Raster
from cgm2net.sensors import OPTICAL_NODATA, SAR_NODATA
from cgm2net.streams import RasterFile

SIZE_PX = 72


def write_scene(folder: Path, *, region: int, heard: bool = True) -> dict[str, str]:
    """Write a scene's optics, SAR and mask on one grid."""
    spec = synthetic.SceneSpec(region=region, date="2024-06-01", size_px=SIZE_PX, cover=0.3)
    optical = synthetic.render(spec)["optical"]
    rng = np.random.default_rng(region)
    sar = (
        rng.normal(-12, 2, (2, SIZE_PX, SIZE_PX)).astype(np.float32)
        if heard
        else np.full((2, SIZE_PX, SIZE_PX), np.nan)
    )
    everywhere = np.ones((SIZE_PX, SIZE_PX), bool)
    images = {
        "optical": (optical, OPTICAL_NODATA),
        "sar": (Raster(pixels_CHW=sar.astype(np.float32), valid_HW=everywhere & heard, bands=("VV", "VH"),
                       grid=optical.grid), SAR_NODATA),
        "cloud": (Raster(pixels_CHW=rng.random((1, SIZE_PX, SIZE_PX), np.float32), valid_HW=everywhere,
                         bands=("cloud",), grid=optical.grid), None),
    }  # fmt: skip
    folder.mkdir(parents=True)
    for role, (image, nodata) in images.items():
        raster.write(folder / f"{role}.tif", image, nodata=nodata)
    return {role: str(folder / f"{role}.tif") for role in images}


def write_batch(root: Path, *names: str, deaf: str = "") -> Path:
    rows = [
        {**dict.fromkeys(COLUMNS, ""), "scene_id": name, "region": "r", "accepted": True, "reason": "",
         **write_scene(root / "coregister" / name, region=number, heard=name != deaf)}
        for number, name in enumerate(names)
    ]  # fmt: skip
    (root / "cloudmask").mkdir()
    write_scenes(pd.DataFrame(rows), root / "cloudmask/scenes.csv")
    return root


@pytest.fixture
def artifacts(workspace: Path) -> Path:
    """A training set of two scenes, of which the network was trained on one."""
    folder = write_batch(workspace / "artifacts", "learned", "tested")
    (folder / "tile").mkdir()
    tiles = pd.DataFrame({"scene_id": ["learned", "tested"], "split": ["train", "test"]})
    tiles.to_parquet(folder / "tile/tiles.parquet")
    return folder


def test_both_sides_are_measured_as_the_network_answers(
    artifacts: Path, workspace: Path, model_dir: Path, model: LoadedModel
) -> None:
    incoming = write_batch(workspace / "new", "good", "deaf", deaf="deaf")

    said = measure_confidence(incoming, artifacts, workspace / "out", model=str(model_dir))

    assert said.endswith("is of 2 incoming and 1 reference scenes")
    new, old = (read_json(workspace / "out" / f"{side}.json") for side in ("incoming", "reference"))
    assert [list(found["class confidence"]) for found in (new, old)] == [["good"], ["tested"]]
    files = {role: incoming / "coregister/good" / f"{role}.tif" for role in ("optical", "sar", "cloud")}
    with RasterFile(files["optical"], bands=BANDS) as optical, RasterFile(files["sar"]) as sar:
        cloud = RasterFile(files["cloud"])
        band = _band(optical, sar, cloud, Window(0, 0, SIZE_PX, SIZE_PX))
        cloud.close()
    ((_, answer_CHW),) = answers(band, [(0, 0)], model=model, batch_size=1)
    inside_CHW = answer_CHW[:, :SIZE_PX, :SIZE_PX][:, band.measured_HW]
    shares = (np.arange(50) + 0.5) / 50
    assert new["class confidence"]["good"] == pytest.approx(np.quantile(inside_CHW[12:].max(axis=0), shares), abs=1e-6)
    widths = np.quantile(inside_CHW[6:12].mean(axis=0), shares)
    assert new["half-width of the interval"]["good"] == pytest.approx(widths, abs=1e-6)
    assert read_json(workspace / "out/confidence.json")["why_not"] == ""
    before = (workspace / "out/incoming.json").read_bytes()
    measure_confidence(incoming, artifacts, workspace / "out", model=str(model_dir))
    assert (workspace / "out/incoming.json").read_bytes() == before


def test_windows_lie_flush_with_the_edges_and_a_large_scene_has_no_more_than_nine() -> None:
    assert [(w.row_off, w.col_off, w.height, w.width) for w in _windows(100, 300)] == [
        (0, 0, 100, 256),
        (0, 44, 100, 256),
    ]
    spread = _windows(2560, 2560)
    assert len(spread) == 9
    assert [(w.row_off, w.col_off) for w in (spread[0], spread[-1])] == [(0, 0), (2304, 2304)]


def test_without_a_champion_or_scenes_to_compare_with_it_says_so_and_ends_well(
    artifacts: Path, workspace: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = CliRunner().invoke(main, ["confidence", str(artifacts), str(artifacts), "--out", "out"])
    assert (done.exit_code, "there is no champion yet" in done.output) == (0, True)
    assert "no mlflow.db here" in str(read_json(workspace / "out/confidence.json")["why_not"])
    assert not (workspace / "mlflow.db").exists()
    (artifacts / "tile/tiles.parquet").unlink()
    said = measure_confidence(artifacts, artifacts, workspace / "out", model=str(model_dir))
    assert "nothing says which scenes the model was not trained on" in said
