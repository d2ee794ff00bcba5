"""Time and peak memory of a whole scene against its size: ``python benchmarks/predict.py [--sizes 2048 10240]``.

Scenes are mirrored copies of one synthetic scene of 2048 px; each size is predicted by the real command in a process of
its own, whose peak resident memory the system reports.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from cgm2net.data import synthetic
from cgm2net.raster import Raster
from cgm2net.sensors import OPTICAL_NODATA, SAR_NODATA

TILE_PX = 2048
NODATA = {"optical": OPTICAL_NODATA, "sar": SAR_NODATA}


def write_mirrored(path: Path, image: Raster, size_px: int, *, nodata: float) -> None:
    """Fill a square with an image and its mirror images, a tile at a time."""
    profile = {
        "driver": "GTiff", "count": len(image.bands), "height": size_px, "width": size_px, "nodata": nodata,
        "dtype": image.pixels_CHW.dtype.name, "crs": str(image.grid.crs), "transform": image.grid.transform,
        "compress": "deflate", "zlevel": 1, "tiled": True, "blockxsize": 512, "blockysize": 512, "bigtiff": "if_safer",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = image.bands
        for row in range(0, size_px, TILE_PX):
            for column in range(0, size_px, TILE_PX):
                flip = (slice(None), slice(None, None, 1 - 2 * (row // TILE_PX % 2)),
                        slice(None, None, 1 - 2 * (column // TILE_PX % 2)))  # fmt: skip
                part = image.pixels_CHW[:, :TILE_PX, :TILE_PX][flip][:, : size_px - row, : size_px - column]
                file.write(np.ascontiguousarray(part), window=Window(column, row, part.shape[2], part.shape[1]))


def write_scene(folder: Path, size_px: int) -> None:
    """Write ``optical.tif`` and ``sar.tif`` of a scene."""
    spec = synthetic.SceneSpec(region=9, date=date(2024, 7, 1), size_px=TILE_PX, cover=0.4, shift=(1.0, -2.0))
    images = synthetic.render(spec)
    for role, nodata in NODATA.items():
        write_mirrored(folder / f"{role}.tif", images[role], size_px, nodata=nodata)


def measure(folder: Path, size_px: int, model: str) -> dict[str, float]:
    """Predict one scene; return seconds, peak MiB and what the command says it waited for."""
    command = [
        sys.executable, "-m", "cgm2net", "predict", "--optical", str(folder / "optical.tif"), "--sar",
        str(folder / "sar.tif"), "--model", model, "--out", str(folder / "out"), "--scene-id", f"s{size_px}",
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        sys.exit(f"predict failed on {size_px} px")
    print(said.strip())
    parts = {name: float(value) for name, value in re.findall(r"(prepare|read|network|write|finish) ([\d.]+)", said)}
    return {"seconds": seconds, "peak": usage.ru_maxrss / 1024, **parts}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 10240])
    parser.add_argument("--model", default="artifacts/train")
    chosen = parser.parse_args()
    print("| size, px | s | us/px | peak MiB | prepare, s | waited to read, s | network, s | write, s | finish, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size_px in chosen.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # Apart: into a process's peak the system counts what the one that starts it holds, or ever held.
            writer = multiprocessing.get_context("spawn").Process(target=write_scene, args=(folder, size_px))
            writer.start()
            writer.join()
            if writer.exitcode:
                sys.exit(f"no scene of {size_px} px could be written")
            m = measure(folder, size_px, chosen.model)
        parts = " | ".join(f"{m[name]:.1f}" for name in ("prepare", "read", "network", "write", "finish"))
        micro = 1e6 * m["seconds"] / size_px**2
        print(f"| {size_px} | {m['seconds']:.0f} | {micro:.2f} | {m['peak']:.0f} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
