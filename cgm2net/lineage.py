"""What a run was made from: the code's commit, the hashes of what pins its inputs, the versions beneath it."""

import logging
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import yaml

from cgm2net.files import sha256_file

_log = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Stands where a fact cannot be had: no git, a file that is not there."""

_PINS = {"data_dvc_sha256": "data.dvc", "params_sha256": "params.yaml", "lock_sha256": "requirements.lock"}
_DVC = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
# Made by the pipeline itself while it runs: a commit does not become another one because dvc.lock follows the results.
_MADE = ("dvc.lock", "artifacts")


def lineage_tags(root: Path, *, data_hash: str = "") -> dict[str, str]:
    """Return the tags that every run and model version carries; no name or path of this machine is among them.

    Args:
        root: the project's root, where ``data.dvc``, ``params.yaml`` and ``requirements.lock`` lie.
        data_hash: hash of the tiles (``TileDataset.data_hash``); no tag without one.

    Returns:
        ``git_commit``, ``git_dirty`` (``true``, ``false`` or ``unknown``), ``data_dvc_sha256``, ``params_sha256``,
        ``lock_sha256``, ``data_version`` (DVC's hash of ``data/``), ``python``, ``torch``, ``data_hash`` and, inside
        DVC, ``dvc_stage``, ``dvc_exp_name``, ``dvc_exp_baseline_rev``.
    """
    tags = git_facts(root)
    tags |= {tag: _hash_or_unknown(root / name) for tag, name in _PINS.items()}
    tags["data_version"] = _data_version(root / "data.dvc")
    tags |= {name.lower(): os.environ[name] for name in _DVC if os.environ.get(name)}
    tags |= {"python": platform.python_version(), "torch": version("torch")}
    return tags | ({"data_hash": data_hash} if data_hash else {})


def git_facts(root: Path) -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` of the work tree at ``root``; ``unknown`` without git or a commit.

    A tree is dirty when a tracked file differs or a new one is not ignored. What the pipeline itself writes
    (``dvc.lock``, ``artifacts/``) does not count: it follows from the commit and the data.
    """
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    status = _git(root, "status", "--porcelain", "--", ".", *(f":(exclude){name}" for name in _MADE))
    if commit is None or status is None:
        return {"git_commit": UNKNOWN, "git_dirty": UNKNOWN}
    return {"git_commit": commit, "git_dirty": "true" if status else "false"}


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # No optional locks: reading the status must not get in the way of the git command that someone runs beside it.
    command = [git, "--no-optional-locks", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _log.debug("git %s: %s", arguments[0], done.stderr.strip())
        return None
    return done.stdout.strip()


def _hash_or_unknown(path: Path) -> str:
    return sha256_file(path) if path.is_file() else UNKNOWN


def _data_version(path: Path) -> str:
    if not path.is_file():
        return UNKNOWN
    outs = yaml.safe_load(path.read_text())["outs"]
    return str(outs[0].get("md5", UNKNOWN))
