"""What git and DVC keep: which commits pinned a version of the data, and what ``dvc.lock`` says was made of what."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cgm2net.lineage import UNKNOWN
from cgm2net.trace.records import Commit

_PIN = "data.dvc"
_LOCK = "dvc.lock"
_LOG = "--format=%H%x09%cI%x09%s"

Made = tuple[str, str]
"""Path and DVC's hash."""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One state of ``dvc.lock``."""

    commit: Commit | None
    "None: the work tree's."
    stages: Mapping[str, Any]

    def outs(self) -> Iterator[tuple[str, str, str]]:
        """Yield stage, path and hash of every output."""
        for name, stage in self.stages.items():
            for path, md5 in _made(stage, "outs"):
                yield name, path, md5

    def chain(self, md5: str) -> set[Made]:
        """Return what a thing of this hash was made of, and what was made of it, with itself; empty if unknown here.

        Only equal hashes link: an output that was made anew since does not lead to what was made of the old one.
        """
        named = {made for stage in self.stages.values() for key in ("deps", "outs") for made in _made(stage, key)}
        hits = {made for made in named if same_hash(made[1], md5)}
        return self._linked(hits, "outs", "deps") | self._linked(hits, "deps", "outs")

    def _linked(self, hits: set[Made], at: str, to: str) -> set[Made]:
        linked, new = set(hits), hits
        while new:
            stages = [stage for stage in self.stages.values() if new & set(_made(stage, at))]
            new = {made for stage in stages for made in _made(stage, to)} - linked
            linked |= new
        return linked


def same_hash(one: str, other: str) -> bool:
    """Compare two DVC hashes; a folder's may be written without its ``.dir``."""
    return one.removesuffix(".dir") == other.removesuffix(".dir")


def find_commit(root: Path, revision: str) -> Commit | None:
    """Return the commit of a revision; None where this repository has none, or there is no repository."""
    said = _git(root, "log", "-1", _LOG, "--end-of-options", f"{revision}^{{commit}}")
    return _commit(said) if said else None


def pinned_here(root: Path) -> str:
    """Return the version of ``data/`` that the work tree's ``data.dvc`` names; ``unknown`` without one."""
    path = root / _PIN
    return _pinned(path.read_text()) if path.is_file() else UNKNOWN


def pinned_at(root: Path, commit: Commit) -> str:
    """Return the version of ``data/`` that a commit's ``data.dvc`` names; ``unknown`` without one."""
    return _pinned(_git(root, "show", f"{commit.sha}:./{_PIN}") or "")


def pins(root: Path) -> list[tuple[Commit, str]]:
    """Return every commit, on any branch, that changed ``data.dvc``, with the version that it names; oldest first."""
    return [(commit, pinned_at(root, commit)) for commit in _changed(root, _PIN)]


def lock_at(root: Path, commit: Commit) -> Lock:
    """Return a commit's ``dvc.lock``; without stages where it has none."""
    return Lock(commit=commit, stages=_stages(_git(root, "show", f"{commit.sha}:./{_LOCK}") or ""))


def locks(root: Path, md5: str) -> list[Lock]:
    """Return every ``dvc.lock`` that names a hash: of commits on any branch, oldest first, then the work tree's."""
    # -S: only those where the number of its occurrences changed, so that a long history need not be parsed.
    found = [lock_at(root, commit) for commit in _changed(root, _LOCK, f"-S{md5.removesuffix('.dir')}")]
    path = root / _LOCK
    if path.is_file():
        found.append(Lock(commit=None, stages=_stages(path.read_text())))
    return [lock for lock in found if lock.chain(md5)]


def cached_json(root: Path, md5: str, name: str) -> dict[str, Any] | None:
    """Read a JSON file of an output folder from DVC's cache; None where the cache does not hold it."""
    cache = _cache_dir(root) / "files" / "md5"
    folder = cache / md5[:2] / md5[2:]
    if not folder.is_file():
        return None
    hashes = {entry["relpath"]: entry["md5"] for entry in json.loads(folder.read_text())}
    if name not in hashes:
        return None
    file = cache / hashes[name][:2] / hashes[name][2:]
    return dict(json.loads(file.read_text())) if file.is_file() else None


def _cache_dir(root: Path) -> Path:
    if (root / ".dvc" / "cache").is_dir():
        return root / ".dvc" / "cache"
    command = [sys.executable, "-m", "dvc", "cache", "dir"]  # a clone may share another's
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else root / ".dvc" / "cache"


def _made(stage: Mapping[str, Any], key: str) -> list[Made]:
    return [(entry["path"], entry["md5"]) for entry in stage.get(key, []) if "md5" in entry]


def _stages(text: str) -> Mapping[str, Any]:
    return dict((yaml.safe_load(text) or {}).get("stages") or {})


def _pinned(text: str) -> str:
    outs = (yaml.safe_load(text) or {}).get("outs") or [{}]
    return str(outs[0].get("md5", UNKNOWN))


def _changed(root: Path, name: str, *options: str) -> list[Commit]:
    said = _git(root, "log", "--all", "--full-history", "--reverse", _LOG, *options, "--", name)
    return [_commit(line) for line in (said or "").splitlines()]


def _commit(line: str) -> Commit:
    sha, when, subject = line.strip().split("\t", 2)
    return Commit(sha=sha, when=when, subject=subject)


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
