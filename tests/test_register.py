"""Versions, aliases, and the rule that decides on the champion."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from fake_evaluation import page_parts, tile_table, tiles_reaching, write_evaluation
from mlflow import MlflowClient
from pydantic import ValidationError

from cgm2net import registry, tracking, weights
from cgm2net.catalog import COLUMNS, write_scenes
from cgm2net.data.dataset import ARRAYS
from cgm2net.errors import BackendError, CatalogError, DataError, MetricError, ModelError
from cgm2net.evaluation.page_parts import write_parts
from cgm2net.files import sha256_file, write_json
from cgm2net.gate import Judged, require_metrics
from cgm2net.model.calibration import Calibration
from cgm2net.model.interface import NetworkConfig
from cgm2net.model.network import CGM2Net
from cgm2net.register import register, score_model
from cgm2net.settings import EvaluateSettings, RegisterSettings

BANDS = ("B02", "B03", "B04")
CLASSES = ("water", "forest")
RULE = RegisterSettings(min_gain={"cloudy/psnr": 0.1, "cloudy/miou": 0.0}, max_loss={"clear/psnr": 0.5})
BASE = {"all/psnr": 25.0, "cloudy/psnr": 20.0, "cloudy/miou": 0.5, "clear/psnr": 30.0, "copy/cloudy/psnr": 10.0}
BETTER = BASE | {"cloudy/psnr": 21.0, "cloudy/miou": 0.6}


@pytest.fixture(scope="module")
def network() -> CGM2Net:
    torch.manual_seed(0)
    return CGM2Net(NetworkConfig(num_optical_bands=len(BANDS), num_sar_bands=2, num_classes=len(CLASSES)))


Train = Callable[..., Path]


@pytest.fixture
def train(project: Path, network: CGM2Net) -> Iterator[Train]:
    """Write what the stage `train` leaves, with weights that differ by ``marker``, in a run of their own."""
    parameter = next(network.parameters())
    before = parameter.detach().clone()

    def write(name: str, *, marker: float, bands: tuple[str, ...] = BANDS) -> Path:
        with torch.no_grad():
            parameter.flatten()[0] = marker
        card = weights.Card(
            config=network.config, optical_bands=bands, sar_bands=("VV", "VH"), classes=CLASSES, gsd_m=10.0,
            data_hash="trained", seed=0, steps=1, num_parameters=1, library_version="0",
            calibration=Calibration(interval_clear=(1.5,) * len(bands), interval_cloudy=(2.0,) * len(bands)),
        )  # fmt: skip
        folder = project / "models" / name
        weights.save(folder, network, card)
        (folder / "validation.png").write_bytes(b"picture")
        with tracking.run(folder / "run.json", experiment="e", name=name, params={}, tags={}):
            pass
        return folder

    yield write
    with torch.no_grad():
        parameter.copy_(before)


def _tiles(folder: Path, *, data_hash: str) -> Path:
    """Write what the stage `tile` leaves: one test tile of 32 px, all measured, its left half clouded."""
    folder.mkdir(parents=True)
    group = zarr.open_group(folder / "tiles.zarr", mode="w")
    rng = np.random.default_rng(0)
    cloud = np.zeros((1, 32, 32), np.uint8)
    cloud[:, :, :16] = 255
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "optical": rng.integers(500, 3000, (1, 3, 32, 32), dtype=np.uint16),
        "sar": rng.uniform(-20, -5, (1, 2, 32, 32)).astype(np.float32),
        "reference": rng.integers(500, 3000, (1, 3, 32, 32), dtype=np.uint16),
        "cloud": cloud,
        "label": rng.integers(0, 2, (1, 32, 32), dtype=np.uint8),
        "valid": np.ones((1, 32, 32), bool),
    }
    for name in ARRAYS:
        group.create_array(name, data=arrays[name])
    columns = {"tile_id": ["t"], "scene_id": ["s"], "region": ["r"], "split": ["test"]}
    pd.DataFrame(columns).to_parquet(folder / "tiles.parquet")
    meta = {"optical_bands": BANDS, "sar_bands": ["VV", "VH"], "classes": CLASSES, "gsd_m": 10.0}
    write_json(folder / "meta.json", {**meta, "data_hash": data_hash, "size_px": 32})
    return folder


def _verdicts(folder: Path) -> Path:
    """Write what the stage `validate` leaves: three scenes, of which one is refused."""
    rows = [
        {**dict.fromkeys(COLUMNS, ""), "scene_id": name, "accepted": not reason, "reason": reason}
        for name, reason in {"a": "", "b": "SAR is not in dB", "c": ""}.items()
    ]
    page = folder / "data_docs/validations/scenes.html"
    page.parent.mkdir(parents=True)
    page.write_text("rules")
    (folder / "data_docs/index.html").write_text("every scene")
    write_json(folder / "verdicts.json", {"b": "SAR is not in dB"})
    write_scenes(pd.DataFrame(rows), folder / "scenes.csv")
    return folder


def _judged(metrics: Mapping[str, float]) -> Judged:
    """The same metrics on every tile of the page."""
    page = tile_table()
    reached = tiles_reaching(dict.fromkeys(page["tile_id"], metrics)).drop(columns=["tile_id", "region"])
    return Judged(metrics=metrics, tiles=page.assign(**{name: reached[name] for name in reached}))


def _never(model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Judged:
    raise AssertionError("judged again without need")


def _register(model_dir: Path, metrics: Mapping[str, float], **changes: Any) -> dict[str, Any]:
    """Run the stage on a model and what `evaluate` would have found of it; return ``decision.json``."""
    root = Path.cwd()
    data_hash = changes.pop("data_hash", "one")
    tiles = root / "tiles" / data_hash
    if not tiles.exists():
        _tiles(tiles, data_hash=data_hash)
    verdicts = root / "validate"
    if not verdicts.exists():
        _verdicts(verdicts)
    folder = root / "evaluate" / model_dir.name
    write_parts(write_evaluation(folder, metrics=metrics), page_parts())
    _judged(metrics).tiles.to_parquet(folder / "tiles.parquet")
    facts: dict[str, Any] = {"settings": RULE, "evaluate_settings": EvaluateSettings(), "rescore": _never} | changes
    out_dir = root / "register"
    report = register(verdicts, tiles, model_dir, root / "evaluate" / model_dir.name, out_dir, **facts)
    decision: dict[str, Any] = json.loads((out_dir / "decision.json").read_text())
    assert (report.version, report.promoted) == (decision["challenger"], decision["promoted"])
    return decision


def _standing() -> dict[str, int | None]:
    found = {alias: registry.version_of("cgm2net", alias=alias) for alias in ("champion", "challenger")}
    return {alias: None if version is None else version.number for alias, version in found.items()}


def test_first_version_becomes_the_champion(train: Train) -> None:
    decision = _register(train("a", marker=1.0), BASE)
    assert (decision["promoted"], decision["champion_before"]) == (True, None)
    assert decision["reason"] == "the first version: there is no champion"
    assert _standing() == {"champion": 1, "challenger": 1}
    version = registry.version_of("cgm2net", alias="champion")
    assert version is not None
    assert version.tags["data_hash"] == "one"
    assert version.tags["weights_sha256"] == sha256_file(Path("models/a/weights.safetensors"))


def test_better_challenger_becomes_the_champion_and_the_run_tells(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    decision = _register(train("b", marker=2.0), BETTER)
    assert (decision["promoted"], decision["champion_before"], decision["challenger"]) == (True, 1, 2)
    assert _standing() == {"champion": 2, "challenger": 2}
    rows = {row["metric"]: (row["gain"], row["limit"], row["passed"]) for row in decision["comparisons"]}
    assert rows == {
        "cloudy/miou": (pytest.approx(0.1), 0.0, True),
        "cloudy/psnr": (1.0, 0.1, True),
        "clear/psnr": (0.0, -0.5, True),
    }
    client = tracking.connect()
    kept = client.get_run(decision["run_id"])
    assert (kept.data.tags["model_version"], kept.data.tags["promoted"]) == ("2", "true")
    files = {file.path for file in client.list_artifacts(decision["run_id"], "register")}
    assert files == {"register/decision.json", "register/decision.md", "register/report.html"}
    page = Path("register/report.html").read_text()
    assert "<strong>Promoted</strong>" in page
    assert "against the champion, version 1" in page
    text = Path("register/decision.md").read_text()
    assert "| cloudy/psnr | 20 | 21 | 1 | +0.1 | 100% | passed |" in text.splitlines()
    assert client.get_model_version("cgm2net", "2").description == text


def test_the_run_leads_to_report_decision_and_data_docs(train: Train, tmp_path: Path) -> None:
    decision = _register(train("a", marker=1.0), BASE)
    client, run_id = tracking.connect(), decision["run_id"]
    for path in ("data_docs/index.html", "data_docs/validations/scenes.html", "scenes.csv", "verdicts.json"):
        kept = client.download_artifacts(run_id, f"validate/{path}", str(tmp_path))
        assert Path(kept).read_bytes() == Path("validate", path).read_bytes()
    found = client.get_run(run_id)
    files = f"#/experiments/{found.info.experiment_id}/runs/{run_id}/artifacts"
    assert found.data.tags["mlflow.note.content"].splitlines() == [
        "**Promoted**: the first version: there is no champion", "",
        "| file | what it shows |", "|---|---|",
        f"| [register/report.html]({files}/register/report.html) | metrics, charts, map of regions and the verdict on"
        " one page |",
        f"| [register/decision.md]({files}/register/decision.md) | the rule, metric by metric |",
        f"| [validate/data_docs/index.html]({files}/validate/data_docs/index.html) | 2 of 3 scenes accepted; the"
        " refused ones first, with reasons |",
        f"| [validate/data_docs/validations/scenes.html]({files}/validate/data_docs/validations/scenes.html) | every"
        " rule for scenes, and what was found |",
        f"| [validate/scenes.csv]({files}/validate/scenes.csv) | the same as a table, with what was measured of every"
        " scene |",
    ]  # fmt: skip


def test_the_description_says_what_the_last_decision_was(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    decision = _register(train("b", marker=2.0), BASE)
    note = tracking.connect().get_run(decision["run_id"]).data.tags["mlflow.note.content"]
    assert note.startswith("**Not promoted**: cloudy/psnr 20 against 20: gain 0, the rule asks for at least +0.1\n\n|")


def test_without_the_table_of_scenes_nothing_is_registered(train: Train, project: Path) -> None:
    model_dir = train("a", marker=1.0)
    _verdicts(project / "validate")
    (project / "validate/scenes.csv").unlink()
    with pytest.raises(CatalogError, match="no scene table there"):
        _register(model_dir, BASE)
    assert registry.version_of("cgm2net", alias="challenger") is None


def test_worse_under_cloud_only_is_refused_with_that_reason(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    better_but = BASE | {"all/psnr": 28.0, "clear/psnr": 35.0, "cloudy/psnr": 19.0, "cloudy/miou": 0.6}
    decision = _register(train("b", marker=2.0), better_but)
    assert not decision["promoted"]
    assert decision["reason"] == "cloudy/psnr 19 against 20: gain -1, the rule asks for at least +0.1"
    assert _standing() == {"champion": 1, "challenger": 2}


def test_other_tiles_judge_the_champion_again_first(train: Train) -> None:
    champion = train("a", marker=1.0)
    _register(champion, BASE)
    judged: list[str] = []

    def rescore(model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Judged:
        judged.append(sha256_file(model_dir / "weights.safetensors"))
        assert tiles_dir == Path.cwd() / "tiles" / "two"
        return _judged(BASE | {"cloudy/psnr": 25.0})

    decision = _register(train("b", marker=2.0), BETTER, data_hash="two", rescore=rescore)
    assert judged == [sha256_file(champion / "weights.safetensors")]
    assert (decision["data_hash"], decision["champion_data_hash"], decision["promoted"]) == ("two", "one", False)
    assert decision["reason"].startswith("cloudy/psnr 21 against 25")
    _register(train("c", marker=3.0), BETTER, data_hash="two")  # and keeps what was found


def test_other_ways_of_judging_judge_the_champion_again(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)

    def rescore(model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Judged:
        return _judged(BASE | {"cloudy/psnr": 10.0 * settings.cloud_threshold})

    settings = EvaluateSettings(cloud_threshold=0.25)
    decision = _register(train("b", marker=2.0), BETTER, evaluate_settings=settings, rescore=rescore)
    assert {row["metric"]: row["champion"] for row in decision["comparisons"]}["cloudy/psnr"] == 2.5


def test_the_same_weights_are_no_promotion(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    decision = _register(train("again", marker=1.0), BASE)
    assert (decision["promoted"], decision["challenger"]) == (False, 1)
    assert decision["reason"] == "these weights are the champion's already"
    assert len(tracking.connect().search_model_versions("name = 'cgm2net'")) == 1


def test_registering_again_changes_nothing(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    model_dir = train("b", marker=2.0)
    first = _register(model_dir, BETTER)
    moves = registry.alias_moves("cgm2net", alias="champion")
    assert _register(model_dir, BETTER) == first
    assert registry.alias_moves("cgm2net", alias="champion") == moves
    assert len(tracking.connect().search_model_versions("name = 'cgm2net'")) == 2


class _KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("method", "nth", "when"),
    [
        ("finalize_logged_model", 1, "before"),
        ("create_model_version", 1, "before"),
        ("create_model_version", 1, "after"),
        ("set_model_version_tag", 2, "before"),  # the decision
        ("set_registered_model_alias", 2, "before"),  # the champion's, recorded and not moved
        ("set_registered_model_alias", 2, "after"),
    ],
)
def test_killed_anywhere_and_run_again_it_is_as_if_undisturbed(
    train: Train, monkeypatch: pytest.MonkeyPatch, method: str, nth: int, when: str
) -> None:
    _register(train("a", marker=1.0), BASE)
    model_dir = train("b", marker=2.0)
    original = getattr(MlflowClient, method)
    calls = 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            raise _KilledError
        answer = original(*args, **kwargs)
        if calls == nth:
            raise _KilledError
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, killed)
        with pytest.raises(_KilledError):
            _register(model_dir, BETTER)
    decision = _register(model_dir, BETTER)
    assert (decision["promoted"], decision["champion_before"], decision["challenger"]) == (True, 1, 2)
    assert decision["reason"] == "better than the champion as the rule asks, and nowhere worse than it allows"
    assert [row["champion"] for row in decision["comparisons"]] == [0.5, 20.0, 30.0]
    assert _standing() == {"champion": 2, "challenger": 2}
    for alias in ("champion", "challenger"):
        moves = registry.alias_moves("cgm2net", alias=alias)
        assert [(move["from"], move["to"]) for move in moves] == [(None, 1), (1, 2)]
    client = tracking.connect()
    assert len(client.search_model_versions("name = 'cgm2net'")) == 2
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    assert len(client.search_logged_models([experiment.experiment_id])) == 2


def test_moves_are_recorded_with_who_and_why(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)
    _register(train("b", marker=2.0), BETTER)
    client = tracking.connect()
    first = registry.Version(name="cgm2net", number=1, run_id="", tags={})
    assert registry.set_alias(first, alias="champion", why="maps went dark", who="ada")
    assert not registry.set_alias(first, alias="champion", why="twice", who="ada")
    moves = registry.alias_moves("cgm2net", alias="champion")
    assert [(move["from"], move["to"], move["who"]) for move in moves] == [
        (None, 1, "register"),
        (1, 2, "register"),
        (2, 1, "ada"),
    ]
    assert moves[2]["why"] == "maps went dark"
    assert moves[1]["metrics"] == {"cloudy/psnr": 21.0, "cloudy/miou": 0.6, "clear/psnr": 30.0}
    assert [move["when"] for move in moves] == sorted(str(move["when"]) for move in moves)
    assert client.get_model_version_by_alias("cgm2net", "champion").version in (1, "1")


def test_without_a_model_there_is_no_version_and_no_move(project: Path) -> None:
    assert registry.version_of("cgm2net", alias="champion") is None
    assert registry.alias_moves("cgm2net", alias="champion") == []


def test_nothing_is_pickled_and_no_path_is_kept(train: Train, project: Path) -> None:
    _register(train("a", marker=1.0), BASE)
    (saved,) = (project / "mlartifacts" / "models").iterdir()
    files = {path.relative_to(saved / "artifacts").as_posix() for path in saved.rglob("*") if path.is_file()}
    beside_code = {name for name in files if not name.startswith("code/")}
    assert beside_code == {
        "MLmodel", "artifacts/model/card.json", "artifacts/model/weights.safetensors", "conda.yaml",
        "input_example.json", "python_env.yaml", "requirements.txt", "serving.py", "serving_input_example.json",
    }  # fmt: skip
    suffixes = {Path(name).suffix for name in files if name.startswith("code/")}
    assert suffixes == {".py", ".html", ".css", ".js"}  # the page's template comes with the package
    requirements = (saved / "artifacts/requirements.txt").read_text().splitlines()
    assert all("==" in line for line in requirements)
    assert str(Path(registry.__file__).parent) not in (saved / "artifacts/MLmodel").read_text()


def test_the_registered_model_answers_as_the_network_does(train: Train) -> None:
    import mlflow

    model_dir = train("a", marker=0.125)
    _register(model_dir, BASE)
    uri = tracking.connect().get_model_version_download_uri("cgm2net", "1")
    model = mlflow.pyfunc.load_model(uri)
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.random((3, count, 32, 16), dtype=np.float32)
        for name, count in {"optical": len(BANDS), "sar": 2, "cloud": 1}.items()
    }
    answer = model.predict(inputs)
    network, _ = weights.load(model_dir)
    with torch.inference_mode():
        wanted = network(*(torch.from_numpy(array) for array in inputs.values()))
    assert np.array_equal(answer["clear"], wanted.clear_BCHW.numpy())
    assert np.array_equal(answer["logits"], wanted.logits_BKHW.numpy())
    assert answer["probabilities"].sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (answer["half_width"] > 0).all()
    assert "optical, sar, cloud" in model.metadata.metadata["takes"]
    assert {name: array.shape[0] for name, array in model.input_example.items()} == dict.fromkeys(inputs, 2)


def test_damaged_weights_in_the_store_are_noticed(train: Train, project: Path) -> None:
    _register(train("a", marker=1.0), BASE)
    version = registry.version_of("cgm2net", alias="champion")
    assert version is not None
    registry.download_version(version, project / "good")
    assert registry.model_hashes(project / "good") == registry.model_hashes(Path("models/a"))
    (kept,) = (project / "mlartifacts").rglob("weights.safetensors")
    kept.write_bytes(b"other")
    with pytest.raises(BackendError, match="registered was"):
        registry.download_version(version, project / "bad")
    assert not (project / "bad").exists()


def test_the_default_judge_scores_the_test_tiles(train: Train, project: Path) -> None:
    tiles = _tiles(project / "t", data_hash="x")
    judged = score_model(train("a", marker=1.0), tiles, settings=EvaluateSettings())
    metrics = judged.metrics
    assert {"tile_id", "region", "sum/cloudy/squared", "sum/clear/water>forest"} <= set(judged.tiles)
    assert {"cloudy/psnr", "clear/psnr", "cloudy/miou"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    with pytest.raises(ModelError, match=r"trained on optical_bands .*give models of other inputs another name"):
        score_model(train("b", marker=1.0, bands=("B04", "B03", "B02")), tiles, settings=EvaluateSettings())


def test_a_champion_of_other_inputs_cannot_be_compared_and_stays(train: Train) -> None:
    _register(train("a", marker=1.0), BASE)

    def other_inputs(*_: object, **__: object) -> Judged:
        raise ModelError("the champion was trained on other bands")

    better = {**BASE, "cloudy/psnr": 99.0}
    decision = _register(train("b", marker=2.0), better, data_hash="other", rescore=other_inputs)
    assert decision["reason"] == "the champion was trained on other bands"
    assert _standing() == {"champion": 1, "challenger": 2}


def test_metrics_that_the_rule_names_must_be_there(train: Train) -> None:
    model_dir = train("a", marker=1.0)
    with pytest.raises(DataError, match=r"metrics.json: lacks \['clear/psnr', 'cloudy/miou', 'cloudy/psnr'\]"):
        _register(model_dir, {"all/psnr": 1.0})
    assert _standing() == {"champion": None, "challenger": None}
    with pytest.raises(MetricError, match=r"\['a'\] are not finite"):
        require_metrics({"a": math.nan, "b": 1.0}, ["a", "b"], where="here")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_gain": {}},
        {"min_gain": {"cloudy/prsn": 0.0}},
        {"min_gain": {"cloudy/psnr": -1.0}},
        {"max_loss": {"psnr": 0.1}},
        {"max_loss": {"all/psnr": math.inf}},
        {"model_name": "a' or name = 'b"},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RegisterSettings(**changes)
