"""Bands of a scene in files that stay on disk: read in parts, as DN, dB or codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.stored import Border, require_codes, to_codes, to_dn, without_border
from cgm2net.errors import RasterError
from cgm2net.grids import part_of
from cgm2net.raster import Raster

Role = Literal["optical", "sar", "cloud"]

_LOOK_PX = 512
_LAST_CLASS = 11  # of a Sentinel-2 scene classification
_STRIP_PX = 1 << 20  # of an image that is looked through from top to bottom


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """One band of a scene in a file."""

    name: str
    "Band name of :mod:`cgm2net.sensors`."
    path: str
    "Of a file, or whatever GDAL reads."
    index: int
    "Of the band in the file, from 1."
    scale: float = 1.0
    "Stored value x scale + offset is DN, or dB."
    offset: float = 0.0
    linear: bool = False
    "SAR in linear power, converted to dB; values of 0 and below are no measurement."


class FileBands:
    """Bands on one grid, a :class:`cgm2net.raster.Source`; holds the files open and serves one thread at a time."""

    def __init__(self, role: Role, files: Sequence[BandFile], datasets: Mapping[str, rasterio.DatasetReader]) -> None:
        """Take bands of open files that share their grid.

        Args:
            role: what the values become: ``optical`` uint16 DN, ``sar`` float32 dB, ``cloud`` codes or shares.
            files: one a band.
            datasets: the open files by path.
        """
        self.role = role
        by_file: dict[str, list[BandFile]] = {}
        for file in files:
            by_file.setdefault(file.path, []).append(file)
        self.files = tuple(file for group in by_file.values() for file in group)
        self.bands = tuple(file.name for file in self.files)
        self.grid = grid_of(datasets[files[0].path])
        self._datasets = [(datasets[path], [file.index for file in group]) for path, group in by_file.items()]
        self._decode: Callable[[Raster, Window], Raster] = {
            "optical": self._as_dn, "sar": self._as_decibel, "cloud": self._as_codes,
        }[role]  # fmt: skip
        self.classified = role == "cloud" and is_classified(datasets[files[0].path])
        "Whether a mask is a scene classification."
        self._require_usable(datasets)
        self._border: Border | None = None
        if role == "sar":
            self._border = self._find_border()
        self.dtype = self.part(Window(0, 0, 1, 1)).dtype

    def _require_usable(self, datasets: Mapping[str, rasterio.DatasetReader]) -> None:
        for file in self.files:
            dataset = datasets[file.path]
            if not 1 <= file.index <= dataset.count:
                raise RasterError(
                    f"{file.path}: has {dataset.count} bands, band {file.index} was asked for {file.name}"
                )
            if np.dtype(dataset.dtypes[file.index - 1]).kind not in "uif":
                raise RasterError(f"{file.path}: holds {dataset.dtypes[file.index - 1]} values, wanted real numbers")
            if self.role == "cloud":  # in a classification 0 is no class but no data
                nodata = None if self.classified else dataset.nodata
                require_codes("cloud", num_bands=dataset.count, nodata=nodata, path=file.path)

    def part(self, window: Window) -> Raster:
        """Return what lies in a window, which must not reach beyond.

        Raises:
            RasterError: if a file cannot be read there.
        """
        return self._decode(self._stored(window), window)

    def _stored(self, window: Window) -> Raster:
        """Return stored values; a pixel is invalid where no band holds data, or one is not finite."""
        pixels, gaps = [], []
        for dataset, indexes in self._datasets:
            try:  # all bands of a file in one go: bands often lie interleaved
                part_CHW = dataset.read(indexes, window=window)
            except RasterioIOError as error:
                raise RasterError(f"{dataset.name}: cannot be read as a raster: {error.__cause__ or error}") from error
            pixels.append(part_CHW)
            gaps.append(self._gap(part_CHW, dataset.nodata))
        pixels_CHW = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        valid = np.isfinite(pixels_CHW).all(axis=0) & ~np.all(gaps, axis=0)
        return Raster(pixels_CHW=pixels_CHW, valid_HW=valid, bands=self.bands, grid=part_of(self.grid, window))

    def _gap(self, part_CHW: np.ndarray, nodata: float | None) -> np.ndarray:
        """Return where all bands hold nodata, bool (H, W); optical images hold 0 there whatever they declare."""
        gap = np.zeros(part_CHW.shape[1:], bool) if nodata is None else (part_CHW == nodata).all(axis=0)
        return gap | (part_CHW == sensors.OPTICAL_NODATA).all(axis=0) if self.role == "optical" else gap

    def _as_dn(self, image: Raster, _window: Window) -> Raster:
        return to_dn(self._scaled(image))

    def _as_codes(self, image: Raster, _window: Window) -> Raster:
        return to_codes(image, what=f"{self.files[0].path}: cloud")

    def _as_decibel(self, image: Raster, window: Window) -> Raster:
        sar = self._without_power(image)
        height, width = sar.grid.shape
        border = np.zeros((height, width), bool) if self._border is None else self._border.mask(window)
        return without_border(sar, border)

    def _without_power(self, image: Raster) -> Raster:
        """Return float32 dB, the bands in linear power converted."""
        sar = self._scaled(image)
        pixels, valid = sar.pixels_CHW.astype(np.float32), sar.valid_HW
        for number, file in enumerate(self.files):
            if file.linear:
                positive = pixels[number] > 0
                valid = valid & positive
                pixels[number] = 10 * np.log10(np.where(positive, pixels[number], 1))
        return replace(sar, pixels_CHW=pixels, valid_HW=valid)

    def _scaled(self, image: Raster) -> Raster:
        scale, offset = (
            np.array([getattr(file, name) for file in self.files])[:, None, None] for name in ("scale", "offset")
        )
        if (scale == 1).all() and (offset == 0).all():
            return image
        return replace(image, pixels_CHW=(image.pixels_CHW * scale + offset).astype(np.float32))

    def _find_border(self) -> Border | None:
        """Look through the image once for a border of 0 dB, if its edge has any."""
        height, width = self.grid.shape
        edges = (
            Window(0, 0, width, 1), Window(0, height - 1, width, 1),
            Window(0, 0, 1, height), Window(width - 1, 0, 1, height),
        )  # fmt: skip
        if not any((self._without_power(self._stored(edge)).pixels_CHW == 0).all(axis=0).any() for edge in edges):
            return None
        border = Border(height=height, width=width)
        rows = max(1, _STRIP_PX // width)
        for row in range(0, height, rows):
            strip = Window(0, row, width, min(rows, height - row))
            border.add(self._without_power(self._stored(strip)).pixels_CHW)
        return border


def is_classified(mask: rasterio.DatasetReader) -> bool:
    """Say whether an open mask is a Sentinel-2 scene classification.

    Every n-th pixel is looked at: whole numbers up to 11, and not 0 and 1 alone, are classes.
    """
    if np.dtype(mask.dtypes[0]).kind not in "ui":
        return False
    codes = mask.read(1, out_shape=(min(mask.height, _LOOK_PX), min(mask.width, _LOOK_PX)))
    known = codes[codes != sensors.LABEL_IGNORE]
    return bool(known.size) and 1 < int(known.max()) <= _LAST_CLASS


def grid_of(dataset: rasterio.DatasetReader) -> GeoBox:
    """Return an open file's grid.

    Raises:
        RasterError: if it has no CRS.
    """
    if dataset.crs is None:
        raise RasterError(f"{dataset.name}: has no coordinate reference system; write one into the file")
    return GeoBox((dataset.height, dataset.width), dataset.transform, dataset.crs)
