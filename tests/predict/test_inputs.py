"""Scenes from catalogues, folders and STAC items."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cgm2net import raster
from cgm2net.catalog import COLUMNS
from cgm2net.data import synthetic
from cgm2net.errors import CatalogError, DataError, RasterError
from cgm2net.files import sha256_file
from cgm2net.predict.inputs import from_catalog, from_folder, from_items, row_as_inputs

SPEC = synthetic.SceneSpec(region=1, date="2024-06-01", size_px=64)


def catalog(path: Path, **columns: list) -> Path:
    count = len(columns["scene_id"])
    table = pd.DataFrame({name: [""] * count for name in COLUMNS} | {"region": ["r"] * count} | columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return path


def test_a_catalogues_scenes_are_fetched_once(tmp_path):
    path = catalog(
        tmp_path / "catalog.csv", scene_id=["b", "a"], optical=[synthetic.uri("optical", SPEC)] * 2,
        sar=[synthetic.uri("sar", SPEC)] * 2, acquired_optical=["2024-06-01T10:30:00Z"] * 2,
    )  # fmt: skip
    rows = from_catalog(path)
    assert [row["scene_id"] for row in rows] == ["a", "b"]
    first, second = (row_as_inputs(row, fetched_dir=tmp_path / "fetched") for row in rows)
    assert first.acquired_optical == "2024-06-01T10:30:00Z"
    assert [band.name for band in first.optical] == ["B02", "B03", "B04", "B08", "B11", "B12"]
    assert first.optical[0].path == second.optical[0].path
    assert len([p for p in (tmp_path / "fetched").rglob("*") if p.is_file()]) == 2  # an optical and a SAR file
    assert first.cloud is None


def test_of_a_stages_table_the_accepted_scenes_are_taken(tmp_path):
    path = catalog(
        tmp_path / "scenes.csv", scene_id=["a", "b"], optical=["o.tif"] * 2, sar=["s.tif"] * 2,
        accepted=[False, True], reason=["too dark", ""],
    )  # fmt: skip
    assert [row["scene_id"] for row in from_catalog(path)] == ["b"]
    assert from_catalog(path)[0]["optical"] == str(tmp_path / "o.tif")
    path = catalog(
        tmp_path / "none.csv", scene_id=["a"], optical=["o.tif"], sar=["s.tif"], accepted=[False], reason=["too dark"]
    )
    with pytest.raises(DataError, match="a: too dark"):
        from_catalog(path)


def test_a_file_with_another_checksum_refuses_its_scene(tmp_path):
    synthetic.write(synthetic.uri("optical", SPEC), tmp_path / "o.tif")
    row = {"scene_id": "a", "optical": str(tmp_path / "o.tif"), "sar": str(tmp_path / "o.tif")}
    row["optical_sha256"] = sha256_file(tmp_path / "o.tif")
    assert row_as_inputs(row, fetched_dir=tmp_path / "fetched").optical[0].index == 1
    row["optical_sha256"] = "0" * 64
    with pytest.raises(RasterError, match="SHA-256 is"):
        row_as_inputs(row, fetched_dir=tmp_path / "fetched")


def test_a_missing_file_refuses_its_scene(tmp_path):
    row = {"scene_id": "a", "optical": f"file://{tmp_path}/none.tif", "sar": "s.tif", "optical_sha256": "0" * 64}
    with pytest.raises(RasterError, match=r"optical cannot be had from file://.*none\.tif"):
        row_as_inputs(row, fetched_dir=tmp_path / "fetched")


def test_files_are_read_as_their_uris_say(tmp_path):
    for role in ("optical", "sar"):
        synthetic.write(synthetic.uri(role, SPEC), tmp_path / f"{role}.tif")
    row = {
        "scene_id": "a", "optical": f"{tmp_path}/optical.tif#bands=B1,B2,B3,B4,B5,B6&offset=-1000&scale=2",
        "sar": f"file://{tmp_path}/sar.tif#bands=HH,HV&linear=1&scale=0.5",
    }  # fmt: skip
    inputs = row_as_inputs(row, fetched_dir=tmp_path / "fetched")
    assert [(band.name, band.offset, band.scale) for band in inputs.optical[:2]] == [("B1", -1000, 2), ("B2", -1000, 2)]
    assert [(band.name, band.linear, band.scale) for band in inputs.sar] == [("HH", True, 0.5), ("HV", True, 0.5)]
    assert inputs.optical[0].path == str(tmp_path / "optical.tif")
    assert not (tmp_path / "fetched").exists()  # bands are read where they lie


def test_a_mask_without_a_grid_is_written_anew_once(tmp_path):
    for role in ("optical", "sar"):
        synthetic.write(synthetic.uri(role, SPEC), tmp_path / f"{role}.tif")
    np.save(tmp_path / "cloud.npy", np.eye(64, dtype=bool))
    row = {"scene_id": "a", "optical": f"{tmp_path}/optical.tif", "sar": f"{tmp_path}/sar.tif#crs=EPSG:32633"}
    row["cloud"] = f"{tmp_path}/cloud.npy#grid=optical"
    inputs = row_as_inputs(row, fetched_dir=tmp_path / "fetched")
    mask = raster.read(inputs.cloud)
    assert mask.grid == raster.read_grid(tmp_path / "optical.tif")
    assert mask.pixels_CHW.sum() == 64
    assert raster.read_grid(Path(inputs.sar[0].path)).crs.epsg == 32633
    made = inputs.cloud.stat().st_mtime_ns
    assert row_as_inputs(row, fetched_dir=tmp_path / "fetched").cloud.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("sar", "said"),
    [
        ("s.tif#band=VV", "unknown instruction 'band'"),
        ("s.tif#codes=1:0", "codes is no instruction for sar"),
        ("optical.tif#grid=optical&bands=VV", "has 6 bands, 1 names were given"),
        ("s.npy", r"sar is not at .*s\.npy"),
        ("optical.npy", "cannot be read as a NumPy array"),
    ],
)
def test_instructions_that_do_not_fit_refuse_the_scene(tmp_path, sar, said):
    synthetic.write(synthetic.uri("optical", SPEC), tmp_path / "optical.tif")
    (tmp_path / "optical.npy").touch()
    row = {"scene_id": "a", "optical": f"{tmp_path}/optical.tif", "sar": f"{tmp_path}/{sar}"}
    with pytest.raises(RasterError, match=said):
        row_as_inputs(row, fetched_dir=tmp_path / "fetched")


def test_a_folder_of_folders(tmp_path):
    for name in ("s2", "s1", "notes"):
        (tmp_path / name).mkdir()
    for name in ("s1/optical.tif", "s1/sar.tif", "s1/cloud.tif", "s2/optical.tif", "s2/sar.tif", "notes/readme.txt"):
        (tmp_path / name).touch()
    rows = from_folder(tmp_path)
    assert [(row["scene_id"], bool(row["cloud"])) for row in rows] == [("s1", True), ("s2", False)]
    (tmp_path / "s1/cloud.tif").rename(tmp_path / "s1/cloud.npy")
    assert from_folder(tmp_path)[0]["cloud"] == f"{tmp_path}/s1/cloud.npy#grid=optical"
    (tmp_path / "s2/sar.tif").unlink()
    with pytest.raises(CatalogError, match=r"s2: has no sar\.tif"):
        from_folder(tmp_path)


def test_a_folder_without_a_scene_or_with_an_unsafe_name(tmp_path):
    with pytest.raises(CatalogError, match="no scene there"):
        from_folder(tmp_path / "nowhere")
    (tmp_path / "a b").mkdir()
    for name in ("optical.tif", "sar.tif"):
        (tmp_path / "a b" / name).touch()
    with pytest.raises(CatalogError, match="'a b' is not safe as a folder name"):
        from_folder(tmp_path)


def item(path: Path, assets: dict, **properties) -> str:
    """Write a STAC item with assets of relative hrefs."""
    path.write_text(
        json.dumps(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": path.stem,
                "links": [],
                "assets": assets,
                "geometry": {"type": "Point", "coordinates": [9, 48]},
                "bbox": [9, 48, 9, 48],
                "properties": {"datetime": "2024-06-01T10:30:00Z", **properties},
            }
        )
    )
    return str(path)


SAR = {"vv": {"href": "vv.tif"}, "vh": {"href": "vh.tif"}}


def test_items_give_bands_by_key_name_and_common_name(tmp_path):
    optical = item(
        tmp_path / "S2A_1.json",
        {
            "B02": {"href": "b02.tif"}, "green": {"href": "b03.tif"},
            "visual": {"href": "rgb.tif", "eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]},
            "x": {"href": "b04.tif", "eo:bands": [{"name": "B04", "common_name": "red"}]}, "scl": {"href": "scl.tif"},
        },
    )  # fmt: skip
    inputs = from_items(
        optical, item(tmp_path / "S1.json", SAR), optical_bands=("B04", "B02", "B03"), sar_bands=("VV", "VH")
    )
    assert inputs.scene_id == "S2A_1"
    assert [(b.name, Path(b.path).name) for b in inputs.optical] == [
        ("B04", "b04.tif"), ("B02", "b02.tif"), ("B03", "b03.tif"),
    ]  # fmt: skip
    assert Path(inputs.optical[0].path) == tmp_path / "b04.tif"
    assert [(b.name, b.linear) for b in inputs.sar] == [("VV", True), ("VH", True)]  # RTC is in linear power
    assert Path(str(inputs.cloud)).name == "scl.tif"
    assert inputs.acquired_sar == "2024-06-01T10:30:00Z"


@pytest.mark.parametrize(
    ("properties", "asset", "offset"),
    [
        ({}, {}, 0.0),
        ({"s2:processing_baseline": "03.01"}, {}, 0.0),
        ({"s2:processing_baseline": "05.09"}, {}, -1000.0),
        ({"s2:processing_baseline": "05.09"}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, -1000.0),
        ({"s2:processing_baseline": "05.09"}, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0.0),
        (
            {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            0.0,
        ),
    ],
)
def test_the_offset_of_new_baselines_is_taken_away_once(tmp_path, properties, asset, offset):
    optical = item(tmp_path / "S2.json", {"B02": {"href": "b02.tif", **asset}}, **properties)
    inputs = from_items(optical, item(tmp_path / "S1.json", SAR), optical_bands=("B02",), sar_bands=("VV",))
    assert inputs.optical[0].offset == pytest.approx(offset)


def test_items_that_are_no_use_are_refused(tmp_path):
    optical = item(tmp_path / "S2.json", {"B02": {"href": "b02.tif"}})
    with pytest.raises(RasterError, match=r"S2: has no asset for band B03; its assets are B02"):
        from_items(optical, item(tmp_path / "S1.json", SAR), optical_bands=("B03",), sar_bands=("VV",))
    detected = item(tmp_path / "S1.json", SAR, **{"sar:product_type": "GRD"})
    with pytest.raises(RasterError, match="product type GRD is not calibrated backscatter"):
        from_items(optical, detected, optical_bands=("B02",), sar_bands=("VV",))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CatalogError, match="not a readable STAC item"):
        from_items(str(tmp_path / "broken.json"), detected, optical_bands=("B02",), sar_bands=("VV",))
