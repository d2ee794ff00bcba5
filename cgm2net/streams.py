"""Rasters that stay on disk: read and written window by window, so that memory does not grow with the image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from cgm2net.errors import RasterError
from cgm2net.grids import part_of
from cgm2net.raster import BLOCK_PX, Raster, band_names, valid_mask

_CACHE_BYTES = 16 << 20


@contextmanager
def small_cache() -> Iterator[None]:
    """Let GDAL keep few decoded blocks in here; else it takes a share of the machine's memory."""
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES):
        yield


class RasterFile:
    """A file as :class:`cgm2net.raster.Source`, open until it is closed; serves one thread at a time.

    Raises:
        RasterError: if it cannot be opened, has no CRS or lacks a band.
    """

    def __init__(self, path: Path, *, bands: Sequence[str] | None = None) -> None:
        """Open ``path`` for these bands, in this order; all where none are given."""
        self.path = path
        try:
            self.dataset = rasterio.open(path)
        except RasterioIOError as error:
            raise RasterError(f"{path}: cannot be read as a raster: {error}") from error
        names = band_names(self.dataset)
        self.bands = tuple(bands) if bands is not None else names
        missing = [name for name in self.bands if name not in names]
        if missing or self.dataset.crs is None:
            self.dataset.close()
            if missing:
                raise RasterError(f"{path}: has bands {', '.join(names)}, lacks {', '.join(missing)}")
            raise RasterError(f"{path}: has no coordinate reference system; write one into the file")
        self.indexes = [names.index(name) + 1 for name in self.bands]
        self.grid = GeoBox((self.dataset.height, self.dataset.width), self.dataset.transform, self.dataset.crs)
        self.dtype = np.dtype(self.dataset.dtypes[self.indexes[0] - 1])
        self.nodata: float | None = None if self.dataset.nodata is None else float(self.dataset.nodata)

    def part(self, window: Window) -> Raster:
        """Return what lies in a window, which must not reach beyond.

        Raises:
            RasterError: if the file cannot be read there.
        """
        try:
            pixels = self.dataset.read(self.indexes, window=window)
        except RasterioIOError as error:
            raise RasterError(f"{self.path}: cannot be read as a raster: {error.__cause__ or error}") from error
        return Raster(
            pixels_CHW=pixels, valid_HW=valid_mask(pixels, self.dataset.nodata), bands=self.bands,
            grid=part_of(self.grid, window),
        )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()

    def __enter__(self) -> "RasterFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RasterWriter:
    """A compressed, tiled GeoTIFF with band names that is written window by window; a context manager.

    Windows written in the same order give the same bytes. In order of rows, whole blocks of
    :data:`cgm2net.raster.BLOCK_PX` at a time, no block is compressed twice.
    """

    def __init__(
        self, path: Path, *, grid: GeoBox, bands: Sequence[str], dtype: np.dtype | str, nodata: float | None
    ) -> None:
        """Make ``path``, which must not be there; what is never written holds ``nodata``, or 0 where there is none."""
        self.dtype, self.nodata = np.dtype(dtype), nodata
        height, width = grid.shape
        self._file = rasterio.open(
            path, "w", driver="GTiff", count=len(bands), height=height, width=width, dtype=self.dtype.name,
            crs=str(grid.crs), transform=grid.transform, nodata=nodata, compress="deflate", zlevel=6, tiled=True,
            predictor=3 if self.dtype.kind == "f" else 2, blockxsize=BLOCK_PX, blockysize=BLOCK_PX,
            BIGTIFF="IF_SAFER",
        )  # fmt: skip
        self._file.descriptions = tuple(bands)

    def write(self, part: Raster, window: Window) -> None:
        """Write a part; its invalid pixels become nodata in every band."""
        pixels = part.pixels_CHW
        if self.nodata is not None and not part.valid_HW.all():
            pixels = np.where(part.valid_HW, pixels, np.asarray(self.nodata, self.dtype))
        self._file.write(pixels, window=window)

    def __enter__(self) -> "RasterWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
