"""Class metrics of land-cover maps: OA, mean accuracy, F1, IoU, as one confusion over a set (:mod:`metrics`)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cgm2net.errors import MetricError
from cgm2net.evaluation.metrics import GROUPS, checked, cloud_groups, require_finite, with_all
from cgm2net.sensors import LABEL_IGNORE

CLASS_METRICS = ("oa", "accuracy", "f1", "miou")


class ClassMetrics:
    """Class metrics of a set of tiles, batch by batch, in constant memory.

    Args:
        classes: name of each label code, in the order of the codes.
        cloud_threshold: a pixel with a higher cloud probability is cloudy.
    """

    def __init__(self, classes: Sequence[str], *, cloud_threshold: float) -> None:
        self.classes = tuple(classes)
        self.confusion_GKK = np.zeros((len(GROUPS), len(classes), len(classes)), np.int64)
        self._cloud_threshold = cloud_threshold

    def update(
        self,
        logits_BKHW: torch.Tensor,
        label_BHW: torch.Tensor,
        *,
        cloud_BHW: torch.Tensor,
        valid_BHW: torch.Tensor,
    ) -> np.ndarray:
        """Add a batch.

        Args:
            logits_BKHW: class scores on the grid of the labels; the largest is the answer.
            label_BHW: class codes; what is no code of ``classes`` (255 above all) is not scored.
            cloud_BHW: cloud probability 0-1, on the grid of the labels or a finer one: then its mean in each label
                pixel counts.
            valid_BHW: bool, True where measured, on the grid of the cloud; a coarser label pixel is valid where at
                least half of it is.

        Returns:
            int64 (B, G, K, K): each tile's own confusion, truth in rows, answers in columns.

        Raises:
            MetricError: at a logit that is not finite, or where their shape is not that of classes and labels.
        """
        expected = (label_BHW.shape[0], len(self.classes), *label_BHW.shape[1:])
        if tuple(logits_BKHW.shape) != expected:
            raise MetricError(f"logits have shape {tuple(logits_BKHW.shape)}, the labels and classes want {expected}")
        require_finite(logits_BKHW, what="logits")
        if cloud_BHW.shape != label_BHW.shape:
            size = (label_BHW.shape[1], label_BHW.shape[2])
            cloud_BHW = F.adaptive_avg_pool2d(cloud_BHW.float(), size)
            valid_BHW = F.adaptive_avg_pool2d(valid_BHW.float(), size) >= 0.5
        known_BHW = valid_BHW & (label_BHW >= 0) & (label_BHW < len(self.classes))
        groups_BGHW = cloud_groups(cloud_BHW, known_BHW, threshold=self._cloud_threshold)
        confusion_BGKK = _confusion(logits_BKHW.argmax(dim=1), label_BHW, groups_BGHW, num_classes=len(self.classes))
        self.confusion_GKK += confusion_BGKK.sum(axis=0)
        return confusion_BGKK

    def merge(self, other: "ClassMetrics") -> None:
        """Add what another one has seen."""
        self.confusion_GKK += other.confusion_GKK

    def compute(self) -> dict[str, float]:
        """Return ``GROUP/METRIC`` of everything seen; see :func:`class_metrics`."""
        return class_metrics(self.confusion_GKK, self.classes)


def class_metrics(confusion_GKK: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Return the class metrics that confusions amount to.

    ``oa`` share of pixels answered right; ``accuracy`` mean recall; ``f1`` mean F1; ``iou_CLASS``; ``miou`` mean IoU.
    Means are over the classes that the group's truth or answers contain; others do not count. A class that is
    answered but not there has recall, F1 and IoU 0.

    Args:
        confusion_GKK: pixels, truth in rows, answers in columns, of one tile or added over any tiles.
        classes: K names.

    Returns:
        ``GROUP/METRIC`` in 0-1 for ``all``, ``clear`` and ``cloudy``; absent for a group without a labelled pixel.
    """
    metrics: dict[str, float] = {}
    for group, confusion_KK in with_all(confusion_GKK):
        if not confusion_KK.sum():
            continue
        scores = class_scores(confusion_KK)
        present_K = scores["present"].astype(bool)
        metrics[f"{group}/oa"] = float(np.trace(confusion_KK) / confusion_KK.sum())
        for name, key in (("accuracy", "recall"), ("f1", "f1"), ("miou", "iou")):
            metrics[f"{group}/{name}"] = float(scores[key][present_K].mean())
        for code in np.flatnonzero(present_K).tolist():
            metrics[f"{group}/iou_{classes[code]}"] = float(scores["iou"][code])
    return checked(metrics)


def class_scores(confusion_KK: np.ndarray) -> dict[str, np.ndarray]:
    """Return ``precision``, ``recall``, ``f1``, ``iou`` (0 where undefined) and ``present`` (0, 1), each float (K,)."""
    right_K = np.diag(confusion_KK).astype(float)
    truth_K, answered_K = confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    return {
        "precision": right_K / np.maximum(answered_K, 1),
        "recall": right_K / np.maximum(truth_K, 1),
        "f1": 2 * right_K / np.maximum(truth_K + answered_K, 1),
        "iou": right_K / np.maximum(truth_K + answered_K - right_K, 1),
        "present": (truth_K + answered_K > 0).astype(float),
    }


def constant_answer(confusion_GKK: np.ndarray, code: int) -> np.ndarray:
    """Return the confusion that always answering one class gives on the same truth, shaped (..., K, K)."""
    constant = np.zeros_like(confusion_GKK)
    constant[..., code] = confusion_GKK.sum(axis=-1)
    return constant


def _confusion(
    predicted_BHW: torch.Tensor, label_BHW: torch.Tensor, groups_BGHW: torch.Tensor, *, num_classes: int
) -> np.ndarray:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    confusion_BGKK = np.zeros((*groups_BGHW.shape[:2], num_classes, num_classes), np.int64)
    for tile, group in np.ndindex(*groups_BGHW.shape[:2]):
        truth_HW = label_BHW[tile].where(groups_BGHW[tile, group], LABEL_IGNORE)
        matrix_KK = multiclass_confusion_matrix(
            predicted_BHW[tile], truth_HW, num_classes=num_classes, ignore_index=LABEL_IGNORE, validate_args=False
        )
        confusion_BGKK[tile, group] = matrix_KK.cpu().numpy()
    return confusion_BGKK
