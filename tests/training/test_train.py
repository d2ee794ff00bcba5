"""Training end to end on a few small tiles: it learns, it repeats to the byte, it survives kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cgm2net.data import synthetic
from cgm2net.data.tile import tile
from cgm2net.errors import DataError
from cgm2net.settings import TileSettings, TrainSettings
from cgm2net.training.optimiser import learning_rate
from cgm2net.training.train import train

ROOT = Path(__file__).parents[2]
CLASSES = ("forest", "rangeland", "agriculture", "urban", "barren", "water")
SETTINGS = {
    "network_size": "tiny", "steps": 6, "batch_size": 2, "crop_px": 16, "warmup_steps": 1, "num_threads": 1,
    "log_every_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 6,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four regions of 64 px, as if co-registered already, cut into tiles of 32 px."""
    folder = tmp_path_factory.mktemp("tiles")
    rows = []
    for region in range(4):
        spec = synthetic.SceneSpec(region=region, date="2024-06-01", size_px=64, cover=0.5)
        row = {"scene_id": f"s{region}", "region": f"r{region}", "accepted": True, "reason": ""}
        for role in ("optical", "reference", "label", "cloud"):
            path = folder / f"s{region}" / f"{role}.tif"
            path.parent.mkdir(exist_ok=True)
            synthetic.write(synthetic.uri(role, spec), path)
            row[role] = f"s{region}/{role}.tif"
        rows.append({**row, "sar": _sar_on_grid(folder, region, spec)})
    for name in ("acquired_optical", "acquired_sar", "license", "source"):
        rows = [{**row, name: ""} for row in rows]
    pd.DataFrame(rows).to_csv(folder / "scenes.csv", index=False)
    settings = TileSettings(size_px=32, stride_px=32, classes=CLASSES, num_workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tile(folder / "scenes.csv", folder / "tile", settings=settings, seed=0)
    return folder / "tile"


def _sar_on_grid(folder: Path, region: int, spec: synthetic.SceneSpec) -> str:
    from rasterio.enums import Resampling

    from cgm2net import raster

    sar = raster.warp(
        synthetic.render(spec)["sar"], synthetic.optical_grid(spec), resampling=Resampling.bilinear, fill=float("nan")
    )
    raster.write(folder / f"s{region}" / "sar.tif", sar, nodata=float("nan"))
    return f"s{region}/sar.tif"


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({**SETTINGS, **changes})


def test_it_learns_its_few_tiles_and_writes_what_is_promised(tiles, project):
    report = train(tiles, project / "out", settings=settings(steps=60, crop_px=32, warmup_steps=5), seed=0)
    curves = pd.read_csv(project / "out" / "curves.csv")
    assert curves["train/loss"].iloc[-5:].mean() < 0.7 * curves["train/loss"].iloc[0]
    assert report is not None
    assert report.metrics["val/cloudy/psnr"] > report.metrics["val/copy/cloudy/psnr"] + 3
    written = {path.name for path in (project / "out").iterdir()}
    assert written == {
        "weights.safetensors", "card.json", "curves.csv", "metrics.json", "validation.png", "run.json",
    }  # fmt: skip
    assert not list((project / ".cache/cgm2net/train").iterdir())  # nothing left to resume


def test_same_seed_same_bytes_other_seed_other_weights(tiles, project):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiles, project / name, settings=settings(), seed=seed)
    for file in ("weights.safetensors", "card.json", "curves.csv", "metrics.json", "validation.png"):
        assert (project / "a" / file).read_bytes() == (project / "b" / file).read_bytes(), file
    assert (project / "a/weights.safetensors").read_bytes() != (project / "c/weights.safetensors").read_bytes()


def run_stage(project: Path, until: Callable[[], bool] = lambda: False) -> int:
    """Run `python -m cgm2net train`; kill -9 it as soon as ``until`` holds. Returns its exit status."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cgm2net", "train"], cwd=project, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        if until():
            process.send_signal(signal.SIGKILL)
            until = lambda: False  # noqa: E731
        else:
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
    return process.returncode


def test_kill_9_and_start_again_gives_what_an_undisturbed_training_gives(tiles, project):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] = {**SETTINGS, "steps": 12}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(tiles, project / "artifacts/tile")
    out, cache = project / "artifacts/train", project / ".cache/cgm2net/train"

    assert run_stage(project) == 0
    undisturbed = {path.name: path.read_bytes() for path in out.iterdir()}
    shutil.rmtree(out)

    assert run_stage(project, until=lambda: bool(list(cache.glob("*/checkpoint.pt")))) == -signal.SIGKILL
    assert not (out / "card.json").exists()
    killed_run = json.loads(next(cache.glob("*/run.json")).read_text())["run_id"]
    assert run_stage(project) == 0
    resumed = {path.name: path.read_bytes() for path in out.iterdir()}
    assert json.loads(resumed.pop("run.json"))["run_id"] == killed_run  # one run in MLflow, not two
    undisturbed.pop("run.json")
    assert resumed == undisturbed


def test_crops_larger_than_tiles_are_refused(tiles, project):
    with pytest.raises(DataError, match=r"crop_px 64 is larger than the tiles of 32 px"):
        train(tiles, project / "out", settings=settings(crop_px=64), seed=0)


def test_learning_rate_rises_then_falls_as_a_half_cosine():
    s = settings(steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, s) == pytest.approx(0.1)
    assert learning_rate(9, s) == pytest.approx(1.0)
    assert learning_rate(10, s) == pytest.approx(1.0)
    assert learning_rate(60, s) == pytest.approx(0.01 + 0.99 * 0.5)
    assert learning_rate(110, s) == pytest.approx(0.01)
