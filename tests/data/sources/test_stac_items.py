"""What items of different APIs say: names of bands, offsets, kinds of SAR."""

from typing import Any

import pystac
import pytest
from stac_world import item

from cgm2net.data.sources.stac_items import band_asset, is_linear, offset_dn, require_backscatter
from cgm2net.errors import RasterError


def made(
    assets: dict[str, dict[str, Any]], *, name: str = "S2A_1", collection: str = "c", **properties: Any
) -> pystac.Item:
    content = item(name, collection, "2024-06-01T10:30:00Z", {}, **properties)
    return pystac.Item.from_dict(content | {"assets": {key: {"href": f"{key}.tif", **a} for key, a in assets.items()}})


EARTH_SEARCH = made(
    {
        "red-jp2": {"eo:bands": [{"name": "red", "common_name": "red"}]},
        "red": {"eo:bands": [{"name": "red", "common_name": "red"}]},
        "rededge1": {"eo:bands": [{"name": "rededge1", "common_name": "rededge"}]},
        "rededge2": {"eo:bands": [{"name": "rededge2", "common_name": "rededge"}]},
        "nir08": {"eo:bands": [{"name": "nir08", "common_name": "nir08"}]},
        "visual": {"eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]},
    }
)
PLANETARY_COMPUTER = made(
    {
        "B05": {"eo:bands": [{"name": "B05", "common_name": "rededge"}]},
        "B8A": {"eo:bands": [{"name": "B8A", "common_name": "rededge"}]},
    }
)


@pytest.mark.parametrize(("band", "key"), [("B04", "red"), ("B05", "rededge1"), ("B06", "rededge2"), ("B8A", "nir08")])
def test_earth_search_names_bands_by_colour(band, key):
    assert band_asset(EARTH_SEARCH, band).href == f"{key}.tif"


@pytest.mark.parametrize("band", ["B05", "B8A"])
def test_planetary_computer_names_bands_by_number(band):
    assert band_asset(PLANETARY_COMPUTER, band).href == f"{band}.tif"


def test_a_band_that_is_not_there_is_named_with_what_is(capsys):
    with pytest.raises(RasterError, match="S2A_1: has no asset for band B06; its assets are B05, B8A"):
        band_asset(PLANETARY_COMPUTER, "B06")
    with pytest.raises(RasterError, match="no asset for band B02"):  # `visual` holds it, but not alone
        band_asset(EARTH_SEARCH, "B02")


STATED = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}


@pytest.mark.parametrize(
    ("properties", "asset", "offset"),
    [
        ({"s2:processing_baseline": "05.10"}, {}, -1000),
        ({"s2:processing_baseline": "04.00"}, {}, -1000),
        ({"processing:version": "05.11"}, {}, -1000),
        ({"s2:processing_baseline": "03.01"}, {}, 0),
        ({"s2:processing_baseline": "02.14"}, STATED, 0),  # stated of a whole collection, true of its newer half
        ({"s2:processing_baseline": "05.10"}, STATED, -1000),
        ({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": True}, STATED, 0),
        ({"s2:processing_baseline": "05.10", "earthsearch:boa_offset_applied": False}, STATED, -1000),
        ({}, {}, 0),
        ({}, STATED, -1000),
    ],
)
def test_the_offset_is_taken_away_once(properties, asset, offset):
    found = made({"B02": asset}, **properties)
    assert offset_dn(found, found.assets["B02"]) == pytest.approx(offset)


@pytest.mark.parametrize(
    ("name", "collection", "kind"),
    [
        ("S1A_IW_GRDH_1SDV_20240601T054000_rtc", "sentinel-1-rtc", "GRD"),  # as Planetary Computer has them
        ("S1A_IW_GRDH_1SDV_20240601T054000_rtc", "mine", "GRD"),
        ("scene", "mine", "RTC"),
        ("scene", "mine", ""),
    ],
)
def test_terrain_corrected_sar_is_taken(name, collection, kind):
    require_backscatter(made({}, name=name, collection=collection, **({"sar:product_type": kind} if kind else {})))


@pytest.mark.parametrize(
    ("name", "collection", "kind"),
    [("S1A_IW_GRDH_1SDV", "sentinel-1-grd", "GRD"), ("a", "sentinel-1-grd", ""), ("a", "mine", "SLC")],
)
def test_sar_in_radar_geometry_is_refused(name, collection, kind):
    with pytest.raises(RasterError, match=r"is not calibrated backscatter .*Planetary Computer"):
        require_backscatter(made({}, name=name, collection=collection, **({"sar:product_type": kind} if kind else {})))


def test_sar_is_linear_unless_it_says_decibel():
    found = made({"vv": {}, "vh": {"raster:bands": [{"unit": "dB"}]}})
    assert [is_linear(found.assets[key]) for key in ("vv", "vh")] == [True, False]
