"""Drift of one batch of scenes against another: values worked by hand, and tables that stand for whole batches."""

import json
from collections.abc import Sequence
from math import log
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from batches import CODES, batch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cgm2net.__main__ import main
from cgm2net.data.batch_features import read_batch
from cgm2net.data.drift import (
    DriftReport,
    FeatureDrift,
    _chance,
    _edges,
    _half_sum,
    _largest,
    measure_drift,
    stability_index,
    write_drift,
)
from cgm2net.errors import CatalogError, DataError
from cgm2net.files import write_json


def of(report: DriftReport, name: str) -> FeatureDrift:
    (found,) = (feature for feature in report.features if feature.feature == name)
    return found


def test_stability_index_by_hand() -> None:
    expected = (0.8 - 0.5) * log(0.8 / 0.5) + (0.2 - 0.5) * log(0.2 / 0.5)  # 0.4159
    assert stability_index(np.array([0.5, 0.5]), np.array([0.8, 0.2])) == pytest.approx(expected)
    # An empty bin counts a thousandth: (0.001 - 0.5) ln(0.001 / 0.5) + (1 - 0.5) ln(1 / 0.5)
    expected = -0.499 * log(0.002) + 0.5 * log(2)
    assert stability_index(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == pytest.approx(expected)


shares = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda s: sum(s) > 0.1)


@given(shares, st.randoms(use_true_random=False))
def test_the_index_is_never_negative_and_the_same_both_ways(old: Sequence[float], random) -> None:
    new = list(old)
    random.shuffle(new)
    p, q = (np.array(values) / sum(values) for values in (old, new))
    assert stability_index(p, q) >= -1e-12
    assert stability_index(p, q) == pytest.approx(stability_index(q, p))
    assert stability_index(p, p) == 0


def test_distances_by_hand() -> None:
    differences = np.array([[0.1, -0.4, 0.3], [0.0, 0.0, 0.0]])
    assert _largest(differences).tolist() == [0.4, 0.0]
    assert _half_sum(differences).tolist() == pytest.approx([0.4, 0.0])


def test_chance_is_the_share_of_deals_that_lie_as_far_apart() -> None:
    """Of the 20 ways to deal 6 scenes into 3 and 3, two part zeros from ones."""
    rows = np.array([[0.0], [1.0]]).repeat(3, axis=0)
    assert _chance(rows[:3], rows[3:], 1.0, _largest) == pytest.approx(0.1, abs=0.03)
    assert _chance(rows[:3], rows[:3], 0.0, _largest) == 1.0


def test_bins_hold_equal_shares_of_the_reference_and_few_numbers_few_bins() -> None:
    assert _edges(np.arange(101.0)[:, None]).tolist() == pytest.approx([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert _edges(np.arange(11.0)[:, None]).tolist() == [5]  # 11 scenes: two bins
    assert _edges(np.zeros((50, 1))).tolist() == [0]  # equal edges are one


def test_a_batch_has_not_drifted_from_itself(tmp_path: Path) -> None:
    folder = batch(tmp_path / "a", codes=CODES)
    report = measure_drift(folder, folder)
    assert [f.feature for f in report.features] == [
        "optical B02", "SAR VV", "cloud cover", "SAR shift", "SAR shift residual", "class mix",
    ]  # fmt: skip
    assert {(f.psi, f.distance, f.chance, f.drifted) for f in report.features} == {(0.0, 0.0, 1.0, False)}
    assert (report.num_judged, report.drifted) == (6, ())
    assert str(report).startswith("0 of 6 features drifted; 0 not judged; 20 incoming scenes against 20")


def test_another_draw_of_the_same_scenes_is_no_drift(tmp_path: Path) -> None:
    """Index alone would call it drift: it is large for a few numbers whatever they are."""
    report = measure_drift(batch(tmp_path / "a", seed=1, num=8), batch(tmp_path / "b", seed=2, num=25))
    assert report.drifted == ()
    assert max(f.psi or 0 for f in report.features) > 0.25


def test_a_brightened_batch_is_found_and_named(tmp_path: Path) -> None:
    report = measure_drift(batch(tmp_path / "a", seed=1, gain=1.5), batch(tmp_path / "b", seed=2))
    assert report.drifted == ("optical B02",)
    found = of(report, "optical B02")
    assert (found.incoming or 0) / (found.reference or 1) == pytest.approx(1.5, rel=0.1)
    assert (found.unit, found.chance) == ("DN", 0.001)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"sar_db": 8.0}, "SAR VV"), ({"cover": 0.4}, "cloud cover"), ({"codes": {"0": 100, "1": 900}}, "class mix")],
)
def test_whatever_moves_is_named(tmp_path: Path, changes: dict[str, object], name: str) -> None:
    reference = batch(tmp_path / "b", seed=2, codes=CODES)
    incoming = batch(tmp_path / "a", seed=1, **{"codes": CODES, **changes})  # type: ignore[arg-type]
    assert measure_drift(incoming, reference).drifted == (name,)


def test_class_mix_by_hand(tmp_path: Path) -> None:
    """Shares .6 .3 .1 become .1 .9 0; unknown labels do not count."""
    reference = batch(tmp_path / "b", codes=CODES)
    incoming = batch(tmp_path / "a", codes={"0": 10, "1": 90, "255": 999})
    found = of(measure_drift(incoming, reference), "class mix")
    assert (found.reference, found.incoming, found.note) == (pytest.approx(0.3), 0.9, "class 1 moved most")
    assert found.distance == pytest.approx(0.6)
    assert found.psi == pytest.approx(-0.5 * log(1 / 6) + 0.6 * log(3) - 0.099 * log(0.01), abs=1e-6)


def test_too_few_scenes_are_said_not_guessed(tmp_path: Path) -> None:
    report = measure_drift(batch(tmp_path / "a", num=3, gain=9), batch(tmp_path / "b", num=20))
    assert (report.num_judged, report.drifted) == (0, ())
    assert {f.note for f in report.features} == {"not judged: 3 incoming scenes have it, wanted 6"}
    assert measure_drift(tmp_path / "a", tmp_path / "b", min_scenes=3).num_judged == 5


def test_what_one_side_has_not_is_not_judged(tmp_path: Path) -> None:
    report = measure_drift(batch(tmp_path / "a"), batch(tmp_path / "b", codes=CODES))
    assert of(report, "class mix").note == "not judged: 0 incoming scenes have it, wanted 6"
    assert of(report, "class mix").psi is None


def test_refused_scenes_are_left_out_and_counted(tmp_path: Path) -> None:
    report = measure_drift(batch(tmp_path / "a", num=7, refused=5), batch(tmp_path / "b"))
    assert (report.num_incoming, report.num_refused, report.num_reference) == (7, 5, 20)


def test_a_shift_that_could_not_be_measured_is_none(tmp_path: Path) -> None:
    folder = batch(tmp_path / "a", num=8)
    path = folder / "cloudmask/scenes.csv"
    table = pd.read_csv(path)
    table.loc[:2, "shift_status"] = "unsure"
    table.to_csv(path, index=False)
    features = read_batch(folder).features
    assert (len(features["SAR shift"].values_NK), len(features["cloud cover"].values_NK)) == (5, 8)
    np.testing.assert_allclose(features["SAR shift"].values_NK[:, 0], table["dx_px"][3:].abs())


def test_one_stage_alone_is_a_batch_too(tmp_path: Path) -> None:
    folder = batch(tmp_path / "a", stage="validate")
    assert set(read_batch(folder / "validate").features) == set(read_batch(folder).features)


def test_what_is_no_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no scene table there"):
        measure_drift(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"none of 2 scenes is accepted; read the reasons"):
        read_batch(batch(tmp_path / "a", num=0, refused=2))


def test_files_of_a_report(tmp_path: Path) -> None:
    report = measure_drift(batch(tmp_path / "a", gain=1.5), batch(tmp_path / "b", codes=CODES))
    write_drift(report, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/drift.csv", keep_default_na=False).set_index("feature")
    assert table["drifted"].to_dict() == {
        "optical B02": "yes", "SAR VV": "no", "cloud cover": "no", "SAR shift": "no", "SAR shift residual": "no",
        "class mix": "",
    }  # fmt: skip
    assert {"reference", "incoming", "psi", "distance"} <= set(table.columns)
    told = json.loads((tmp_path / "out/drift.json").read_text())
    assert (told["drifted"], told["max_psi"], len(told["features"])) == (["optical B02"], 0.25, 6)


def test_the_command_ends_with_1_only_when_asked(tmp_path: Path) -> None:
    folders = [str(batch(tmp_path / "a", gain=1.5)), str(batch(tmp_path / "b"))]
    command = ["drift", *folders, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    assert "1 of 5 features drifted: optical B02" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["drift.csv", "drift.html", "drift.json"]
    failed = CliRunner().invoke(main, [*command, "--fail"])
    assert failed.exit_code == 1
    assert "1 of 5 features drifted: optical B02" in failed.output
    assert CliRunner().invoke(main, [*command, "--fail", "--max-psi", "99"]).exit_code == 0


def test_a_model_that_is_less_sure_than_on_its_test_scenes_is_drift(tmp_path: Path) -> None:
    for side, sure in {"reference": 0.8, "incoming": 0.5}.items():
        scenes = {f"s{k}": [sure + k / 100] * 50 for k in range(10)}
        write_json(tmp_path / f"{side}.json", {"class confidence": scenes, "half-width of the interval": {}})
    folder = batch(tmp_path / "a")
    report = measure_drift(folder, folder, confidence=tmp_path)
    assert report.drifted == ("class confidence",)
    found = of(report, "class confidence")
    assert (found.kind, found.unit) == ("confidence", "share")
    assert (found.reference, found.incoming) == (pytest.approx(0.845), pytest.approx(0.545))
    assert "half-width of the interval" not in {feature.feature for feature in report.features}
    with pytest.raises(DataError, match=r"incoming\.json: not there; confidence\.json beside it says why"):
        measure_drift(folder, folder, confidence=tmp_path / "nowhere")


def test_the_command_takes_its_limits_from_params_and_from_flags_first(workspace: Path) -> None:
    params = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    (workspace / "params.yaml").write_text(yaml.safe_dump({**params, "monitor": {"max_psi": 99.0, "min_scenes": 5}}))
    folders = [str(batch(workspace / "a", gain=1.5)), str(batch(workspace / "b"))]
    for flags, wanted in ((), [99.0, 0.01, 5]), (("--max-psi", "0.5"), [0.5, 0.01, 5]):
        done = CliRunner().invoke(main, ["drift", *folders, "--out", "out", *flags])
        assert done.exit_code == 0, done.output
        report = json.loads((workspace / "out/drift.json").read_text())
        assert [report["max_psi"], report["max_chance"], report["min_scenes"]] == wanted
