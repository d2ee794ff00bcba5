"""Stage ``train``: a network from tiles, top to bottom."""

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
import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from cgm2net import lineage, model, tracking
from cgm2net.compute import progress_bar
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import DataError, MetricError
from cgm2net.evaluation.score import score
from cgm2net.files import CACHE_DIR, code_hash, folder_hash, sha256_json
from cgm2net.model.interface import Network
from cgm2net.networks import build, config_of
from cgm2net.sensors import to_unit_range
from cgm2net.settings import EvaluateSettings, TrainSettings
from cgm2net.training.checkpoint import load_checkpoint, save_checkpoint
from cgm2net.training.crops import Crops
from cgm2net.training.losses import TaskLoss
from cgm2net.training.optimiser import learning_rate, parameter_groups
from cgm2net.training.outputs import write_outputs
from cgm2net.training.recompute import recompute

_log = logging.getLogger(__name__)

EXPERIMENT = "cgm2net"
PRELOAD_BYTES = 2 << 30
"""A split up to this size is held in memory."""


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """Where a training is logged."""

    experiment: str = EXPERIMENT
    name: str = ""
    "Of the run; architecture, size and seed by default."
    tags: Mapping[str, str] = field(default_factory=dict)


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
    tiles_dir: Path,
    out_dir: Path,
    *,
    settings: TrainSettings,
    seed: int,
    cache_dir: Path = CACHE_DIR,
    tracked: Tracked | None = None,
    tiles_type: type[TileDataset] = TileDataset,
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
        tracked: where it is logged, if not where trainings are.
        tiles_type: opens the tiles, where a network is to see others than it is given.

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
    tiles, validation = _open_tiles(tiles_dir, settings, tiles_type)
    code = [code_hash(), folder_hash(Path(model.__file__).parent), tiles_type.__name__]
    key = sha256_json([*code, settings.model_dump(), seed, tiles.data_hash])
    state_dir = cache_dir / "train" / key
    torch.manual_seed(seed)
    bands = len(tiles.optical_bands), len(tiles.sar_bands), len(tiles.classes)
    network = build(config_of(settings, bands=bands))
    network.standard_optical.set(*band_statistics(tiles, "reference", tiles.optical_bands))
    network.standard_sar.set(*band_statistics(tiles, "sar", tiles.sar_bands))
    trainer = _Trainer(fabric, network, TaskLoss(settings), settings)
    first_step = trainer.restore(load_checkpoint(state_dir / "checkpoint.pt"))
    opened = _tracked(fabric, state_dir, settings, tracked or Tracked(), seed=seed, data_hash=tiles.data_hash)
    with opened as run, progress_bar() as progress:
        _optimise(trainer, tiles, validation, first_step, seed=seed, state_dir=state_dir, run=run, progress=progress)
        if not fabric.is_global_zero:
            return None
        averaged = trainer.average.module
        assert isinstance(averaged, Network)
        metrics = write_outputs(
            out_dir, averaged, trainer.curves, tiles, validation, settings=settings, seed=seed
        )  # fmt: skip
        run.log_metrics(metrics, step=settings.steps)
        run.log_files(sorted(path for path in out_dir.iterdir() if path.is_file()), folder="train")
    shutil.copy(state_dir / "run.json", out_dir / "run.json")
    shutil.rmtree(state_dir)
    return TrainReport(
        num_parameters=sum(parameter.numel() for parameter in averaged.parameters()), steps=settings.steps,
        resumed_at=first_step, seconds_a_step=trainer.seconds / max(1, trainer.steps_here), metrics=metrics,
    )  # fmt: skip


class _Trainer:
    """The network, its moving average and the optimiser; one step, and everything a checkpoint holds."""

    def __init__(self, fabric: Fabric, network: Network, loss: TaskLoss, settings: TrainSettings) -> None:
        self.fabric, self.network, self.loss, self.settings = fabric, network, loss, settings
        both = nn.ModuleDict({"network": network, "loss": loss})
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
        optimizer = torch.optim.AdamW(parameter_groups(both, settings), lr=settings.learning_rate, betas=(0.9, 0.99))
        if settings.recompute:
            recompute(network)
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
        found = self._backward(batch)
        if not math.isfinite(found["loss"]):
            raise MetricError(f"step {number}: not finite: {found}; lower train.learning_rate, look at the tiles")
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
        return {"learning_rate": rate, **found}

    def _backward(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Add up the gradients of a batch, pass by pass; return the loss and its parts, averaged over the passes."""
        passes = self.settings.num_passes
        chunks = {name: value.chunk(passes) for name, value in batch.items()}
        found: dict[str, float] = {}
        for number in range(passes):
            part = {name: chunk[number] for name, chunk in chunks.items()}
            with self.fabric.no_backward_sync(self.wrapped, enabled=number < passes - 1):
                prediction = self.wrapped(
                    part["optical_CHW"], part["sar_CHW"], part["cloud_HW"].unsqueeze(1),
                    label_shape=tuple(part["label_HW"].shape[1:]),
                )  # fmt: skip
                loss, parts = self.loss(prediction, part)
                self.fabric.backward(loss / passes)
            for name, value in {"loss": loss, **parts}.items():
                found[name] = found.get(name, 0.0) + float(value.detach()) / passes
        return found

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


def _open_tiles(
    tiles_dir: Path, settings: TrainSettings, tiles_type: type[TileDataset]
) -> tuple[TileDataset, TileDataset]:
    tiles, validation = (tiles_type(tiles_dir, split=split) for split in ("train", "val"))
    if settings.crop_px > tiles.size_px:
        raise DataError(f"train.crop_px {settings.crop_px} is larger than the tiles of {tiles.size_px} px; lower it")
    if settings.crop_px % tiles.label_share.denominator:
        raise DataError(
            f"train.crop_px {settings.crop_px} must be a multiple of {tiles.label_share.denominator}: labels are"
            f" {float(1 / tiles.label_share):.3g} pixels a side, and crops hold whole ones"
        )
    if tiles.nbytes + validation.nbytes <= PRELOAD_BYTES:
        tiles.preload(), validation.preload()
    return tiles, validation


def _strategy(settings: TrainSettings) -> str:
    return "auto" if settings.devices == 1 else "ddp"


class _Untracked:
    """Stands for the run in every process but the first."""

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Do nothing."""


def _tracked(
    fabric: Fabric, state_dir: Path, settings: TrainSettings, tracked: Tracked, *, seed: int, data_hash: str
) -> Any:
    if not fabric.is_global_zero:
        return nullcontext(_Untracked())
    return tracking.run(
        state_dir / "run.json", experiment=tracked.experiment,
        name=tracked.name or f"{settings.architecture}-{settings.network_size}-seed{seed}",
        params={**settings.model_dump(), "seed": seed},
        tags={**lineage.lineage_tags(Path.cwd(), data_hash=data_hash), **tracked.tags},
    )  # fmt: skip


def _validate(trainer: _Trainer, validation: TileDataset) -> dict[str, float]:
    settings = EvaluateSettings(num_threads=trainer.settings.num_threads)
    return score(trainer.average.module, validation, settings=settings, shown_as="validate").metrics()
