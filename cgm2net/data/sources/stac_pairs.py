"""Overflights and how they are paired: which SAR, which clear image goes with a cloudy one. Nothing is read here."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from odc.geo.geom import Geometry, unary_union

from cgm2net.data.sources.stac_items import baseline

if TYPE_CHECKING:
    import pystac

_LONGEST_STEP = timedelta(minutes=10)
"""Items of one overflight follow each other within minutes; the next overflight is most of an hour away."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """One overflight of a satellite over an area."""

    acquired: datetime
    "Of its first item."
    items: tuple["pystac.Item", ...]
    orbit: str
    "Relative orbit; empty where the items do not say."
    covered: float
    "Share of the area that the items' footprints cover."

    def days_to(self, other: "Pass") -> float:
        """Return the days between two passes."""
        return abs((self.acquired - other.acquired).total_seconds()) / 86_400


def passes_of(items: Iterable["pystac.Item"], area: Geometry) -> list[Pass]:
    """Return items as overflights, by time.

    Args:
        items: of one collection, all with a time.
        area: polygon in degrees.

    Returns:
        One pass a satellite and overflight. Of a tile that was processed several times the newest baseline is kept;
        two parts of a tile by one baseline both are.
    """
    known = [item for item in items if _time(item) is not None]
    ordered = sorted(known, key=lambda item: (*_track(item), _moment(item), item.id))
    passes = []
    for _, along in groupby(ordered, key=_track):
        for flight in _flights(list(along)):
            kept = sorted(_newest(flight), key=lambda item: item.id)
            passes.append(
                Pass(
                    acquired=min(map(_moment, kept)), items=tuple(kept), orbit=_track(kept[0])[1],
                    covered=_covered(kept, area),
                )
            )  # fmt: skip
    return sorted(passes, key=lambda found: (found.acquired, found.items[0].id))


def choose_sar(
    optical: Sequence[Pass], sar: Sequence[Pass], *, max_days: float, same_orbit: bool, known: Sequence[str] = ()
) -> list[Pass | None]:
    """Return the SAR pass of every optical pass: the nearest in time, the earlier of two equally near.

    Args:
        optical: passes over one area.
        sar: usable passes over it.
        max_days: farthest that a SAR pass may be.
        same_orbit: prefer the relative orbit that serves most of the optical passes; others serve the rest.
        known: relative orbits that earlier scenes of the region have, one a scene; they count like optical passes.

    Returns:
        One an optical pass, None where there is none near enough.
    """
    near = [
        sorted(
            (one for one in sar if one.days_to(image) <= max_days), key=lambda one: (one.days_to(image), one.acquired)
        )
        for image in optical
    ]
    best = _serving_most(optical, near, known) if same_orbit else None
    return [next((one for one in fits if one.orbit == best), fits[0] if fits else None) for fits in near]


def _serving_most(optical: Sequence[Pass], near: Sequence[Sequence[Pass]], known: Sequence[str]) -> str | None:
    """Return the orbit that serves most; of equals the one with fewer days between, then the first by name."""
    served = Counter(orbit for orbit in known if orbit)
    days: dict[str, float] = defaultdict(float)
    for image, fits in zip(optical, near, strict=True):
        for orbit in {one.orbit for one in fits if one.orbit}:
            served[orbit] += 1
            days[orbit] += min(one.days_to(image) for one in fits if one.orbit == orbit)
    return min(served, key=lambda orbit: (-served[orbit], days[orbit], orbit), default=None)


def clear_passes(image: Pass, others: Sequence[Pass], *, max_days: float) -> Iterator[Pass]:
    """Yield the other optical passes within ``max_days``, the nearest in time first, of two the earlier."""
    near = [other for other in others if other is not image and other.days_to(image) <= max_days]
    yield from sorted(near, key=lambda other: (other.days_to(image), other.acquired))


def _flights(items: Sequence["pystac.Item"]) -> Iterator[list["pystac.Item"]]:
    """Cut items of one track, in order of time, where more than minutes lie between two of them."""
    flight: list[pystac.Item] = []
    for item in items:
        if flight and _moment(item) - _moment(flight[-1]) > _LONGEST_STEP:
            yield flight
            flight = []
        flight.append(item)
    if flight:
        yield flight


def _newest(items: Sequence["pystac.Item"]) -> list["pystac.Item"]:
    """Return the items without those of a tile that was processed again by a newer baseline."""
    newest: dict[str, str] = {}
    for item in items:
        newest[_tile(item)] = max(baseline(item), newest.get(_tile(item), ""))
    return [item for item in items if baseline(item) == newest[_tile(item)]]


def _tile(item: "pystac.Item") -> str:
    """Return what names the place of an item: its tile, or else itself."""
    properties = item.properties
    return str(properties.get("grid:code") or properties.get("s2:mgrs_tile") or item.id)


def _track(item: "pystac.Item") -> tuple[str, str]:
    """Return satellite and relative orbit."""
    properties = item.properties
    return str(properties.get("platform", "")).lower(), str(properties.get("sat:relative_orbit", ""))


def _covered(items: Sequence["pystac.Item"], area: Geometry) -> float:
    footprints = unary_union([Geometry(item.geometry, "EPSG:4326") for item in items if item.geometry])
    return float(footprints.intersection(area).area / area.area) if footprints else 0.0


def _time(item: "pystac.Item") -> datetime | None:
    return item.datetime or item.common_metadata.start_datetime


def _moment(item: "pystac.Item") -> datetime:
    moment = _time(item)
    assert moment is not None, item.id
    return moment
