"""Overflights and their pairs, worked out by hand."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geom import box
from stac_world import AREA, TILE, item

from cgm2net.data.sources.stac_pairs import Pass, choose_sar, clear_passes, passes_of

START = datetime(2024, 6, 1, tzinfo=UTC)
POLYGON = AREA.geographic_extent


def at(day: float, orbit: str = "") -> Pass:
    return Pass(acquired=START + timedelta(days=day), items=(SimpleNamespace(id=f"{day}"),), orbit=orbit, covered=1.0)  # type: ignore[arg-type]


def days(passes: list[Pass | None]) -> list[float | None]:
    return [None if one is None else (one.acquired - START).total_seconds() / 86_400 for one in passes]


def test_sar_is_the_nearest_in_time_within_the_limit():
    optical = [at(0), at(10), at(20)]
    sar = [at(1), at(8), at(11.5), at(24)]
    assert days(choose_sar(optical, sar, max_days=3, same_orbit=False)) == [1, 11.5, None]
    assert days(choose_sar(optical, sar, max_days=4, same_orbit=False)) == [1, 11.5, 24]


def test_of_two_equally_near_the_earlier_is_taken():
    assert days(choose_sar([at(5)], [at(6), at(4)], max_days=3, same_orbit=False)) == [4]


def test_one_orbit_is_preferred_where_it_serves_most():
    optical = [at(0), at(10), at(20), at(30)]
    sar = [at(0.5, "66"), at(1, "139"), at(11, "139"), at(22, "139"), at(31, "66")]
    assert days(choose_sar(optical, sar, max_days=3, same_orbit=True)) == [1, 11, 22, 31]  # 139 serves three, 66 two
    assert days(choose_sar(optical, sar, max_days=3, same_orbit=False)) == [0.5, 11, 22, 31]


def test_of_orbits_that_serve_equally_many_the_nearer_is_preferred():
    optical = [at(0), at(10)]
    sar = [at(1, "66"), at(11, "66"), at(0.5, "139"), at(12, "139")]  # 2 days in sum against 2.5
    assert days(choose_sar(optical, sar, max_days=3, same_orbit=True)) == [1, 11]


def test_orbits_of_earlier_scenes_count():
    sar = [at(0.5, "139"), at(1, "66")]
    assert days(choose_sar([at(0)], sar, max_days=3, same_orbit=True)) == [0.5]
    assert days(choose_sar([at(0)], sar, max_days=3, same_orbit=True, known=["66", "66"])) == [1]


@given(
    optical=st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True),
    sar=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["1", "2", ""])), max_size=8),
    same_orbit=st.booleans(),
)
def test_no_sar_is_farther_than_allowed_and_none_is_missed(optical, sar, same_orbit):
    images, radar = [at(day) for day in optical], [at(day, orbit) for day, orbit in sar]
    for image, chosen in zip(images, choose_sar(images, radar, max_days=3, same_orbit=same_orbit), strict=True):
        near = [one for one in radar if one.days_to(image) <= 3]
        assert (chosen is None) == (not near)
        assert chosen is None or chosen in near
        if chosen and not same_orbit:
            assert chosen.days_to(image) == min(one.days_to(image) for one in near)


def test_clear_images_come_by_distance_and_never_the_image_itself():
    passes = [at(0), at(8), at(10), at(12), at(50)]
    assert days(list(clear_passes(passes[2], passes, max_days=30))) == [8, 12, 0]


def sentinel(name: str, when: str, **properties: Any) -> pystac.Item:
    return pystac.Item.from_dict(item(name, "c", when, {}, **properties))


def test_items_of_minutes_are_one_overflight():
    items = [
        sentinel("b", "2024-06-01T10:30:12Z", platform="A"), sentinel("a", "2024-06-01T10:30:00Z", platform="A"),
        sentinel("c", "2024-06-01T12:10:00Z", platform="A"), sentinel("d", "2024-06-01T10:31:00Z", platform="B"),
    ]  # fmt: skip
    passes = passes_of(items, POLYGON)
    assert [[one.id for one in found.items] for found in passes] == [["a", "b"], ["d"], ["c"]]
    assert passes[0].acquired == datetime(2024, 6, 1, 10, 30, tzinfo=UTC)


def test_of_a_tile_processed_twice_the_newer_baseline_is_kept():
    tile = {"s2:mgrs_tile": "32UMU", "platform": "A"}
    items = [
        sentinel("old", "2024-06-01T10:30:00Z", **tile, **{"s2:processing_baseline": "02.14"}),
        sentinel("new", "2024-06-01T10:30:00Z", **tile, **{"s2:processing_baseline": "05.00"}),
        sentinel("part", "2024-06-01T10:30:00Z", **tile, **{"s2:processing_baseline": "05.00"}),
        sentinel("next", "2024-06-01T10:30:00Z", **tile | {"s2:mgrs_tile": "32UNU"}),
    ]
    (found,) = passes_of(items, POLYGON)
    assert [one.id for one in found.items] == ["new", "next", "part"]


def test_how_much_of_the_area_the_footprints_cover():
    west, south, east, north = TILE.geographic_extent.boundingbox.bbox
    twice_as_wide = box(2 * west - east, south + 0.01, east - 0.01, north - 0.01, "EPSG:4326")
    (found,) = passes_of([sentinel("a", "2024-06-01T10:30:00Z")], twice_as_wide)
    assert found.covered == pytest.approx((east - west - 0.01) / (2 * (east - west) - 0.01), abs=0.01)
