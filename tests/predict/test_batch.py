"""Many scenes and the command: what is done stays, what is refused has its reason."""

import pandas as pd
import pytest
from click.testing import CliRunner

from cgm2net import raster
from cgm2net.__main__ import main
from cgm2net.data import synthetic
from cgm2net.errors import DataError, ModelError
from cgm2net.predict.batch import predict_scenes
from cgm2net.predict.inputs import from_folder
from cgm2net.predict.model import load_model
from cgm2net.predict.run import PredictSettings

SETTINGS = PredictSettings(num_threads=1)


@pytest.fixture
def folder(tmp_path):
    """A good scene, and one whose SAR is in linear power."""
    spec = synthetic.SceneSpec(region=1, date="2024-06-01", size_px=72, cover=0.3)
    for name, defect in (("good", "none"), ("linear", "sar_linear")):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for role in ("optical", "sar"):
            uri = synthetic.uri(role, spec.model_copy(update={"defect": defect}))
            synthetic.write(uri, tmp_path / "scenes" / name / f"{role}.tif")
    return tmp_path / "scenes"


def test_refused_scenes_keep_their_reason_and_done_ones_stay(folder, model, tmp_path):
    out = tmp_path / "maps"
    report = predict_scenes(from_folder(folder), model, out, settings=SETTINGS)
    assert (report.made, report.kept, report.refused) == (1, 0, 1)
    table = pd.read_csv(report.table).set_index("scene_id")
    assert table["status"].to_dict() == {"good": "made", "linear": "refused"}
    assert "linear power" in table.loc["linear", "reason"]
    made = {path.name: path.stat().st_mtime_ns for path in (out / "good").iterdir()}

    again = predict_scenes(from_folder(folder), model, out, settings=SETTINGS)
    assert (again.made, again.kept) == (0, 1)
    assert {path.name: path.stat().st_mtime_ns for path in (out / "good").iterdir()} == made

    other = predict_scenes(from_folder(folder), model, out, settings=PredictSettings(num_threads=1, keep_clear=True))
    assert (other.made, other.kept) == (1, 0)  # other settings, other products


def test_where_every_scene_is_refused_it_fails_with_the_reasons(folder, model, tmp_path):
    rows = [row for row in from_folder(folder) if row["scene_id"] == "linear"]
    with pytest.raises(DataError, match="none of 1 scenes could be predicted: linear: "):
        predict_scenes(rows, model, tmp_path / "maps", settings=SETTINGS)


def command(*arguments: str):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_the_command_predicts_one_scene_and_leaves_it_alone_the_second_time(folder, model_dir, tmp_path):
    files = ("--optical", folder / "good/optical.tif", "--sar", folder / "good/sar.tif", "--scene-id", "mine")
    options = (*files, "--model", model_dir, "--out", tmp_path / "maps")
    first = command(*options)
    assert first.exit_code == 0, first.output
    assert "maps/mine: 0.0 Mpx" in first.output
    assert raster.read_grid(tmp_path / "maps/mine/classes.tif") == raster.read_grid(folder / "good/optical.tif")
    assert "there already" in command(*options).output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing given; name one of --optical and --sar, --catalog, --folder, --items"),
        (["--optical", "a.tif", "--folder", "b"], "--optical and --sar and --folder given; name one"),
        (["--optical", "a.tif"], "--sar is missing; a scene needs both images"),
        (["--folder", "nowhere"], "nowhere: no scene there"),
    ],
)
def test_wrong_options_end_with_one_clear_line(options, said, model_dir, tmp_path):
    result = command(*options, "--model", model_dir, "--out", tmp_path)
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {said}")


@pytest.mark.parametrize("uri", ["models:/cgm2net@nobody", "models:/cgm2net/7", "models:/cgm2net"])
def test_a_model_that_is_not_there_is_named(project, uri):
    with pytest.raises(ModelError, match=uri):
        load_model(uri)
