"""The client against a real API (`rustac serve`), and against servers that are busy, broken or away."""

import http.server
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from stac_world import AREA, TILE, collection, item, serving, stac_api

from cgm2net.data.sources import stac_api as module
from cgm2net.data.sources.stac_api import Api, require_sar, service
from cgm2net.errors import CatalogError, FetchError

FIRST, LAST = datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
POLYGON = AREA.geographic_extent.json


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """230 items, one every three hours from June on: 29 days."""
    items = [
        item(f"i{k:03d}", "c", f"{FIRST + timedelta(hours=3 * k):%Y-%m-%dT%H:%M:%SZ}", {}, grid=TILE)
        for k in range(230)
    ]
    items.append(item("far", "c", "2024-06-02T00:00:00Z", {}, grid=TILE.translate_pix(100_000, 0)))
    items.append(item("other", "d", "2024-06-02T00:00:00Z", {}))
    with stac_api(tmp_path_factory.mktemp("api"), items, {"c": "CC-BY-4.0", "d": "other"}) as url:
        yield url


def test_all_pages_of_what_lies_in_place_and_time(api: str) -> None:
    client = Api(api, max_per_second=1000)
    found = client.search("c", POLYGON, start=FIRST, end=LAST)
    assert [one.id for one in found] == [f"i{k:03d}" for k in range(230)]
    some = client.search("c", POLYGON, start=FIRST + timedelta(days=1), end=FIRST + timedelta(days=2))
    assert [one.id for one in some] == [f"i{k:03d}" for k in range(8, 17)]
    assert [one.id for one in client.search("d", POLYGON, start=FIRST, end=LAST)] == ["other"]
    assert client.search("e", POLYGON, start=FIRST, end=LAST) == []


def test_the_licence_is_the_collections(api: str) -> None:
    client = Api(api, max_per_second=1000)
    assert client.license_of("c") == "CC-BY-4.0"
    with pytest.raises(FetchError, match="no usable answer"):
        client.license_of("nothing")


class Busy(http.server.BaseHTTPRequestHandler):
    """An API that answers with the statuses it is told to, and then with one item."""

    protocol_version = "HTTP/1.1"
    statuses: list[int]
    asked: list[str]
    text: str = ""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def answer(self) -> None:
        self.asked.append(self.path)
        root = f"http://{self.headers['Host']}"
        if self.statuses:
            body, status = b"", self.statuses.pop(0)
        else:
            search = {"rel": "search", "href": f"{root}/search", "method": "POST", "type": "application/geo+json"}
            conforms = ["core", "item-search"]
            catalog = {
                "type": "Catalog", "id": "a", "stac_version": "1.0.0", "description": "a", "links": [search],
                "conformsTo": [f"https://api.stacspec.org/v1.0.0/{name}" for name in conforms],
            }  # fmt: skip
            features = {
                "type": "FeatureCollection",
                "features": [item("i", "c", "2024-06-02T00:00:00Z", {})],
                "links": [],
            }
            content = {"/": catalog, "/search": features}.get(self.path, collection("c", "l"))
            body, status = (self.text or json.dumps(content)).encode(), 200
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have waited before it asked again."""
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=slept.append, time=lambda: 0.0))
    return slept


def test_a_busy_api_is_asked_again_when_it_says(waits: list[float]) -> None:
    with serving(Busy, statuses=[429, 503, 502], asked=[]) as url:
        (found,) = Api(url, max_per_second=1000).search("c", POLYGON, start=FIRST, end=LAST)
    assert found.id == "i"
    assert waits == [1, 2, 4]  # what Retry-After says, then doubling


def test_an_api_that_stays_busy_is_given_up(waits: list[float]) -> None:
    asked: list[str] = []
    with (
        serving(Busy, statuses=[429] * 20, asked=asked) as url,
        pytest.raises(FetchError, match=f"{url}: no usable answer"),
    ):
        Api(url, max_per_second=1000).search("c", POLYGON, start=FIRST, end=LAST)
    assert len(asked) == 6


@pytest.mark.parametrize("text", ["<html>maintenance</html>", '{"type": "Catalog"}', "[]"])
def test_an_api_that_talks_nonsense(text: str) -> None:
    with serving(Busy, statuses=[], asked=[], text=text) as url, pytest.raises(FetchError, match="no usable answer"):
        Api(url, max_per_second=1000).search("c", POLYGON, start=FIRST, end=LAST)


def test_an_api_that_is_away(waits: list[float]) -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9: no usable answer"):
        Api("http://127.0.0.1:9", max_per_second=1000).license_of("c")


def test_requests_keep_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    pace = module._Pace(4.0)
    for _ in range(4):
        pace(None)  # type: ignore[arg-type]
    assert slept == pytest.approx([0.25, 0.25, 0.25])
    now[0] += 10
    pace(None)  # type: ignore[arg-type]
    assert len(slept) == 3


def test_presets_and_what_is_said_to_be_otherwise() -> None:
    assert service("planetary-computer").sign == "planetary-computer"
    assert service("planetary-computer", sign="none").sign == "none"
    own = service("http://mine/stac", sar="rtc")
    assert (own.url, own.optical, own.sar, own.sign) == ("http://mine/stac", "sentinel-2-l2a", "rtc", "none")
    require_sar(own)
    with pytest.raises(CatalogError, match=r"only as GRD.* take SAR from elsewhere with --sar-api planetary-computer"):
        require_sar(service("earth-search"))
