"""The STAC item: what the official schemas say of it, where and when it lies, and what readers find."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.eo import EOExtension
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

from cgm2net.errors import CatalogError
from cgm2net.files import sha256_file
from cgm2net.model.calibration import Calibration
from cgm2net.model.network import NetworkConfig
from cgm2net.predict import item
from cgm2net.predict.layers import layers
from cgm2net.predict.scene import SceneInputs
from cgm2net.weights import Card

BANDS = ("B02", "B04", "B06")
CLASSES = ("water", "broadleaf forest", "Wälder")
GRID = GeoBox((40, 30), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
PROVENANCE = {
    "model": {"name": "cgm2net", "version": "3", "sha256": "ab" * 32, "git_commit": "0123abc"},
    "cloud": {"method": "simple", "cover": 0.4},
    "key": "f" * 64,
}
INPUTS = SceneInputs(
    scene_id="T32TQM", optical=(), sar=(), acquired_optical="2024-06-01T10:30:00Z", acquired_sar="2024-06-03T05:40:00Z"
)
CARD = Card(
    config=NetworkConfig(num_optical_bands=3, num_sar_bands=2, num_classes=3), optical_bands=BANDS,
    sar_bands=("VV", "VH"), classes=CLASSES, gsd_m=10.0, data_hash="0" * 64, seed=0, steps=1, num_parameters=12_345,
    library_version="0.1.0", calibration=Calibration(interval_clear=(1.0,) * 3, interval_cloudy=(2.0,) * 3),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file for every layer; what an item says of one does not depend on its pixels."""
    for layer in layers(optical_bands=BANDS, classes=CLASSES):
        (tmp_path / layer.file).write_bytes(layer.name.encode())
    return tmp_path


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"inputs": INPUTS, "grid": GRID, "card": CARD, "provenance": PROVENANCE} | changes
    path = item.write_item(folder, **given)
    assert path == folder / "item.json"
    value: dict[str, Any] = json.loads(path.read_text())
    return value


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    """The official schemas by address: of the core, and of every extension that an item may name."""
    kept = [json.loads(path.read_text()) for path in sorted(Path(__file__).with_name("schemas").glob("*.json"))]
    return get_local_schema_cache() | {schema["$id"].rstrip("#"): schema for schema in kept}


def faults(value: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> list[str]:
    """What the schemas that an item names, and the core, have against it."""
    registry = Registry().with_resources([(uri, Resource.from_contents(schema)) for uri, schema in schemas.items()])
    core = f"https://schemas.stacspec.org/v{value['stac_version']}/item-spec/json-schema/item.json"
    return [
        f"{uri}: {error.message}"
        for uri in (core, *value["stac_extensions"])
        for error in jsonschema.Draft7Validator(schemas[uri], registry=registry).iter_errors(value)
    ]


ALL_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"inputs": replace(INPUTS, acquired_optical="", acquired_sar="")},
        {"inputs": replace(INPUTS, acquired_optical="2024-06-01")},
        {"grid": GeoBox((900, 1100), Affine(100, 0, 640_000, 0, -100, 6_000_000), "EPSG:32660")},
        {"grid": GeoBox((40, 30), GRID.transform, "+proj=laea +lat_0=52 +lon_0=10 +datum=WGS84 +units=m")},
        {"provenance": {"model": {"name": "3", "version": "", "sha256": "ab" * 32}}},
    ],
)
def test_the_official_schemas_accept_it(
    folder: Path, schemas: dict[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    value = written(folder, **changes)
    named = " ".join(value["stac_extensions"])
    assert all(f"/{name}/v" in named for name in ("projection", "raster", "eo", "classification", "file", "mlm"))
    assert faults(value, schemas) == []


def test_every_sentinel_2_band_has_a_name_that_the_schemas_know(
    folder: Path, schemas: dict[str, dict[str, Any]]
) -> None:
    config = CARD.config.model_copy(update={"num_optical_bands": len(ALL_BANDS)})
    card = CARD.model_copy(update={"optical_bands": ALL_BANDS, "config": config})
    assert faults(written(folder, card=card), schemas) == []


@pytest.mark.parametrize(
    ("where", "wrong", "complaint"),
    [
        (("properties", "datetime"), "yesterday", "item.json"),
        (("properties", "proj:code"), 32632, "projection"),
        (("properties", "mlm:tasks"), ["guessing"], "mlm"),
        (("assets", "restored", "raster:bands"), [], "raster"),
        (("assets", "restored", "eo:bands", 0, "common_name"), "bluish", "eo"),
        (("assets", "classes", "classification:classes", 0, "color_hint"), "blue", "classification"),
        (("assets", "cloud", "file:size"), -1, "file"),
    ],
)
def test_the_official_schemas_refuse_a_broken_one(
    folder: Path, schemas: dict[str, dict[str, Any]], where: tuple[str | int, ...], wrong: object, complaint: str
) -> None:
    value = written(folder)
    place: Any = value
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = wrong
    found = faults(value, schemas)
    assert found
    assert any(complaint in fault for fault in found)


def test_the_footprint_by_hand(folder: Path) -> None:
    value = written(folder)
    # Easting 500 km is 9 degrees east, the zone's middle; 300 m east of it are 300 / (111320 cos 45.15) degrees.
    west, south, east, north = value["bbox"]
    assert west == pytest.approx(9.0, abs=1e-6)
    assert east - west == pytest.approx(300 / (111_320 * np.cos(np.deg2rad(45.15))), rel=2e-3)
    assert north - south == pytest.approx(400 / 111_140, rel=2e-3)
    (ring,) = value["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in itertools.pairwise(ring)) / 2
    assert area > 0  # counter-clockwise, as GeoJSON wants
    assert value["properties"]["proj:shape"] == [40, 30]
    assert value["properties"]["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert value["properties"]["proj:bbox"] == [500_000, 4_999_600, 500_300, 5_000_000]
    assert value["properties"]["proj:code"] == "EPSG:32632"


def test_a_scene_across_the_date_line_has_two_parts(folder: Path) -> None:
    grid = GeoBox((900, 1100), Affine(100, 0, 640_000, 0, -100, 6_000_000), "EPSG:32660")
    value = written(folder, grid=grid)
    assert value["geometry"]["type"] == "MultiPolygon"
    east_part, west_part = sorted(value["geometry"]["coordinates"], key=lambda part: -part[0][0][0])
    assert min(x for x, _ in east_part[0]) > 179
    assert max(x for x, _ in west_part[0]) < -178
    assert value["bbox"][0] > 0 > value["bbox"][2]  # west of the line to east of it


FIRST, THIRD = "2024-06-01T10:30:00Z", "2024-06-03T05:40:00Z"


@pytest.mark.parametrize(
    ("optical", "sar", "moment", "start", "end"),
    [
        (FIRST, THIRD, FIRST, FIRST, THIRD),
        ("2024-06-05T12:30:00+02:00", THIRD, "2024-06-05T10:30:00Z", THIRD, "2024-06-05T10:30:00Z"),
        (FIRST, "", FIRST, FIRST, FIRST),
        ("", THIRD, THIRD, THIRD, THIRD),
        ("2024-06-01", THIRD, None, "2024-06-01T00:00:00Z", THIRD),
        ("2024-06-01", "", None, "2024-06-01T00:00:00Z", "2024-06-01T23:59:59Z"),
        ("", "", None, "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_times(folder: Path, optical: str, sar: str, moment: str | None, start: str, end: str) -> None:
    properties = written(folder, inputs=replace(INPUTS, acquired_optical=optical, acquired_sar=sar))["properties"]
    assert (properties["datetime"], properties["start_datetime"], properties["end_datetime"]) == (moment, start, end)


def test_a_time_that_is_none_names_the_scene(folder: Path) -> None:
    with pytest.raises(CatalogError, match=r"scene T32TQM: acquired 'June', expected a time like 2024-"):
        written(folder, inputs=replace(INPUTS, acquired_sar="June"))


def test_readers_find_what_the_numbers_mean(folder: Path) -> None:
    written(folder)
    read = pystac.Item.from_file(str(folder / "item.json"))
    restored = read.assets["restored"]
    assert restored.media_type == pystac.MediaType.COG
    assert restored.get_absolute_href() == str(folder / "restored.tif")
    first = RasterExtension.ext(restored).bands[0]
    assert (first.nodata, first.scale, first.offset, first.unit) == (0, 1e-4, 0, "reflectance")
    assert [band.common_name for band in EOExtension.ext(restored).bands] == ["blue", "red", "rededge"]
    assert EOExtension.ext(restored).bands[0].center_wavelength == 0.49
    assert RasterExtension.ext(read.assets["confidence"]).bands[0].scale == 0.004
    assert RasterExtension.ext(read.assets["uncertainty"]).bands[0].nodata == 65_535
    named = ClassificationExtension.ext(read.assets["classes"]).classes
    assert [(c.value, c.name, c.title) for c in named] == [
        (0, "water", "water"), (1, "broadleaf_forest", "broadleaf forest"), (2, "W_lder", "Wälder"),
    ]  # fmt: skip
    assert named[0].color_hint == "3182bd"
    assert [c.value for c in ClassificationExtension.ext(read.assets["origin"]).classes if c.nodata] == [0]
    assert ProjectionExtension.ext(read).code == "EPSG:32632"
    assert read.assets["thumbnail"].roles == ["thumbnail"]
    assert written(folder)["links"] == []  # nothing that a moved folder would break


def test_files_are_pinned(folder: Path) -> None:
    asset = written(folder)["assets"]["cloud"]
    assert asset["file:size"] == len("cloud")
    assert asset["file:checksum"] == "1220" + sha256_file(folder / "cloud.tif")


def test_it_says_what_it_was_made_of(folder: Path) -> None:
    value = written(folder)
    properties = value["properties"]
    assert properties["cgm2net:model"] == PROVENANCE["model"]
    assert properties["cgm2net:cloud"] == {"method": "simple", "cover": 0.4}
    model = MLMExtension.ext(pystac.Item.from_file(str(folder / "item.json")))
    assert (model.mlm_name, model.architecture, model.total_parameters) == ("cgm2net", "CGM2Net", 12_345)
    optical, sar, cloud = properties["mlm:input"]
    assert optical["bands"] == list(BANDS)
    assert optical["value_scaling"][0] == {"type": "min-max", "minimum": 0.0, "maximum": 10_000.0}
    assert sar["value_scaling"][1] == {"type": "min-max", "minimum": -32.5, "maximum": 0.0}
    assert (sar["input"]["shape"], cloud["input"]["shape"]) == ([-1, 2, 256, 256], [-1, 1, 256, 256])
    assert [part["result"]["shape"][1] for part in properties["mlm:output"]] == [3, 3, 3]
    assert value["assets"]["model"]["href"] == "models:/cgm2net/3"


def test_a_model_from_a_folder_is_named_by_its_hash(folder: Path) -> None:
    model = {"name": "train", "version": "", "sha256": "cd" * 32}
    asset = written(folder, provenance={"model": model})["assets"]["model"]
    assert asset["href"] == "urn:sha256:" + "cd" * 32


def test_equal_scenes_give_equal_bytes(folder: Path) -> None:
    written(folder)
    first = (folder / "item.json").read_bytes()
    written(folder)
    assert (folder / "item.json").read_bytes() == first
