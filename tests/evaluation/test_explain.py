"""What is heard of a network, what is counted of it, and the page and the command that show it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from click.testing import CliRunner
from matplotlib.image import imread
from torch import Tensor, nn

from cgm2net import weights
from cgm2net.__main__ import main
from cgm2net.errors import DataError, ModelError
from cgm2net.evaluation.explain import VERDICTS, agreement, explain_ranked, explain_tile, find_tile, groups, numbers
from cgm2net.evaluation.explain_record import Record, far_apart, look, record
from cgm2net.files import write_json
from cgm2net.model.calibration import Calibration
from cgm2net.model.encoder import EncoderStage
from cgm2net.model.fusion import MambaFusion
from cgm2net.model.interface import Answer, Network, NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.model.restoration import SpatialCorrelation

BANDS, CLASSES = ("B02", "B03", "B04"), ("water", "forest", "urban")
SIDE = 32
CGFR = {"gate", "restored", "found_1"}
CGSI = {"delta", "damped", "to_optical", "to_sar", "moved_optical", "moved_sar"}


def network_of(**parts: Any) -> CGM2Net:
    """An untrained network whose heads, which begin at zero, are drawn at random."""
    torch.manual_seed(0)
    network = CGM2Net(NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=3, **parts))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> CGM2Net:
    return network_of()


def given(cloud_HW: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    optical, sar = (torch.rand(1, bands, SIDE, SIDE, generator=draw) for bands in (3, 2))
    return optical, sar, torch.zeros(1, 1, SIDE, SIDE) + cloud_HW


def half_clouded() -> Tensor:
    cloud_HW = torch.zeros(SIDE, SIDE)
    cloud_HW[:, : SIDE // 2] = 1.0
    return cloud_HW


def sample(name: str = "s0_0_0", *, label_side: int = SIDE) -> dict[str, Any]:
    optical, sar, cloud = given(half_clouded())
    label_HW = torch.arange(label_side**2).reshape(label_side, label_side) % 3
    return {
        "id": name, "optical_CHW": optical[0], "sar_CHW": sar[0], "cloud_HW": cloud[0, 0],
        "clear_CHW": optical[0] * 0.5, "label_HW": label_HW, "valid_HW": torch.ones(SIDE, SIDE, dtype=torch.bool),
    }  # fmt: skip


class FakeTiles:
    """Tiles given as samples, in this order."""

    def __init__(self, *samples: dict[str, Any]) -> None:
        self._samples = samples
        self.optical_bands, self.sar_bands, self.classes = BANDS, ("VV", "VH"), CLASSES
        self.table = pd.DataFrame({"tile_id": [sample["id"] for sample in samples]})

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._samples[index]


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_being_heard_changes_no_bit_of_the_answer(network: CGM2Net) -> None:
    arguments = given(half_clouded())
    with torch.inference_mode():
        before = network(*arguments)
    heard = record(network, *arguments).prediction
    with torch.inference_mode():
        after = network(*arguments)
    for plain, listened, again in zip(before, heard, after, strict=True):
        assert torch.equal(plain, listened)
        assert torch.equal(plain, again)
    assert hooks(network) == 0


def test_nobody_listens_on_after_an_error(network: CGM2Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Tensor) -> None:
        assert hooks(network) > 0
        raise RuntimeError("in the middle of the answer")

    monkeypatch.setattr(network.restore, "forward", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        record(network, *given())
    assert hooks(network) == 0


def test_where_it_is_clear_nothing_is_restored_nor_damped(network: CGM2Net) -> None:
    seen = record(network, *given(0.0))
    assert seen.followed_Q2.shape == (0, 2)
    for stage in seen.stages:
        for name in ("gate", "restored", "to_optical"):
            assert not stage.maps[name].any(), name
        assert np.array_equal(stage.maps["delta"], stage.maps["damped"])
        assert stage.maps["to_sar"].min() > 0.0
        assert all(part.weights_Qhw.shape == (0, *stage.cloud_hw.shape) for part in stage.looks)


def test_where_all_is_cloud_nothing_is_found() -> None:
    network = network_of()
    for part in network.encoder.stages:
        assert isinstance(part, EncoderStage)
        assert part.interaction is not None
        part.interaction.damping_logit_D.data.fill_(math.log(3.0))  # a sigmoid of 3/4 leaves a quarter of the step
    seen = record(network, *given(1.0))
    facts = numbers(seen, sample() | {"cloud_HW": torch.ones(SIDE, SIDE)}, cloud_threshold=0.5)
    for stage, counted in zip(seen.stages, facts["stages"], strict=True):
        assert counted["found_nothing"]["1"] == {"all": 1.0, "clear": None, "cloudy": 1.0}
        assert not any(found.weights_Qhw.any() for found in stage.looks)
        assert not stage.maps["to_sar"].any()
        np.testing.assert_allclose(stage.maps["damped"] / stage.maps["delta"], 0.25, rtol=1e-5)
    assert len(seen.followed_Q2) == 3


def test_weights_by_hand() -> None:
    network = network_of()
    for part in network.encoder.stages:
        assert isinstance(part, EncoderStage)
        assert part.restoration is not None
        assert isinstance(part.fusion, MambaFusion)
        for layer, weight in ((part.restoration.gate, 0.75), (part.fusion.weigh_optical, 0.75)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, math.log(weight / (1 - weight)))
        nn.init.zeros_(part.fusion.weigh_sar.weight)
        nn.init.zeros_(part.fusion.weigh_sar.bias)
    seen = record(network, *given(half_clouded()))
    for stage in seen.stages:
        np.testing.assert_allclose(stage.maps["gate"], 0.75 * stage.cloud_hw, rtol=1e-6)
        np.testing.assert_allclose(stage.maps["optical_share"], 0.75 / (0.75 + 0.5), rtol=1e-6)


def even_attention(pool: int) -> SpatialCorrelation:
    """Every clear token of a window, and the null token, weigh the same: all logits are 0."""
    layer = SpatialCorrelation(4, num_heads=2, pool=pool)
    nn.init.zeros_(layer.query.weight)
    return layer.eval()


def test_attention_of_a_token_by_hand() -> None:
    cloud_BHW1 = torch.ones(1, 8, 16, 1)
    cloud_BHW1[0, 2, [1, 5], 0] = 0.0
    cloud_BHW1[0, 6, 6, 0] = 0.5  # counts as half a token: log(1 - m) is added to its logit
    cloud_BHW1[0, 0, 8, 0] = 0.0  # of the next window
    tokens = torch.rand(1, 8, 16, 4, generator=torch.Generator().manual_seed(0))
    found = look(even_attention(1), (tokens, tokens, cloud_BHW1), np.array([[7, 7], [7, 8]]))
    first_hw, second_hw = found.weights_Qhw
    # two clear tokens, a half one and the null token: 1 / 3.5 for a whole one
    expected_hw = np.zeros((8, 16))
    expected_hw[2, [1, 5]], expected_hw[6, 6] = 1 / 3.5, 0.5 / 3.5
    np.testing.assert_allclose(first_hw, expected_hw, atol=1e-6)
    assert np.argwhere(second_hw > 1e-6).tolist() == [[0, 8]]
    assert second_hw[0, 8] == pytest.approx(0.5)


def test_a_pooled_window_looks_at_all_that_is_clear_in_its_cells() -> None:
    tokens = torch.rand(1, 16, 16, 4, generator=torch.Generator().manual_seed(0))
    cloud_BHW1 = torch.zeros(1, 16, 16, 1)
    cloud_BHW1[0, 0, 0] = 1.0
    found = look(even_attention(2), (tokens, tokens, cloud_BHW1), np.array([[3, 4]]))
    assert found.pool == 2
    # 63 whole cells, one of three quarters, and the null token; a cell's weight is shared among its clear tokens
    expected_hw = np.full((16, 16), 1 / 64.75 / 4)
    expected_hw[0, 0] = 0.0
    np.testing.assert_allclose(found.weights_Qhw[0], expected_hw, atol=1e-6)


def test_what_followed_tokens_find_is_what_the_map_says(network: CGM2Net) -> None:
    seen = record(network, *given(half_clouded()))
    assert seen.followed_Q2.tolist() == [[12, 12], [20, 12]]
    for stage in seen.stages:
        rows, columns = (seen.followed_Q2 // stage.stride).T
        assert (stage.cloud_hw[rows, columns] == 1.0).all()
        for part in stage.looks:
            found = stage.maps[f"found_{part.pool}"][rows, columns]
            np.testing.assert_allclose(part.weights_Qhw.sum(axis=(1, 2)), found, atol=1e-6)


def test_followed_tokens_lie_far_apart() -> None:
    cloud_hw = torch.zeros(5, 9)
    cloud_hw[2, [1, 4, 5, 7]] = 1.0  # of 8 px: rows at 20, columns at 12, 36, 44, 60; their middle is at 38
    assert far_apart([cloud_hw], [8]).tolist() == [[20, 36], [20, 12], [20, 60]]
    fine_hw = cloud_hw.repeat_interleave(2, 0).repeat_interleave(2, 1)
    fine_hw[:, 2:4] = 0.0  # clear in the finer stage: not followed
    assert far_apart([fine_hw, cloud_hw], [4, 8]).tolist() == [[20, 44], [20, 60], [20, 36]]
    edge_hw = torch.zeros(4, 4)
    edge_hw[0, 3] = 1.0  # taken only where there is no other
    assert far_apart([edge_hw], [8]).tolist() == [[4, 28]]


def test_who_names_the_class_right_by_hand() -> None:
    label = np.array([[0, 0, 0, 0, -1]])
    before = np.array([[0, 0, 1, 1, 0]])
    after = np.array([[0, 1, 0, 2, 0]])
    assert agreement(before, after, label).tolist() == [[0, 1, 2, 3, 255]]
    assert VERDICTS == ("both_right", "only_before", "only_after", "both_wrong")


def seen_classes(seen: Record, before: list[list[int]], after: list[list[int]]) -> Record:
    """The same record with other classes."""

    def scores(codes: list[list[int]]) -> Tensor:
        return nn.functional.one_hot(torch.tensor(codes), 3).permute(2, 0, 1).float()

    prediction = seen.prediction._replace(logits_BKHW=scores(after)[None])
    return Record(**(vars(seen) | {"coarse_KHW": scores(before).numpy(), "prediction": prediction}))


def test_classes_are_counted_on_the_label_grid(network: CGM2Net) -> None:
    tile = sample(label_side=2) | {"label_HW": torch.tensor([[0, 1], [2, 255]])}
    seen = record(network, *given(half_clouded()), label_shape=(2, 2))
    assert seen.coarse_KHW.shape == (3, 2, 2)
    counted = numbers(seen_classes(seen, [[0, 0], [0, 0]], [[0, 1], [1, 0]]), tile, cloud_threshold=0.5)["classes"]
    # the left column is clouded: 0 is right twice, 2 never; the right column has one label, found only after
    assert counted["cloudy"] == {"pixels": 2, "both_right": 50.0, "only_before": 0, "only_after": 0, "both_wrong": 50.0}
    assert counted["clear"] == {"pixels": 1, "both_right": 0, "only_before": 0, "only_after": 100.0, "both_wrong": 0}
    assert counted["all"]["pixels"] == 3
    tile["valid_HW"] = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    empty = numbers(seen, tile, cloud_threshold=0.5)
    assert (empty["cloud_cover"], empty["classes"]["all"]["pixels"]) == (None, 0)


def test_means_by_groups_by_hand() -> None:
    map_HW, cloud_HW = np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[0.5, 0.6], [1.0, 0.0]])
    known_HW = np.array([[True, True], [True, False]])
    found = groups(map_HW, cloud_HW=cloud_HW, known_HW=known_HW, threshold=0.5)
    assert found == {"all": pytest.approx(7 / 3), "clear": 1.0, "cloudy": 3.0}
    assert groups(map_HW, cloud_HW=0 * cloud_HW, known_HW=known_HW, threshold=0.5)["cloudy"] is None


@pytest.fixture(scope="module")
def page(network: CGM2Net, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Picture and numbers of a network with all parts."""
    return explain_tile(network, FakeTiles(sample()), 0, tmp_path_factory.mktemp("page"))


def test_the_page_and_its_numbers(network: CGM2Net, page: tuple[Path, Path], tmp_path: Path) -> None:
    tiles = FakeTiles(sample())
    picture, facts = page
    assert [path.name for path in (picture, facts)] == ["explain_s0_0_0.png", "explain_s0_0_0.json"]
    height, width, _ = imread(picture).shape
    assert 1500 < width < 2500
    assert 2500 < height < 3500
    found = json.loads(facts.read_text())
    assert set(found) == {
        "tile_id", "cloud_cover", "cloud", "error", "gate", "classes", "followed", "stages"
    }  # fmt: skip
    assert found["cloud_cover"] == 0.5
    assert found["error"]["cloudy_image"]["all"] == pytest.approx(float(tiles[0]["clear_CHW"].mean()), rel=1e-5)
    assert [stage["tokens"] for stage in found["stages"]] == [[16, 16], [8, 8], [4, 4]]
    for stage in found["stages"]:
        assert CGFR | CGSI | {"optical_share"} <= set(stage["means"])
        assert set(stage["found_nothing"]) == set(stage["followed_found"])
        assert stage["means"]["gate"]["clear"] == 0.0
    again = explain_tile(network, tiles, 0, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in (picture, facts)]


@pytest.mark.parametrize(
    ("off", "names"),
    [
        ("restoration", CGSI | {"optical_share"}),
        ("interaction", CGFR | {"found_4", "optical_share"}),
        ("fusion", CGFR | {"found_4"} | CGSI),
    ],
)
def test_a_part_that_is_switched_off_is_left_out(
    off: str, names: set[str], page: tuple[Path, Path], tmp_path: Path
) -> None:
    picture, facts = explain_tile(network_of(**{off: False}), FakeTiles(sample()), 0, tmp_path)
    assert set(json.loads(facts.read_text())["stages"][0]["means"]) == names
    lower = imread(picture).shape[0] < imread(page[0]).shape[0]
    assert lower == (off == "restoration")  # its rows are its own; CGSI and MBF share theirs


def test_a_network_without_any_part_shows_the_tile_alone(network: CGM2Net, tmp_path: Path) -> None:
    bare = network_of(
        restoration=False, interaction=False, fusion=False, classes_to_image=False, image_to_classes=False
    )  # fmt: skip
    picture, facts = explain_tile(bare, FakeTiles(sample(label_side=16)), 0, tmp_path)
    assert imread(picture).shape[0] < 1200
    assert [stage["means"] for stage in json.loads(facts.read_text())["stages"]] == [{}, {}, {}]


def test_a_network_that_is_not_guided_restores_by_its_gate_alone(tmp_path: Path) -> None:
    seen = record(network_of(cloud_guidance=False), *given(half_clouded()))
    assert all(stage.maps["gate"].min() > 0.0 for stage in seen.stages)
    assert seen.stages[0].cloud_hw.mean() == 0.5


def test_a_tile_without_reference_and_labels(network: CGM2Net, tmp_path: Path) -> None:
    tile = sample() | {"label_HW": torch.full((SIDE, SIDE), 255)}
    del tile["clear_CHW"]
    picture, facts = explain_tile(network, FakeTiles(tile), 0, tmp_path)
    found = json.loads(facts.read_text())
    assert set(found["error"]) == {"expected"}
    assert found["classes"]["all"]["pixels"] == 0
    assert imread(picture).shape[0] > 2500


class Other(Network):
    """A network without the parts."""

    title = "Other"

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        raise AssertionError("not to be asked")


def test_another_network_has_nothing_to_explain() -> None:
    other = Other(NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=3))
    with pytest.raises(ModelError, match="Other has no CGFR, CGSI and MBF to explain"):
        record(other, *given())


def test_the_middle_and_the_worst_tile_are_explained(network: CGM2Net, tmp_path: Path) -> None:
    tiles = FakeTiles(*(sample(f"s{i}_0_0") for i in range(3)))
    table = pd.DataFrame({"cover": [0.5] * 3, "cloudy/rmse": [0.3, 0.1, 0.2]})
    explain_ranked(network, tiles, table, tmp_path, cloud_threshold=0.5)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["explain_s0_0_0.png", "explain_s2_0_0.png"]
    explain_ranked(network, FakeTiles(sample("alone")), table[:1], tmp_path / "one", cloud_threshold=0.5)
    assert len(list((tmp_path / "one").iterdir())) == 2


@pytest.fixture(scope="module")
def folders(network: CGM2Net, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four tiles of two scenes in the stage `tile`'s folder, and a model in `train`'s."""
    tiles_dir, model_dir = (tmp_path_factory.mktemp("artifacts") / name for name in ("tile", "train"))
    rng = np.random.default_rng(0)
    group = zarr.create_group(tiles_dir / "tiles.zarr")
    for name in ("optical", "reference"):
        group.create_array(name, data=rng.integers(300, 4000, (4, 3, SIDE, SIDE)).astype(np.uint16))
    group.create_array("sar", data=rng.uniform(-20, -5, (4, 2, SIDE, SIDE)).astype(np.float32))
    group.create_array("cloud", data=rng.integers(0, 256, (4, SIDE, SIDE)).astype(np.uint8))
    group.create_array("label", data=rng.integers(0, 3, (4, SIDE, SIDE)).astype(np.uint8))
    group.create_array("valid", data=np.ones((4, SIDE, SIDE), bool))
    table = {
        "tile_id": ["s0_0_0", "s1_0_0", "s1_0_32", "s1_32_0"], "scene_id": ["s0", "s1", "s1", "s1"],
        "split": ["train", "test", "test", "test"], "cloud_cover": [0.9, 0.2, 0.7, 0.7],
    }  # fmt: skip
    pd.DataFrame(table).to_parquet(tiles_dir / "tiles.parquet")
    names = {"optical_bands": BANDS, "sar_bands": ("VV", "VH"), "classes": CLASSES}
    write_json(tiles_dir / "meta.json", names | {"gsd_m": 10.0, "size_px": SIDE, "data_hash": "0"})
    card = weights.Card(
        config=network.config, **names, gsd_m=10.0, data_hash="0", seed=0, steps=0, num_parameters=0,
        library_version="0", calibration=Calibration(interval_clear=(1.5,) * 3, interval_cloudy=(2.0,) * 3),
    )  # fmt: skip
    weights.save(model_dir, network, card)
    return tiles_dir, model_dir


def test_a_tile_is_found_by_its_id_or_as_the_most_clouded_of_its_scene(folders: tuple[Path, Path]) -> None:
    for name, wanted in (("s1_0_0", "s1_0_0"), ("s1", "s1_0_32"), ("s0", "s0_0_0")):
        dataset, index = find_tile(folders[0], name)
        assert dataset[index]["id"] == wanted
    with pytest.raises(DataError, match=r"s1_0_33: no tile or scene of .*; did you mean s1_0_32, s1_0_0, s0_0_0"):
        find_tile(folders[0], "s1_0_33")
    with pytest.raises(DataError, match="run the stage `tile`"):
        find_tile(folders[1], "s1")


def test_the_command_draws_the_scene_that_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def run(scene: str, *more: str) -> Any:
        where = ["--tiles", str(folders[0]), "--model", str(folders[1]), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(main, ["explain", scene, *where, *more])

    result = run("s1")
    assert (result.exit_code, result.output) == (
        0, f"{tmp_path}/out/explain_s1_0_32.png; numbers in explain_s1_0_32.json\n"
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["explain_s1_0_32.json", "explain_s1_0_32.png"]
    result = run("s2")
    assert result.exit_code == 1
    assert "error: s2: no tile or scene of" in result.output
    card = json.loads((folders[1] / "card.json").read_text())
    weights.save(tmp_path / "other", network_of(), weights.Card(**card | {"classes": ["a", "b", "c"]}))
    result = run("s1", "--model", str(tmp_path / "other"))
    assert result.exit_code == 1
    assert "trained on classes ('a', 'b', 'c')" in result.output
