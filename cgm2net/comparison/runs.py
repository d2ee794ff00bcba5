"""One network trained and judged: kept by what it was made of, so that a comparison goes on where it stopped."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net import tracking
from cgm2net.comparison.masks import Spoiled
from cgm2net.comparison.suites import Budget, Variant
from cgm2net.data.dataset import TileDataset
from cgm2net.evaluation.score import Scores, score
from cgm2net.files import CACHE_DIR, sha256_file, sha256_json, write_json
from cgm2net.networks import ARCHITECTURES
from cgm2net.settings import EvaluateSettings, TrainSettings
from cgm2net.training.train import Tracked, train
from cgm2net.weights import load

EXPERIMENT = "cgm2net-compare"
_ROOT = Path(__file__).parents[2]
_TRAINED, _SCORES, _TILES, _FACTS = "trained", "scores.npz", "tiles.parquet", "facts.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One variant, one seed, one budget."""

    variant: Variant
    seed: int
    budget: Budget
    settings: TrainSettings
    tiles_dir: Path
    data_hash: str
    evaluate_settings: EvaluateSettings
    parent_run_id: str
    cache_dir: Path = CACHE_DIR

    @property
    def folder(self) -> Path:
        """Where its training is kept; variants that differ in nothing that is trained share it."""
        code = sources(f"cgm2net.training.train@{self.settings.architecture}")
        key = sha256_json([code, self.settings.model_dump(), self.seed, self.data_hash])
        return self.cache_dir / "compare" / key[:24]

    @property
    def judged(self) -> Path:
        """Where its scores are kept."""
        code = sources("cgm2net.evaluation.score", "cgm2net.comparison.masks")
        key = sha256_json([code, self.evaluate_settings.model_dump(), self.variant.spoiling])
        return self.folder / f"test-{key[:16]}"

    @property
    def done(self) -> bool:
        """Whether it was trained and judged before."""
        return (self.judged / _FACTS).is_file()


def work(job: Job) -> None:
    """Train and judge; what was done before is left alone.

    Raises:
        MetricError: if the training diverges.
        BackendError: if the MLflow server cannot be reached.
    """
    trained = job.folder / _TRAINED
    if not (trained / "run.json").is_file():
        train(
            job.tiles_dir, trained, settings=job.settings, seed=job.seed, cache_dir=job.cache_dir, tracked=_tracked(job)
        )
    if job.done:
        return
    network, card = load(trained)
    tiles = TileDataset(job.tiles_dir, split="test")
    scores = score(
        Spoiled(network, job.variant.spoiling), tiles, settings=job.evaluate_settings, calibration=card.calibration
    )
    write_scores(job.judged, scores)
    if job.variant.spoiling == "none":
        with tracking.attach(trained / "run.json") as run:
            run.log_metrics({f"test/{name}": value for name, value in shown(job.variant, scores.metrics()).items()})
    write_json(job.judged / _FACTS, {"num_parameters": card.num_parameters, "seed": job.seed, "steps": card.steps})


def read(job: Job) -> Scores:
    """Read the scores of a job that is done."""
    return read_scores(job.judged)


def shown(variant: Variant, metrics: dict[str, float]) -> dict[str, float]:
    """Leave out the metrics of a task that a variant does not learn."""
    classes = ("oa", "accuracy", "f1", "miou", "ece")
    images = ("psnr", "ssim", "mae", "rmse", "sam", "cc", "coverage", "interval")
    return {
        name: value
        for name, value in metrics.items()
        if (variant.maps or (name.split("/")[-1] not in classes and "iou_" not in name))
        and (variant.restores or name.split("/")[-1] not in images)
    }


def write_scores(folder: Path, scores: Scores) -> None:
    """Write the sums of every tile."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: value for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
    names = {name: np.array(getattr(scores, name)) for name in ("optical_bands", "classes")}
    scores.tiles.to_parquet(folder / _TILES, index=False)
    np.savez_compressed(folder / _SCORES, allow_pickle=False, **{**arrays, **names})


def read_scores(folder: Path) -> Scores:
    """Read what :func:`write_scores` wrote."""
    with np.load(folder / _SCORES, allow_pickle=False) as file:
        arrays = dict(file)
    return Scores(
        tiles=pd.read_parquet(folder / _TILES), model_TGS=arrays["model_TGS"], copy_TGS=arrays["copy_TGS"],
        confusion_TGKK=arrays["confusion_TGKK"], calibration_TGS=arrays.get("calibration_TGS"),
        optical_bands=tuple(map(str, arrays["optical_bands"])), classes=tuple(map(str, arrays["classes"])),
    )  # fmt: skip


def _tracked(job: Job) -> Tracked:
    tags = {
        "mlflow.parentRunId": job.parent_run_id,
        "variant": job.variant.name if job.variant.spoiling == "none" else "cgm2net",
        "budget": job.budget,
    }
    name = f"{tags['variant']}-{job.settings.steps}steps-seed{job.seed}"
    return Tracked(experiment=EXPERIMENT, name=name, tags=tags)


@cache
def sources(*roots: str) -> str:
    """Return one hash over modules and all of this library that they import.

    ``MODULE@ARCHITECTURE`` follows, of the networks that a configuration can name, that one alone: a changed baseline
    does not undo what the others have learned.
    """
    waiting = [root.split("@")[0] for root in roots]
    named = {root.split("@")[1] for root in roots if "@" in root}
    chosen = [network.__module__ for name, network in ARCHITECTURES.items() if name in named]
    found: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        path = _ROOT / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in found or not path.is_file():
            continue
        found[module] = sha256_file(path)
        waiting += chosen if module == "cgm2net.networks" and chosen else _imported(path)
    return sha256_json(found)


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cgm2net":
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "cgm2net"]
    return names
