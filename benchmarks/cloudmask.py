"""Cloud methods: how fast, how much memory, and how far they agree with references.

``python benchmarks/cloudmask.py FOLDER``: real scenes with delivered masks (``FOLDER/sen12mscr/catalog.csv``; those
masks are s2cloudless's own, so only that method can reach 100 %) and a tile with a reference of five classes
(``FOLDER/csmask/sentinel2.npz`` of ukis-csmask). Seconds are those of one core at work: other processes count little.
``--size PX`` measures instead the peak memory of the stage's work on one scene of that side, each method in a process
of its own.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.catalog import read_catalog
from cgm2net.compute import SceneJob
from cgm2net.data.cloud_methods import COVER_THRESHOLD, find_cloud, version_of
from cgm2net.data.cloudmask import mask_scene
from cgm2net.data.synthetic import SceneSpec, render
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, part_of, whole
from cgm2net.raster import Raster
from cgm2net.streams import RasterWriter

METHODS = ("simple", "s2cloudless", "csmask")
NPZ_BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
NPZ_CLASSES = ("shadow", "water", "snow", "land", "cloud")
EXTRA_DN = {"B01": 1300, "B05": 2400, "B8A": 4800, "B09": 1500, "B10": 20}


def timed(method: str, optical: Raster) -> tuple[np.ndarray, float]:
    find_cloud(method, optical.part(Window(0, 0, 16, 16)), None, dilation_px=0)  # loads weights
    start = time.process_time()
    found = find_cloud(method, optical, None, dilation_px=0) > COVER_THRESHOLD
    return found, time.process_time() - start


def against_delivered(folder: Path) -> None:
    rows = [row for row in read_catalog(folder / "sen12mscr/catalog.csv").to_dict("records") if row["cloud"]]
    print(f"{len(rows)} real scenes with delivered masks\n\n| method | version | Mpx/s | equal pixels | cloud IoU |")
    print("|---|---|---|---|---|")
    for method in METHODS:
        equal = both = either = pixels = 0
        seconds = 0.0
        for row in rows:
            found, took = timed(method, raster.read(Path(row["optical"])))
            wanted = raster.read(Path(row["cloud"])).pixels_CHW[0] > 0
            equal, pixels, seconds = equal + int((found == wanted).sum()), pixels + found.size, seconds + took
            both, either = both + int((found & wanted).sum()), either + int((found | wanted).sum())
        speed = f"{pixels / seconds / 1e6:.2f}"
        print(f"| {method} | {version_of(method)} | {speed} | {equal / pixels:.2%} | {both / either:.1%} |")


def against_classes(folder: Path) -> None:
    with np.load(folder / "csmask/sentinel2.npz") as file:
        reflectance_CHW, class_HW = np.moveaxis(file["img"], -1, 0), file["msk"][..., 0]
    shape = class_HW.shape
    optical = Raster(
        pixels_CHW=np.rint(reflectance_CHW * 10_000).astype(np.uint16), valid_HW=np.ones(shape, bool), bands=NPZ_BANDS,
        grid=GeoBox(shape, Affine(10, 0, 0, 0, -10, 0), "EPSG:32631"),
    )  # fmt: skip
    present = [code for code in range(len(NPZ_CLASSES)) if (class_HW == code).any()]
    heads = [f"{NPZ_CLASSES[code]} ({(class_HW == code).mean():.1%})" for code in present]
    hidden_HW = np.isin(class_HW, (0, 4))
    print("\nShare of each reference class that is masked as cloud or shadow\n")
    print(f"| method | Mpx/s | {' | '.join(heads)} | equal pixels |\n|---{'|---' * (len(present) + 2)}|")
    for method in METHODS:
        try:
            found, took = timed(method, optical)
        except RasterError as error:
            print(f"| {method} | cannot run: {str(error).split(': name')[0]} |{' |' * (len(present) + 1)}")
            continue
        shares = [f"{found[class_HW == code].mean():.1%}" for code in present]
        equal = f"{(found == hidden_HW).mean():.1%}"
        print(f"| {method} | {found.size / took / 1e6:.2f} | {' | '.join(shares)} | {equal} |")


def write_scene(folder: Path, size_px: int) -> dict[str, Path]:
    """Write one rendered scene, repeated, as optical.tif of six bands and extra.tif of five."""
    drawn = render(SceneSpec(region=0, date=date(2024, 6, 1), size_px=512, cover=0.4, seed=0))["optical"]
    grid = GeoBox((size_px, size_px), drawn.grid.transform, drawn.grid.crs)
    paths = {role: folder / f"{role}.tif" for role in ("optical", "extra")}
    flat_CHW = np.broadcast_to(np.array(list(EXTRA_DN.values()), np.uint16)[:, None, None], (5, 512, 512))
    parts = {"optical": (drawn.pixels_CHW, drawn.bands), "extra": (flat_CHW, tuple(EXTRA_DN))}
    for role, (pixels_CHW, bands) in parts.items():
        with RasterWriter(paths[role], grid=grid, bands=bands, dtype="uint16", nodata=0) as file:
            for block in blocks_in(grid, whole(grid)):
                part_CHW = pixels_CHW[:, : block.height, : block.width]
                valid_HW = np.ones((block.height, block.width), bool)
                part = Raster(pixels_CHW=part_CHW, valid_HW=valid_HW, bands=bands, grid=part_of(grid, block))
                file.write(part, block)
    return paths


def mask_once(method: str, files: dict[str, Path], folder: Path) -> tuple[float, float]:
    """Return seconds, and MiB at most of the process that this runs in."""
    parameters = {"method": method, "version": version_of(method), "dilation_px": 0, "product_level": "l1c"}
    start = time.process_time()
    mask_scene(SceneJob(scene_id="s", parameters=parameters, inputs=files), folder)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(size_px: int, methods: list[str]) -> None:
    print(
        f"One scene of {size_px} x {size_px} px, 6 + 5 bands\n\n"
        "| method | s of a core | Mpx/s | peak MiB |\n|---|---|---|---|"
    )
    for method in methods:
        with tempfile.TemporaryDirectory() as aside:
            files = write_scene(Path(aside), size_px)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, mib = pool.apply(mask_once, (method, files, Path(aside)))
        print(f"| {method} | {seconds:.0f} | {size_px**2 / seconds / 1e6:.2f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    if options.folder:
        against_delivered(options.folder)
        against_classes(options.folder)
    if options.size:
        memory(options.size, options.methods)
