"""Does restoration help anyone? A segmenter of clear optical images, frozen, on cloudy, restored and clear ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from cgm2net.comparison.runs import EXPERIMENT, Job, sources
from cgm2net.data.dataset import TileDataset
from cgm2net.evaluation.score import score
from cgm2net.files import read_json, sha256_json, write_json
from cgm2net.model.interface import Prediction
from cgm2net.settings import TrainSettings
from cgm2net.training.train import Tracked, train
from cgm2net.weights import load

SEGMENTER = {"architecture": "unet", "sar": False, "cloud_guidance": False, "restoration_weight": 0.0}
"""What the segmenter differs in from the settings of params.yaml: it sees optics, and no mask."""

GROUPS = ("all", "clear", "cloudy")


class ClearTiles(TileDataset):
    """Tiles whose optical image is the clear reference; the mask stays, so that pixels are grouped alike."""

    def stored(self, index: int) -> dict[str, np.ndarray]:
        """See :meth:`TileDataset.stored`."""
        stored = super().stored(index)
        return {**stored, "optical": stored["reference"]}


class Restored(nn.Module):
    """A segmenter that is shown what another network restores."""

    def __init__(self, restorer: nn.Module, segmenter: nn.Module) -> None:
        super().__init__()
        self.restorer, self.segmenter = restorer, segmenter

    def forward(self, optical_BCHW: Tensor, sar_BCHW: Tensor, cloud_B1HW: Tensor, **options: object) -> Prediction:
        """Restore, then map the restored image."""
        clear_BCHW = self.restorer(optical_BCHW, sar_BCHW, cloud_B1HW).clear_BCHW
        return self.segmenter(clear_BCHW, sar_BCHW, cloud_B1HW, **options)  # type: ignore[no-any-return]


def train_segmenter(job: Job, base: TrainSettings) -> Path:
    """Train the segmenter of a job's seed on clear images, once; return its folder.

    Args:
        job: gives tiles, seed and cache.
        base: settings of params.yaml.
    """
    settings = TrainSettings.model_validate({**base.model_dump(), **SEGMENTER})
    code = sources("cgm2net.training.train@unet", "cgm2net.comparison.downstream@unet")
    key = sha256_json(["clear", code, settings.model_dump(), job.seed, job.data_hash])
    folder = job.cache_dir / "compare" / key[:24]
    if not (folder / "run.json").is_file():
        tags = {"mlflow.parentRunId": job.parent_run_id, "variant": "segmenter-of-clear-images"}
        name = f"segmenter-{settings.steps}steps-seed{job.seed}"
        train(
            job.tiles_dir, folder, settings=settings, seed=job.seed, cache_dir=job.cache_dir,
            tracked=Tracked(experiment=EXPERIMENT, name=name, tags=tags), tiles_type=ClearTiles,
        )  # fmt: skip
    return folder


def judge(job: Job, segmenter_dir: Path, source: str) -> dict[str, float]:
    """Return the segmenter's mIoU for all, clear and cloudy pixels of the test tiles; kept once it is known.

    Args:
        job: a restoring variant that is done, whose seed the segmenter has.
        segmenter_dir: of :func:`train_segmenter`.
        source: what it is shown: ``cloudy``, ``restored`` (by the job's network) or ``clear``.
    """
    kept = (job.folder if source == "restored" else segmenter_dir) / f"{source}-{segmenter_dir.name}.json"
    if not kept.is_file():
        segmenter, _ = load(segmenter_dir)
        network = Restored(load(job.folder / "trained")[0], segmenter) if source == "restored" else segmenter
        tiles = (ClearTiles if source == "clear" else TileDataset)(job.tiles_dir, split="test")
        metrics = score(network, tiles, settings=job.evaluate_settings, shown_as=source).metrics()
        write_json(kept, {group: metrics[f"{group}/miou"] for group in GROUPS if f"{group}/miou" in metrics})
    return {group: float(str(value)) for group, value in read_json(kept).items()}


def downstream_table(restorers: Sequence[tuple[str, Sequence[Job]]], base: TrainSettings) -> list[tuple[str, str]]:
    """Return one row a source of images: its name and mIoU, mean ± deviation over seeds, of each group of pixels.

    Args:
        restorers: title and jobs, one a seed, of each variant that restores.
        base: settings of params.yaml.
    """
    jobs = restorers[0][1]
    segmenters = {job.seed: train_segmenter(job, base) for job in jobs}
    rows = [("cloudy images as they are", [judge(job, segmenters[job.seed], "cloudy") for job in jobs])]
    for title, found in restorers:
        rows.append((f"restored by {title}", [judge(job, segmenters[job.seed], "restored") for job in found]))
    rows.append(("clear references", [judge(job, segmenters[job.seed], "clear") for job in jobs]))
    return [(title, " | ".join(_cell(values, group) for group in GROUPS)) for title, values in rows]


def _cell(values: Sequence[dict[str, float]], group: str) -> str:
    known = [value[group] for value in values if group in value]
    if not known:
        return "–"
    return f"{np.mean(known):.3f}" + (f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")
