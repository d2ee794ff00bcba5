"""Training end to end on a few small tiles: it learns, it repeats to the byte, it survives kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from small_tiles import make_tiles

from cgm2net.data.dataset import TileDataset
from cgm2net.errors import DataError
from cgm2net.evaluation.evaluate import evaluate
from cgm2net.settings import EvaluateSettings, TrainSettings
from cgm2net.training.optimiser import learning_rate
from cgm2net.training.train import train

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "network_size": "tiny", "steps": 6, "batch_size": 2, "crop_px": 16, "warmup_steps": 1, "num_threads": 1,
    "log_every_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 6,
}  # fmt: skip


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


def test_labels_coarser_than_pixels_are_learned_and_scored_on_their_own_grid(tmp_path, project):
    (tmp_path / "coarse").mkdir()
    coarse = make_tiles(tmp_path / "coarse", label_gsd_m=40.0)
    train(coarse, project / "out", settings=settings(), seed=0)
    evaluate(coarse, project / "out", project / "scores", settings=EvaluateSettings(num_threads=1))
    confusion = pd.read_csv(project / "scores" / "confusion.csv")
    tiles = TileDataset(coarse, split="test")
    assert tiles[0]["label_HW"].shape == (8, 8)
    num_known = sum(int((tiles[index]["label_HW"] != 255).sum()) for index in range(len(tiles)))
    assert 0.9 * num_known < confusion["all"].sum() <= num_known  # but for cells that were not half measured
    with pytest.raises(DataError, match=r"train\.crop_px 18 must be a multiple of 4"):
        train(coarse, project / "other", settings=settings().model_copy(update={"crop_px": 18}), seed=0)


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


def test_two_processes_learn_what_one_learns(tiles, project):
    """Gloo, the same batch shared out: the loss of every step and what it comes to, up to rounding."""
    shutil.copytree(tiles, project / "artifacts/tile")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = {}
    for devices in (1, 2):
        params["train"] = {
            **SETTINGS,
            "batch_size": 4,
            "log_every_steps": 1,
            "task_weights": "learned",
            "devices": devices,
        }
        (project / "params.yaml").write_text(yaml.safe_dump(params))
        assert run_stage(project) == 0
        found[devices] = pd.read_csv(project / "artifacts/train/curves.csv")
        shutil.rmtree(project / "artifacts/train")
    losses = [name for name in found[1] if name.startswith("train/")]
    assert len(losses) == 7
    np.testing.assert_allclose(found[2][losses], found[1][losses], rtol=2e-4)
    assert found[1]["train/loss"].nunique() == 6


def curves(tiles: Path, out: Path, **changes: object) -> pd.DataFrame:
    train(tiles, out, settings=settings(batch_size=4, log_every_steps=1, crop_px=32, **changes), seed=0)
    return pd.read_csv(out / "curves.csv")


def test_recomputed_activations_and_passes_change_memory_not_what_is_learned(tiles, project):
    plain = curves(tiles, project / "plain")
    again = curves(tiles, project / "again", recompute=True)
    np.testing.assert_allclose(again, plain, rtol=1e-5)
    # a pass's loss is a mean of its own: halves of a batch differ a little in how much is clouded
    halves = curves(tiles, project / "halves", num_passes=2)
    assert halves["train/loss"][0] == pytest.approx(plain["train/loss"][0], rel=0.05)
    assert not np.allclose(halves["train/loss"], plain["train/loss"], rtol=1e-6)


def test_a_batch_must_share_out():
    with pytest.raises(ValueError, match="batch_size 2 must divide into devices 1 x num_passes 4"):
        settings(num_passes=4)


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
