"""STAC APIs: two presets, and a polite client that pages, keeps a pace and waits when told to."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cgm2net.data.sources.stac_sign import TIMEOUT_SECONDS, retries
from cgm2net.errors import CatalogError, FetchError

if TYPE_CHECKING:
    import pystac
    from requests import Request

_PAGE_ITEMS = 100
_SAID_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Service:
    """Where Sentinel images are searched."""

    url: str
    optical: str = "sentinel-2-l2a"
    "Collection of Sentinel-2 L2A."
    sar: str = "sentinel-1-rtc"
    "Collection of Sentinel-1 RTC; empty where the API has none."
    sign: str = "none"
    "Signing hook; see :mod:`cgm2net.data.sources.stac_sign`."


PRESETS = MappingProxyType({
    "earth-search": Service(url="https://earth-search.aws.element84.com/v1", sar=""),
    "planetary-computer": Service(
        url="https://planetarycomputer.microsoft.com/api/stac/v1", sign="planetary-computer"
    ),
})  # fmt: skip


def service(name: str, *, sign: str = "", optical: str = "", sar: str = "") -> Service:
    """Return a preset, or the API at a URL, with what was said to be otherwise."""
    found = PRESETS.get(name) or Service(url=name)
    given = {"sign": sign, "optical": optical, "sar": sar}
    return replace(found, **{key: value for key, value in given.items() if value})


def require_sar(service: Service) -> None:
    """Refuse an API without calibrated, terrain-corrected Sentinel-1.

    Raises:
        CatalogError: says where it is to be had.
    """
    if not service.sar:
        raise CatalogError(
            f"{service.url}: offers Sentinel-1 only as GRD, in radar geometry and not terrain-corrected; take SAR from"
            " elsewhere with --sar-api planetary-computer, or from an API of your own RTC"
        )


class _Pace:
    """Lets so many requests a second through."""

    def __init__(self, per_second: float) -> None:
        self._step, self._next = 1 / per_second, 0.0

    def __call__(self, _request: "Request") -> None:
        wait = self._next - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        self._next = max(time.monotonic(), self._next) + self._step


class Api:
    """One API, opened when it is first asked."""

    def __init__(self, url: str, *, max_per_second: float) -> None:
        self.url = url
        self._pace = _Pace(max_per_second)
        self._client: Any = None
        self._licenses: dict[str, str] = {}

    def search(
        self, collection: str, polygon: Mapping[str, Any], *, start: datetime, end: datetime
    ) -> list["pystac.Item"]:
        """Return all items of a collection that intersect a polygon [degrees] within a time, by time and id.

        Raises:
            FetchError: if the API does not answer as it should.
        """
        times = "/".join(moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (start, end))
        with self._translated():
            found = self._opened().search(
                collections=[collection], intersects=dict(polygon), datetime=times, limit=_PAGE_ITEMS
            )
            items = {item.id: item for item in found.items()}  # a page may repeat what an earlier one had
        return sorted(items.values(), key=lambda item: (str(item.datetime), item.id))

    def license_of(self, collection: str) -> str:
        """Return what the API says of a collection's licence; empty where it says nothing.

        Raises:
            FetchError: if the API does not answer as it should, or has no such collection.
        """
        if collection not in self._licenses:
            with self._translated():
                self._licenses[collection] = str(self._opened().get_collection(collection).license or "")
        return self._licenses[collection]

    def _opened(self) -> Any:
        if self._client is None:
            from pystac_client import Client
            from pystac_client.stac_api_io import StacApiIO

            wire = StacApiIO(request_modifier=self._pace, timeout=TIMEOUT_SECONDS, max_retries=retries())
            self._client = Client.open(self.url, stac_io=wire)
        return self._client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from pystac import STACError, STACTypeError
        from pystac_client.errors import ClientTypeError
        from pystac_client.exceptions import APIError

        # The client parses whatever comes back: JSON of another shape ends in any of the latter.
        wrong_shape = (ClientTypeError, STACTypeError, ValueError, KeyError, AttributeError, TypeError)
        try:
            yield
        except (APIError, STACError, NotImplementedError, *wrong_shape) as error:
            said = f"{type(error).__name__} {error}"[:_SAID_CHARACTERS]
            raise FetchError(f"{self.url}: no usable answer: {said}; is that a STAC API? else try later") from error
