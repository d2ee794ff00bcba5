"""A folder apart, in which the data stages' commands run on some scenes beside a project at work.

It has its own catalogue, settings and ``artifacts/``, and shares the project's per-scene cache: what was made of a
scene here costs the project nothing later. Nothing here knows Prefect.
"""

import csv
import shutil
from pathlib import Path

import yaml

from pipelines.library import CommandError, run_library
from pipelines.process import Log

CACHE = Path(".cache")


def empty(folder: Path, *, root: Path) -> Path:
    """Make a folder anew for a batch.

    Args:
        folder: its path; whatever is there goes.
        root: the project, whose ``params.yaml`` it gets; a batch of bad scenes only is no error there, and its scenes
            are done on this machine, for a cluster's workers know the project's folder alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["cluster"] = ""
    params["validate"] = {**(params.get("validate") or {}), "min_accepted": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / CACHE).mkdir(exist_ok=True)
    (folder / CACHE).symlink_to(root / CACHE)
    return folder


def run_stage_in(folder: Path, stage: str, *, root: Path, log: Log) -> None:
    """Run one stage's command in a batch's folder.

    Raises:
        CommandError: if it fails; not where ``validate`` refuses every scene, for then the verdicts are what was asked.
    """
    try:
        run_library(stage, root=root, log=log, cwd=folder)
    except CommandError:
        if stage != "validate" or not scenes_of(folder, stage).is_file():
            raise
        log("no scene of the batch is accepted")


def scenes_of(folder: Path, stage: str) -> Path:
    """Return the path of a stage's scene table."""
    return folder / "artifacts" / stage / "scenes.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table of comma-separated values, all text."""
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]
