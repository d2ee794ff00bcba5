import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score, multiclass_jaccard_index

from cgm2net.errors import MetricError
from cgm2net.evaluation.class_metrics import ClassMetrics, class_metrics, constant_answer

NAMES = ("water", "forest", "urban", "snow")


def score(
    predicted: list[int], label: list[int], *, cloud: list[float] | None = None, valid: list[bool] | None = None
) -> dict[str, float]:
    """Score one row of pixels."""
    metrics = ClassMetrics(NAMES, cloud_threshold=0.5)
    metrics.update(
        F.one_hot(torch.tensor([[predicted]]), len(NAMES)).movedim(-1, 1).float(),
        torch.tensor([[label]]),
        cloud_BHW=torch.tensor([[cloud or [0.0] * len(label)]]),
        valid_BHW=torch.tensor([[valid or [True] * len(label)]]),
    )
    return metrics.compute()


def test_two_classes_by_hand() -> None:
    # truth 0: right 3, wrong 1; truth 1: right 2, wrong 2
    result = score([0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1])
    assert result["all/oa"] == pytest.approx(5 / 8)
    assert result["all/accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert result["all/iou_water"] == pytest.approx(3 / 6)
    assert result["all/iou_forest"] == pytest.approx(2 / 5)
    assert result["all/miou"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert result["all/f1"] == pytest.approx((6 / 9 + 4 / 7) / 2)
    assert "all/iou_urban" not in result  # in neither truth nor answers


def test_a_class_answered_but_not_there_counts_as_zero() -> None:
    result = score([0, 2], [0, 0])
    assert result["all/iou_urban"] == 0.0
    assert result["all/miou"] == pytest.approx((1 / 2 + 0) / 2)


def test_ignores_255_other_codes_and_unmeasured_pixels() -> None:
    result = score([0, 1, 1, 1], [0, 255, 17, 0], valid=[True, True, True, False])
    assert result["all/oa"] == 1.0
    assert result["all/miou"] == 1.0


def test_groups_split_at_the_threshold() -> None:
    result = score([0, 0, 1], [0, 1, 1], cloud=[0.5, 0.51, 0.9])
    assert [result["clear/oa"], result["cloudy/oa"], result["all/oa"]] == pytest.approx([1.0, 0.5, 2 / 3])


def test_a_group_without_labels_is_absent() -> None:
    assert {name.split("/")[0] for name in score([0, 1], [0, 255], cloud=[0.0, 1.0])} == {"all", "clear"}
    assert score([0], [255]) == {}


def test_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 3, 200).tolist(), rng.integers(0, 3, 200).tolist()
    result = score(predicted, label)
    truth, answer = torch.tensor(label), torch.tensor(predicted)
    assert result["all/accuracy"] == pytest.approx(float(multiclass_accuracy(answer, truth, 3)))
    assert result["all/f1"] == pytest.approx(float(multiclass_f1_score(answer, truth, 3)))
    assert result["all/miou"] == pytest.approx(float(multiclass_jaccard_index(answer, truth, 3)))


def test_always_one_class() -> None:
    confusion = np.array([[3, 1], [0, 4]])
    assert constant_answer(confusion, 1).tolist() == [[0, 4], [0, 4]]
    confusion_GKK = np.stack([constant_answer(confusion, 1), np.zeros((2, 2), int)])
    assert class_metrics(confusion_GKK, ("a", "b"))["all/miou"] == pytest.approx(0.25)  # (0 + 4/8) / 2


def test_labels_coarser_than_pixels_take_the_mean_cloud_and_half_valid() -> None:
    metrics = ClassMetrics(NAMES, cloud_threshold=0.5)
    cloud, valid = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    cloud[0, :2, :2] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # mean 0.75: cloudy
    cloud[0, :2, 2:] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # mean 0.5: clear
    valid[0, 2:, 2:] = torch.tensor([[True, False], [False, False]])  # a quarter: left out
    confusion = metrics.update(
        torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), cloud_BHW=cloud, valid_BHW=valid
    )
    assert confusion.sum(axis=(2, 3)).tolist() == [[2, 1]]


def test_refuses_logits_that_are_not_finite_or_of_another_shape() -> None:
    metrics = ClassMetrics(NAMES, cloud_threshold=0.5)
    label, cloud = torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2)
    logits, valid = torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    logits[0, 0, 0, 0] = float("nan")
    with pytest.raises(MetricError, match="logits: 1 of 16 values are not finite"):
        metrics.update(logits, label, cloud_BHW=cloud, valid_BHW=valid)
    with pytest.raises(MetricError, match=r"\(1, 3, 2, 2\), .* want \(1, 4, 2, 2\)"):
        metrics.update(torch.zeros(1, 3, 2, 2), label, cloud_BHW=cloud, valid_BHW=valid)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 255])), min_size=2, max_size=40), st.data())
def test_merging_parts_equals_one_pass(pixels: list[tuple[int, int]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(pixels) - 1))

    def seen(part: list[tuple[int, int]]) -> ClassMetrics:
        metrics = ClassMetrics(NAMES, cloud_threshold=0.5)
        answers, labels = torch.tensor(part).T[:, None, None]
        cloud = (answers % 2).float()
        metrics.update(
            F.one_hot(answers, 4).movedim(-1, 1).float(), labels, cloud_BHW=cloud, valid_BHW=torch.ones_like(labels) > 0
        )
        return metrics

    merged = seen(pixels[:cut])
    merged.merge(seen(pixels[cut:]))
    assert merged.confusion_GKK.tolist() == seen(pixels).confusion_GKK.tolist()
    assert merged.confusion_GKK.sum() == sum(label != 255 for _, label in pixels)
