"""One fetcher for every URI: resumable, checksummed, written aside and renamed.

``synthetic:`` is rendered, ``….json#stac=ROLE`` read from the items that the document names; every other scheme
(``file``, ``https``, ``s3``, …) goes through fsspec.
"""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem

from cgm2net.data import synthetic
from cgm2net.data.sources import stac_documents, stac_read
from cgm2net.errors import ChecksumError, FetchError
from cgm2net.files import CACHE_DIR, sha256_file, sha256_json

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are there, and how many there will be: None where the store does not say."""

PERMANENT = (FileNotFoundError, IsADirectoryError, PermissionError)
"""What no further try mends: nothing there, not a file, not allowed."""

PARTIAL_DIR = CACHE_DIR / "partial"
_BLOCK_BYTES = 4 << 20
_SUFFIXES = (".tif", ".tiff", ".jp2", ".npy", ".img", ".vrt")
_LONGEST_WAIT_SECONDS = 60.0
_SILENT_SECONDS = 60.0
"""After so long without a byte a connection counts as broken; a whole file may take days."""


def file_suffix(uri: str) -> str:
    """Return the suffix that a local copy of ``uri`` gets; ``.tif`` where the URI tells none."""
    suffix = Path(urlsplit(uri).path).suffix.lower()
    return suffix if suffix in _SUFFIXES else ".tif"


def identity(uri: str, *, max_attempts: int = 4, wait_seconds: float = 1.0) -> str:
    """Return what tells one version of a URI's content from another, without fetching it.

    For ``synthetic:`` the URI itself, for ``#stac=`` what the document says; else what the store knows (ETag, time of
    change, size).

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: if there is no file at the URI, or it is not given out.
        FetchError: if the store cannot be asked in ``max_attempts`` tries.
    """
    if urlsplit(uri).scheme == synthetic.SCHEME:
        return uri
    if stac_documents.is_stac(uri):
        return stac_documents.identity(uri)
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
    on_progress: Progress | None = None,
) -> str:
    """Make a URI a checked local file.

    What has arrived is kept under ``partial_dir`` until it is whole, so that an interrupted transfer goes on where it
    stopped, in the next attempt or in the next run. No byte that has reached the disk is asked for again.

    Args:
        uri: where from.
        target: new file.
        sha256: what its bytes must hash to, where that is known.
        max_attempts: tries at faults of the network.
        wait_seconds: before the second try; doubled before each further one.
        partial_dir: where unfinished files wait.
        on_progress: told, as bytes arrive, how many there are and how many there will be.

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
    partial_dir.mkdir(parents=True, exist_ok=True)
    if stac_documents.is_stac(uri):
        work = partial(_read_items, uri, target, partial_dir=partial_dir)
    else:
        told = on_progress or _silent
        work = partial(_transfer, uri, *_open_store(uri), target, partial_dir=partial_dir, on_progress=told)
    _tried(work, uri, max_attempts=max_attempts, wait_seconds=wait_seconds)
    return _checked(uri, target, sha256)


def _tried(action: Callable[[], _T], uri: str, *, max_attempts: int, wait_seconds: float) -> _T:
    """Do it again at faults of the network."""
    attempt = 1
    while True:
        try:
            return action()
        except (*PERMANENT, ChecksumError):
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


def _transfer(
    uri: str, filesystem: AbstractFileSystem, path: str, target: Path, *, partial_dir: Path, on_progress: Progress
) -> None:
    """Append what is missing to the partial file; once whole, it becomes the target."""
    known = _known(filesystem, path)
    size = known["size"]
    partial = partial_dir / _version(uri, known)
    with _alone(partial):
        have = partial.stat().st_size if partial.exists() and size is not None else 0
        if size is None or have < size or not partial.exists():
            _append(filesystem, path, partial, known, have=have, on_progress=on_progress)
        arrived = partial.stat().st_size
        if size not in (None, arrived):
            if arrived > size:
                partial.unlink()
            raise FetchError(f"{arrived} bytes arrived of {size}")
        partial.replace(target)


def _read_items(uri: str, target: Path, *, partial_dir: Path) -> None:
    """Make the file of STAC items; finished blocks of it are kept until it is whole."""
    role, grid, source = stac_documents.open_uri(uri)
    kept = partial_dir / stac_documents.identity(uri)
    with _alone(kept):
        stac_read.write(role, source, grid, target, kept_dir=kept)


def _append(
    filesystem: AbstractFileSystem, path: str, partial: Path, known: dict[str, Any], *, have: int, on_progress: Progress
) -> None:
    """Add what comes after the first bytes that are there: over HTTP one stream, from a store block after block."""
    from fsspec.asyn import sync
    from fsspec.implementations.http import HTTPFileSystem

    if isinstance(filesystem, HTTPFileSystem):
        sync(filesystem.loop, _stream, filesystem, path, partial, known, have=have, on_progress=on_progress)
        return
    with (
        filesystem.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="none") as source,  # nothing is read ahead
        partial.open("ab" if have else "wb") as sink,
    ):
        source.seek(have)
        while block := source.read(_BLOCK_BYTES):
            have += _written(block, sink)
            on_progress(have, known["size"])


async def _stream(
    filesystem: Any, path: str, partial: Path, known: dict[str, Any], *, have: int, on_progress: Progress
) -> None:
    # One coroutine from the request to the disk: read in steps from outside, what had arrived was lost when a
    # connection broke.
    session = await filesystem.set_session()
    url, headers = filesystem.encode_url(path), _headers(known, have=have)
    async with session.get(url, headers=headers, timeout=_patience()) as answer:
        answer.raise_for_status()
        arrived = _begin(answer, have=have)
        with partial.open("ab" if arrived else "wb") as sink:
            async for block in answer.content.iter_any():
                arrived += _written(block, sink)
                on_progress(arrived, known["size"])


def _written(block: bytes, sink: BinaryIO) -> int:
    sink.write(block)
    sink.flush()  # a killed process loses what it holds, not what the system has taken
    return len(block)


def _headers(known: dict[str, Any], *, have: int) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("ETag", "W/").startswith('"'):  # else a file changed meanwhile would be sewn to its older self
            headers["If-Range"] = known["ETag"]
    return headers


def _begin(answer: Any, *, have: int) -> int:
    """Return the byte at which an answer begins: 0 where the server gives no ranges."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0
    begin = int(answer.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
    if begin != have:
        raise FetchError(f"asked for bytes from {have} on, got them from {begin} on")
    return begin


def _patience() -> Any:
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)


def _silent(_arrived: int, _size: int | None) -> None:
    """Tell nobody."""


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
