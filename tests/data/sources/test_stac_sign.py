"""Signing hooks: tokens asked for once, code of one's own only where the environment allows it."""

import http.server
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from stac_world import serving

from cgm2net.data.sources import stac_sign
from cgm2net.data.sources.stac_sign import PlanetaryComputer, signer
from cgm2net.errors import CatalogError, FetchError

HREF = "https://sentinel1euwestrtc.blob.core.windows.net/sentinel1-grd-rtc/GRD/2024/vv.tif"


class Tokens(http.server.BaseHTTPRequestHandler):
    """Gives out tokens that hold for so many minutes, each another."""

    asked: list[tuple[str, str | None]]
    minutes: list[int]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Ocp-Apim-Subscription-Key"]))
        if self.path.endswith("/closed"):
            self.send_error(403)
            return
        expiry = datetime.now(UTC) + timedelta(minutes=self.minutes[0])
        body = json.dumps({"token": f"sig={len(self.asked)}", "msft:expiry": f"{expiry:%Y-%m-%dT%H:%M:%SZ}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Tokens]]:
    members = type("Members", (Tokens,), {"asked": [], "minutes": [45]})
    with serving(members) as url:
        monkeypatch.setattr(stac_sign, "TOKEN_URL", url)
        monkeypatch.delenv("PC_SDK_SUBSCRIPTION_KEY", raising=False)
        yield members


def test_a_token_is_asked_for_once_a_container(tokens):
    sign = PlanetaryComputer()
    assert sign(HREF) == f"{HREF}?sig=1"
    assert sign(f"{HREF}?a=b") == f"{HREF}?a=b&sig=1"
    assert sign("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B02.tif").endswith("B02.tif?sig=2")
    assert tokens.asked == [("/sentinel1euwestrtc/sentinel1-grd-rtc", None), ("/sentinel2l2a01/sentinel2-l2", None)]


def test_a_token_that_runs_out_is_asked_for_again(tokens):
    sign = PlanetaryComputer()
    tokens.minutes[0] = 4  # less than a block may take
    assert [sign(HREF)[-5:], sign(HREF)[-5:]] == ["sig=1", "sig=2"]


@pytest.mark.parametrize(
    "href",
    [
        "https://ai4edatasetspublicassets.blob.core.windows.net/a/b.tif", "https://example.com/a.tif", "/a/b.tif",
        f"{HREF}?sig=old",
    ],
)  # fmt: skip
def test_what_needs_no_token_stays_as_it_is(tokens, href):
    assert PlanetaryComputer()(href) == href
    assert tokens.asked == []


def test_a_key_goes_along(tokens, monkeypatch):
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "k")
    PlanetaryComputer()(HREF)
    assert tokens.asked[0][1] == "k"


def test_a_token_that_is_not_given_out(tokens):
    with pytest.raises(FetchError, match="closed: no token to read with: 403"):
        PlanetaryComputer()("https://a.blob.core.windows.net/closed/a.tif")


def test_code_of_ones_own_runs_only_where_the_environment_names_it(monkeypatch):
    monkeypatch.delenv("CGM2NET_STAC_SIGN", raising=False)
    with pytest.raises(CatalogError, match="set CGM2NET_STAC_SIGN=posixpath:basename"):
        signer("posixpath:basename")
    monkeypatch.setenv("CGM2NET_STAC_SIGN", "posixpath:basename")
    assert signer("posixpath:basename")("/a/b.tif") == "b.tif"
    with pytest.raises(CatalogError, match="set CGM2NET_STAC_SIGN=os:system"):
        signer("os:system")
    monkeypatch.setenv("CGM2NET_STAC_SIGN", "posixpath:none")
    with pytest.raises(CatalogError, match="cannot be imported"):
        signer("posixpath:none")
    with pytest.raises(CatalogError, match="wanted none, planetary-computer or MODULE:FUNCTION"):
        signer("azure")
    assert signer("none")("a") == "a"
