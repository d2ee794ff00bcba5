"""Signing of asset addresses: ``none``, ``planetary-computer``, or a function of your own, ``MODULE:FUNCTION``.

Documents name the hook and hold unsigned addresses. A function of one's own must also be named by the environment
variable ``CGM2NET_STAC_SIGN``: a document that came from elsewhere cannot choose what code runs here.
"""

import importlib
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cgm2net.errors import CatalogError, FetchError

if TYPE_CHECKING:
    from requests import Session
    from urllib3 import Retry

Sign = Callable[[str], str]
"""Takes an address and returns the one to read from."""

ENVIRONMENT = "CGM2NET_STAC_SIGN"
TOKEN_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
TIMEOUT_SECONDS = 60.0

_BLOB_HOST = ".blob.core.windows.net"
_PUBLIC_ACCOUNTS = ("ai4edatasetspublicassets",)
_KEY = "PC_SDK_SUBSCRIPTION_KEY"  # the name that Planetary Computer's own library uses
_SPARE = timedelta(minutes=5)


def signer(name: str) -> Sign:
    """Return the hook of a name.

    Raises:
        CatalogError: if there is none, or a function is not allowed by the environment or cannot be imported.
    """
    if name == "none":
        return str
    if name == "planetary-computer":
        return _SIGN
    module, _, function = name.partition(":")
    if not function:
        raise CatalogError(f"signing hook {name!r}: wanted none, planetary-computer or MODULE:FUNCTION")
    if os.environ.get(ENVIRONMENT) != name:
        raise CatalogError(
            f"signing hook {name!r} is code that a document names; to let it run, set {ENVIRONMENT}={name}"
        )
    try:
        hook: Sign = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise CatalogError(f"signing hook {name!r} cannot be imported: {error}") from error
    return hook


class PlanetaryComputer:
    """Appends the token of an address's container; each token is asked for once, until it expires.

    https://planetarycomputer.microsoft.com/docs/concepts/sas
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], tuple[str, datetime]] = {}

    def __call__(self, href: str) -> str:
        """Return the signed address; addresses of other hosts, public ones and signed ones stay as they are.

        Raises:
            FetchError: if no token is given out.
        """
        parts = urlsplit(href)
        account = parts.netloc.partition(".")[0]
        if not parts.netloc.endswith(_BLOB_HOST) or account in _PUBLIC_ACCOUNTS or "sig=" in parts.query:
            return href
        container = parts.path.split("/")[1]
        return f"{href}{'&' if parts.query else '?'}{self._token(account, container)}"

    def _token(self, account: str, container: str) -> str:
        known = self._tokens.get((account, container))
        if known is None or known[1] - _SPARE <= datetime.now(UTC):
            known = self._tokens[account, container] = _ask_token(f"{TOKEN_URL}/{account}/{container}")
        return known[0]


_SIGN = PlanetaryComputer()


def _ask_token(url: str) -> tuple[str, datetime]:
    from requests import RequestException

    key = os.environ.get(_KEY, "")
    try:
        with polite_session() as session:
            headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
            answer = session.get(url, headers=headers, timeout=TIMEOUT_SECONDS)
            answer.raise_for_status()
            said = answer.json()
        return str(said["token"]), datetime.fromisoformat(said["msft:expiry"])
    except (RequestException, ValueError, KeyError) as error:
        raise FetchError(f"{url}: no token to read with: {error}; try again, or set {_KEY} to your key") from error


def polite_session() -> "Session":
    """Return an HTTP session that tries again as :func:`retries` says."""
    from requests import Session
    from requests.adapters import HTTPAdapter

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries()))
    return session


def retries() -> "Retry":
    """Return when to ask again: five times, after what `Retry-After` says, or else 0, 2, 4, 8 and 16 s."""
    from urllib3 import Retry

    return Retry(
        total=5, backoff_factor=1.0, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None,
        respect_retry_after_header=True,
    )  # fmt: skip
