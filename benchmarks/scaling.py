"""Time and memory of the data stages against pixels and scenes: ``python benchmarks/scaling.py [--sizes 2048 10980]``.

Scenes of one size after the other go through ``coregister``, ``cloudmask`` and ``tile`` by the real commands, each a
process of its own whose peak resident memory the system reports (one worker, so that it is one scene's). They are
mirrored copies of a synthetic scene of 2048 px. Then small scenes are counted: the time of N, of N again, and of N + 1.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pandas as pd
import yaml
from predict import TILE_PX, write_mirrored

from cgm2net.catalog import COLUMNS, write_scenes
from cgm2net.data import synthetic
from cgm2net.sensors import LABEL_IGNORE, OPTICAL_NODATA, SAR_NODATA

ROOT = Path(__file__).parents[1]
NODATA = {
    "optical": OPTICAL_NODATA, "sar": SAR_NODATA, "reference": OPTICAL_NODATA, "label": LABEL_IGNORE,
    "cloud": LABEL_IGNORE,
}  # fmt: skip
SMALL_PX = 384
STAGES = ("coregister", "cloudmask", "tile")


def write_scenes_of(folder: Path, sizes: list[int]) -> None:
    """Write scenes as ``validate`` hands them on, every second one without a cloud mask."""
    rows = []
    for region, size_px in enumerate(sizes):
        spec = synthetic.SceneSpec(
            region=region, date=date(2024, 7, 1), size_px=min(size_px, TILE_PX), cover=0.4, shift=(1.0, -2.0)
        )
        scene = folder / "artifacts" / "download" / f"s{region}"
        scene.mkdir(parents=True)
        row = {**dict.fromkeys(COLUMNS, ""), "scene_id": f"s{region}", "region": f"r{region}", "accepted": True}
        images = synthetic.render(spec)
        for role in ("optical", "sar", "reference", "label", *(["cloud"] if region % 2 == 0 else [])):
            write_mirrored(scene / f"{role}.tif", images[role], size_px, nodata=NODATA[role])
            row[role] = str(scene / f"{role}.tif")
        rows.append({**row, "reason": ""})
    write_scenes(pd.DataFrame(rows), folder / "artifacts" / "validate" / "scenes.csv")


def run(folder: Path, stage: str) -> tuple[float, float]:
    """Run a stage; return seconds and peak MiB."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cgm2net", stage], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def prepare(folder: Path, sizes: list[int]) -> None:
    """Make a folder that stages can be run in."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage in STAGES:
        params[stage]["num_workers"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    # Apart: into a process's peak the system counts what the one that starts it holds, or ever held.
    writer = multiprocessing.get_context("spawn").Process(target=write_scenes_of, args=(folder, sizes))
    writer.start()
    writer.join()
    if writer.exitcode:
        sys.exit(f"no scenes of {sizes} px could be written")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 10980])
    parser.add_argument("--scenes", type=int, default=12)
    chosen = parser.parse_args()
    print("| scene, px | stage | s | us/px | peak MiB |\n|---|---|---|---|---|")
    for size_px in chosen.sizes:
        with tempfile.TemporaryDirectory() as name:
            prepare(Path(name), [size_px, SMALL_PX, SMALL_PX])  # a split needs three regions
            for stage in STAGES:
                seconds, peak = run(Path(name), stage)
                pixels = size_px**2 + 2 * SMALL_PX**2
                print(
                    f"| {size_px} | {stage} | {seconds:.1f} | {1e6 * seconds / pixels:.2f} | {peak:.0f} |", flush=True
                )
    count_scenes(chosen.scenes)


def count_scenes(num_scenes: int) -> None:
    """Print what scenes cost that are new, that are known, and that are one more."""
    print(f"\n| scenes of {SMALL_PX} px | stage | s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, [SMALL_PX] * (num_scenes + 1))
        table = folder / "artifacts" / "validate" / "scenes.csv"
        every = table.read_text()
        for label, lines in (("new", -1), ("again", -1), ("one more", None)):
            table.write_text("".join(every.splitlines(keepends=True)[:lines]))
            for stage in STAGES:
                seconds, _ = run(folder, stage)
                print(f"| {num_scenes + (lines is None)}, {label} | {stage} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
