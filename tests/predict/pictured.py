"""What the tests of predictions share: band names, parts of rasters, products as arrays."""

from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from cgm2net import raster
from cgm2net.raster import Raster

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")


def cut(image: Raster, grid: GeoBox, top: int, left: int, height: int, width: int) -> Raster:
    """Return the part of a raster that lies in a rectangle of another grid of the same pixel size and CRS."""
    dx = round((grid.transform.c - image.grid.transform.c) / 10)
    dy = round((image.grid.transform.f - grid.transform.f) / 10)
    rows = slice(max(top + dy, 0), min(top + dy + height, image.grid.shape[0]))
    columns = slice(max(left + dx, 0), min(left + dx + width, image.grid.shape[1]))
    return Raster(
        pixels_CHW=image.pixels_CHW[:, rows, columns], valid_HW=image.valid_HW[rows, columns], bands=image.bands,
        grid=image.grid[rows, columns],
    )  # fmt: skip


def read(folder: Path, name: str) -> np.ndarray:
    """Return the stored numbers of a product."""
    return raster.read(folder / f"{name}.tif").pixels_CHW
