"""Scores, report and stage, on a dataset of arrays in memory and a network of a few lines."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from torch import Tensor, nn

from cgm2net.errors import DataError, MetricError, ModelError
from cgm2net.evaluation import report
from cgm2net.evaluation.evaluate import evaluate
from cgm2net.evaluation.image_metrics import image_metrics, sum_names
from cgm2net.evaluation.metrics import flatten
from cgm2net.evaluation.score import Scores, majority_class, score
from cgm2net.files import read_json, write_json
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig, Prediction
from cgm2net.model.network import CGM2Net
from cgm2net.settings import EvaluateSettings
from cgm2net.weights import Card, save

BANDS = ("B02", "B03", "B04")
CLASSES = ("water", "forest", "urban")


class FakeTiles:
    """Tiles given as samples, in this order."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self._samples = samples
        self.optical_bands, self.sar_bands, self.classes = BANDS, ("VV", "VH"), CLASSES
        rows = [
            {"tile_id": s["id"], "scene_id": s["id"].split("-")[0], "region": "r0"}
            | {f"count_{code}": int((s["label_HW"] == code).sum()) for code in range(len(CLASSES))}
            for s in samples
        ]
        self.table = pd.DataFrame(
            rows, columns=["tile_id", "scene_id", "region", *[f"count_{code}" for code in range(len(CLASSES))]]
        )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        return self._samples[index]


class FakeNetwork(nn.Module):
    """Darkens the cloudy image by a constant and always answers one class."""

    def __init__(self, *, darker: float = 0.0, answer: int = 0) -> None:
        super().__init__()
        self.darker = nn.Parameter(torch.tensor(darker))
        self.answer = answer

    def forward(
        self,
        optical_BCHW: Tensor,
        sar_BCHW: Tensor,
        cloud_B1HW: Tensor,
        *,
        label_shape: tuple[int, int] | None = None,
    ) -> Prediction:
        assert cloud_B1HW.shape == (len(optical_BCHW), 1, *optical_BCHW.shape[2:])
        logits_BKHW = torch.zeros(len(optical_BCHW), len(CLASSES), *(label_shape or optical_BCHW.shape[2:]))
        logits_BKHW[:, self.answer] = 1.0
        return Prediction(optical_BCHW - self.darker, logits_BKHW, torch.full_like(optical_BCHW, 0.1))


def sample(name: str, *, haze: float = 0.2, cover: float = 0.5, side: int = 16, seed: int = 0) -> dict[str, Any]:
    """One tile: a random reference, ``haze`` brighter in the cloudy image; cloudy above; class 1 everywhere."""
    rng = np.random.default_rng(seed)
    clear_CHW = torch.from_numpy(rng.uniform(0.1, 0.5, (len(BANDS), side, side)).astype(np.float32))
    cloud_HW = torch.zeros(side, side)
    cloud_HW[: round(cover * side)] = 1.0
    return {
        "id": name,
        "optical_CHW": clear_CHW + haze,
        "clear_CHW": clear_CHW,
        "sar_CHW": torch.from_numpy(rng.uniform(0, 1, (2, side, side)).astype(np.float32)),
        "cloud_HW": cloud_HW,
        "label_HW": torch.ones(side, side, dtype=torch.int64),
        "valid_HW": torch.ones(side, side, dtype=torch.bool),
    }


SETTINGS = EvaluateSettings(batch_size=2, num_pictures=1, num_threads=1)


@pytest.fixture(scope="module")
def tiles() -> FakeTiles:
    """Covers 0, 0.25, 0.5, 0.75 and 1; the more cloud, the stronger the haze, from 0.1 to 0.3."""
    return FakeTiles([sample(f"s{i}-0", haze=0.1 + 0.05 * i, cover=0.25 * i, seed=i) for i in range(5)])


@pytest.fixture(scope="module")
def scores(tiles: FakeTiles) -> Scores:
    return score(FakeNetwork(darker=0.1, answer=1), tiles, settings=SETTINGS)


def test_scores_beside_the_trivial_answers(scores: Scores) -> None:
    metrics = scores.metrics(majority=0)
    # every tile has an error of its haze - 0.1 = 0, 0.05, 0.1, 0.15, 0.2, of which the cloudy share is 0.25 i
    squared, cover = np.array([0, 0.05, 0.1, 0.15, 0.2]) ** 2, np.arange(5) / 4
    assert metrics["all/rmse"] == pytest.approx(np.sqrt(squared.mean()), abs=1e-6)
    assert metrics["cloudy/rmse"] == pytest.approx(np.sqrt((squared * cover).sum() / cover.sum()), abs=1e-6)
    assert metrics["copy/all/mae"] == pytest.approx(np.mean([0.1, 0.15, 0.2, 0.25, 0.3]), abs=1e-6)
    assert metrics["cloudy/miou"] == 1.0
    assert metrics["majority/cloudy/miou"] == 0.0
    assert "majority/all/oa" not in scores.metrics()


def test_scores_do_not_depend_on_the_batch(tiles: FakeTiles, scores: Scores) -> None:
    again = score(FakeNetwork(darker=0.1, answer=1), tiles, settings=SETTINGS.model_copy(update={"batch_size": 5}))
    np.testing.assert_allclose(again.model_TGS, scores.model_TGS, rtol=1e-9)
    assert again.confusion_TGKK.tolist() == scores.confusion_TGKK.tolist()
    assert again.tiles["tile_id"].tolist() == [f"s{i}-0" for i in range(5)]


def test_labels_may_be_coarser_than_pixels() -> None:
    tiles = FakeTiles([sample("s0-0") | {"label_HW": torch.ones(8, 8, dtype=torch.int64)}])
    scores = score(FakeNetwork(answer=1), tiles, settings=SETTINGS)
    assert scores.confusion_TGKK[0, :, 1, 1].tolist() == [32, 32]


def test_scoring_needs_tiles_and_finite_answers(tiles: FakeTiles) -> None:
    with pytest.raises(DataError, match="the split is empty"):
        score(FakeNetwork(), FakeTiles([]), settings=SETTINGS)
    with pytest.raises(MetricError, match="tiles s0-0, s1-0: predicted image"):
        score(FakeNetwork(darker=float("nan")), tiles, settings=SETTINGS)


def test_majority_is_the_most_frequent_class() -> None:
    table = pd.DataFrame({"count_0": [5, 0], "count_1": [1, 6], "count_2": [0, 0]})
    assert majority_class(table, num_classes=3) == 1
    assert majority_class(table * 0, num_classes=3) is None


def test_cover_bins_hold_every_tile_once(scores: Scores) -> None:
    table = report.cover_table(scores, (0.0, 0.25, 0.9, 1.0), majority=0)
    assert table["cover"].tolist() == ["0-0.25", "0.25-0.9", "0.9-1"]
    assert table["tiles"].tolist() == [1, 3, 1]  # lower edges belong to a bin; 1 to the last
    assert table["all/rmse"].tolist()[::2] == pytest.approx([0.0, 0.2], abs=1e-6)
    assert np.isnan(table["cloudy/rmse"][0])
    assert report.cover_table(scores, (0.0, 0.3, 0.4, 1.0), majority=0)["cover"].tolist() == ["0-0.3", "0.4-1"]


def test_class_and_confusion_tables(scores: Scores) -> None:
    confusion_TGKK = np.zeros((5, 2, 3, 3), np.int64)
    confusion_TGKK[0, 0, 0] = [3, 1, 0]  # clear: water right 3, taken for forest 1
    confusion_TGKK[3, 1, 1] = [0, 2, 0]  # cloudy: forest right 2
    altered = replace(scores, confusion_TGKK=confusion_TGKK)
    table = report.class_table(altered).set_index("class")
    assert table["all/pixels"].tolist() == [4, 2, 0]
    assert table["all/iou"].tolist()[:2] == pytest.approx([3 / 4, 2 / 3])
    assert table.loc["forest", "all/precision"] == pytest.approx(2 / 3)
    assert table["all/iou"].isna().tolist() == [False, False, True]
    pairs = report.confusion_table(altered)
    assert pairs.iloc[1].tolist() == ["water", "forest", 1, 1, 0]  # all, clear, cloudy
    assert pairs["all"].sum() == 6


def test_tile_sums_make_the_metrics_of_any_set(scores: Scores) -> None:
    table = report.tile_table(scores, majority=0)
    names = [[f"sum/{group}/{name}" for name in sum_names(BANDS)] for group in ("clear", "cloudy")]
    drawn = table.iloc[[1, 1, 4]]
    sums_GS = np.stack([drawn[columns].sum().to_numpy() for columns in names])
    assert image_metrics(sums_GS)["cloudy/rmse"] == pytest.approx(np.sqrt((0.5 * 0.05**2 + 0.2**2) / 1.5), abs=1e-6)
    assert table["sum/cloudy/forest>forest"].tolist() == [0, 64, 128, 192, 256]
    assert table["cloudy/rmse"].tolist()[1:] == pytest.approx([0.05, 0.1, 0.15, 0.2], abs=1e-6)


def test_ranking_leaves_out_tiles_with_hardly_a_cloud() -> None:
    table = pd.DataFrame(
        {"cover": [0.04, 0.5, 0.5, 0.5, 0.5], "cloudy/rmse": [9.0, 0.3, 0.1, 0.4, 0.2], "all/rmse": [1.0, 2, 3, 4, 5]}
    )
    assert report.ranked_tiles(table, 1) == {"best": [2], "median": [4], "worst": [3]}
    assert report.ranked_tiles(table, 2)["worst"] == [1, 3]
    clear = table.drop(columns="cloudy/rmse").assign(cover=0.0, **{"all/rmse": [np.nan, 2, 1, 4, 3]})
    assert report.ranked_tiles(clear, 1) == {"best": [2], "median": [1], "worst": [3]}


def test_pictures_pair_each_tile_with_its_own_answer(tiles: FakeTiles) -> None:
    network = FakeNetwork(darker=0.1, answer=2)
    drawn = report.predicted_samples(network, tiles, [4, 0, 3], settings=SETTINGS)
    assert [row["id"] for row in drawn] == ["s4-0", "s0-0", "s3-0"]
    for row, index in zip(drawn, (4, 0, 3), strict=True):
        np.testing.assert_allclose(np.asarray(row["restored_CHW"]), tiles[index]["optical_CHW"] - 0.1, atol=1e-6)
        assert (np.asarray(row["predicted_HW"]) == 2).all()


@pytest.fixture
def stage_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six tiles as the stage `tile` stores them, of two splits, and an untrained network as `train` saves it."""
    tiles_dir, model_dir = tmp_path / "tile", tmp_path / "train"
    rng = np.random.default_rng(0)
    shapes = {"optical": (3, 32, 32), "sar": (2, 32, 32), "reference": (3, 32, 32)}
    group = zarr.create_group(tiles_dir / "tiles.zarr")
    for name in ("optical", "reference"):
        group.create_array(name, data=rng.integers(300, 4000, (6, *shapes[name])).astype(np.uint16))
    group.create_array("sar", data=rng.uniform(-20, -5, (6, *shapes["sar"])).astype(np.float32))
    group.create_array("cloud", data=rng.integers(0, 256, (6, 32, 32)).astype(np.uint8))
    group.create_array("label", data=np.repeat([0, 2, 2, 1, 1, 1], 32 * 32).reshape(6, 32, 32).astype(np.uint8))
    group.create_array("valid", data=np.ones((6, 32, 32), bool))
    counts = {"count_0": [1024, 0, 0, 0, 0, 0], "count_1": [0, 0, 0, 1024, 1024, 1024]}
    counts["count_2"] = [0, 1024, 1024, 0, 0, 0]
    head = {"tile_id": [f"s{i}_0_0" for i in range(6)], "scene_id": [f"s{i}" for i in range(6)]}
    split = ["train"] * 3 + ["test"] * 3
    pd.DataFrame(head | {"region": split, "split": split} | counts).to_parquet(tiles_dir / "tiles.parquet")
    names = {"optical_bands": BANDS, "sar_bands": ("VV", "VH"), "classes": CLASSES}
    write_json(tiles_dir / "meta.json", names | {"gsd_m": 10.0, "size_px": 32, "data_hash": "0"})
    config = NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=3)
    torch.manual_seed(0)
    card = Card(
        config=config, **names, gsd_m=10.0, data_hash="0", seed=0, steps=0, num_parameters=0, library_version="0",
        calibration=Calibration(interval_clear=(1.5,) * 3, interval_cloudy=(2.0,) * 3),
    )  # fmt: skip
    save(model_dir, CGM2Net(config), card)
    return tiles_dir, model_dir


def test_stage_scores_the_test_split_alone(stage_folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate(*stage_folders, tmp_path / "evaluate", settings=SETTINGS)
    assert result.num_tiles == 3
    _, middle, worst = pd.read_parquet(tmp_path / "evaluate/tiles.parquet").sort_values("cloudy/rmse")["tile_id"]
    explained = [f"explain_{tile}.{kind}" for tile in (middle, worst) for kind in ("json", "png")]
    expected = sorted([*FILES, *explained, "page.json", "reliability.csv", "report.html"])
    assert [path.name for path in result.files] == expected
    assert pd.read_parquet(tmp_path / "evaluate/tiles.parquet")["scene_id"].tolist() == ["s3", "s4", "s5"]
    # class 2 is the most frequent in training; in the test split there is only class 1
    assert result.metrics["majority/all/oa"] == 0.0
    assert {"cloudy/psnr", "copy/cloudy/psnr", "clear/ssim", "all/cc", "all/iou_forest"} <= set(result.metrics)


def test_stage_refuses_a_model_of_other_bands(stage_folders: tuple[Path, Path], tmp_path: Path) -> None:
    tiles_dir, model_dir = stage_folders
    meta = read_json(tiles_dir / "meta.json")
    write_json(tiles_dir / "meta.json", meta | {"optical_bands": ["B04", "B03", "B02"]})
    with pytest.raises(ModelError, match="trained on optical_bands"):
        evaluate(tiles_dir, model_dir, tmp_path / "evaluate", settings=SETTINGS)
    assert not (tmp_path / "evaluate").exists()


FILES = (
    "best.png", "by_class.csv", "by_cover.csv", "by_cover.png", "confusion.csv", "confusion.png", "median.png",
    "metrics.json", "tiles.parquet", "worst.png",
)  # fmt: skip


def test_report_writes_the_same_bytes_again(tiles: FakeTiles, scores: Scores, tmp_path: Path) -> None:
    network = FakeNetwork(darker=0.1, answer=1)
    for folder in ("first", "second"):
        metrics = report.write_report(scores, network, tiles, majority=0, out_dir=tmp_path / folder, settings=SETTINGS)
    assert tuple(sorted(path.name for path in (tmp_path / "first").iterdir())) == FILES
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert flatten(json.loads((tmp_path / "first/metrics.json").read_text())) == metrics
    assert len(pd.read_csv(tmp_path / "first/by_cover.csv")) == 5


def test_report_without_clouds_and_labels(tmp_path: Path) -> None:
    clear = sample("s0-0", cover=0.0) | {"label_HW": torch.full((16, 16), 255)}
    tiles = FakeTiles([clear])
    network = FakeNetwork()
    scores = score(network, tiles, settings=SETTINGS)
    majority = majority_class(tiles.table, num_classes=3)
    metrics = report.write_report(scores, network, tiles, majority=majority, out_dir=tmp_path, settings=SETTINGS)
    assert {name.rsplit("/", 1)[0] for name in metrics} == {"all", "clear", "copy/all", "copy/clear"}
    assert tuple(sorted(path.name for path in tmp_path.iterdir())) == FILES


def test_report_needs_a_measured_pixel(tmp_path: Path) -> None:
    tiles = FakeTiles([sample("s0-0") | {"valid_HW": torch.zeros(16, 16, dtype=torch.bool)}])
    scores = score(FakeNetwork(), tiles, settings=SETTINGS)
    with pytest.raises(MetricError, match="none of 1 tiles"):
        report.write_report(scores, FakeNetwork(), tiles, majority=None, out_dir=tmp_path, settings=SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bins", [(0.0, 0.5), (0.1, 1.0), (0.0, 0.6, 0.4, 1.0), (0.0, 0.5, 0.5, 1.0)])
def test_cover_bins_must_rise_from_0_to_1(bins: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="cover_bins"):
        EvaluateSettings(cover_bins=bins)
