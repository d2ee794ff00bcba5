"""Files: hashes, write-then-rename, and the per-scene cache that survives an interrupted stage."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CACHE_DIR = Path(".cache/cgm2net")
"""Resumable state and finished scenes, keyed by content. Safe to delete at any time; never an input."""

_FACTS = "facts.json"
_HASH_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_hash() -> str:
    """Return one hash over the sources of this library that the process has imported.

    It is part of every cache key, so that a changed stage never finds what an older one made. Stages are imported
    one a process (``python -m cgm2net STAGE``), so a change elsewhere costs nothing.
    """
    loaded = {
        name: module.__file__
        for name, module in sys.modules.items()
        if name.split(".")[0] == __package__ and getattr(module, "__file__", None)
    }
    digests = {name: sha256_file(Path(file)) for name, file in loaded.items() if file is not None}
    return sha256_json(digests)


def folder_hash(folder: Path) -> str:
    """Return one hash over the Python sources below a folder, those not imported (yet) included."""
    return sha256_json([[path.name, sha256_file(path)] for path in sorted(folder.rglob("*.py"))])


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it becomes ``path`` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a value as sorted, indented JSON, aside and renamed; NaN is refused."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object."""
    value = json.loads(path.read_text())
    assert isinstance(value, dict), path
    return value


def cached_folder(
    key: str,
    folder: Path,
    make: Callable[[Path], Mapping[str, object]],
    *,
    cache_dir: Path = CACHE_DIR,
) -> tuple[dict[str, object], bool]:
    """Fill ``folder`` with what ``make`` writes, or with a copy of what it wrote before under this key.

    Args:
        key: hash of everything the result depends on.
        folder: new folder to fill.
        make: writes its files into the folder it is given and returns facts that JSON can hold.
        cache_dir: where finished folders are kept.

    Returns:
        The facts as JSON gives them back, and whether they came from the cache.
    """
    if folder.exists():
        shutil.rmtree(folder)
    kept = cache_dir / key[:2] / key
    hit = (kept / _FACTS).is_file()
    if not hit:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as aside:
            made = Path(aside, key)
            made.mkdir()
            facts = dict(make(made))
            (made / _FACTS).write_text(json.dumps(facts, sort_keys=True, allow_nan=True))
            _keep(made, kept)
    shutil.copytree(kept, folder, ignore=shutil.ignore_patterns(_FACTS), copy_function=_copy)
    if not any(folder.iterdir()):
        folder.rmdir()
    return json.loads((kept / _FACTS).read_text()), hit


def _keep(made: Path, kept: Path) -> None:
    try:
        made.rename(kept)
    except OSError:
        if (kept / _FACTS).is_file():  # another process was first; the key says that its result is the same
            return
        shutil.rmtree(kept)
        made.rename(kept)


def _copy(source: str, target: str) -> str:
    # Copies, not links: DVC moves stage outputs into its own cache and makes them read-only there.
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)  # noqa: PTH101
    return target
