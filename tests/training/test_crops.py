"""Crops are functions of the seed and their number, and keep the layers of a tile together."""

from fractions import Fraction

import numpy as np
import pandas as pd
import torch

from cgm2net.training.crops import Crops, turn


class Tiles:
    """Two tiles whose every layer holds the number of its own pixel."""

    optical_bands, sar_bands = ("B02",), ("VV",)
    label_share = Fraction(1)
    table = pd.DataFrame({"tile_id": ["a", "b"]})

    def __len__(self) -> int:
        return 2

    def stored(self, index: int) -> dict[str, np.ndarray]:
        pixel = np.arange(1, 65, dtype=np.uint16).reshape(8, 8) * (index + 1)
        return {
            "optical": pixel[None], "reference": pixel[None], "sar": (pixel[None] / 16.0 - 25.0).astype(np.float32),
            "cloud": pixel.astype(np.uint8), "label": pixel.astype(np.uint8), "valid": pixel > 0,
        }  # fmt: skip


def crops(seed: int = 0, count: int = 40) -> Crops:
    return Crops(Tiles(), crop_px=4, count=count, seed=seed)  # type: ignore[arg-type]


def test_layers_stay_aligned():
    for number in range(20):
        sample = crops()[number]
        pixel = sample["label_HW"]
        assert torch.equal(torch.round(sample["optical_CHW"][0] * 10000).long(), pixel)
        assert torch.equal(torch.round(sample["clear_CHW"][0] * 10000).long(), pixel)
        assert torch.equal(torch.round(sample["sar_CHW"][0] * 25 * 16).long(), pixel)
        assert torch.equal(torch.round(sample["cloud_HW"] * 255).long(), pixel)


def test_a_crop_depends_on_seed_and_number_alone():
    assert torch.equal(crops()[7]["label_HW"], crops(count=8)[7]["label_HW"])
    drawn = [crops(seed)[7]["label_HW"].tolist() for seed in range(6)]
    assert len({str(labels) for labels in drawn}) > 1


def test_every_pass_sees_every_tile_once():
    seen = [crops()[number]["id"] for number in range(40)]
    assert all(sorted(seen[start : start + 2]) == ["a", "b"] for start in range(0, 40, 2))
    assert len({tuple(seen[start : start + 2]) for start in range(0, 40, 2)}) == 2  # shuffled anew


def test_turns_and_mirrors_by_hand():
    square = np.array([[1, 2], [3, 4]])
    assert turn(square, 0, mirrored=False).tolist() == [[1, 2], [3, 4]]
    assert turn(square, 1, mirrored=False).tolist() == [[2, 4], [1, 3]]
    assert turn(square, 0, mirrored=True).tolist() == [[2, 1], [4, 3]]
    assert turn(square, 2, mirrored=True).tolist() == [[3, 4], [1, 2]]
