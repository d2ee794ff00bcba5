"""Samples: scaling worked by hand, what is not measured, and reading ahead."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from cgm2net.data.dataset import TileDataset, to_sample
from cgm2net.errors import DataError
from cgm2net.files import write_json

SIZE = 4


@pytest.fixture
def tiles_dir(tmp_path: Path) -> Path:
    """Three tiles: two to train with, around one to validate with."""
    rng = np.random.default_rng(0)
    shape = (3, SIZE, SIZE)
    arrays = {
        "optical": rng.integers(1, 12_000, (3, 2, SIZE, SIZE), np.uint16),
        "sar": rng.normal(-12, 9, (3, 2, SIZE, SIZE)).astype(np.float32),
        "reference": rng.integers(1, 12_000, (3, 2, SIZE, SIZE), np.uint16),
        "cloud": rng.integers(0, 256, shape, np.uint8),
        "label": rng.choice(np.array([0, 1, 255], np.uint8), shape),
        "valid": rng.random(shape) > 0.2,
    }
    group = zarr.create_group(tmp_path / "tiles.zarr")
    for name, array in arrays.items():
        group.create_array(name, data=array)
    pd.DataFrame({"tile_id": ["a", "b", "c"], "split": ["train", "val", "train"]}).to_parquet(
        tmp_path / "tiles.parquet"
    )
    meta = {"optical_bands": ["B04", "B08"], "sar_bands": ["VV", "VH"], "classes": ["land", "water"]}
    write_json(tmp_path / "meta.json", {**meta, "gsd_m": 10.0, "data_hash": "0f", "size_px": SIZE, "label_share": "1"})
    return tmp_path


def stored(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a tile of one pixel."""
    return {
        "optical": np.array([2500, 4000], np.uint16).reshape(2, 1, 1),
        "sar": np.array([-20, -6.5], np.float32).reshape(2, 1, 1),
        "reference": np.array([1000, 15_000], np.uint16).reshape(2, 1, 1),
        "cloud": np.array([[51]], np.uint8),
        "label": np.array([[1]], np.uint8),
        "valid": np.array([[True]]),
        **changes,
    }


def sample(**changes: np.ndarray) -> dict[str, torch.Tensor]:
    made = to_sample(stored(**changes), optical_bands=("B04", "B08"), sar_bands=("VV", "VH"), name="a")
    assert made["id"] == "a"
    return {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}


def test_scaling_by_hand() -> None:
    made = sample()
    torch.testing.assert_close(made["optical_CHW"].flatten(), torch.tensor([0.25, 0.4]))
    torch.testing.assert_close(made["sar_CHW"].flatten(), torch.tensor([0.2, 0.8]))  # 5 of 25 dB, 26 of 32.5 dB
    torch.testing.assert_close(made["clear_CHW"].flatten(), torch.tensor([0.1, 1.0]))
    assert made["cloud_HW"].item() == pytest.approx(0.2)  # 51 of 255
    assert made["label_HW"].item() == 1
    assert made["valid_HW"].item() is True
    assert {name: value.dtype for name, value in made.items()} == {
        "optical_CHW": torch.float32, "sar_CHW": torch.float32, "cloud_HW": torch.float32,
        "clear_CHW": torch.float32, "label_HW": torch.int64, "valid_HW": torch.bool,
    }  # fmt: skip


def test_where_the_optics_saw_nothing_is_cloud() -> None:
    assert sample(optical=np.zeros((2, 1, 1), np.uint16))["cloud_HW"].item() == 1.0
    one_dark_band = np.array([0, 400], np.uint16).reshape(2, 1, 1)
    assert sample(optical=one_dark_band)["cloud_HW"].item() == pytest.approx(0.2)


def test_radar_that_was_not_measured_is_0_not_nan() -> None:
    made = sample(sar=np.full((2, 1, 1), np.nan, np.float32), valid=np.array([[False]]))
    assert made["sar_CHW"].flatten().tolist() == [0.0, 0.0]
    assert made["valid_HW"].item() is False


def test_a_split_holds_its_own_tiles_in_order(tiles_dir: Path) -> None:
    train, val = TileDataset(tiles_dir, split="train"), TileDataset(tiles_dir, split="val")
    assert [item["id"] for item in (train[0], train[1])] == ["a", "c"]
    assert (len(train), len(val), val[0]["id"]) == (2, 1, "b")
    assert train.table["tile_id"].tolist() == ["a", "c"]
    assert (train.optical_bands, train.sar_bands, train.classes) == (("B04", "B08"), ("VV", "VH"), ("land", "water"))
    assert (train.gsd_m, train.data_hash, train.size_px) == (10.0, "0f", SIZE)
    reference = np.asarray(zarr.open_group(tiles_dir / "tiles.zarr", mode="r")["reference"])
    expected = np.minimum(reference[2] / 10_000, 1)
    np.testing.assert_allclose(train[1]["clear_CHW"].numpy(), expected, rtol=1e-6)
    with pytest.raises(IndexError):
        train[2]


def test_reading_ahead_changes_nothing(tiles_dir: Path) -> None:
    lazy, loaded = TileDataset(tiles_dir, split="train"), TileDataset(tiles_dir, split="train").preload()
    for index in range(2):
        first, second = lazy[index], loaded[index]
        for key, value in first.items():
            assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]  # type: ignore[literal-required]
    # 16 pixels of 2 + 2 bands of 2 bytes, 2 of 4 bytes, and three of one byte
    assert lazy.nbytes == 2 * 16 * (2 * 2 + 2 * 2 + 2 * 4 + 3)


def test_a_changed_sample_does_not_change_the_tile(tiles_dir: Path) -> None:
    loaded = TileDataset(tiles_dir, split="train").preload()
    before = {key: value.clone() for key, value in loaded[0].items() if isinstance(value, torch.Tensor)}
    for value in loaded[0].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    for key, value in before.items():
        assert torch.equal(loaded[0][key], value)  # type: ignore[literal-required]


def test_samples_can_be_batched(tiles_dir: Path) -> None:
    (batch,) = torch.utils.data.DataLoader(TileDataset(tiles_dir, split="train"), batch_size=2)
    assert batch["optical_CHW"].shape == (2, 2, SIZE, SIZE)
    assert batch["id"] == ["a", "c"]


def test_what_is_not_there_is_told(tiles_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tiles there; run the stage `tile`"):
        TileDataset(tmp_path / "nowhere", split="train")
    with pytest.raises(DataError, match=r"split 'test' has no tile; splits are \['train', 'val'\]"):
        TileDataset(tiles_dir, split="test")
