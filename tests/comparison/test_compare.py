"""`python -m cgm2net compare` on a few small tiles: it trains, judges, goes on, and says what it found."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from cgm2net.__main__ import main
from cgm2net.comparison import runs
from cgm2net.comparison.command import steps_for
from cgm2net.comparison.cost import Cost
from cgm2net.comparison.suites import SUITES
from cgm2net.networks import ARCHITECTURES
from cgm2net.settings import TrainSettings

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "network_size": "tiny", "steps": 4, "batch_size": 2, "crop_px": 16, "warmup_steps": 1, "num_threads": 1,
    "log_every_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 4,
}  # fmt: skip


@pytest.fixture
def compared(tiles: Path, project: Path) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] = SETTINGS
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(tiles, project / "artifacts/tile")
    return project


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def test_a_suite_is_trained_judged_logged_and_not_repeated(compared, monkeypatch):
    arguments = ("--suite", "ablations", "--seeds", "2", "--budget", "steps")
    arguments += ("--only", "segmentation", "--only", "mask-eroded")
    result = compare(*arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv("benchmarks/results/ablations.csv")
    assert sorted(set(table["variant"])) == ["cgm2net", "mask-eroded", "segmentation"]
    assert list(table[table["variant"] == "segmentation"]["seed"]) == [0, 1]
    assert table[table["variant"] == "segmentation"]["cloudy/psnr"].isna().all()  # not learned, so not shown
    assert table["cloudy/miou"].notna().all()
    # the eroded mask is shown to the very networks that were trained with the right one
    trained = list((compared / ".cache/cgm2net/compare").glob("*/trained"))
    assert (table["cloudy/psnr"].nunique(), len(trained)) == (4, 4)
    text = Path("benchmarks/results/ablations.md").read_text()
    assert "| segmentation alone | 4 |" in text
    assert text in result.output
    assert Path("benchmarks/results/ablations.png").read_bytes().startswith(b"\x89PNG")

    _check_runs()
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    again = compare(*arguments, "--jobs", "1")
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(pd.read_csv("benchmarks/results/ablations.csv"), table)


def _check_runs() -> None:
    """One parent, a child a training, test metrics on the children, the tables on the parent."""
    from cgm2net import tracking

    client = tracking.connect()
    experiment = client.get_experiment_by_name("cgm2net-compare")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert (len(parents), len(children)) == (1, 4)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.data.tags["variant"] for run in children} == {"cgm2net", "segmentation"}
    for run in children:
        assert "test/cloudy/miou" in run.data.metrics
        assert ("test/cloudy/psnr" in run.data.metrics) == (run.data.tags["variant"] != "segmentation")
    names = {file.path for file in client.list_artifacts(parents[0].info.run_id, "ablations")}
    assert names == {f"ablations/ablations.{kind}" for kind in ("md", "csv", "png")}


def test_the_second_budget_is_time(compared):
    result = compare("--suite", "baselines", "--seeds", "1", "--only", "unet", "--budget", "time")
    assert result.exit_code == 0, result.output
    text = Path("benchmarks/results/baselines.md").read_text()
    assert "The same time of training" in text
    steps = re.search(r"\| U-Net \| (\d+) \|", text)
    assert steps is not None
    assert int(steps[1]) % 2 == 0
    assert Path("benchmarks/results/baselines-time.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "ablations", "--only", "no-such"), "not in the suite ablations, which has cgm2net, no-cgfr"),
        (("--suite", "ablations", "--seeds", "0"), "--seeds 0 and --jobs 1 must be at least 1"),
        (("--suite", "ablations", "--steps", "1"), "warmup_steps 1 must be below steps 1"),
        (("--suite", "ablations", "--tiles", "nowhere"), "nowhere"),
    ],
)
def test_wrong_requests_get_a_reason(compared, arguments, said):
    result = compare(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert said in result.output


def test_every_baseline_and_every_switch_has_its_row():
    assert {v.changes.get("architecture", "cgm2net") for v in SUITES["baselines"]} == set(ARCHITECTURES)
    base = TrainSettings()
    for suite in SUITES.values():
        settings = [(variant.settings(base).model_dump_json(), variant.spoiling) for variant in suite]
        assert len(set(settings)) == len(suite)  # no row stands twice
        assert len({variant.name for variant in suite}) == len(suite)
    switched = {name for v in SUITES["ablations"] for name, value in v.changes.items() if value is False}
    fields = {name for name, value in base.model_dump().items() if value is True}
    assert switched == fields


def cost(seconds: float) -> Cost:
    return Cost(num_parameters=1, gflops=1.0, seconds_a_step=seconds, predict_ms=1.0, peak_mib=1.0)


def test_equal_time_is_steps_against_the_references_step():
    settings = TrainSettings(steps=400, log_every_steps=20, warmup_steps=50)
    unet = SUITES["baselines"][1]
    costs = {"cgm2net": cost(0.6), unet.name: cost(0.25)}
    assert steps_for(unet, "steps", costs, settings) == 400
    assert steps_for(unet, "time", costs, settings) == 960  # 400 * 0.6 / 0.25
    assert steps_for(unet, "time", {**costs, unet.name: cost(60.0)}, settings) == 60  # more than the warm-up


def test_what_one_network_learned_is_kept_when_another_changes(tmp_path, monkeypatch):
    """The key of a training holds the sources that it runs on, and no other baseline's."""
    shutil.copytree(ROOT / "cgm2net", tmp_path / "cgm2net", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(runs, "_ROOT", tmp_path)

    def keys() -> dict[str, str]:
        runs.sources.cache_clear()
        return {name: runs.sources(f"cgm2net.training.train@{name}") for name in ("cgm2net", "unet")}

    first = keys()
    assert first["cgm2net"] != first["unet"]
    unet = tmp_path / "cgm2net/baselines/unet.py"
    unet.write_text(unet.read_text() + "\n# changed\n")
    second = keys()
    assert (second["cgm2net"], second["unet"] != first["unet"]) == (first["cgm2net"], True)
    for shared in ("training/losses.py", "model/scan/_kernels.py", "data/dataset.py"):
        path = tmp_path / "cgm2net" / shared
        path.write_text(path.read_text() + "\n# changed\n")
        assert set(keys().values()).isdisjoint(second.values()), shared
        second = keys()
    runs.sources.cache_clear()
