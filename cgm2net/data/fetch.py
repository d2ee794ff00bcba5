"""One fetcher for every URI: resumable, checksummed, written aside and renamed.

``synthetic:`` is rendered; every other scheme (``file``, ``https``, ``s3``, …) goes through fsspec.
"""

import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem

from cgm2net.data import synthetic
from cgm2net.errors import ChecksumError, FetchError
from cgm2net.files import CACHE_DIR, sha256_file, sha256_json

_log = logging.getLogger(__name__)

PARTIAL_DIR = CACHE_DIR / "partial"
_BLOCK_BYTES = 4 << 20
_SUFFIXES = (".tif", ".tiff", ".jp2", ".npy", ".img", ".vrt")
_LONGEST_WAIT_SECONDS = 60.0


def file_suffix(uri: str) -> str:
    """Return the suffix that a local copy of ``uri`` gets; ``.tif`` where the URI tells none."""
    suffix = Path(urlsplit(uri).path).suffix.lower()
    return suffix if suffix in _SUFFIXES else ".tif"


def identity(uri: str) -> str:
    """Return what tells one version of a URI's content from another, without fetching it.

    For ``synthetic:`` the URI itself; else what the store knows (ETag, time of change, size).

    Raises:
        FileNotFoundError: if there is nothing at the URI.
        FetchError: if the store cannot be asked.
    """
    if urlsplit(uri).scheme == synthetic.SCHEME:
        return uri
    filesystem, path = _open_store(uri)
    try:
        return str(filesystem.ukey(path))
    except FileNotFoundError:
        raise
    except _faults() as error:
        raise FetchError(f"{uri}: cannot be asked for: {error or type(error).__name__}") from error


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
        FileNotFoundError: if there is nothing at the URI.
        ChecksumError: if its bytes hash to something else.
        FetchError: if it did not arrive whole in ``max_attempts`` tries.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if urlsplit(uri).scheme == synthetic.SCHEME:
        synthetic.write(uri, target)
        return _checked(uri, target, sha256)
    for attempt in range(1, max_attempts + 1):
        try:
            partial = _transfer(uri, partial_dir)
            break
        except FileNotFoundError:
            raise
        except _faults() as error:
            if attempt == max_attempts:
                raise FetchError(
                    f"{uri}: not fetched in {max_attempts} tries: {error or type(error).__name__};"
                    " what arrived is kept, run again to go on"
                ) from error
            wait = min(wait_seconds * 2 ** (attempt - 1), _LONGEST_WAIT_SECONDS)
            _log.warning("%s: try %d of %d failed (%s), next in %.0f s", uri, attempt, max_attempts, error, wait)
            time.sleep(wait)
    partial.replace(target)
    return _checked(uri, target, sha256)


def _checked(uri: str, target: Path, wanted: str) -> str:
    got = sha256_file(target)
    if wanted and got != wanted.lower():
        target.unlink()
        raise ChecksumError(f"{uri}: SHA-256 is {got}, the catalogue says {wanted}; correct the catalogue or the file")
    return got


def _transfer(uri: str, partial_dir: Path) -> Path:
    """Append what is missing to the partial file; return it whole."""
    filesystem, path = _open_store(uri)
    partial_dir.mkdir(parents=True, exist_ok=True)
    partial = partial_dir / f"{sha256_json([uri, str(filesystem.ukey(path))])}{file_suffix(uri)}"
    size = filesystem.info(path)["size"]
    with filesystem.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead") as source:
        resumable = size is not None and source.seekable()
        have = partial.stat().st_size if partial.exists() and resumable else 0
        if have:
            source.seek(have)
        with partial.open("ab" if have else "wb") as sink:
            while block := source.read(_BLOCK_BYTES):
                sink.write(block)
    arrived = partial.stat().st_size
    if size is not None and arrived != size:
        if arrived > size:
            partial.unlink()
        raise FetchError(f"{uri}: {arrived} bytes arrived of {size}")
    return partial


def _open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise FetchError(f"{uri}: no way to read this kind of URI: {error}") from error
    return filesystem, path


def _faults() -> tuple[type[BaseException], ...]:
    """What a network does: every OSError, and the two client libraries' own."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError

    return (OSError, TimeoutError, ClientError, BotoCoreError)
