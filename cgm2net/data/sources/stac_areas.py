"""Areas of interest: polygons from GeoJSON or a box, each with a name, a region and a pixel grid."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry, box

from cgm2net.catalog import check_id
from cgm2net.errors import CatalogError

_MAX_SIDE_PX = 20_000
_CELL_M = 10_000


@dataclass(frozen=True, kw_only=True)
class Area:
    """One area, all scenes of which lie on one grid."""

    name: str
    "Begins the ids of its scenes."
    region: str
    "On one side of the split."
    polygon: Geometry
    "Degrees, WGS 84."

    @property
    def utm(self) -> CRS:
        """Return the UTM zone of its middle."""
        return CRS.utm(self.polygon.centroid)

    def grid(self, crs: CRS, *, gsd_m: float) -> GeoBox:
        """Return the grid of its bounding box, on whole multiples of the pixel size, as Sentinel-2's tiles are.

        Raises:
            CatalogError: if it has more than 20,000 px a side.
        """
        grid = GeoBox.from_bbox(self.polygon.to_crs(crs).boundingbox, crs, resolution=gsd_m)
        if max(grid.shape) > _MAX_SIDE_PX:
            raise CatalogError(
                f"area {self.name}: {grid.shape[1]}x{grid.shape[0]} px of {gsd_m:g} m are too large for a scene, wanted"
                f" at most {_MAX_SIDE_PX} a side; cut it into several features"
            )
        return grid


def areas_from_box(bounds: Sequence[float], *, region: str) -> list[Area]:
    """Return the area of west, south, east, north [degrees].

    Raises:
        CatalogError: if the bounds are not on Earth, or in another order.
    """
    west, south, east, north = bounds
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise CatalogError(
            f"bounding box {west:g},{south:g},{east:g},{north:g}: wanted west,south,east,north in degrees"
        )
    return _named([({}, box(west, south, east, north, "EPSG:4326"))], region=region)


def areas_from_file(path: Path, *, region: str) -> list[Area]:
    """Return an area a feature of a GeoJSON file; features are named by their ``name`` or ``id``.

    Raises:
        CatalogError: if the file is not GeoJSON in degrees, or holds no polygon, or two features of one name.
    """
    try:
        content = json.loads(path.read_text())
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        found = [_feature(feature) for feature in features]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogError(f"{path}: not GeoJSON that can be read: {type(error).__name__} {error}") from error
    if not found:
        raise CatalogError(f"{path}: no feature in it; wanted polygons")
    for _, polygon in found:
        west, south, east, north = polygon.boundingbox.bbox
        if polygon.geom_type not in ("Polygon", "MultiPolygon") or not polygon.is_valid or polygon.area == 0:
            raise CatalogError(f"{path}: holds a {polygon.geom_type} that is no valid area; wanted polygons")
        if not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
            raise CatalogError(f"{path}: reaches to {east:g}, {north:g}; GeoJSON is in degrees, WGS 84: project it")
    return _named(found, region=region)


def _feature(feature: Mapping[str, Any]) -> tuple[dict[str, Any], Geometry]:
    names = {**(feature.get("properties") or {}), **({"id": feature["id"]} if "id" in feature else {})}
    return names, Geometry(feature.get("geometry", feature), "EPSG:4326")


def _named(found: Sequence[tuple[Mapping[str, Any], Geometry]], *, region: str) -> list[Area]:
    areas: dict[str, Area] = {}
    for names, polygon in found:
        given = str(names.get("name") or names.get("id") or "")
        own = re.sub(r"[^A-Za-z0-9._-]+", "-", given).strip("-._") or _cell(polygon)
        name = region if region and len(found) == 1 else own
        if not given and name in areas:  # two areas in one cell: one region, two names
            name = f"{name}-{sum(other.startswith(name) for other in areas)}"
        if name in areas:
            raise CatalogError(f"two features are named {name}; give each a name of its own")
        check_id(f"{name}-20240601T1030", what="scene_id", where="catalog stac")
        check_id(region or own, what="region", where="catalog stac")
        areas[name] = Area(name=name, region=region or own, polygon=polygon)
    return list(areas.values())


def _cell(polygon: Geometry) -> str:
    """Return a name of the place: UTM zone and the 10 km cell that the middle lies in, ``utm32n-e049-n0531``."""
    crs = CRS.utm(polygon.centroid)
    ((east, north),) = polygon.centroid.to_crs(crs).points
    zone, half = (crs.epsg or 0) % 100, "n" if (crs.epsg or 0) < 32700 else "s"
    return f"utm{zone:02d}{half}-e{int(east // _CELL_M):03d}-n{int(north // _CELL_M):04d}"
