"""The flow that maps what was ingested, through the real command, on a scene of 72 px."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny_model import save_model

from cgm2net.catalog import COLUMNS
from cgm2net.data import synthetic
from pipelines.library import CommandError
from pipelines.predict import predict

ROOT = Path(__file__).parents[2]
BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A project with settings, weights, and a catalogue of the scenes that are asked for: a name and its defect."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save_model(tmp_path / "model", optical_bands=BANDS, sar_bands=("VV", "VH"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load((ROOT / "params.yaml").read_text())))

    def write(**defects: str) -> Path:
        spec = synthetic.SceneSpec(region=1, date="2024-06-01", size_px=72, cover=0.3)
        rows = [
            dict.fromkeys(COLUMNS, "")
            | {"scene_id": name, "region": "r"}
            | {role: synthetic.uri(role, spec.model_copy(update={"defect": defect})) for role in ("optical", "sar")}
            for name, defect in defects.items()
        ]
        (tmp_path / "data").mkdir()
        pd.DataFrame(rows).to_csv(tmp_path / "data/catalog.csv", index=False)
        return tmp_path

    return write


@pytest.mark.server
def test_the_flow_maps_new_scenes_and_says_why_others_are_refused(
    server: dict[str, str], catalog: Callable[..., Path]
) -> None:
    root = catalog(good="none", linear="sar_linear")
    rows = predict(root, model="model")
    assert [(row["scene_id"], row["status"]) for row in rows] == [("good", "made"), ("linear", "refused")]
    assert "linear power" in rows[1]["reason"]
    assert (root / "maps/good/restored.tif").is_file()
    assert [row["status"] for row in predict(root, model="model")] == ["kept", "refused"]


@pytest.mark.server
def test_the_flow_fails_with_the_commands_last_words(server: dict[str, str], catalog: Callable[..., Path]) -> None:
    with pytest.raises(CommandError, match=r"card\.json: not there"):
        predict(catalog(good="none"), model="nowhere")
