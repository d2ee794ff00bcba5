"""What co-registration gets right: error, refusals and wrong moves over known shifts.

``python benchmarks/coregistration.py [FOLDER]``: synthetic scenes, and the real scenes of ``FOLDER/catalog.csv`` with
their SAR shifted by known amounts. Real scenes have a small unknown shift of their own: errors there are counted from
what is measured without a shift. "Other place" pairs optics with the SAR image of another scene: all must be refused.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.enums import Resampling

from cgm2net import raster
from cgm2net.catalog import read_catalog
from cgm2net.data.coregister import clear_ground
from cgm2net.data.shift import Shift, measure_shift
from cgm2net.data.synthetic import SceneSpec, render
from cgm2net.raster import Raster
from cgm2net.settings import CoregisterSettings

WRONG_PX = 1.5
SETTINGS = CoregisterSettings()


class Case(NamedTuple):
    """One measurement and its truth; NaN where no answer is right."""

    kind: str
    truth: tuple[float, float]
    found: Shift
    seconds: float
    pixels: int


def measure(kind: str, truth: tuple[float, float], optical: Raster, sar: Raster, usable_HW: np.ndarray) -> Case:
    start = time.perf_counter()
    names = ("window_px", "max_shift_px", "min_shift_px", "min_agreement", "max_rmse_px")
    limits = {name: getattr(SETTINGS, name) for name in names}
    found = measure_shift(optical.pixels_CHW, sar.pixels_CHW, usable_HW=usable_HW, **limits)
    return Case(kind, truth, found, time.perf_counter() - start, usable_HW.size)


def synthetic(num_scenes: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for k in range(num_scenes):
        shift = (round(float(rng.uniform(-4, 4)), 2), round(float(rng.uniform(-4, 4)), 2))
        spec = SceneSpec(region=k, date=date(2024, 3 + k % 8, 15), cover=float(rng.uniform(0.1, 0.9)), shift=shift)
        made = render(spec)
        sar = raster.warp(made["sar"], made["optical"].grid, resampling=Resampling.bilinear, fill=float("nan"))
        yield measure("synthetic, clear reference", shift, made["reference"], sar, made["reference"].valid_HW)
        yield measure(
            "synthetic, cloudy optics", shift, made["optical"], sar, clear_ground(made["optical"], made["cloud"])
        )


def moved_by(sar: Raster, dx: float, dy: float) -> Raster:
    grid = sar.grid.translate_pix(-dx, -dy)
    return replace(raster.warp(sar, grid, resampling=Resampling.bilinear, fill=float("nan")), grid=sar.grid)


def real(folder: Path, num_shifts: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    rows = read_catalog(folder / "catalog.csv").to_dict("records")
    sars = [raster.read(Path(row["sar"]), bands=SETTINGS.sar_bands) for row in rows]
    for k, (row, sar) in enumerate(zip(rows, sars, strict=True)):
        clear = raster.read(Path(row["reference"]), bands=SETTINGS.optical_bands)
        own = measure("real, as delivered", (0.0, 0.0), clear, sar, clear.valid_HW)
        yield own
        for dx, dy in rng.uniform(-SETTINGS.max_shift_px, SETTINGS.max_shift_px, (num_shifts, 2)):
            truth = (dx + own.found.dx_px, dy + own.found.dy_px)
            shifted = moved_by(sar, dx, dy)
            yield measure("real, clear reference", truth, clear, shifted, clear.valid_HW)
            if row["cloud"]:
                optical = raster.read(Path(row["optical"]), bands=SETTINGS.optical_bands)
                usable_HW = clear_ground(optical, raster.read(Path(row["cloud"])))
                yield measure("real, cloudy optics", truth, optical, shifted, usable_HW)
                yield measure("real, reference under the mask", truth, clear, shifted, usable_HW)
        for other in sars[:k] + sars[k + 1 :]:
            yield measure("real, SAR of another place", (np.nan, np.nan), clear, other, clear.valid_HW)


def report(cases: list[Case]) -> None:
    print(f"{'':34}{'pairs':>6}{'moved':>7}{'aligned':>8}{'unsure':>7}{'median':>8}{'p95':>7}{'wrong':>6}{'Mpx/s':>7}")
    for kind in dict.fromkeys(case.kind for case in cases):
        mine = [case for case in cases if case.kind == kind]
        sure = [case for case in mine if case.found.status != "unsure"]
        error = np.array([np.hypot(c.found.dx_px - c.truth[0], c.found.dy_px - c.truth[1]) for c in sure])
        wrong = sum(not e <= WRONG_PX for c, e in zip(sure, error, strict=True) if c.found.status == "moved")
        median, high = np.percentile(error, [50, 95]) if sure else (np.nan, np.nan)
        counts = [sum(c.found.status == status for c in mine) for status in ("moved", "aligned", "unsure")]
        speed = sum(c.pixels for c in mine) / sum(c.seconds for c in mine) / 1e6
        print(
            f"{kind:34}{len(mine):6}{counts[0]:7}{counts[1]:8}{counts[2]:7}{median:8.2f}{high:7.2f}{wrong:6}{speed:7.1f}"
        )


if __name__ == "__main__":
    found = list(synthetic(24))
    if len(sys.argv) > 1:
        found += real(Path(sys.argv[1]), 4)
    report(found)
