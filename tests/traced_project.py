"""A project with a store, a repository and a DVC cache, in which everything was made once, for tests of lineage."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import yaml
from rasterio.transform import from_origin
from repositories import command, commit

from cgm2net import registry, tracking
from cgm2net.catalog import COLUMNS, write_scenes
from cgm2net.files import write_json
from cgm2net.promotion import rollback

DATA_HASH, MODEL_HASH = "d" * 64, "e" * 64
FLOW_RUN, LOCK_HASH = "0d6bd4f2-6a0b-4c55-9a0e-3f1f3b8a1c2d", "c" * 64
LOST_COMMIT, LOST_DATA = "0" * 40, "0" * 32 + ".dir"
STAGES = {
    "tile": {"cmd": "cp -r data artifacts/tile", "deps": ["data"], "outs": ["artifacts/tile"]},
    "train": {"cmd": "cp -r run artifacts/train", "deps": ["artifacts/tile"], "outs": ["artifacts/train"]},
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A project in which everything has been made once, and its data were changed since."""

    root: Path
    run_id: str
    "Trained version 1, from a clean tree, on pinned data."
    lost_run_id: str
    "Trained version 2, of which little can be found again."
    commits: dict[str, str]
    hashes: dict[str, str]
    "DVC's, of the first data, and of both outputs."


def pinned(root: Path) -> str:
    return str(yaml.safe_load((root / "data.dvc").read_text())["outs"][0]["md5"])


def train_run(name: str, *, tags: dict[str, str]) -> str:
    with tracking.run(Path(f"{name}.json"), experiment="e", name=name, params={"steps": 400}, tags=tags) as run:
        return run.run_id


def keep_verdicts(root: Path, run_id: str) -> None:
    rows = [
        {**dict.fromkeys(COLUMNS, ""), "scene_id": name, "region": "r", "accepted": not reason, "reason": reason}
        for name, reason in {"a": "", "b": "SAR is not in dB"}.items()
    ]
    (root / "validate").mkdir()
    write_scenes(pd.DataFrame(rows), root / "validate/scenes.csv")
    tracking.connect().log_artifact(run_id, str(root / "validate/scenes.csv"), "validate")


def register(name: str, run_id: str, tags: dict[str, str]) -> None:
    made = tracking.connect().create_model_version(name, source="nowhere", run_id=run_id, tags=tags)
    version = registry.version_numbered(name, int(made.version))
    assert version is not None
    registry.set_alias(version, alias="champion", why="better", who="register")


def write_map(folder: Path, model: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "item.json", {"id": folder.name, "properties": {"cgm2net:model": model}})
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(folder / "classes.tif", "w", **profile, transform=from_origin(5e5, 5e6, 10, 10)) as file:
        file.write(np.zeros((1, 4, 4), np.uint8))
        file.update_tags(**{f"CGM2NET_MODEL_{key.upper()}": text for key, text in model.items()})


def make_project(root: Path) -> Made:
    (root / ".gitignore").write_text(
        "/data\n/artifacts/\n/mlflow.db*\n/mlartifacts/\n/maps/\n/validate/\n/*.json\n/run\n"
    )
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    for name in ("data", "run", "artifacts"):
        (root / name).mkdir()
    (root / "data/catalog.csv").write_text("first\n")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", "data"]):
        command(root, *words)
    commits = {"pin": commit(root, "Pin the first scenes")}
    found = {"git_commit": commits["pin"], "git_dirty": "false", "data_version": pinned(root), "data_hash": DATA_HASH}
    parent = train_run("parent", tags={})
    linked = {"prefect_flow_run_id": FLOW_RUN, "dvc_lock_sha256": LOCK_HASH}
    run_id = train_run("good", tags={**found, "mlflow.parentRunId": parent, **linked})
    keep_verdicts(root, run_id)
    write_json(root / "run/run.json", {"run_id": run_id})
    command(root, "dvc", "repro", "-q")
    commits["made"] = commit(root, "Lock what was made")
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    hashes = {"data": pinned(root), **{name: lock[name]["outs"][0]["md5"] for name in STAGES}}
    lost = {"git_commit": LOST_COMMIT, "git_dirty": "true", "data_version": LOST_DATA, "data_hash": "f" * 64}
    lost_run_id = train_run("lost", tags=lost)
    tracking.connect().create_registered_model("cgm2net")
    register("cgm2net", run_id, {**found, "model_sha256": MODEL_HASH})
    register("cgm2net", lost_run_id, {**lost, "model_sha256": "b" * 64})
    rollback("cgm2net", why="dark maps", who="ada")
    tracking.connect().create_registered_model("orphan")
    tracking.connect().create_model_version("orphan", source="nowhere")
    model = {"name": "cgm2net", "version": "1", "sha256": MODEL_HASH, "run_id": run_id, **found}
    write_map(root / "maps/day/s1", model)
    write_map(root / "maps/day/s2", {"name": "train", "version": "", "sha256": MODEL_HASH, **found, "run_id": run_id})
    write_map(root / "maps/day/foreign", {**model, "sha256": "1" * 64, "run_id": "9" * 32})
    write_map(root / "maps/day/lost", {**model, "version": "2", "sha256": "b" * 64, "run_id": lost_run_id, **lost})
    (root / "data/catalog.csv").write_text("second\n")
    command(root, "dvc", "add", "-q", "data")
    commits["later"] = commit(root, "Pin more scenes")
    return Made(root=root, run_id=run_id, lost_run_id=lost_run_id, commits=commits, hashes=hashes)
