"""Areas of interest: names, regions, grids, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from odc.geo.crs import CRS
from stac_world import AREA, bbox_of

from cgm2net.data.sources.stac_areas import areas_from_box, areas_from_file
from cgm2net.errors import CatalogError

SQUARE = [[[9.0, 48.0], [9.1, 48.0], [9.1, 48.1], [9.0, 48.1], [9.0, 48.0]]]
FAR = [[[20.0, 48.0], [20.1, 48.0], [20.1, 48.1], [20.0, 48.1], [20.0, 48.0]]]


def feature(coordinates: list = SQUARE, *, kind: str = "Polygon", **members: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": None} | members


def written(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def test_features_are_regions_by_name_or_id(tmp_path):
    path = written(tmp_path / "a.geojson", feature(properties={"name": "Lake North"}), feature(FAR, id=7))
    assert [(area.name, area.region) for area in areas_from_file(path, region="")] == [
        ("Lake-North", "Lake-North"), ("7", "7"),
    ]  # fmt: skip
    assert [(area.name, area.region) for area in areas_from_file(path, region="alps")] == [
        ("Lake-North", "alps"), ("7", "alps"),
    ]  # fmt: skip


def test_a_place_without_a_name_is_named_by_its_cell(tmp_path):
    # The middle is 9.05 E, 48.05 N: UTM 32, 503,729 m east, 5,321,966 m north.
    path = written(tmp_path / "a.geojson", feature(), feature())
    assert [(area.name, area.region) for area in areas_from_file(path, region="")] == [
        ("utm32n-e050-n0532", "utm32n-e050-n0532"), ("utm32n-e050-n0532-1", "utm32n-e050-n0532"),
    ]  # fmt: skip
    (south,) = areas_from_box([9.0, -48.1, 9.1, -48.0], region="")
    assert south.region.startswith("utm32s-e050-n0467")  # 10,000,000 - 5,321,966 m
    (named,) = areas_from_box([9.0, 48.0, 9.1, 48.1], region="mine")
    assert (named.name, named.region) == ("mine", "mine")


def test_a_geometry_alone_is_an_area(tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": SQUARE}))
    (area,) = areas_from_file(tmp_path / "a.geojson", region="")
    assert area.polygon.area == pytest.approx(0.01)


def test_the_grid_lies_on_multiples_of_the_pixel_size():
    (area,) = areas_from_box([float(number) for number in bbox_of(AREA).split(",")], region="")
    assert area.utm == CRS("EPSG:32632")
    assert area.grid(area.utm, gsd_m=10) == AREA
    coarse = area.grid(area.utm, gsd_m=60)
    assert coarse.transform.c % 60 == 0
    assert coarse.shape == (12, 14)  # 640 x 800 m, and the rest of the pixels that its edges cut


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [([9.1, 48, 9, 48.1], "wanted west,south,east,north"), ([9, 48, 9.1, 98], "in degrees")],
)
def test_a_box_that_is_none_is_refused(bounds, wanted):
    with pytest.raises(CatalogError, match=wanted):
        areas_from_box(bounds, region="")


def test_areas_that_are_none_are_refused(tmp_path):
    metres = [[[500000, 5400000], [510000, 5400000], [510000, 5410000], [500000, 5400000]]]
    cases = {
        "is in degrees": [feature(metres)],
        "holds a Point": [feature([9.0, 48.0], kind="Point")],
        "no feature in it": [],
        "two features are named a": [feature(id="a"), feature(FAR, id="a")],
    }
    for wanted, features in cases.items():
        with pytest.raises(CatalogError, match=wanted):
            areas_from_file(written(tmp_path / "a.geojson", *features), region="")
    (tmp_path / "a.geojson").write_text("{}")
    with pytest.raises(CatalogError, match="not GeoJSON"):
        areas_from_file(tmp_path / "a.geojson", region="")
    with pytest.raises(CatalogError, match="not GeoJSON"):
        areas_from_file(tmp_path / "none.geojson", region="")


def test_an_area_too_large_for_a_scene_is_refused():
    (area,) = areas_from_box([9, 46, 12, 48], region="")
    with pytest.raises(CatalogError, match="too large for a scene, wanted at most 20000 a side; cut it"):
        area.grid(area.utm, gsd_m=10)
