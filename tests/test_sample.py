"""What `make pipeline` must reach on the built-in sample; skips where it has not run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from cgm2net.catalog import read_catalog, read_scenes
from cgm2net.data import synthetic
from cgm2net.evaluation.metrics import flatten
from cgm2net.files import read_json
from cgm2net.predict.model import load_model
from cgm2net.predict.run import PredictSettings, predict_scene
from cgm2net.predict.scene import files_as_inputs
from cgm2net.predict.windows import WINDOW_PX, phases, starts
from cgm2net.raster import read_grid

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"

REASONS = {
    "broken-bands-swapped": "bands of optical out of order",
    "broken-offset-1000": "offset of +1000 DN suspected",
    "broken-reference-identical": "identical pixels: optical = reference",
    "broken-sar-linear": "SAR is not in dB",
    "broken-truncated": "unreadable optical",
    "broken-wrong-crs": "check the coordinate reference systems",
}


@pytest.fixture(scope="module")
def catalog() -> pd.DataFrame:
    if not (ARTIFACTS / "register/decision.json").is_file():
        pytest.skip("`make pipeline` has not run here")
    table = read_catalog(ROOT / "data/catalog.csv")
    if set(table["source"]) != {synthetic.SCHEME}:
        pytest.skip("data/ is not the built-in sample")
    return table.set_index("scene_id")


def test_every_broken_scene_is_refused_for_what_is_wrong_and_every_good_one_passes(catalog):
    verdicts = read_scenes(ARTIFACTS / "validate/scenes.csv").set_index("scene_id")
    assert set(verdicts.index) == set(catalog.index)
    refused = verdicts.loc[~verdicts["accepted"], "reason"]
    assert set(refused.index) == set(REASONS)
    for scene_id, reason in REASONS.items():
        assert reason in refused[scene_id]


def test_known_shifts_of_sar_are_found_with_the_right_sign(catalog):
    scenes = read_scenes(ARTIFACTS / "coregister/scenes.csv")
    scenes = scenes[scenes["accepted"]]
    known = np.array([synthetic.parse(catalog.loc[scene_id, "sar"])[1].shift for scene_id in scenes["scene_id"]])
    found = scenes[["dx_px", "dy_px"]].to_numpy()
    assert np.median(np.hypot(*(found - known).T)) <= 0.3
    telling = np.abs(known) > 0.5
    assert (np.sign(found) == np.sign(known))[telling].all()


def test_no_region_is_on_both_sides_of_the_split(catalog):
    tiles = pd.read_parquet(ARTIFACTS / "tile/tiles.parquet")
    assert (tiles.groupby("region")["split"].nunique() == 1).all()
    assert set(tiles["split"]) == {"train", "val", "test"}


def test_the_network_beats_the_trivial_answers_under_cloud(catalog):
    metrics = flatten(read_json(ARTIFACTS / "evaluate/metrics.json"))
    assert metrics["cloudy/psnr"] >= metrics["copy/cloudy/psnr"] + 6.0
    assert metrics["cloudy/miou"] >= 0.55
    assert metrics["cloudy/miou"] >= 2 * metrics["majority/cloudy/miou"]


def test_the_networks_doubt_means_something_in_regions_it_never_saw(catalog):
    metrics = flatten(read_json(ARTIFACTS / "evaluate/metrics.json"))
    for group in ("all", "clear", "cloudy"):
        assert metrics[f"{group}/ece"] < 0.05
        assert 0.85 <= metrics[f"{group}/coverage"] <= 0.95


def test_no_seam_shows_where_windows_begin_and_end(catalog, tmp_path):
    """Steps from pixel to pixel at the windows' borders are those of the same scene with its windows elsewhere."""
    spec = synthetic.SceneSpec(region=50, date="2024-07-01", size_px=640, cover=0.4, seed=11)
    model = load_model(str(ARTIFACTS / "train"))
    images, grids = [], []
    for moved_px in (0, 96):  # half of what lies between two windows
        folder = tmp_path / str(moved_px)
        folder.mkdir()
        files = {role: folder / f"{role}.tif" for role in ("optical", "sar")}
        for role, path in files.items():
            synthetic.write(synthetic.uri(role, spec), path)
            with rasterio.open(path, "r+") as file:
                move = rasterio.Affine.translation(10 * moved_px, -10 * moved_px)
                file.transform = move @ file.transform
        report = predict_scene(files_as_inputs("s", **files), model, folder, settings=PredictSettings(num_threads=1))
        with rasterio.open(report.folder / "restored.tif") as file:
            images.append(file.read().astype(float))
        grids.append(read_grid(files["optical"]))
    for axis, phase in enumerate(phases(grids[0]), start=1):
        begin = starts(640, phase)
        borders = [place - 1 for s in begin for place in (s, s + WINDOW_PX) if 0 < place < 640]
        assert len(borders) >= 4
        here, elsewhere = (
            np.abs(np.diff(image, axis=axis)).mean(axis=tuple({0, 1, 2} - {axis}))[borders] for image in images
        )
        assert here.mean() <= 1.02 * elsewhere.mean()
        assert (here <= 1.1 * elsewhere).all()
