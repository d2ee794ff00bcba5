"""Stage ``train``: CGM2Net from tiles, top to bottom."""

import importlib.metadata
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from cgm2net import lineage, model, pictures, tracking
from cgm2net.compute import progress_bar
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import DataError, MetricError
from cgm2net.evaluation.calibration import fit
from cgm2net.evaluation.metrics import nest
from cgm2net.evaluation.report import predicted_samples
from cgm2net.evaluation.score import predict, score
from cgm2net.files import CACHE_DIR, code_hash, folder_hash, sha256_json, write_json
from cgm2net.model import weights
from cgm2net.model.network import CGM2Net, NetworkConfig
from cgm2net.sensors import to_unit_range
from cgm2net.settings import EvaluateSettings, TrainSettings
from cgm2net.training.checkpoint import load_checkpoint, save_checkpoint
from cgm2net.training.crops import Crops
from cgm2net.training.losses import TaskLoss
from cgm2net.training.optimiser import learning_rate, parameter_groups

_log = logging.getLogger(__name__)

EXPERIMENT = "cgm2net"
PRELOAD_BYTES = 2 << 30
"""A split up to this size is held in memory."""

NUM_PICTURES = 4


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What one training came to."""

    num_parameters: int
    steps: int
    resumed_at: int
    "Step at which an interrupted training went on; 0 where it began."
    seconds_a_step: float
    "Without validation; of this process's own steps."
    metrics: dict[str, float] = field(repr=False)
    "On the validation split, of the averaged weights."


def train(
    tiles_dir: Path, out_dir: Path, *, settings: TrainSettings, seed: int, cache_dir: Path = CACHE_DIR
) -> TrainReport | None:
    """Train the network and write its weights with their card.

    An interrupted training goes on at its last checkpoint when it is started again with the same tiles, settings,
    seed and code, and ends with the same bytes (on the CPU).

    Args:
        tiles_dir: folder of the stage ``tile``.
        out_dir: new folder; gets ``curves.csv``, ``validation.png``, ``metrics.json`` (validation split),
            ``run.json`` (the MLflow run), ``weights.safetensors`` and ``card.json``, the card last.
        settings: network, losses, optimiser.
        seed: of the first weights and of every crop.
        cache_dir: where checkpoints are kept until the training is done.

    Returns:
        The report; None in every process but the first.

    Raises:
        DataError: if a split has no tile or crops are larger than tiles.
        MetricError: if the loss is no longer a finite number.
        BackendError: if the MLflow server cannot be reached.
    """
    torch.set_num_threads(settings.num_threads)
    fabric = Fabric(devices=settings.devices, precision=settings.precision, strategy=_strategy(settings))
    fabric.launch()
    tiles, validation = _open_tiles(tiles_dir, settings)
    key = sha256_json(
        [code_hash(), folder_hash(Path(model.__file__).parent), settings.model_dump(), seed, tiles.data_hash]
    )
    state_dir = cache_dir / "train" / key
    torch.manual_seed(seed)
    network = CGM2Net(_config(tiles, settings))
    network.standard_optical.set(*band_statistics(tiles, "reference", tiles.optical_bands))
    network.standard_sar.set(*band_statistics(tiles, "sar", tiles.sar_bands))
    trainer = _Trainer(fabric, network, TaskLoss(settings), settings)
    first_step = trainer.restore(load_checkpoint(state_dir / "checkpoint.pt"))
    with _tracked(fabric, state_dir, settings, seed=seed, data_hash=tiles.data_hash) as run, progress_bar() as progress:
        _optimise(trainer, tiles, validation, first_step, seed=seed, state_dir=state_dir, run=run, progress=progress)
        if not fabric.is_global_zero:
            return None
        report = _write(trainer, tiles, validation, first_step, seed=seed, out_dir=out_dir)
        run.log_metrics(report.metrics, step=settings.steps)
        run.log_files(sorted(path for path in out_dir.iterdir() if path.is_file()), folder="train")
    shutil.copy(state_dir / "run.json", out_dir / "run.json")
    shutil.rmtree(state_dir)
    return report


class _Trainer:
    """The network, its moving average and the optimiser; one step, and everything a checkpoint holds."""

    def __init__(self, fabric: Fabric, network: CGM2Net, loss: TaskLoss, settings: TrainSettings) -> None:
        self.fabric, self.network, self.loss, self.settings = fabric, network, loss, settings
        both = nn.ModuleDict({"network": network, "loss": loss})
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        optimizer = torch.optim.AdamW(parameter_groups(both, settings), lr=settings.learning_rate, betas=(0.9, 0.99))
        self.wrapped, self.optimizer = fabric.setup(network, optimizer)
        self.loss.to(fabric.device)
        self.average.to(fabric.device)
        self.curves: list[dict[str, float]] = []
        self.seconds, self.steps_here = 0.0, 0

    def step(self, batch: dict[str, Tensor], number: int) -> dict[str, float]:
        """Learn from one batch; return the loss and its parts."""
        begun = time.perf_counter()
        rate = learning_rate(number, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        prediction = self.wrapped(batch["optical_CHW"], batch["sar_CHW"], batch["cloud_HW"].unsqueeze(1))
        loss, parts = self.loss(prediction, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            found = {name: float(part.detach()) for name, part in parts.items()}
            raise MetricError(f"step {number}: loss is {value} ({found}); lower train.learning_rate, look at the tiles")
        self.fabric.backward(loss)
        for parameter in self.loss.parameters():  # DDP averages the network's gradients only
            if parameter.grad is not None:
                average = self.fabric.all_reduce(parameter.grad)
                assert isinstance(average, Tensor)
                parameter.grad.copy_(average)
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.settings.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.network)
        self.seconds += time.perf_counter() - begun
        self.steps_here += 1
        return {"loss": value, "learning_rate": rate, **{name: float(part.detach()) for name, part in parts.items()}}

    def state(self, next_step: int) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "next_step": next_step, "network": self.network.state_dict(), "loss": self.loss.state_dict(),
            "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(), "curves": self.curves,
        }  # fmt: skip

    def restore(self, state: dict[str, Any] | None) -> int:
        """Take up a checkpoint; return the step to go on with."""
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curves = list(state["curves"])
        _log.info("train: goes on at step %d", state["next_step"])
        return int(state["next_step"])


def _optimise(
    trainer: _Trainer, tiles: TileDataset, validation: TileDataset, first_step: int, *,
    seed: int, state_dir: Path, run: Any, progress: Progress,
) -> None:  # fmt: skip
    settings, fabric = trainer.settings, trainer.fabric
    bar = progress.add_task("train", total=settings.steps, completed=first_step, disable=not fabric.is_global_zero)
    recent: list[dict[str, float]] = []
    for number, batch in enumerate(_batches(tiles, first_step, settings, seed=seed, fabric=fabric), start=first_step):
        recent.append(trainer.step(batch, number))
        done = number + 1
        last = done == settings.steps
        if done % settings.log_every_steps == 0 or last:
            means = {f"train/{name}": float(np.mean([row[name] for row in recent])) for name in recent[0]}
            recent = []
            if done % settings.validate_every_steps == 0 or last:
                means |= {f"val/{name}": value for name, value in _validate(trainer, validation).items()}
            trainer.curves.append({"step": float(done), **means})
            run.log_metrics(means, step=done)
            if done % settings.checkpoint_every_steps == 0 and not last and fabric.is_global_zero:
                save_checkpoint(state_dir / "checkpoint.pt", trainer.state(done))
        progress.update(bar, completed=done)


def _batches(
    tiles: TileDataset, first_step: int, settings: TrainSettings, *, seed: int, fabric: Fabric
) -> Iterator[dict[str, Tensor]]:
    """This process's share of every batch from ``first_step`` on."""
    if settings.batch_size % fabric.world_size:
        raise DataError(f"train.batch_size {settings.batch_size} does not divide among {fabric.world_size} processes")
    share = settings.batch_size // fabric.world_size
    count = settings.steps * settings.batch_size
    crops = Crops(tiles, crop_px=settings.crop_px, count=count, seed=seed)
    starts = range(first_step * settings.batch_size + fabric.global_rank * share, count, settings.batch_size)
    numbers = [number for start in starts for number in range(start, start + share)]
    loader = DataLoader(
        Subset(crops, numbers), batch_size=share, num_workers=settings.num_loader_workers,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    for batch in loader:
        yield {name: value.to(fabric.device, non_blocking=True) for name, value in batch.items() if name != "id"}


def band_statistics(tiles: TileDataset, role: str, bands: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each band, scaled to 0-1, over measured pixels of up to 256 tiles."""
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), 256)).astype(int))
    sums, count = np.zeros((2, len(bands))), 0
    for index in chosen:
        stored = tiles.stored(int(index))
        values_CP = to_unit_range(stored[role], bands)[:, stored["valid"]].astype(np.float64)
        sums += values_CP.sum(axis=1), np.square(values_CP).sum(axis=1)
        count += values_CP.shape[1]
    mean, square = sums / max(count, 1)
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _open_tiles(tiles_dir: Path, settings: TrainSettings) -> tuple[TileDataset, TileDataset]:
    tiles, validation = TileDataset(tiles_dir, split="train"), TileDataset(tiles_dir, split="val")
    if settings.crop_px > tiles.size_px:
        raise DataError(f"train.crop_px {settings.crop_px} is larger than the tiles of {tiles.size_px} px; lower it")
    if tiles.nbytes + validation.nbytes <= PRELOAD_BYTES:
        tiles.preload(), validation.preload()
    return tiles, validation


def _config(tiles: TileDataset, settings: TrainSettings) -> NetworkConfig:
    return NetworkConfig(
        num_optical_bands=len(tiles.optical_bands), num_sar_bands=len(tiles.sar_bands),
        num_classes=len(tiles.classes), size=settings.network_size, restoration=settings.restoration,
        interaction=settings.interaction, fusion=settings.fusion, exchange=settings.exchange,
        cloud_guidance=settings.cloud_guidance,
    )  # fmt: skip


def _strategy(settings: TrainSettings) -> str:
    return "auto" if settings.devices == 1 else "ddp"


class _Untracked:
    """Stands for the run in every process but the first."""

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Do nothing."""


def _tracked(fabric: Fabric, state_dir: Path, settings: TrainSettings, *, seed: int, data_hash: str) -> Any:
    if not fabric.is_global_zero:
        return nullcontext(_Untracked())
    return tracking.run(
        state_dir / "run.json", experiment=EXPERIMENT, name=f"cgm2net-{settings.network_size}-seed{seed}",
        params={**settings.model_dump(), "seed": seed}, tags=lineage.lineage_tags(Path.cwd(), data_hash=data_hash),
    )  # fmt: skip


def _validate(trainer: _Trainer, validation: TileDataset) -> dict[str, float]:
    settings = EvaluateSettings(num_threads=trainer.settings.num_threads)
    return score(trainer.average.module, validation, settings=settings, shown_as="validate").metrics()


def _write(
    trainer: _Trainer, tiles: TileDataset, validation: TileDataset, first_step: int, *, seed: int, out_dir: Path
) -> TrainReport:
    settings, network = trainer.settings, trainer.average.module
    assert isinstance(network, CGM2Net)
    out_dir.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(trainer.curves).to_csv(out_dir / "curves.csv", index=False, float_format="%.6g")
    last = {name.removeprefix("val/"): v for name, v in trainer.curves[-1].items() if name.startswith("val/")}
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
    return TrainReport(
        num_parameters=num_parameters, steps=settings.steps, resumed_at=first_step,
        seconds_a_step=trainer.seconds / max(1, trainer.steps_here), metrics={f"val/{k}": v for k, v in last.items()},
    )  # fmt: skip


def _draw_validation(network: CGM2Net, validation: TileDataset, path: Path, settings: TrainSettings) -> None:
    by_cover = validation.table["cloud_cover"].sort_values(kind="stable").index
    chosen = [int(i) for i in by_cover[np.linspace(0, len(by_cover) - 1, min(NUM_PICTURES, len(by_cover))).astype(int)]]
    samples = predicted_samples(
        network, validation, chosen, settings=EvaluateSettings(num_threads=settings.num_threads)
    )
    pictures.draw_tiles(
        samples, path, optical_bands=validation.optical_bands, sar_bands=validation.sar_bands,
        classes=validation.classes,
    )  # fmt: skip
