"""The archives of SEN12MS-CR: fetched, checked, unpacked; interrupted anywhere, the next run goes on."""

import gzip
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from shutil import copyfileobj

from cgm2net.compute import progress_bar
from cgm2net.data.fetch import fetch
from cgm2net.data.sources.sen12ms_cr import MODALITIES, SEASONS
from cgm2net.errors import DataError
from cgm2net.files import sha256_file, write_aside

BASE_URL = "https://dataserv.ub.tum.de/s/m1554803/download?path=/&files="
"""The file server of the Technical University of Munich, https://mediatum.ub.tum.de/1554803; takes a file's name."""

STATE = ".archives"
"""Folder of unfinished archives, and of a note for each that is unpacked."""

_MAX_ATTEMPTS = 8
_BLOCK_BYTES = 1 << 20


def fetch_missing(
    folder: Path,
    *,
    seasons: Sequence[str],
    modalities: Sequence[str],
    url: str | None,
    checksums: Path | None,
    dry_run: bool,
) -> str:
    """Fetch and unpack what the command's options ask for and is not there; return what to say of it.

    Raises:
        DataError, FetchError: see :func:`download_archives` and :func:`read_checksums`.
    """
    wanted = missing(names(seasons, modalities), folder)
    known = read_checksums(checksums) if checksums else {}
    if dry_run:
        return f"{folder}: would fetch {', '.join(wanted) or 'nothing'}"
    download_archives(wanted, folder, base_url=url or BASE_URL, checksums=known)
    return f"{folder}: fetched {', '.join(wanted) or 'nothing new'}"


def names(seasons: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """Return the archives of these seasons and modalities; of all where none are named."""
    return [
        f"{SEASONS[season]}_{modality}.tar.gz"
        for season in SEASONS
        for modality in MODALITIES
        if season in (seasons or SEASONS) and modality in (modalities or MODALITIES)
    ]


def missing(archives: Sequence[str], folder: Path) -> list[str]:
    """Return those that have not been unpacked into a folder."""
    return [name for name in archives if not _note(folder, name).is_file()]


def download_archives(
    archives: Sequence[str], folder: Path, *, base_url: str = BASE_URL, checksums: Mapping[str, str]
) -> None:
    """Fetch and unpack archives that have not been unpacked; each is deleted once it is.

    Args:
        archives: names.
        folder: gets their files.
        base_url: what an archive's name is put behind.
        checksums: SHA-256 by name, of those for which it is known.

    Raises:
        FetchError: at a fault of the network; what arrived is kept.
        ChecksumError: if an archive is not the one named.
        DataError: if an archive is broken, or holds what must not be unpacked.
    """
    for name in missing(archives, folder):
        archive, sha256 = folder / STATE / name, checksums.get(name, "")
        # Whole since an earlier run, which was interrupted while it unpacked.
        digest = sha256_file(archive) if archive.is_file() else ""
        if not digest or (sha256 and digest != sha256):
            digest = _fetched(f"{base_url}{name}", archive, sha256=sha256)
        unpack(archive, folder)
        _note(folder, name).write_text(f"{digest}  {name}\n")
        archive.unlink()


def read_checksums(path: Path) -> dict[str, str]:
    """Read a file as ``sha256sum`` writes it.

    Raises:
        DataError: if it is not there, or a line is not of this form.
    """
    if not path.is_file():
        raise DataError(f"{path}: no file of checksums there; `sha256sum *.tar.gz` writes one")
    checksums = {}
    for line in path.read_text().splitlines():
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip():
            raise DataError(f"{path}: line {line!r} is not `SHA256  NAME`")
        checksums[Path(name.strip().lstrip("*")).name] = digest.lower()
    return checksums


def _note(folder: Path, name: str) -> Path:
    return folder / STATE / f"{name}.unpacked"


def _fetched(url: str, archive: Path, *, sha256: str) -> str:
    with progress_bar() as progress:
        bar = progress.add_task(f"{archive.name}, MiB", total=None)

        def tell(arrived: int, size: int | None) -> None:
            progress.update(bar, completed=arrived >> 20, total=None if size is None else size >> 20)

        return fetch(
            url, archive, sha256=sha256, max_attempts=_MAX_ATTEMPTS, partial_dir=archive.parent, on_progress=tell
        )


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a ``tar.gz`` as a stream, file by file; what is there already, in its size, is left alone.

    Returns:
        How many files are new.

    Raises:
        DataError: if the archive is broken, or an entry is neither file nor folder or leads out of the folder.
    """
    num_new = 0
    try:
        # gzip holds the content to its checksum, at its end; tarfile's own reading of it does not.
        with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r|") as entries:
            for entry in entries:
                _require_harmless(entry, folder, archive)
                target = folder / entry.name
                if entry.isdir() or (target.is_file() and target.stat().st_size == entry.size):
                    continue
                pixels = entries.extractfile(entry)
                assert pixels is not None
                with write_aside(target) as aside, aside.open("wb") as file:
                    copyfileobj(pixels, file)
                num_new += 1
            while content.read(_BLOCK_BYTES):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}; delete it, and it is fetched again") from error
    return num_new


def _require_harmless(entry: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    name = PurePosixPath(entry.name)
    fault = ""
    if not (entry.isfile() or entry.isdir()):
        fault = "is a link or a device"
    elif name.is_absolute() or ".." in name.parts:
        fault = "leads out of the folder"
    else:
        try:
            tarfile.data_filter(entry, str(folder))
        except tarfile.FilterError as error:
            fault = str(error)
    if fault:
        raise DataError(f"{archive}: entry {entry.name!r} {fault}; nothing more of it is unpacked, do not trust it")
