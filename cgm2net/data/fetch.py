"""One fetcher for every URI: resumable, checksummed, written aside and renamed.

``synthetic:`` is rendered; every other scheme (``file``, ``https``, ``s3``, …) goes through fsspec.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem

from cgm2net.data import synthetic
from cgm2net.errors import ChecksumError, FetchError
from cgm2net.files import CACHE_DIR, sha256_file, sha256_json

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

PERMANENT = (FileNotFoundError, IsADirectoryError, PermissionError)
"""What no further try mends: nothing there, not a file, not allowed."""

PARTIAL_DIR = CACHE_DIR / "partial"
_BLOCK_BYTES = 4 << 20
_SUFFIXES = (".tif", ".tiff", ".jp2", ".npy", ".img", ".vrt")
_LONGEST_WAIT_SECONDS = 60.0


def file_suffix(uri: str) -> str:
    """Return the suffix that a local copy of ``uri`` gets; ``.tif`` where the URI tells none."""
    suffix = Path(urlsplit(uri).path).suffix.lower()
    return suffix if suffix in _SUFFIXES else ".tif"


def identity(uri: str, *, max_attempts: int = 4, wait_seconds: float = 1.0) -> str:
    """Return what tells one version of a URI's content from another, without fetching it.

    For ``synthetic:`` the URI itself; else what the store knows (ETag, time of change, size).

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if there is no file at the URI, or it is not given out.
        FetchError: if the store cannot be asked in ``max_attempts`` tries.
    """
    if urlsplit(uri).scheme == synthetic.SCHEME:
        return uri
    store = _open_store(uri)
    known = _tried(lambda: _known(*store), uri, max_attempts=max_attempts, wait_seconds=wait_seconds)
    return _version(uri, known)


def fetch(
    uri: str,
    target: Path,
    *,
    sha256: str = "",
    max_attempts: int = 4,
    wait_seconds: float = 1.0,
    partial_dir: Path = PARTIAL_DIR,
) -> str:
    """Make a URI a checked local file.

    What has arrived is kept under ``partial_dir`` until it is whole, so that an interrupted transfer goes on where it
    stopped, in the next attempt or in the next run.

    Args:
        uri: where from.
        target: new file.
        sha256: what its bytes must hash to, where that is known.
        max_attempts: tries at faults of the network.
        wait_seconds: before the second try; doubled before each further one.
        partial_dir: where unfinished files wait.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if there is no file at the URI, or it is not given out.
        ChecksumError: if its bytes hash to something else.
        FetchError: if it did not arrive whole in ``max_attempts`` tries.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if urlsplit(uri).scheme == synthetic.SCHEME:
        synthetic.write(uri, target)
        return _checked(uri, target, sha256)
    store = _open_store(uri)
    partial_dir.mkdir(parents=True, exist_ok=True)
    _tried(
        lambda: _transfer(uri, *store, target, partial_dir=partial_dir),
        uri,
        max_attempts=max_attempts,
        wait_seconds=wait_seconds,
    )
    return _checked(uri, target, sha256)


def _tried(action: Callable[[], _T], uri: str, *, max_attempts: int, wait_seconds: float) -> _T:
    """Do it again at faults of the network."""
    attempt = 1
    while True:
        try:
            return action()
        except PERMANENT:
            raise
        except _faults() as error:
            fault = str(error) or type(error).__name__
            if attempt == max_attempts:
                raise FetchError(
                    f"{uri}: not fetched in {max_attempts} tries: {fault}; what arrived is kept, run again to go on"
                ) from error
        wait = min(wait_seconds * 2 ** (attempt - 1), _LONGEST_WAIT_SECONDS)
        _log.warning("%s: try %d of %d failed (%s), next in %.0f s", uri, attempt, max_attempts, fault, wait)
        time.sleep(wait)
        attempt += 1


def _checked(uri: str, target: Path, wanted: str) -> str:
    got = sha256_file(target)
    if wanted and got != wanted.lower():
        target.unlink()
        raise ChecksumError(f"{uri}: SHA-256 is {got}, the catalogue says {wanted}; correct the catalogue or the file")
    return got


def _transfer(uri: str, filesystem: AbstractFileSystem, path: str, target: Path, *, partial_dir: Path) -> None:
    """Append what is missing to the partial file; once whole, it becomes the target."""
    known = _known(filesystem, path)
    partial = partial_dir / _version(uri, known)
    with _alone(partial):
        try:
            _append(filesystem, path, partial, resume=known["size"] is not None)
        except ValueError:  # fsspec's, where an HTTP server gives no ranges: only a stream from the start is left
            _append(filesystem, path, partial, resume=False, ranges=False)
        arrived = partial.stat().st_size
        if known["size"] not in (None, arrived):
            if arrived > known["size"]:
                partial.unlink()
            raise FetchError(f"{arrived} bytes arrived of {known['size']}")
        partial.replace(target)


def _append(filesystem: AbstractFileSystem, path: str, partial: Path, *, resume: bool, ranges: bool = True) -> None:
    block_size = _BLOCK_BYTES if ranges else 0
    have = partial.stat().st_size if resume and partial.exists() else 0
    with filesystem.open(path, "rb", block_size=block_size, cache_type="readahead") as source:
        source.seek(have)
        with partial.open("ab" if have else "wb") as sink:
            while block := source.read(_BLOCK_BYTES):
                sink.write(block)


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold a lock that ends with the process: two scenes may name one URI, and would both append."""
    with partial.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _known(filesystem: AbstractFileSystem, path: str) -> dict[str, Any]:
    """Return what the store knows of a file: its size (None where it does not say), ETag, time of change."""
    from aiohttp import ClientError

    try:
        known: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        # fsspec's HTTP client calls every failure "not found": a refused connection and a busy server too.
        cause = error.__cause__
        if getattr(cause, "status", None) in (401, 403):
            raise PermissionError(str(cause)) from None
        if isinstance(cause, (ClientError, TimeoutError)) and getattr(cause, "status", None) not in (404, 410):
            raise cause from None
        raise
    if known.get("type") == "directory":
        raise IsADirectoryError(f"{path} is a folder")
    return known


def _version(uri: str, known: dict[str, Any]) -> str:
    # An HTTP answer's `url` is where redirects led: signed anew each time.
    return sha256_json([uri, {name: value for name, value in known.items() if name != "url"}])


def _open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(unquote(uri) if urlsplit(uri).scheme == "file" else uri)
    except (ValueError, ImportError) as error:
        raise FetchError(f"{uri}: no way to read this kind of URI: {error}") from error
    return filesystem, path


def _faults() -> tuple[type[BaseException], ...]:
    """What a network does: every OSError, and the two client libraries' own."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return (OSError, TimeoutError, ClientError, BotoCoreError)
