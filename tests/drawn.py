"""Small scenes drawn from noise, in files, and the card of a model that would take them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from cgm2net import raster
from cgm2net.data.stored import Border, without_border
from cgm2net.grids import whole
from cgm2net.model.calibration import Calibration
from cgm2net.model.network import NetworkConfig
from cgm2net.raster import Raster
from cgm2net.weights import Card

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
UTM = "EPSG:32632"
HEIGHT, WIDTH = 530, 610  # a little more than a block either way
CARD = Card(
    config=NetworkConfig(num_optical_bands=6, num_sar_bands=2, num_classes=2), optical_bands=BANDS,
    sar_bands=("VV", "VH"), classes=("a", "b"), gsd_m=10.0, data_hash="0", seed=0, steps=1, num_parameters=1,
    library_version="0", calibration=Calibration(interval_clear=(1.0,) * 6, interval_cloudy=(1.0,) * 6),
)  # fmt: skip


def box(height: int = HEIGHT, width: int = WIDTH, *, x: float = 0.0, y: float = 0.0, gsd: float = 10.0) -> GeoBox:
    """Return a grid whose corner lies so many metres right of and below the optical image's."""
    return GeoBox((height, width), Affine(gsd, 0, 500_000 + x, 0, -gsd, 5_400_000 - y), UTM)


def write(
    path: Path, pixels_CHW: np.ndarray, names: Sequence[str], grid: GeoBox, *, nodata: float | None = None
) -> Path:
    profile = {
        "driver": "GTiff", "count": len(pixels_CHW), "height": grid.shape[0], "width": grid.shape[1],
        "dtype": pixels_CHW.dtype.name, "crs": str(grid.crs), "transform": grid.transform, "nodata": nodata,
        "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels_CHW)
        file.descriptions = tuple(names)
    return path


def land(grid: GeoBox, bands: int = 6) -> np.ndarray:
    """Return DN of fields, some of them dark, with a wedge of nodata in a corner."""
    height, width = grid.shape
    rng = np.random.default_rng(0)
    level = np.array([400, 700, 500, 3000, 1800, 900])[:bands, None, None]
    fields = rng.uniform(0.3, 1.5, (1 + height // 40, 1 + width // 40)).repeat(40, axis=0).repeat(40, axis=1)
    pixels = level * fields[:height, :width] * rng.uniform(0.9, 1.1, (bands, height, width))
    pixels[:, np.add.outer(np.arange(height), np.arange(width)) < height / 6] = 0
    return pixels.astype(np.uint16)


def echo(grid: GeoBox) -> np.ndarray:
    """Return speckled dB with a wedge of NaN."""
    height, width = grid.shape
    pixels = np.random.default_rng(1).normal([[[-10]], [[-16]]], 3, (2, height, width)).astype(np.float32)
    pixels[:, np.add.outer(np.arange(height), 2 * np.arange(width)) > 2.8 * height] = np.nan
    return pixels


def read_sar(path: Path) -> Raster:
    """Return VV and VH of a whole file as float32 dB, its border of zeros invalid."""
    source = raster.read(path, bands=("VV", "VH"))
    pixels = source.pixels_CHW.astype(np.float32)
    border = Border(height=pixels.shape[1], width=pixels.shape[2])
    border.add(pixels)
    return without_border(replace(source, pixels_CHW=pixels), border.mask(whole(source.grid)))
