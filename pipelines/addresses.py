"""Addresses as they may be shown and stored."""

from urllib.parse import urlsplit


def without_keys(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
