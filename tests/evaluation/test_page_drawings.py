"""The page's tables, charts and map: what they are made of, before they are drawn."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_evaluation import BANDS, CLASSES, METRICS, places, reliability, tile_table

from cgm2net.evaluation.page import number, signed
from cgm2net.evaluation.page_figures import cover_chart, reliability_chart, round_steps
from cgm2net.evaluation.page_map import insets, regions_map
from cgm2net.evaluation.page_parts import BOUNDS, RegionPlace, region_places, tile_places
from cgm2net.evaluation.page_tables import class_rows, confusions, cover_rows, losses, named_metric, pooled


def test_numbers_are_written_for_readers() -> None:
    assert [number(v, 1) for v in (-1234.56, 0.0, None)] == ["−1,234.6", "0.0", "–"]
    assert [signed(v, 1) for v in (1234.56, -0.5, 0.04, -0.04, None)] == ["+1,234.6", "−0.5", "0.0", "0.0", "–"]


def test_metrics_unknown_here_go_by_their_own_name() -> None:
    assert named_metric("cloudy/psnr")[0].unit.strip() == "dB"
    assert (named_metric("all/iou_a/b")[0].name, named_metric("all/iou_a/b")[1]) == ("IoU of a/b", "all")
    assert named_metric("clear/new")[0].name == "new"


@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (7.9, 30.4, [5, 10, 15, 20, 25, 30, 35]), (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3.0, 3.0, [3, 4]),
        (-0.1, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
    ],
)  # fmt: skip
def test_round_steps_enclose_the_values(low: float, high: float, steps: list[float]) -> None:
    assert round_steps(low, high, num=5) == pytest.approx(steps)


def test_cover_chart_places_bins_at_their_middle() -> None:
    table = pd.DataFrame({"cover": ["0-0.2", "0.2-1"], "all/psnr": [30.0, 20.0], "cloudy/psnr": [np.nan, 25.0]})
    chart = cover_chart(cover_rows(table), key="psnr", title="PSNR", trivial="copy", share=False, digits=1)
    assert chart is not None
    across = chart.right - chart.left
    cloudy, everything = chart.lines
    assert [dot.x for dot in everything.dots] == pytest.approx([chart.left + 0.1 * across, chart.left + 0.6 * across])
    assert [dot.y for dot in everything.dots] == pytest.approx([chart.top, chart.bottom])  # 20 to 30 dB fill the plot
    assert [dot.y for dot in cloudy.dots] == pytest.approx([(chart.top + chart.bottom) / 2])
    assert cloudy.dots[0].text == "this model, cloudy pixels, 60 % cloud cover: 25.0"
    assert cover_chart(cover_rows(table), key="miou", title="", trivial="majority", share=True, digits=3) is None


def test_cover_bins_of_any_width_are_read() -> None:
    rows = cover_rows(pd.DataFrame({"cover": ["0-5e-05", "5e-05-0.125", "0.125-1"]}))
    assert [(row["low"], row["high"]) for row in rows] == [(0, 0.005), (0.005, 12.5), (12.5, 100)]


def test_reliability_chart_holds_right_against_stated() -> None:
    chart = reliability_chart(reliability())
    by_name = {line.name: line.dots for line in chart.lines}
    floor, top = chart.y_ticks[0].at, chart.y_ticks[-1].at
    assert [dot.y for dot in by_name["all pixels"]] == pytest.approx([(floor + top) / 2, floor + 0.9 * (top - floor)])
    assert len(by_name["cloudy pixels"]) == 1
    assert chart.bars[1].height == pytest.approx(3 * chart.bars[0].height)  # 300 pixels beside 100
    assert all(bar.y >= floor for bar in chart.bars)


def test_shares_of_a_class_without_pixels_are_unknown() -> None:
    table = pd.DataFrame({"actual": list("aabb"), "predicted": list("abab"), "all": [3, 1, 0, 0], "cloudy": 0})
    assert confusions(table, "ab") == [("all", [[0.75, 0.25], None])]
    scores = {f"{g}/{n}": [0.5, np.nan] for g in ("all", "clear", "cloudy") for n in ("precision", "recall", "iou")}
    rows = class_rows(pd.DataFrame({"class": ["a", "b"], "all/pixels": [4, 0], **scores}), ["#000000", "#ffffff"])
    assert [row["share"] for row in rows] == [1.0, 0.0]
    assert rows[1]["iou"] == {"all": None, "clear": None, "cloudy": None}


def box(region: str, split: Any, west: float, south: float, *, side: float = 0.1) -> RegionPlace:
    return RegionPlace(
        region=region, split=split, num_tiles=1, west=west, south=south, east=west + side, north=south + side
    )  # fmt: skip


def test_map_keeps_directions_and_distances() -> None:
    drawn = regions_map([box("a", "train", 0.0, 0.0), box("b", "test", 1.0, 0.0), box("c", "val", 0.0, 1.0)])
    assert drawn is not None
    a, b, c = drawn.boxes
    assert b.x > a.x
    assert c.y < a.y
    assert b.x - a.x == pytest.approx(a.y - c.y, rel=0.001)  # at the equator a degree is a degree
    kilometres = float(drawn.scale.text.removesuffix(" km"))
    assert drawn.scale.length / kilometres == pytest.approx((b.x - a.x) / 111.32, rel=0.001)
    for shape in drawn.boxes:
        assert min(shape.x, shape.y) >= 0
        assert shape.x + shape.width <= drawn.width
        assert shape.y + shape.height <= drawn.height
    assert regions_map([]) is None


def test_map_of_the_north_and_across_the_180th_meridian() -> None:
    far = regions_map([box("a", "train", 20.0, 60.0), box("b", "test", 21.0, 60.0), box("c", "val", 20.0, 61.0)])
    assert far is not None
    a, b, c = far.boxes
    assert (b.x - a.x) / (a.y - c.y) == pytest.approx(np.cos(np.radians(60.55)), rel=0.001)
    table = pd.DataFrame(
        {"tile_id": ["t1", "t2", "t3"], "region": "fiji", "split": "test", "south": -17.0, "north": -16.99,
         "west": [179.8, 179.99, -179.9], "east": [179.81, -179.99, -179.89]}
    )  # fmt: skip
    (region,) = region_places(table)
    assert (region.west, region.east) == pytest.approx((179.8, 180.11))
    assert [(t.west, t.east) for t in tile_places(table)] == [
        pytest.approx(pair) for pair in ((179.8, 179.81), (179.99, 180.01), (180.1, 180.11))
    ]
    drawn = regions_map([region])
    assert drawn is not None
    assert {"179.9° E", "180° W", "179.9° W"} <= {line.text for line in drawn.meridians}


def test_map_of_one_tile_and_of_the_world() -> None:
    tile, world = (
        regions_map(places)
        for places in (
            [box("a", "test", 0.0, 50.0, side=0.02)],
            [box("a", "train", -120.0, 60.0), box("b", "test", 150.0, -30.1)],
        )
    )
    assert tile is not None
    assert world is not None
    assert [len(tile.meridians) >= 2, len(world.meridians) >= 2] == [True, True]
    assert " at " not in tile.scale.text
    assert world.scale.text.endswith(" km at 15° N")  # true at the middle latitude alone


def test_names_on_the_map_never_cover_each_other() -> None:
    drawn = regions_map([box("far", "val", 9.0, 0.0), box("test", "test", 0.01, 0.0), box("train", "train", 0.0, 0.0)])
    assert drawn is not None
    assert [(shape.region, shape.label is not None) for shape in drawn.boxes] == [
        ("far", True), ("test", True), ("train", False)
    ]  # fmt: skip


def test_insets_show_places_and_the_worst_region_first() -> None:
    _, tiles = places()
    north, south = (6.0, 49.0, 6.02, 49.01), (6.1, 48.0, 6.12, 48.01)
    region_of = {"n1_0_0": "north", "n2_0_0": "north", "s1_0_0": "south"}
    drawn = insets(tiles, region_of=region_of, values={north: 30.0, south: 20.0}, num=6)
    assert [(inset.region, [cell.text for cell in inset.cells]) for inset in drawn] == [
        ("south", ["20.0"]), ("north", ["30.0"])
    ]  # fmt: skip
    assert [inset.cells[0].share for inset in drawn] == [0.0, 1.0]
    assert [inset.region for inset in insets(tiles, region_of=region_of, values={north: 1.0, south: 0.0}, num=1)] == [
        "south"
    ]
    assert insets(tiles, region_of=region_of, values={}, num=6) == []


def test_tables_without_positions_give_no_map() -> None:
    table = pd.DataFrame({"tile_id": ["t"], "region": ["r"], "split": ["test"]})
    assert not set(BOUNDS) & set(table.columns)
    assert (region_places(table), tile_places(table)) == ((), ())


def test_sets_are_pooled_before_they_are_divided() -> None:
    metrics = pooled(tile_table(), bands=BANDS, classes=CLASSES)
    assert metrics["cloudy/psnr"] == pytest.approx(20.0)
    assert metrics["clear/psnr"] == pytest.approx(30.0)
    assert metrics["copy/cloudy/psnr"] == pytest.approx(10.0)
    assert metrics["cloudy/oa"] == 1.0


def test_losses_are_what_the_trivial_answer_does_better() -> None:
    assert [(metric.name, group, by) for metric, group, by in losses(METRICS)] == [("PSNR", "clear", 0.5)]
    assert [metric.name for metric, _, _ in losses({"all/sam": 5.0, "copy/all/sam": 4.0})] == ["SAM"]
