"""`python -m cgm2net`: what the commands say, and how they end."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from cgm2net.__main__ import main

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_without_settings_a_stage_ends_with_one_clear_line(workspace):
    result = run("download")
    assert result.exit_code == 1
    assert result.output == "error: params.yaml: no settings there; run in the project's root, or name the file\n"


def test_without_its_input_a_stage_says_what_to_run(workspace):
    shutil.copy(ROOT / "params.yaml", workspace)
    result = run("coregister")
    assert result.exit_code == 1
    assert "artifacts/validate/scenes.csv: no scene table there; run the stage that makes it" in result.output


@pytest.mark.parametrize(
    "command", ["download", "validate", "coregister", "cloudmask", "tile", "train", "register", "explain"]
)
def test_every_stage_has_help(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


def test_the_sample_is_written_as_asked(workspace):
    result = run("catalog", "synthetic", "--regions", "3", "--scenes", "2", "--size-px", "128")
    assert result.exit_code == 0
    table = pd.read_csv("data/catalog.csv")
    good = table[~table["scene_id"].str.startswith("broken")]
    assert len(good) == 3 * 2 + 1  # one more, overcast
    assert set(good["region"]) == {"r00", "r01", "r02"}
    assert "size_px=128" in table["optical"][0]


def test_another_catalogue_is_taken_with_absolute_paths(workspace):
    run("catalog", "synthetic", "--regions", "1", "--scenes", "1", "--out", "other/catalog.csv")
    table = pd.read_csv("other/catalog.csv", dtype=str, keep_default_na=False)
    table["label"] = "labels/a.tif"
    table.to_csv("other/catalog.csv", index=False)
    assert run("catalog", "file", "other/catalog.csv").exit_code == 0
    taken = pd.read_csv("data/catalog.csv", dtype=str, keep_default_na=False)
    assert taken["label"][0] == str(workspace / "other/labels/a.tif")
    assert set(taken["optical"]) == set(table["optical"])  # URIs stay as they are
    result = run("catalog", "file", "nowhere.csv")
    assert (result.exit_code, result.output.split(":")[:2]) == (1, ["error", " nowhere.csv"])
