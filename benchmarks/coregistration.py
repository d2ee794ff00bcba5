"""What co-registration gets right, beside what others do with the same pairs: error, refusals, wrong moves, speed.

``python benchmarks/coregistration.py [FOLDER] [--out TABLE.md]``: synthetic scenes, and the real scenes of
``FOLDER/catalog.csv``, one of the two images shifted by known amounts. Real scenes have a small shift of their own:
errors there are counted from what is measured without one. "Other place" pairs optics with the SAR image of another
scene: no answer is right. Peers, where installed: scikit-image's phase correlation (masked) and OpenCV's ECC, both on
band means and on log gradient magnitude (the better of the two is shown as `edges`), and AROSICS for optics to optics.
"""

import argparse
import contextlib
import importlib.util
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.enums import Resampling

from cgm2net import raster
from cgm2net.catalog import read_catalog
from cgm2net.data.clear import clear_ground
from cgm2net.data.shift import _edges, measure_shift
from cgm2net.data.synthetic import SceneSpec, render
from cgm2net.raster import Raster
from cgm2net.settings import CoregisterSettings

WRONG_PX = 1.5
SETTINGS = CoregisterSettings()


class Pair(NamedTuple):
    """Two images on one grid and how far apart their contents are known to lie; NaN where no answer is right."""

    kind: str
    truth: tuple[float, float]
    ground: Raster
    moved: Raster
    usable_HW: np.ndarray


class Answer(NamedTuple):
    """Displacement [px], and whether it is given as sure."""

    dx: float
    dy: float
    status: str


def ours(pair: Pair) -> Answer:
    moved = np.where(pair.moved.valid_HW, pair.moved.pixels_CHW.astype(np.float32), np.float32(np.nan))
    found = measure_shift(pair.ground.pixels_CHW, moved, usable_HW=pair.usable_HW, settings=SETTINGS)
    return Answer(found.dx_px, found.dy_px, found.status)


def levels(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return band means, float32 (H, W), with their own mean where nothing was measured."""
    made = []
    for image, usable_HW in ((pair.ground, pair.usable_HW), (pair.moved, pair.moved.valid_HW)):
        mean_HW = image.pixels_CHW.astype(np.float32).mean(axis=0)
        made.append(np.where(usable_HW, mean_HW, mean_HW[usable_HW].mean() if usable_HW.any() else 0.0))
    return made[0].astype(np.float32), made[1].astype(np.float32)


def edges(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Return log gradient magnitude of all bands, float32 (H, W): the images that this project's method looks at."""
    made = []
    for image, usable_HW, sigma in ((pair.ground, pair.usable_HW, 1.0), (pair.moved, pair.moved.valid_HW, 1.5)):
        pixels = np.where(usable_HW, image.pixels_CHW, 0)
        padded = np.pad(pixels, [(0, 0), (3, 3), (3, 3)]).astype(np.float32)
        made.append(_edges(padded, np.pad(usable_HW, 3), sigma)[0].astype(np.float32))
    return made[0], made[1]


Look = Callable[[Pair], tuple[np.ndarray, np.ndarray]]


def phase_correlation(look: Look) -> Callable[[Pair], Answer]:
    from skimage.registration import phase_cross_correlation

    def answer(pair: Pair) -> Answer:
        first, second = look(pair)
        masks = {"reference_mask": pair.usable_HW, "moving_mask": pair.moved.valid_HW}
        shift = phase_cross_correlation(first, second, overlap_ratio=0.5, **masks)[0]
        return Answer(-float(shift[1]), -float(shift[0]), "moved")

    return answer


def ecc(look: Look) -> Callable[[Pair], Answer]:
    import cv2

    def answer(pair: Pair) -> Answer:
        first, second = look(pair)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 200, 1e-5)
        mask = pair.usable_HW.astype(np.uint8) * 255
        try:
            _, warp = cv2.findTransformECC(
                first, second, np.eye(2, 3, dtype=np.float32), cv2.MOTION_TRANSLATION, stop, mask, 5
            )
        except cv2.error:  # does not converge
            return Answer(np.nan, np.nan, "unsure")
        return Answer(float(warp[0, 2]), float(warp[1, 2]), "moved")

    return answer


def arosics(pair: Pair) -> Answer:
    from arosics import COREG
    from geoarray import GeoArray

    side = min(pair.usable_HW.shape) - 2 * int(SETTINGS.max_shift_px) - 4
    arrays = []
    for image, usable_HW in ((pair.ground, pair.usable_HW), (pair.moved, pair.moved.valid_HW)):
        band = np.where(usable_HW, image.pixels_CHW[2], 0).astype(np.float32)
        place = image.grid.transform
        wkt = image.grid.crs.to_wkt() if image.grid.crs else ""
        arrays.append(GeoArray(band, (place.c, place.a, 0, place.f, 0, place.e), wkt, nodata=0))
    masks = [~pair.usable_HW, ~pair.moved.valid_HW]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            bad = [GeoArray(m, a.gt, a.prj) for m, a in zip(masks, arrays, strict=True)]
            found = COREG(
                arrays[0],
                arrays[1],
                ws=(side, side),
                max_shift=int(SETTINGS.max_shift_px) + 4,
                progress=False,
                q=True,
                mask_baddata_ref=bad[0],
                mask_baddata_tgt=bad[1],
                ignore_errors=True,
                CPUs=1,
            )
            found.calculate_spatial_shifts()
        except (RuntimeError, ValueError, AssertionError):
            return Answer(np.nan, np.nan, "unsure")
    if not found.success:
        return Answer(np.nan, np.nan, "unsure")
    return Answer(-found.x_shift_px, -found.y_shift_px, "moved")


def methods() -> dict[str, Callable[[Pair], Answer]]:
    made: dict[str, Callable[[Pair], Answer]] = {"cgm2net": ours}
    if importlib.util.find_spec("skimage"):
        made |= {"phase correlation": phase_correlation(levels), "phase correlation, edges": phase_correlation(edges)}
    if importlib.util.find_spec("cv2"):
        made |= {"ECC": ecc(levels), "ECC, edges": ecc(edges)}
    if importlib.util.find_spec("arosics"):
        made["AROSICS"] = arosics
    return made


def moved_by(image: Raster, dx: float, dy: float) -> Raster:
    """Return an image whose content lies so many pixels right of and below its place."""
    grid = image.grid.translate_pix(-dx, -dy)
    floats = replace(image, pixels_CHW=np.where(image.valid_HW, image.pixels_CHW, np.nan).astype(np.float32))
    return replace(raster.warp(floats, grid, resampling=Resampling.bilinear, fill=float("nan")), grid=image.grid)


def synthetic(num_scenes: int) -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    for k in range(num_scenes):
        shift = (round(float(rng.uniform(-4, 4)), 2), round(float(rng.uniform(-4, 4)), 2))
        spec = SceneSpec(region=k, date=date(2024, 3 + k % 8, 15), cover=float(rng.uniform(0.0, 0.9)), shift=shift)
        made = render(spec)
        optical, clear = made["optical"], made["reference"]
        usable_HW = clear_ground(optical, made["cloud"])
        sar = raster.warp(made["sar"], optical.grid, resampling=Resampling.bilinear, fill=float("nan"))
        yield Pair("SAR to clear reference, synthetic", shift, clear, sar, clear.valid_HW)
        yield Pair("SAR to cloudy optics, synthetic", shift, optical, sar, usable_HW)
        by = tuple(rng.uniform(-4, 4, 2).tolist())
        yield Pair("reference to cloudy optics, synthetic", by, optical, moved_by(clear, *by), usable_HW)


def whole_scene(size_px: int = 2048) -> Iterator[Pair]:
    """A scene of a size that people have, for speed."""
    spec = SceneSpec(region=50, date=date(2024, 6, 15), size_px=size_px, cover=0.4, shift=(2.4, -3.1))
    made = render(spec)
    sar = raster.warp(made["sar"], made["optical"].grid, resampling=Resampling.bilinear, fill=float("nan"))
    clear = made["reference"]
    yield Pair(f"SAR to clear reference, synthetic, {size_px} px", spec.shift, clear, sar, clear.valid_HW)
    by = (1.7, 2.6)
    usable_HW = clear_ground(made["optical"], made["cloud"])
    yield Pair(
        f"reference to cloudy optics, synthetic, {size_px} px", by, made["optical"], moved_by(clear, *by), usable_HW
    )


def real(folder: Path, num_shifts: int) -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    rows = read_catalog(folder / "catalog.csv").to_dict("records")
    sars = [raster.read(Path(row["sar"]), bands=SETTINGS.sar_bands) for row in rows]
    for k, (row, sar) in enumerate(zip(rows, sars, strict=True)):
        clear = raster.read(Path(row["reference"]), bands=SETTINGS.optical_bands)
        optical = raster.read(Path(row["optical"]), bands=SETTINGS.optical_bands)
        usable_HW = clear_ground(optical, raster.read(Path(row["cloud"])) if row["cloud"] else None)
        as_it_is = Pair("SAR to clear reference, real, as delivered", (0.0, 0.0), clear, sar, clear.valid_HW)
        yield as_it_is
        own, other = ours(as_it_is), ours(Pair("", (0.0, 0.0), optical, moved_by(clear, 0, 0), usable_HW))
        for dx, dy in rng.uniform(-SETTINGS.max_shift_px, SETTINGS.max_shift_px, (num_shifts, 2)):
            truth, shifted = (dx + own.dx, dy + own.dy), moved_by(sar, dx, dy)
            yield Pair("SAR to clear reference, real", truth, clear, shifted, clear.valid_HW)
            yield Pair("SAR to cloudy optics, real", truth, optical, shifted, usable_HW)
            away = (0.0, 0.0) if other.status == "unsure" else (other.dx, other.dy)
            yield Pair(
                "reference to cloudy optics, real", (dx + away[0], dy + away[1]), optical, moved_by(clear, dx, dy),
                usable_HW,
            )  # fmt: skip
        for elsewhere in sars[:k] + sars[k + 1 :]:
            yield Pair("SAR of another place, real", (np.nan, np.nan), clear, elsewhere, clear.valid_HW)


class Tally:
    """What one method made of one kind of pair."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.statuses: list[str] = []
        self.seconds = self.pixels = 0.0

    def add(self, pair: Pair, answer: Answer, seconds: float) -> None:
        self.statuses.append(answer.status)
        self.seconds += seconds
        self.pixels += pair.usable_HW.size
        if answer.status != "unsure":
            self.errors.append(float(np.hypot(answer.dx - pair.truth[0], answer.dy - pair.truth[1])))

    def row(self) -> str:
        median, high = np.nanpercentile(self.errors, [50, 95]) if np.isfinite(self.errors).any() else (np.nan, np.nan)
        wrong = sum(not error <= WRONG_PX for error in self.errors)
        refused = self.statuses.count("unsure")
        speed = self.pixels / self.seconds / 1e6
        return f"{len(self.statuses)} | {refused} | {median:.2f} | {high:.2f} | {wrong} | {speed:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--scenes", type=int, default=24, help="synthetic ones")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    answered, tallies = methods(), {}
    pairs = [synthetic(chosen.scenes), whole_scene(), *([real(chosen.folder, 4)] if chosen.folder else [])]
    for pair in (pair for source in pairs for pair in source):
        for name, method in answered.items():
            if name == "AROSICS" and not pair.kind.startswith("reference"):
                continue
            begun = time.perf_counter()
            answer = method(pair)
            tally = tallies.setdefault((pair.kind, name), Tally())
            tally.add(pair, answer, time.perf_counter() - begun)
    lines = [
        "| pairs | method | number | refused | median error, px | 95 % | wrong | Mpx/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(kind for kind, _ in tallies):
        lines += [f"| {kind} | {name} | {tallies[kind, name].row()} |" for name in answered if (kind, name) in tallies]
    print("\n".join(lines))
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
