"""Scenes from STAC: every overflight of Sentinel-2 over an area, paired with Sentinel-1 and with a clear image."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from odc.geo.crs import CRS

from cgm2net.data.sources.stac_api import Api, Service
from cgm2net.data.sources.stac_areas import Area
from cgm2net.data.sources.stac_documents import RoleSource, SceneSource, grid_source
from cgm2net.data.sources.stac_pairs import Pass, choose_sar, clear_passes, passes_of
from cgm2net.data.sources.stac_sources import (
    cloud_source,
    cover_of,
    crs_of,
    optical_source,
    sar_source,
    stated_cover,
)
from cgm2net.errors import RasterError


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is searched for."""

    start: datetime
    end: datetime
    "Last moment of an optical acquisition."
    optical: Service
    sar: Service
    optical_bands: tuple[str, ...] = ("B02", "B03", "B04", "B08", "B11", "B12")
    sar_bands: tuple[str, ...] = ("VV", "VH")
    gsd_m: float = 10.0
    max_cloud: float = 0.9
    "Largest share of a scene that cloud and shadow may hide."
    min_covered: float = 0.9
    "Least share of a scene that an overflight must cover, optics and SAR each."
    max_days: float = 3.0
    "Between optics and SAR."
    same_orbit: bool = False
    "Whether SAR of one relative orbit is preferred within an area."
    clear_below: float = 0.05
    "Share that cloud and shadow may hide in a clear reference."
    reference_days: float = 30.0
    "Between an image and its clear reference; 0: none is looked for."
    require_reference: bool = False
    "Whether a scene without a clear reference is refused."
    max_per_second: float = 4.0
    "Requests to an API."


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A scene that was found."""

    scene: SceneSource
    acquired_optical: datetime
    acquired_sar: datetime
    acquired_reference: datetime | None
    license: str

    def row(self, uris: Mapping[str, str]) -> dict[str, str]:
        """Return its row of the catalogue."""
        roles = {role: uris.get(role, "") for role in ("optical", "sar", "reference", "label", "cloud")}
        return {
            "scene_id": self.scene.scene_id, "region": self.scene.region,
            "acquired_optical": f"{self.acquired_optical:%Y-%m-%dT%H:%M:%SZ}",
            "acquired_sar": f"{self.acquired_sar:%Y-%m-%dT%H:%M:%SZ}",
            **roles, "license": self.license, "source": "stac",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """Every optical overflight in the time asked for: one is paired, refused, or there already."""

    paired: tuple[Paired, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    "Scene id and reason."
    there: tuple[str, ...] = ()
    "Ids of scenes that the catalogue has already."

    def __add__(self, other: "Found") -> "Found":
        return Found(
            paired=self.paired + other.paired, refused=self.refused + other.refused, there=self.there + other.there
        )


Tell = Callable[[str, int, int], None]
"""Is told an area's name, how many of its overflights are done, and how many there are."""


def find_scenes(
    areas: Sequence[Area],
    wanted: Wanted,
    *,
    existing: Collection[str] = (),
    orbits: Mapping[str, Sequence[str]] | None = None,
    tell: Tell = lambda _name, _done, _total: None,
) -> Found:
    """Search and pair; every optical overflight over an area is a scene or is refused with a reason.

    Args:
        areas: each searched by itself.
        wanted: what for.
        existing: ids of scenes that are there already: they are left as they are.
        orbits: region -> relative SAR orbits of the scenes that it has, one a scene.
        tell: shows progress.

    Raises:
        FetchError: at a fault of the network that outlasts the tries.
        CatalogError: if an area is too large, or a signing hook cannot be used.
    """
    urls = {wanted.optical.url, wanted.sar.url}
    apis = {url: Api(url, max_per_second=wanted.max_per_second) for url in urls}
    found = Found()
    for area in areas:
        search = _AreaSearch(area, wanted, optical_api=apis[wanted.optical.url], sar_api=apis[wanted.sar.url])
        found += search.run(existing, (orbits or {}).get(area.region, ()), tell)
    return found


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What was seen of an overflight."""

    optical: RoleSource | None = None
    cloud: RoleSource | None = None
    share: float = 1.0
    "Hidden by cloud or shadow."
    unusable: str = ""
    "Why no scene and no reference can be made of it."


class _AreaSearch:
    """One area's overflights, looked at as far as it must be."""

    def __init__(self, area: Area, wanted: Wanted, *, optical_api: Api, sar_api: Api) -> None:
        self._area, self._wanted = area, wanted
        self._passes = self._found_by(optical_api, wanted.optical.optical, wanted.reference_days)
        self._crs = common_crs(area, self._passes)
        self._grid = area.grid(CRS(self._crs), gsd_m=wanted.gsd_m)
        self._look = lru_cache(maxsize=None)(self._look_at)
        radar = self._found_by(sar_api, wanted.sar.sar, wanted.max_days) if self._passes else []
        self._sar, self._unusable_sar = self._sources_of(radar)
        self._license = "; ".join(dict.fromkeys(filter(None, _licenses(wanted, optical_api, sar_api))))

    def _found_by(self, api: Api, collection: str, more_days: float) -> list[Pass]:
        more, polygon = timedelta(days=more_days), self._area.polygon
        items = api.search(collection, polygon.json, start=self._wanted.start - more, end=self._wanted.end + more)
        return passes_of(items, polygon)

    def run(self, existing: Collection[str], orbits: Sequence[str], tell: Tell) -> Found:
        """Return what becomes of every overflight in the time asked for."""
        images = [one for one in self._passes if self._wanted.start <= one.acquired <= self._wanted.end]
        fresh = [image for image in images if self._id(image) not in existing]
        for done, image in enumerate(fresh, start=1):
            self._look(image)
            tell(self._area.name, done, len(fresh))
        usable = [image for image in fresh if not self._why_not(image)]
        chosen = choose_sar(
            usable, list(self._sar), max_days=self._wanted.max_days, same_orbit=self._wanted.same_orbit, known=orbits
        )
        radar = dict(zip(usable, chosen, strict=True))
        outcomes = {self._id(image): self._why_not(image) or self._pair(image, radar[image]) for image in fresh}
        return Found(
            paired=tuple(outcome for outcome in outcomes.values() if isinstance(outcome, Paired)),
            refused=tuple((name, outcome) for name, outcome in outcomes.items() if isinstance(outcome, str)),
            there=tuple(self._id(image) for image in images if image not in fresh),
        )

    def _id(self, image: Pass) -> str:
        return f"{self._area.name}-{image.acquired:%Y%m%dT%H%M}"

    def _look_at(self, image: Pass) -> _Look:
        wanted = self._wanted
        if image.covered < wanted.min_covered:
            return _Look(unusable=f"covers {image.covered:.0%} of the area, wanted {wanted.min_covered:.0%}")
        try:
            optical = optical_source(image, wanted.optical, wanted.optical_bands, crs=self._crs)
            cloud = cloud_source(image, wanted.optical, crs=self._crs)
            measured, share = (1.0, stated_cover(image)) if cloud is None else cover_of(cloud, self._grid)
        except (RasterError, FileNotFoundError, PermissionError) as error:
            return _Look(unusable=str(error))
        if measured < wanted.min_covered:
            return _Look(unusable=f"only {measured:.0%} of the scene is measured, wanted {wanted.min_covered:.0%}")
        return _Look(optical=optical.model_copy(update={"cloud_share": share}), cloud=cloud, share=share)

    def _why_not(self, image: Pass) -> str:
        look, limit = self._look(image), self._wanted.max_cloud
        if not look.unusable and look.share > limit:
            return f"cloud and shadow hide {look.share:.0%} of the scene, wanted at most {limit:.0%}"
        return look.unusable

    def _sources_of(self, passes: Sequence[Pass]) -> tuple[dict[Pass, RoleSource], Counter[str]]:
        """Return the SAR passes that can be used, and how many cannot for which reason."""
        sources, unusable = {}, Counter[str]()
        for radar in passes:
            if radar.covered < self._wanted.min_covered:
                unusable["covers too little of the area"] += 1
                continue
            try:
                sources[radar] = sar_source(radar, self._wanted.sar, self._wanted.sar_bands, crs=self._crs)
            except RasterError as error:
                unusable[str(error)] += 1
        return sources, unusable

    def _pair(self, image: Pass, radar: Pass | None) -> Paired | str:
        wanted = self._wanted
        if radar is None:
            return self._without_sar(image)
        reference = self._reference_of(image)
        if reference is None and wanted.require_reference:
            return f"no image within {wanted.reference_days:g} days has under {wanted.clear_below:.0%} cloud and shadow"
        roles = {
            "optical": self._look(image).optical, "sar": self._sar[radar], "cloud": self._look(image).cloud,
            "reference": reference and self._look(reference).optical,
        }  # fmt: skip
        scene = SceneSource(
            scene_id=self._id(image), region=self._area.region, grid=grid_source(self._grid),
            roles={role: source for role, source in roles.items() if source},
        )  # fmt: skip
        return Paired(
            scene=scene, acquired_optical=image.acquired, acquired_sar=radar.acquired,
            acquired_reference=reference.acquired if reference else None, license=self._license,
        )  # fmt: skip

    def _reference_of(self, image: Pass) -> Pass | None:
        for other in clear_passes(image, self._passes, max_days=self._wanted.reference_days):
            look = self._look(other)
            if not look.unusable and look.share <= self._wanted.clear_below:
                return other
        return None

    def _without_sar(self, image: Pass) -> str:
        nearest = min((radar.days_to(image) for radar in self._sar), default=None)
        said = f"no SAR within {self._wanted.max_days:g} days"
        said += f", the nearest is {nearest:.1f} days away" if nearest is not None else ""
        left_out = "; ".join(f"{count} left out: {reason}" for reason, count in self._unusable_sar.most_common(3))
        return f"{said} ({left_out})" if left_out else said


def common_crs(area: Area, passes: Sequence[Pass]) -> str:
    """Return the projection of an area's scenes: its UTM zone where that is among the items', else their commonest."""
    own = f"EPSG:{area.utm.epsg}"
    codes = Counter(code for found in passes for item in found.items if (code := crs_of(item)))
    return own if own in codes or not codes else min(codes, key=lambda code: (-codes[code], code))


def _licenses(wanted: Wanted, optical_api: Api, sar_api: Api) -> tuple[str, str]:
    return optical_api.license_of(wanted.optical.optical), sar_api.license_of(wanted.sar.sar)
