"""One scene's rasters brought onto its optical grid block by block, SAR and reference moved to where they belong."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.bands import BandFile, FileBands, is_classified
from cgm2net.data.clear import ClearGround
from cgm2net.data.pair import UsableShares
from cgm2net.data.shift import Shift, measure_in_windows
from cgm2net.data.stored import Placed, require_codes, to_codes
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, coarser, whole
from cgm2net.raster import Raster, Source
from cgm2net.settings import CoregisterSettings
from cgm2net.streams import RasterFile, RasterWriter, small_cache

_KEPT_BLOCKS = 8  # of 512 px, resampled: windows that are measured overlap


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """What was measured of a scene."""

    sar: Shift
    "Against the reference where there is one, else against the clear part of the optical image."
    reference: Shift | None
    "Against the clear part of the optical image; None without a reference."


def align(files: dict[str, Path], folder: Path, settings: CoregisterSettings) -> Shifts:
    """Write a scene's files on its optical grid; labels on a coarser one where settings say so.

    Args:
        files: by role.
        folder: gets ``ROLE.tif``, and ``extra.tif`` with the bands that the cloud mask alone needs.
        settings: bands, and when a shift is believed.

    Raises:
        RasterError: if a file cannot be read, lacks a band, or cannot be projected.
    """
    with ExitStack() as stack, small_cache():
        optical = stack.enter_context(RasterFile(files["optical"], bands=settings.optical_bands))
        _write(optical, folder / "optical.tif", nodata=sensors.OPTICAL_NODATA)
        if settings.extra_optical_bands:
            extra = stack.enter_context(RasterFile(files["optical"], bands=settings.extra_optical_bands))
            _write(extra, folder / "extra.tif", nodata=sensors.OPTICAL_NODATA)
        _write_codes(files, optical, folder, settings)
        delivered = stack.enter_context(RasterFile(folder / "cloud.tif")) if "cloud" in files else None
        clear = ClearGround(optical, delivered)
        ground, reference_shift = optical, None
        usable: Callable[[Window], np.ndarray] = clear
        if "reference" in files:
            source = stack.enter_context(RasterFile(files["reference"], bands=settings.optical_bands))
            reference_shift = _place_reference(source, optical, clear, folder, settings)
            ground = stack.enter_context(RasterFile(folder / "reference.tif"))
            usable = _valid_in(ground)
        sar = _open_sar(files["sar"], settings.sar_bands, stack)
        in_place = Placed(sar, optical.grid, fill=sensors.SAR_NODATA, num_kept=_KEPT_BLOCKS)
        shift = _measure(_Pair(ground, in_place, usable), settings)
        moved = Placed(sar, optical.grid, fill=sensors.SAR_NODATA, to_content=shift.to_content)
        _write(moved, folder / "sar.tif", nodata=sensors.SAR_NODATA)
    return Shifts(sar=shift, reference=reference_shift)


def _write_codes(files: dict[str, Path], optical: RasterFile, folder: Path, settings: CoregisterSettings) -> None:
    label_grid = optical.grid
    if settings.label_gsd_m is not None:
        label_grid = coarser(optical.grid, gsd_m=settings.label_gsd_m)
    for role, grid in {"label": label_grid, "cloud": optical.grid}.items():
        if role in files:
            with _Codes(role, files[role]) as codes:
                fill = float("nan") if codes.dtype.kind == "f" else sensors.LABEL_IGNORE
                # nearest: a delivered mask may hold classes
                placed = Placed(codes, grid, fill=fill, resampling=Resampling.nearest)
                _write(placed, folder / f"{role}.tif", nodata=fill)


def _place_reference(
    source: RasterFile, optical: RasterFile, clear: ClearGround, folder: Path, settings: CoregisterSettings
) -> Shift:
    """Write the reference where the optical image has what it shows; return where it lay."""
    fill = float("nan") if source.dtype.kind == "f" else sensors.OPTICAL_NODATA
    in_place = Placed(source, optical.grid, fill=fill, num_kept=_KEPT_BLOCKS)
    shift = _measure(_Pair(optical, in_place, clear), settings)
    moved = Placed(source, optical.grid, fill=fill, to_content=shift.to_content)
    _write(moved, folder / "reference.tif", nodata=fill)
    return shift


def _write(source: Source, path: Path, *, nodata: float) -> None:
    with RasterWriter(path, grid=source.grid, bands=source.bands, dtype=source.dtype, nodata=nodata) as file:
        for block in blocks_in(source.grid, whole(source.grid)):
            file.write(source.part(block), block)


def _measure(pair: "_Pair", settings: CoregisterSettings) -> Shift:
    shares = UsableShares(pair.shape, window_px=settings.window_px)
    for block in blocks_in(pair.placed.grid, whole(pair.placed.grid)):
        usable_HW = pair.usable(block)
        if usable_HW.any():
            usable_HW = usable_HW & np.isfinite(pair.sar(block)).all(axis=0)
        shares.add(usable_HW, row=block.row_off, col=block.col_off)
    return measure_in_windows(pair, shares.places(), settings=settings)


class _Pair(NamedTuple):
    """An optical image and what is to be moved onto it, as :class:`cgm2net.data.pair.ImagePair`."""

    ground: Source
    placed: Source
    clear: Callable[[Window], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.placed.grid.shape
        return height, width

    def optical(self, window: Window) -> np.ndarray:
        return self.ground.part(window).pixels_CHW

    def sar(self, window: Window) -> np.ndarray:
        part = self.placed.part(window)
        return np.where(part.valid_HW, part.pixels_CHW.astype(np.float32), np.float32(np.nan))

    def usable(self, window: Window) -> np.ndarray:
        return self.clear(window)


def _valid_in(image: Source) -> Callable[[Window], np.ndarray]:
    """Return what finds the clear ground of an image without clouds."""
    return lambda window: image.part(window).valid_HW


class _Codes(RasterFile):
    """A label or a mask: uint8 codes, or shares as stored."""

    def __init__(self, role: str, path: Path) -> None:
        super().__init__(path)
        self._role = role
        try:
            # In a scene classification 0 is no class but no data.
            nodata = None if role == "cloud" and is_classified(self.dataset) else self.nodata
            require_codes(role, num_bands=len(self.bands), nodata=nodata, path=path)
        except RasterError:
            self.close()
            raise
        self.dtype = self.dtype if self.dtype.kind == "f" else np.dtype(np.uint8)

    def part(self, window: Window) -> Raster:
        return to_codes(super().part(window), what=f"{self.path}: {self._role}")


def _open_sar(path: Path, bands: Sequence[str], stack: ExitStack) -> FileBands:
    """Open SAR as float32 dB, its border of zeros invalid."""
    with RasterFile(path, bands=bands) as checked:
        files = [BandFile(name=n, path=str(path), index=i) for n, i in zip(bands, checked.indexes, strict=True)]
    return FileBands("sar", files, {str(path): stack.enter_context(rasterio.open(path))})
