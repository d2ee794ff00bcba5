"""The map of the regions as geometry: boxes, graticule and scale bar in the units of the drawing.

Plate carrée with the scale true at the middle latitude. x runs right, y runs down, as in SVG.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cgm2net.evaluation.page_figures import Dot, Tick
from cgm2net.evaluation.page_parts import RegionPlace, TilePlace

WIDTH, GUTTER, MARGIN = 720.0, 60.0, 34.0
"""The gutter, at the left, holds the names of the parallels."""
KM_A_DEGREE = 111.32
"""Of latitude, and of longitude at the equator."""

_HEIGHTS = (150.0, 520.0)
_MIN_SIDE = 7.0
_LABELLED_FIRST = ("test", "val", "train")
_LABEL_HEIGHT, _LETTER = 13.0, 6.6
_DEGREES = (30.0, 15.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
_ONE_SCALE = 5.0
"""Degrees of latitude over which one scale is near enough."""
_INSET_SIDE = 150.0
_MAX_CELLS = 100


@dataclass(frozen=True, kw_only=True)
class Box:
    """A region, drawn no smaller than can be seen."""

    region: str
    split: str
    num_tiles: int
    x: float
    y: float
    width: float
    height: float
    label: Dot | None
    "Its name, centred over the box; none where it would cover another's."


@dataclass(frozen=True, kw_only=True)
class ScaleBar:
    """A round distance at the middle latitude."""

    length: float
    text: str


@dataclass(frozen=True, kw_only=True)
class RegionsMap:
    """The map."""

    height: float
    boxes: tuple[Box, ...]
    meridians: tuple[Tick, ...]
    parallels: tuple[Tick, ...]
    scale: ScaleBar
    width: float = WIDTH


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A place in a region, and the figure of the tiles there."""

    x: float
    y: float
    width: float
    height: float
    text: str
    share: float
    "0-1, from the worst place of all insets to the best."


@dataclass(frozen=True, kw_only=True)
class Inset:
    """A test region, its tiles in their places."""

    region: str
    cells: tuple[Cell, ...]
    height: float
    width: float = _INSET_SIDE


@dataclass(frozen=True, kw_only=True)
class _Projection:
    west: float
    north: float
    units_a_degree: float
    "Of longitude."
    stretch: float
    "Degrees of latitude are this much longer."

    def x(self, longitude: float) -> float:
        return GUTTER + (longitude - self.west) * self.units_a_degree

    def y(self, latitude: float) -> float:
        return MARGIN + (self.north - latitude) * self.units_a_degree * self.stretch


def regions_map(places: Sequence[RegionPlace]) -> RegionsMap | None:
    """Draw the regions of all splits; None where nobody knows where they lie."""
    if not places:
        return None
    west, east = min(p.west for p in places), max(p.east for p in places)
    south, north = min(p.south for p in places), max(p.north for p in places)
    middle = (south + north) / 2
    stretch = 1 / max(math.cos(math.radians(middle)), 0.05)
    least, most = (height - 2 * MARGIN for height in _HEIGHTS)
    room = WIDTH - GUTTER - MARGIN
    units = min(room / max(east - west, 1e-4), most / (max(north - south, 1e-4) * stretch))
    inner = max(least, (north - south) * units * stretch)
    scale = _scale_bar(units, latitude=middle, varies=north - south > _ONE_SCALE)
    # What is left over lies on both sides of the regions.
    west -= (room / units - (east - west)) / 2
    north += (inner / units / stretch - (north - south)) / 2
    place = _Projection(west=west, north=north, units_a_degree=units, stretch=stretch)
    height = inner + 2 * MARGIN
    return RegionsMap(
        height=height, boxes=_boxes(places, place), scale=scale,
        meridians=_graticule(west, west + room / units, place.x, names=("E", "W")),
        parallels=_graticule(north - inner / units / stretch, north, place.y, names=("N", "S")),
    )  # fmt: skip


def insets(
    tiles: Sequence[TilePlace], *, region_of: Mapping[str, str], values: Mapping[tuple[float, ...], float], num: int
) -> list[Inset]:
    """Draw the tiles of the worst test regions in their places.

    Args:
        tiles: of the test split.
        region_of: region of each tile.
        values: figure of each place, by its :func:`corners`; the higher the better.
        num: draw this many regions at most; those of more than 100 places are left out.

    Returns:
        The region with the lowest mean first.
    """
    if not values:
        return []
    low, high = min(values.values()), max(values.values())
    drawn = []
    for region in sorted(set(region_of.values())):
        places = sorted({corners(tile) for tile in tiles if region_of.get(tile.tile_id) == region} & set(values))
        if 0 < len(places) <= _MAX_CELLS:
            mean = sum(values[place] for place in places) / len(places)
            shares = {place: (values[place] - low) / ((high - low) or 1.0) for place in places}
            drawn.append((mean, _inset(region, places, values=values, shares=shares)))
    return [inset for _, inset in sorted(drawn, key=lambda pair: pair[0])[:num]]


def corners(tile: TilePlace) -> tuple[float, ...]:
    """Return west, south, east, north of a tile: equal for the dates of one place."""
    return (tile.west, tile.south, tile.east, tile.north)


def _inset(
    region: str,
    places: Sequence[tuple[float, ...]],
    *,
    values: Mapping[tuple[float, ...], float],
    shares: Mapping[tuple[float, ...], float],
) -> Inset:
    west, east = min(p[0] for p in places), max(p[2] for p in places)
    south, north = min(p[1] for p in places), max(p[3] for p in places)
    stretch = 1 / max(math.cos(math.radians((south + north) / 2)), 0.05)
    units = _INSET_SIDE / max(east - west, (north - south) * stretch)
    cells = tuple(
        Cell(
            x=(p[0] - west) * units, y=(north - p[3]) * units * stretch, width=(p[2] - p[0]) * units,
            height=(p[3] - p[1]) * units * stretch, text=f"{values[p]:.1f}", share=shares[p],
        )
        for p in places
    )  # fmt: skip
    return Inset(region=region, cells=cells, height=(north - south) * units * stretch)


def _boxes(places: Sequence[RegionPlace], place: _Projection) -> tuple[Box, ...]:
    """Boxes by name; where names would cover each other, those of test regions stay first."""
    taken: list[tuple[float, float, float, float]] = []
    boxes = []
    for region in sorted(places, key=lambda p: (_LABELLED_FIRST.index(p.split), p.region)):
        left, right = place.x(region.west), place.x(region.east)
        top, bottom = place.y(region.north), place.y(region.south)
        width, height = max(right - left, _MIN_SIDE), max(bottom - top, _MIN_SIDE)
        x, y = (left + right - width) / 2, (top + bottom - height) / 2
        half = len(region.region) * _LETTER / 2
        label = Dot(x=min(max(x + width / 2, half), WIDTH - half), y=y - 5, text=region.region)
        area = (label.x - half, label.y - _LABEL_HEIGHT, label.x + half, label.y)
        free = not any(_overlap(area, other) for other in taken)
        if free:
            taken.append(area)
        boxes.append(
            Box(
                region=region.region, split=region.split, num_tiles=region.num_tiles, x=x, y=y, width=width,
                height=height, label=label if free else None,
            )
        )  # fmt: skip
    return tuple(sorted(boxes, key=lambda box: box.region))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _graticule(
    low: float, high: float, to_drawing: Callable[[float], float], *, names: tuple[str, str]
) -> tuple[Tick, ...]:
    step = next((step for step in _DEGREES if (high - low) / step >= 2.5), _DEGREES[-1])
    lines = [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return tuple(Tick(at=to_drawing(value), text=_degrees(value, names=names)) for value in lines)


def _degrees(value: float, *, names: tuple[str, str]) -> str:
    wrapped = (value + 180.0) % 360.0 - 180.0 if names[0] == "E" else value
    name = names[0] if wrapped > 0 else names[1]
    return "0°" if abs(wrapped) < 1e-9 else f"{abs(round(wrapped, 6)):g}° {name}"


def _scale_bar(units_a_degree: float, *, latitude: float, varies: bool) -> ScaleBar:
    units_a_km = units_a_degree / (KM_A_DEGREE * max(math.cos(math.radians(latitude)), 0.05))
    most_km = WIDTH / 5 / units_a_km
    power = 10.0 ** math.floor(math.log10(most_km))
    length_km = max(factor * power for factor in (1, 2, 5) if factor * power <= most_km)
    where = f" at {_degrees(round(latitude), names=('N', 'S'))}" if varies else ""
    return ScaleBar(length=length_km * units_a_km, text=f"{length_km:g} km{where}")
