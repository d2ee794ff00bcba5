"""What `make pipeline` must reach on the built-in sample; skips where it has not run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgm2net.catalog import read_catalog, read_scenes
from cgm2net.data import synthetic
from cgm2net.evaluation.metrics import flatten
from cgm2net.files import read_json

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
