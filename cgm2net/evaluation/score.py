"""Scores of a network on a set of tiles: every tile's own sums, from which all metrics follow.

Axes: T tiles of the set; the others as in :mod:`cgm2net.evaluation.metrics`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import default_collate

from cgm2net.compute import progress_bar
from cgm2net.errors import DataError, MetricError
from cgm2net.evaluation.calibration import CalibrationMetrics, calibration_metrics
from cgm2net.evaluation.class_metrics import ClassMetrics, class_metrics, constant_answer
from cgm2net.evaluation.image_metrics import ImageMetrics, image_metrics, sum_names
from cgm2net.evaluation.metrics import GROUPS
from cgm2net.model.calibration import Calibration
from cgm2net.settings import EvaluateSettings


class Tiles(Protocol):
    """What is needed of a dataset: :class:`cgm2net.data.dataset.TileDataset` and the fakes of the tests are one."""

    @property
    def table(self) -> pd.DataFrame:
        """One row a tile, in the order of the tiles: ``tile_id``, ``scene_id``, ``region``, ``count_CODE``."""
        ...

    @property
    def optical_bands(self) -> tuple[str, ...]:
        """Names of the optical bands."""
        ...

    @property
    def sar_bands(self) -> tuple[str, ...]:
        """Names of the SAR bands."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label code."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Return a sample: optical_CHW, sar_CHW, cloud_HW, clear_CHW, label_HW, valid_HW, id."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What each tile adds to the metrics of a set."""

    tiles: pd.DataFrame
    "``tile_id``, ``scene_id``, ``region``; one row a tile."
    model_TGS: np.ndarray
    "Image sums of the network's restored tiles, named by :func:`sum_names`."
    copy_TGS: np.ndarray
    "Image sums of the trivial answer: the cloudy tile as it came."
    confusion_TGKK: np.ndarray
    "Pixels, truth in rows, the network's answers in columns."
    calibration_TGS: np.ndarray | None
    "What :class:`CalibrationMetrics` adds up; none where the network has no calibration yet."
    optical_bands: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def cover(self) -> np.ndarray:
        """Share of cloudy pixels among each tile's scored ones, float (T,); 0 for a tile without any."""
        pixels_TG = self.model_TGS[:, :, sum_names(self.optical_bands).index("pixels")]
        return np.asarray(pixels_TG[:, GROUPS.index("cloudy")] / np.maximum(pixels_TG.sum(axis=1), 1))

    def metrics(self, chosen: slice | np.ndarray = slice(None), *, majority: int | None = None) -> dict[str, float]:
        """Return flat metrics of the chosen tiles.

        Args:
            chosen: tiles, as numpy selects rows; all by default.
            majority: code of the class that the trivial answer always gives; without it that answer is left out.

        Returns:
            ``GROUP/METRIC`` of the network, ``copy/GROUP/METRIC`` of the cloudy tiles as they came and
            ``majority/GROUP/METRIC`` of always one class.

        Raises:
            MetricError: if a metric is not finite.
        """
        confusion_GKK = self.confusion_TGKK[chosen].sum(axis=0)
        metrics = image_metrics(self.model_TGS[chosen].sum(axis=0)) | class_metrics(confusion_GKK, self.classes)
        if self.calibration_TGS is not None:
            metrics |= calibration_metrics(self.calibration_TGS[chosen].sum(axis=0))
        trivial = {f"copy/{name}": value for name, value in image_metrics(self.copy_TGS[chosen].sum(axis=0)).items()}
        if majority is not None:
            constant = class_metrics(constant_answer(confusion_GKK, majority), self.classes)
            trivial |= {f"majority/{name}": value for name, value in constant.items()}
        return metrics | trivial


def score(
    network: nn.Module,
    dataset: Tiles,
    *,
    settings: EvaluateSettings,
    calibration: Calibration | None = None,
    shown_as: str = "evaluate",
) -> Scores:
    """Score a network on every tile of a dataset, batch by batch.

    Args:
        network: called as ``network(optical_BCHW, sar_BCHW, cloud_B1HW)``, with ``label_shape`` where labels are
            coarser than pixels; left in evaluation mode, on the CUDA device where there is one.
        dataset: tiles.
        settings: batch size, cloud threshold, CPU threads (set for the process).
        calibration: of the network; without it, reliability and coverage are left out.
        shown_as: name of the progress bar.

    Raises:
        DataError: if there is no tile.
        MetricError: if an image or a logit is not finite, or logits do not fit the labels; names the tiles.
    """
    if len(dataset) == 0:
        raise DataError("no tile to score: the split is empty; add scenes or change the shares of the split")
    threshold = settings.cloud_threshold
    model = ImageMetrics(len(dataset.optical_bands), cloud_threshold=threshold)
    copy = ImageMetrics(len(dataset.optical_bands), cloud_threshold=threshold)
    classes = ClassMetrics(dataset.classes, cloud_threshold=threshold)
    doubts = calibration and CalibrationMetrics(
        calibration, num_classes=len(dataset.classes), cloud_threshold=threshold
    )
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    doubted: list[np.ndarray] = []
    with progress_bar() as progress:
        bar = progress.add_task(shown_as, total=len(dataset))
        for batch, prediction in predict(network, dataset, range(len(dataset)), settings=settings):
            mask = {"cloud_BHW": batch["cloud_HW"], "valid_BHW": batch["valid_HW"]}
            try:
                parts.append(
                    (
                        model.update(prediction.clear_BCHW, batch["clear_CHW"], **mask),
                        copy.update(batch["optical_CHW"], batch["clear_CHW"], **mask),
                        classes.update(prediction.logits_BKHW, batch["label_HW"], **mask),
                    )
                )
            except MetricError as error:
                raise MetricError(f"tiles {', '.join(batch['id'])}: {error}") from error
            if doubts:
                doubted.append(doubts.update(prediction, batch))
            progress.advance(bar, len(batch["id"]))
    model_TGS, copy_TGS, confusion_TGKK = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Scores(
        tiles=dataset.table[["tile_id", "scene_id", "region"]].reset_index(drop=True),
        model_TGS=model_TGS, copy_TGS=copy_TGS, confusion_TGKK=confusion_TGKK,
        calibration_TGS=np.concatenate(doubted) if doubted else None,
        optical_bands=tuple(dataset.optical_bands), classes=tuple(dataset.classes),
    )  # fmt: skip


def predict(
    network: nn.Module, dataset: Tiles, indices: Sequence[int], *, settings: EvaluateSettings
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield batches of samples, as tensors on the device, with the network's prediction of each."""
    torch.set_num_threads(settings.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    ids = dataset.table["tile_id"].tolist()
    for start in range(0, len(indices), settings.batch_size):
        chosen = indices[start : start + settings.batch_size]
        samples = [dataset[index] for index in chosen]
        assert [sample["id"] for sample in samples] == [ids[index] for index in chosen], "table and tiles out of order"
        batch = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in default_collate(samples).items()
        }
        labels, pixels = batch["label_HW"].shape[1:], batch["optical_CHW"].shape[2:]
        coarser = {} if labels == pixels else {"label_shape": tuple(labels)}
        with torch.inference_mode():
            prediction = network(batch["optical_CHW"], batch["sar_CHW"], batch["cloud_HW"].unsqueeze(1), **coarser)
        yield batch, prediction


def majority_class(table: pd.DataFrame, *, num_classes: int) -> int | None:
    """Return the code of the most frequent class of a tile table, the lower of equals; none if nothing is labelled."""
    counts = table[[f"count_{code}" for code in range(num_classes)]].sum().to_numpy()
    return int(counts.argmax()) if counts.any() else None
