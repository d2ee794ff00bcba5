"""Losses worked by hand."""

import math

import pytest
import torch

from cgm2net.model.interface import Prediction
from cgm2net.settings import TrainSettings
from cgm2net.training.losses import TaskLoss, charbonnier, cross_entropy, dice, dissimilarity, doubt


def test_charbonnier_is_a_weighted_mean_distance():
    predicted = torch.tensor([[[[0.5, 0.2]]]])
    wanted = torch.tensor([[[[0.2, 0.6]]]])
    weight = torch.tensor([[[[1.0, 3.0]]]])
    # (1 * 0.3 + 3 * 0.4) / 4 = 0.375, up to the epsilon of 1e-3
    assert charbonnier(predicted, wanted, weight).item() == pytest.approx(0.375, abs=1e-4)
    assert charbonnier(predicted, wanted, torch.zeros_like(weight)).item() == 0.0


def test_dissimilarity_is_zero_for_equal_images_and_ignores_what_was_not_measured():
    image = torch.rand(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 1, 24, 24)
    assert dissimilarity(image, image, valid).item() == pytest.approx(0.0, abs=1e-6)
    other = image.clone()
    other[..., :6] = 1.0
    valid[..., :6] = 0.0
    assert dissimilarity(other, image, valid).item() == pytest.approx(0.0, abs=1e-6)
    assert dissimilarity(other, image, torch.ones_like(valid)).item() > 0.05


def test_cross_entropy_ignores_255():
    logits = torch.zeros(1, 4, 1, 2)  # every class 1/4
    assert cross_entropy(logits, torch.tensor([[[2, 255]]])).item() == pytest.approx(math.log(4))
    assert cross_entropy(logits, torch.tensor([[[255, 255]]])).item() == 0.0


def test_dice_by_hand():
    # two pixels, two classes, answers (0.8, 0.2) and (0.4, 0.6), truth 0 and 1
    logits = torch.log(torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]]]))
    label = torch.tensor([[[0, 1]]])
    first = (2 * 0.8 + 1) / (1 + 1.2 + 1)
    second = (2 * 0.6 + 1) / (1 + 0.8 + 1)
    assert dice(logits, label).item() == pytest.approx(1 - (first + second) / 2, abs=1e-6)
    # an ignored pixel has no say; a class that is nowhere in the labels is not counted
    ignored = torch.tensor([[[0, 255]]])
    assert dice(logits, ignored).item() == pytest.approx(1 - (2 * 0.8 + 1) / (1 + 0.8 + 1), abs=1e-6)
    assert dice(logits, torch.tensor([[[255, 255]]])).item() == 0.0


def batch() -> tuple[Prediction, dict[str, torch.Tensor]]:
    clear = torch.full((1, 1, 16, 16), 0.5)
    cloud = torch.zeros(1, 16, 16)
    cloud[:, :8] = 1.0
    predicted = clear.clone()
    predicted[:, :, :8] += 0.1  # wrong under cloud only
    prediction = Prediction(predicted, torch.zeros(1, 2, 16, 16), torch.ones(1, 1, 16, 16))
    tensors = {
        "clear_CHW": clear, "cloud_HW": cloud, "valid_HW": torch.ones(1, 16, 16, dtype=torch.bool),
        "label_HW": torch.zeros(1, 16, 16, dtype=torch.long),
    }  # fmt: skip
    return prediction, tensors


def test_doubt_is_least_where_the_spread_is_the_error():
    error = torch.full((1, 1, 2, 2), 0.1, requires_grad=True)
    valid = torch.ones(1, 1, 2, 2)
    valid[..., 0] = 0.0
    error.data[..., 0] = 5.0  # not measured: no say
    # |e| / b + log b: 2 + log 0.05, 1 + log 0.1, 0.5 + log 0.2
    surprise = [doubt(torch.full((1, 1, 2, 2), b), error, valid).item() for b in (0.05, 0.1, 0.2)]
    assert surprise == pytest.approx([2 + math.log(0.05), 1 + math.log(0.1), 0.5 + math.log(0.2)])
    assert min(surprise) == surprise[1]
    spread = torch.full((1, 1, 2, 2), 0.1, requires_grad=True)
    doubt(spread, error, valid).backward()
    assert error.grad is None  # the image is not taught by it


def test_clouded_pixels_weigh_more():
    prediction, tensors = batch()
    parts = {w: TaskLoss(TrainSettings(cloud_weight=w))(prediction, tensors)[1]["charbonnier"].item() for w in (0, 4)}
    assert parts[0] == pytest.approx(0.1 / 2, abs=1e-3)
    assert parts[4] == pytest.approx((5 * 0.1 + 0) / 6, abs=1e-3)


def test_task_weights_switch_tasks_off_and_learned_ones_start_as_fixed():
    prediction, tensors = batch()
    both, parts = TaskLoss(TrainSettings(restoration_weight=1.0, segmentation_weight=0.5))(prediction, tensors)
    image = parts["charbonnier"] + 0.2 * parts["dissimilarity"]
    classes = parts["cross_entropy"] + 0.5 * parts["dice"]
    assert both.item() == pytest.approx((image + 0.5 * classes + 0.01 * parts["doubt"]).item())
    one, _ = TaskLoss(TrainSettings(segmentation_weight=0.0))(prediction, tensors)
    assert one.item() == pytest.approx((image + 0.01 * parts["doubt"]).item())
    learned = TaskLoss(TrainSettings(task_weights="learned"))
    assert learned(prediction, tensors)[0].item() == pytest.approx(both.item())
    assert sum(p.numel() for p in learned.parameters()) == 2
