"""`catalog stac`, `download` and `validate` through the real commands, against a real STAC API and a file server.

Optical dates of June: 1st half clouded, 6th clear, 11th a quarter clouded, 16th overcast, 21st clear, 26th beside the
area. SAR: 2nd and 7th and 13th from orbit 66, 5th and 10th from orbit 139.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from click.testing import CliRunner, Result
from stac_world import (
    AREA,
    TILE,
    Traffic,
    bbox_of,
    file_server,
    optical_dn,
    sar_power,
    sentinel1,
    sentinel2,
    stac_api,
)

from cgm2net.__main__ import main
from cgm2net.catalog import read_scenes
from cgm2net.data.sources import stac_read
from cgm2net.predict.inputs import from_catalog, row_as_inputs

ROOT = Path(__file__).parents[3]
CATALOG = Path("data/catalog.csv")
IN_AREA = (slice(100, 164), slice(102, 182))
CLOUDS = {"2024-06-01": 20, "2024-06-06": 0, "2024-06-11": 10, "2024-06-16": 40, "2024-06-21": 0}
RADAR = {"2024-06-02": 66, "2024-06-05": 139, "2024-06-07": 66, "2024-06-10": 139, "2024-06-13": 66}
LICENSES = {"sentinel-2-l2a": "proprietary", "sentinel-1-rtc": "CC-BY-4.0"}
FIRST, SECOND, THIRD = (f"lake-202406{day}T1030" for day in ("01", "06", "11"))


@dataclass(frozen=True)
class World:
    api: str
    traffic: Traffic


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with file_server(tmp_path_factory.mktemp("files")) as traffic:
        root, url = traffic.root, traffic.url
        items = [sentinel2(root, url, day, cloud_columns=columns) for day, columns in CLOUDS.items()]
        items.append(sentinel2(root, url, "2024-06-26", grid=TILE.translate_pix(150, 0)))
        items += [sentinel1(root, url, day, orbit) for day, orbit in RADAR.items()]
        items.append(sentinel1(root, url, "2024-06-20", 66))
        del items[-1]["assets"]["vh"]
        with stac_api(tmp_path_factory.mktemp("api"), items, LICENSES) as api:
            yield World(api, traffic)


@pytest.fixture
def world(built: World, workspace: Path) -> World:
    """The world, and an empty project with settings that fit it as working directory."""
    for counts in (built.traffic.asked, built.traffic.sent, built.traffic.gone, built.traffic.fail):
        counts.clear()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["download"] |= {"num_workers": 1, "max_attempts": 2, "retry_wait_seconds": 0.0}
    params["validate"] |= {"num_workers": 1, "min_accepted": 1}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    return built


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def search(world: World, *more: str, area: tuple[str, ...] = ("--bbox", bbox_of(AREA), "--region", "lake")) -> Result:
    period = () if {"--start", "--last-days"} & set(more) else ("--start", "2024-06-01", "--end", "2024-06-30")
    return run("catalog", "stac", *area, *period, "--api", world.api, *more)


def rows(path: Path = CATALOG) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False).set_index("scene_id")


def document(scene_id: str) -> dict:
    return json.loads(Path(f"data/stac/{scene_id}.json").read_text())


def roles(scene_id: str) -> dict[str, str]:
    """Return role -> day of its item."""
    return {role: made["items"][0]["acquired"][:10] for role, made in document(scene_id)["roles"].items()}


def test_dates_are_paired_by_the_rules(world: World) -> None:
    result = search(world)
    assert result.exit_code == 0, result.output
    assert "6 scenes found = 3 accepted + 3 refused" in result.output
    assert "cloudmask.method: scl" in result.output
    assert "dvc add data" in result.output
    table = rows()
    assert table.index.tolist() == [FIRST, SECOND, THIRD]
    assert table.loc[FIRST].to_dict() == {
        "region": "lake", "acquired_optical": "2024-06-01T10:30:00Z", "acquired_sar": "2024-06-02T05:40:00Z",
        **{role: table.loc[FIRST, role] for role in ("optical", "sar", "reference", "cloud")}, "label": "",
        "license": "proprietary; CC-BY-4.0", "source": "stac",
    }  # fmt: skip
    assert table.loc[FIRST, "sar"].startswith(f"stac/{FIRST}.json#stac=sar&document=")
    # SAR: the nearest, 0.8 days (1st to 2nd), 0.8 (6th to 7th; the 5th is 1.2 away), 1.2 (11th back to 10th).
    # References: the nearest of the clear 6th and 21st that is not the image itself.
    assert roles(FIRST) == {
        "optical": "2024-06-01", "cloud": "2024-06-01", "sar": "2024-06-02", "reference": "2024-06-06"
    }  # fmt: skip
    assert (roles(SECOND)["sar"], roles(SECOND)["reference"]) == ("2024-06-07", "2024-06-21")
    assert (roles(THIRD)["sar"], roles(THIRD)["reference"]) == ("2024-06-10", "2024-06-06")


def test_what_is_refused_is_said(world: World) -> None:
    search(world)
    refused = rows(Path("data/catalog.refused.csv"))["reason"]
    assert refused["lake-20240616T1030"] == "cloud and shadow hide 100% of the scene, wanted at most 90%"
    assert refused["lake-20240621T1030"].startswith(
        "no SAR within 3 days, the nearest is 8.2 days away (1 left out: item S1A_IW_GRDH_1SDV_20240620T054000_rtc: has"
        " no asset for band VH"
    )
    assert refused["lake-20240626T1030"] == "covers 40% of the area, wanted 90%"


def test_documents_say_where_everything_comes_from(world: World) -> None:
    search(world)
    made = document(FIRST)
    optical = made["roles"]["optical"]
    assert made["grid"] == {"crs": "EPSG:32632", "shape": [64, 80], "transform": [10, 0, 501_000, 0, -10, 5_399_000]}
    assert (optical["api"], optical["sign"]) == (world.api, "none")
    assert optical["cloud_share"] == pytest.approx(0.5, abs=0.04)
    (item,) = optical["items"]
    assert item["id"] == "S2A_MSIL2A_20240601T103000"
    assert item["link"] == f"{world.api}/collections/sentinel-2-l2a/items/{item['id']}"
    assert (item["baseline"], item["orbit"], item["cloud_cover"]) == ("05.10", "65", 0.5)
    assert [band["name"] for band in item["bands"]] == ["B02", "B03", "B04", "B08", "B11", "B12"]
    assert item["bands"][0] == {
        "name": "B02", "href": f"{world.traffic.url}/2024-06-01/B02.tif", "offset_dn": -1000, "linear": False
    }  # fmt: skip
    radar = made["roles"]["sar"]["items"][0]["bands"]
    assert [(band["name"], band["linear"]) for band in radar] == [("VV", True), ("VH", True)]


def test_downloaded_scenes_hold_what_the_items_hold_and_pass_validation(world: World) -> None:
    search(world)
    result = run("download")
    assert result.exit_code == 0, result.output
    there = sum((world.traffic.root / name).stat().st_size for name in world.traffic.sent)
    assert there > 6_000_000
    # The windows alone: of files of 512 px, GDAL reads 16 kB at once, and the area is 64 x 80 px.
    assert sum(world.traffic.sent.values()) < 0.3 * there
    scenes = read_scenes(Path("artifacts/download/scenes.csv")).set_index("scene_id")
    assert scenes["accepted"].all()
    scene = scenes.loc[FIRST]
    for role, day in (("optical", "2024-06-01"), ("reference", "2024-06-06")):
        with rasterio.open(scene[role]) as file:
            assert file.descriptions == ("B02", "B03", "B04", "B08", "B11", "B12")
            assert file.transform == AREA.transform
            pixels = file.read()
        for number, band in enumerate(("B02", "B03", "B04", "B08")):
            np.testing.assert_array_equal(pixels[number], optical_dn(day)[band][IN_AREA])
    with rasterio.open(scene["sar"]) as file:
        assert file.descriptions == ("VV", "VH")
        np.testing.assert_allclose(file.read(2), 10 * np.log10(sar_power("2024-06-02")["VH"][IN_AREA]), atol=1e-5)
    with rasterio.open(scene["cloud"]) as file:
        assert np.unique(file.read(1)).tolist() == [4, 9]
    result = run("validate")
    assert result.exit_code == 0, result.output
    judged = read_scenes(Path("artifacts/validate/scenes.csv"))
    assert judged["reason"].tolist() == [""] * 3


def test_a_second_run_adds_nothing(world: World) -> None:
    search(world)
    before = {path: path.read_bytes() for path in sorted(Path("data").rglob("*.*"))}
    search(world)
    assert {path: path.read_bytes() for path in sorted(Path("data").rglob("*.*"))} == before
    result = search(world, "--append")
    assert "0 accepted + 3 refused" in result.output
    assert "3 more are there already" in result.output
    assert "nothing new" in result.output
    assert {path: path.read_bytes() for path in sorted(Path("data").rglob("*.*"))} == before


def test_a_search_that_was_interrupted_looks_at_no_date_twice(world: World) -> None:
    world.traffic.gone.add("2024-06-11/SCL.tif")
    search(world)
    world.traffic.gone.clear()
    world.traffic.asked.clear()
    search(world)
    assert rows().index.tolist() == [FIRST, SECOND, THIRD]
    assert list(world.traffic.asked) == ["2024-06-11/SCL.tif"]


def test_a_moving_window_appends_what_is_new(world: World) -> None:
    search(world, "--end", "2024-06-07", "--last-days", "7", "--same-orbit")
    assert rows().index.tolist() == [FIRST, SECOND]
    old = rows()
    others = pd.DataFrame([{**dict.fromkeys(old.reset_index().columns, ""), "scene_id": "a", "region": "r"}])
    others["optical"], others["sar"] = "a/o.tif", "a/s.tif"
    pd.concat([old.reset_index(), others]).to_csv(CATALOG, index=False)
    result = search(world, "--end", "2024-06-12", "--last-days", "7", "--same-orbit", "--append")
    assert "1 scenes found = 1 accepted + 0 refused" in result.output
    table = rows()
    assert table.index.tolist() == ["a", FIRST, SECOND, THIRD]
    assert table.loc["a", "optical"] == "a/o.tif"
    assert table.loc[[FIRST, SECOND]].equals(old)
    # The region's scenes have SAR of orbit 66, so the 13th is taken (1.8 days) before the 10th (1.2) of orbit 139.
    assert roles(THIRD)["sar"] == "2024-06-13"


def test_a_dry_run_shows_pairs_and_writes_nothing(world: World) -> None:
    result = search(world, "--dry-run")
    assert not Path("data").exists()
    for words in (FIRST, "2024-06-02", "+0.8", "66", "lake-20240616T1030", "3 accepted + 3 refused", "nothing written"):
        assert words in result.output


def test_limits_are_options(world: World) -> None:
    search(world, "--max-cloud", "1", "--max-days", "9", "--clear-below", "0", "--reference-days", "6")
    assert rows().index.tolist() == [FIRST, SECOND, THIRD, "lake-20240616T1030", "lake-20240621T1030"]
    assert rows()["reference"].map(bool).tolist() == [True, False, True, True, False]
    search(world, "--max-days", "9", "--reference-days", "6", "--require-reference")
    assert rows().index.tolist() == [FIRST, THIRD]
    refused = rows(Path("data/catalog.refused.csv"))["reason"]
    assert refused[SECOND] == "no image within 6 days has under 5% cloud and shadow"


def test_features_of_a_file_are_regions(world: World) -> None:
    inner = AREA[8:56, 8:72]
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": grid.geographic_extent.json}
        for name, grid in (("east", inner.translate_pix(100, 0)), ("west", inner))
    ]
    Path("a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    result = search(world, area=("--aoi", "a.geojson"))
    assert result.exit_code == 0, result.output
    assert rows()["region"].tolist() == ["east"] * 3 + ["west"] * 3
    assert document("west-20240601T1030")["grid"]["transform"][2] == 501_080


def test_an_asset_that_is_missing_refuses_its_scene(world: World) -> None:
    search(world)
    world.traffic.gone.add("s1-2024-06-02/VV.tif")
    result = run("download")
    assert "fetched=2, refused=1" in result.output
    scenes = read_scenes(Path("artifacts/download/scenes.csv")).set_index("scene_id")
    assert scenes["accepted"].tolist() == [False, True, True]
    assert "VV.tif (HTTP 404)" in scenes.loc[FIRST, "reason"] or "sar is not at" in scenes.loc[FIRST, "reason"]


def test_a_classification_that_is_missing_refuses_its_date(world: World) -> None:
    world.traffic.gone.add("2024-06-01/SCL.tif")
    search(world)
    assert rows().index.tolist() == [SECOND, THIRD]
    assert "2024-06-01/SCL.tif (HTTP 404)" in rows(Path("data/catalog.refused.csv")).loc[FIRST, "reason"]


def test_a_server_that_stays_busy_stops_the_stage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    search(world)
    monkeypatch.setattr(stac_read, "_GDAL", {**stac_read._GDAL, "GDAL_HTTP_MAX_RETRY": "0"})
    world.traffic.fail["s1-2024-06-02/VV.tif"] = [503] * 50
    result = run("download")
    assert result.exit_code == 1
    assert "not fetched in 2 tries" in result.output
    assert not Path("artifacts/download/scenes.csv").exists()
    world.traffic.fail.clear()
    assert "fetched=3, refused=0" in run("download").output


def test_a_document_that_was_changed_refuses_its_scene(world: World) -> None:
    search(world)
    path = Path(f"data/stac/{FIRST}.json")
    path.write_text(path.read_text().replace("-1000.0", "0.0"))
    assert "fetched=2, refused=1" in run("download").output
    reason = read_scenes(Path("artifacts/download/scenes.csv"))["reason"][0]
    assert f"{FIRST}.json: SHA-256 is" in reason
    path.unlink()
    assert "fetched=2, refused=1" in run("download").output
    path.write_text("{}")
    result = run("download")
    assert result.exit_code == 1
    assert f"{FIRST}.json: not a scene's STAC document" in result.output


def test_optics_and_sar_come_from_two_apis(world: World, tmp_path: Path) -> None:
    """Optics as Earth Search has them: named by colour, the offset taken away, of the new collection not."""
    keys = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir16", "B12": "swir22"}
    root, url = world.traffic.root, world.traffic.url
    applied = {"earthsearch:boa_offset_applied": True}
    items = [
        sentinel2(root, url, "2024-06-03", offset=0, keys=keys, **applied),
        sentinel2(root, url, "2024-06-08", keys=keys),
    ]
    with stac_api(tmp_path, items, LICENSES) as api:
        result = search(World(api, world.traffic), "--sar-api", world.api)
    assert result.exit_code == 0, result.output
    assert roles("lake-20240603T1030")["sar"] == "2024-06-02"
    made = document("lake-20240603T1030")["roles"]
    assert (made["optical"]["api"], made["sar"]["api"]) == (api, world.api)
    run("download")
    for day in ("03", "08"):
        with rasterio.open(f"artifacts/download/lake-202406{day}T1030/optical.tif") as file:
            np.testing.assert_array_equal(file.read(1), optical_dn(f"2024-06-{day}")["B02"][IN_AREA])


def test_addresses_are_signed_where_they_are_read_and_nowhere_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGM2NET_STAC_SIGN", "stac_world:signed")
    world.traffic.queries.clear()
    search(world)
    assert "fetched=3, refused=0" in run("download").output
    assert set(world.traffic.queries) == {"sig=secret"}
    assert not any("secret" in path.read_text() for path in Path("data").rglob("*.*"))
    monkeypatch.delenv("CGM2NET_STAC_SIGN")
    shutil.rmtree(".cache")
    result = run("download")
    assert result.exit_code == 1
    assert "to let it run, set CGM2NET_STAC_SIGN=stac_world:signed" in result.output


def test_scenes_can_be_predicted_from_the_catalogue(world: World) -> None:
    search(world)
    (first, *_) = from_catalog(CATALOG)
    inputs = row_as_inputs(first, fetched_dir=Path("fetched"))
    with rasterio.open(inputs.optical[0].path) as file:
        np.testing.assert_array_equal(file.read(1), optical_dn("2024-06-01")["B02"][IN_AREA])
    assert inputs.cloud is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "where? give either --aoi"),
        (("--bbox", "1,2,3"), "wanted WEST,SOUTH,EAST,NORTH"),
        (("--bbox", "9,48,9.1,48.1"), "when? give either --start"),
        (("--bbox", "9,48,9.1,48.1", "--start", "2024-06-01", "--end", "2024-05-01"), "is not before --end"),
        (("--bbox", "9,48,9.1,48.1", "--last-days", "5", "--api", "earth-search"), "--sar-api planetary-computer"),
    ],
)
def test_what_is_not_said_is_asked_for(workspace: Path, options: tuple[str, ...], said: str) -> None:
    result = run("catalog", "stac", *options)
    assert result.exit_code == 1
    assert said in result.output


def test_shares_are_no_percentages(workspace: Path) -> None:
    result = run("catalog", "stac", "--bbox", "9,48,9.1,48.1", "--last-days", "5", "--max-cloud", "80")
    assert "80 is not in the range 0<=x<=1" in result.output.replace("80.0", "80")


def test_nothing_found_is_told(world: World) -> None:
    result = search(world, area=("--bbox", "20,48,20.1,48.1"))
    assert result.exit_code == 1
    assert "0 scenes found" in result.output
    assert not CATALOG.exists()


def test_a_killed_download_goes_on_and_ends_the_same(world: World) -> None:
    """Killed when the server has sent about half of the bytes."""
    search(world)
    world.traffic.sent.clear()
    uninterrupted = Path("whole")
    run("download")
    shutil.copytree("artifacts/download", uninterrupted)
    shutil.rmtree(".cache")
    shutil.rmtree("artifacts")
    assert _killed_after(world.traffic, sum(world.traffic.sent.values()) // 2)
    assert run("download").exit_code == 0
    for path in sorted(uninterrupted.rglob("*.*")):
        assert (Path("artifacts/download") / path.relative_to(uninterrupted)).read_bytes() == path.read_bytes()
    assert [path for path in Path(".cache/cgm2net/partial").iterdir() if path.is_dir()] == []


def _killed_after(traffic: Traffic, limit: int) -> int:
    traffic.sent.clear()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cgm2net", "download"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:

        def check() -> None:
            if sum(traffic.sent.values()) >= limit:
                child.send_signal(signal.SIGKILL)

        traffic.on_sent = check
        child.wait(60)
    traffic.on_sent = lambda: None
    assert child.returncode == -signal.SIGKILL
    return sum(traffic.sent.values())
