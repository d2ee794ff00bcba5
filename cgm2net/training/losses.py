"""The loss of both tasks: what is learned, weighed by cloud, and only where something was measured.

Sums run over the whole batch, whichever processes hold its parts: several processes have the loss, and after their
gradients are averaged the gradients, that one would have.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from cgm2net.model.interface import Prediction
from cgm2net.sensors import LABEL_IGNORE
from cgm2net.settings import TrainSettings

_CHARBONNIER_EPSILON = 1e-3

_DOUBT_WEIGHT = 0.01
"""Small, so that clipping sees the two tasks; Adam's steps of the layers that it alone teaches do not depend on it."""


def pool(total: Tensor) -> Tensor:
    """Return a sum over the batch, added up over all processes; gradients flow back to each."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(total)  # type: ignore[no-any-return]
    return total


def charbonnier(predicted_BCHW: Tensor, wanted_BCHW: Tensor, weight_B1HW: Tensor) -> Tensor:
    r"""Return the weighted mean of :math:`\sqrt{d^2 + \epsilon^2}`; 0 where every weight is 0.

    Charbonnier et al. 1994, doi:10.1109/ICIP.1994.413553.
    """
    distance = torch.sqrt((predicted_BCHW - wanted_BCHW).square() + _CHARBONNIER_EPSILON**2)
    total = pool(weight_B1HW.sum()) * predicted_BCHW.shape[1]
    return pool((distance * weight_B1HW).sum()) / total.clamp(min=1.0)


def dissimilarity(predicted_BCHW: Tensor, wanted_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Return 1 - SSIM, averaged over the measured pixels; windows see zeros in both images where nothing was."""
    images = predicted_BCHW.float() * valid_B1HW, wanted_BCHW.float() * valid_B1HW
    _, map_BCHW = structural_similarity_index_measure(*images, data_range=1.0, return_full_image=True)
    total = pool(valid_B1HW.sum()) * predicted_BCHW.shape[1]
    return pool(((1.0 - map_BCHW) * valid_B1HW).sum()) / total.clamp(min=1.0)


def dice(logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Return 1 - the mean Dice coefficient of the classes that the labels hold; ignored pixels have no say.

    Milletari et al. 2016, doi:10.1109/3DV.2016.79.
    """
    known_B1HW = (label_BHW != LABEL_IGNORE).unsqueeze(1)
    num_classes = logits_BKHW.shape[1]
    codes = torch.where(known_B1HW[:, 0], label_BHW, 0)
    truth_BKHW = F.one_hot(codes, num_classes).permute(0, 3, 1, 2) * known_B1HW
    answer_BKHW = logits_BKHW.float().softmax(dim=1) * known_B1HW
    both_K = pool((truth_BKHW * answer_BKHW).sum(dim=(0, 2, 3)))
    truth_K = pool(truth_BKHW.sum(dim=(0, 2, 3)).to(answer_BKHW.dtype))
    sizes_K = truth_K + pool(answer_BKHW.sum(dim=(0, 2, 3)))
    present_K = truth_K > 0
    coefficient_K = (2.0 * both_K + 1.0) / (sizes_K + 1.0)
    return ((1.0 - coefficient_K) * present_K).sum() / present_K.sum().clamp(min=1)


def cross_entropy(logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Return the mean cross-entropy over labelled pixels; 0 where there is none."""
    total = F.cross_entropy(logits_BKHW.float(), label_BHW, ignore_index=LABEL_IGNORE, reduction="sum")
    return pool(total) / pool((label_BHW != LABEL_IGNORE).sum().to(total.dtype)).clamp(min=1)


def doubt(spread_BCHW: Tensor, error_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    r"""Return the mean of :math:`|e| / b + \log b` over measured pixels: how badly spread b foretells the error e.

    Negative logarithm of a Laplace likelihood, without its constant; the error is taken as given.
    """
    surprise = error_BCHW.detach().abs() / spread_BCHW + spread_BCHW.log()
    total = pool(valid_B1HW.sum()) * spread_BCHW.shape[1]
    return pool((surprise * valid_B1HW).sum()) / total.clamp(min=1.0)


class TaskLoss(nn.Module):
    r"""Both tasks in one number.

    Fixed: :math:`w_r L_r + w_s L_s`. Learned: :math:`\sum_t w_t (e^{-\sigma_t} L_t + \sigma_t)` with one learned
    :math:`\sigma_t` (log variance) a task: Kendall et al. 2018, doi:10.1109/CVPR.2018.00781.
    """

    def __init__(self, settings: TrainSettings) -> None:
        super().__init__()
        self.settings = settings
        learned = settings.task_weights == "learned"
        self.log_variance_T = nn.Parameter(torch.zeros(2)) if learned else None

    def forward(self, prediction: Prediction, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts by name.

        Args:
            prediction: of the network.
            batch: ``clear_CHW``, ``cloud_HW``, ``valid_HW``, ``label_HW`` with one more axis in front.
        """
        valid_B1HW = batch["valid_HW"].unsqueeze(1).float()
        weight = valid_B1HW * (1.0 + self.settings.cloud_weight * batch["cloud_HW"].unsqueeze(1))
        clear = prediction.clear_BCHW.float()
        parts = {
            "charbonnier": charbonnier(clear, batch["clear_CHW"], weight),
            "dissimilarity": dissimilarity(clear, batch["clear_CHW"], valid_B1HW),
            "cross_entropy": cross_entropy(prediction.logits_BKHW, batch["label_HW"]),
            "dice": dice(prediction.logits_BKHW, batch["label_HW"]),
            "doubt": doubt(prediction.spread_BCHW, clear - batch["clear_CHW"], valid_B1HW),
        }
        tasks = (
            (self.settings.restoration_weight, parts["charbonnier"] + 0.2 * parts["dissimilarity"]),
            (self.settings.segmentation_weight, parts["cross_entropy"] + 0.5 * parts["dice"]),
        )
        loss = _DOUBT_WEIGHT * parts["doubt"]
        for index, (weight_of_task, task) in enumerate(tasks):
            if self.log_variance_T is None:
                loss = loss + weight_of_task * task
            else:
                log_variance = self.log_variance_T[index]
                loss = loss + weight_of_task * (task * torch.exp(-log_variance) + log_variance)
        return loss, parts
