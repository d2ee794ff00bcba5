"""Rasters on disk, window by window: the same values and bytes as whole ones."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.errors import RasterError
from cgm2net.grids import blocks_in, whole
from cgm2net.raster import Raster
from cgm2net.streams import RasterFile, RasterWriter

GRID = GeoBox((600, 530), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632")


@pytest.fixture
def image() -> Raster:
    """Noise with a wedge of nodata; a little more than a block either way."""
    rng = np.random.default_rng(0)
    valid = np.add.outer(np.arange(600), np.arange(530)) > 100
    pixels = np.where(valid, rng.integers(1, 10_000, (3, 600, 530)), 0).astype(np.uint16)
    return Raster(pixels_CHW=pixels, valid_HW=valid, bands=("B02", "B03", "B04"), grid=GRID)


def write(path: Path, image: Raster) -> None:
    with RasterWriter(path, grid=GRID, bands=image.bands, dtype=image.dtype, nodata=0) as file:
        for block in blocks_in(GRID, whole(GRID)):
            file.write(image.part(block), block)


def test_what_is_written_in_windows_is_read_as_a_whole(tmp_path: Path, image: Raster) -> None:
    write(tmp_path / "a.tif", image)
    back = raster.read(tmp_path / "a.tif")
    assert np.array_equal(back.pixels_CHW, image.pixels_CHW)
    assert np.array_equal(back.valid_HW, image.valid_HW)
    assert (back.bands, back.grid) == (image.bands, GRID)
    write(tmp_path / "b.tif", image)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_windows_hold_what_the_whole_holds_there(tmp_path: Path, image: Raster) -> None:
    raster.write(tmp_path / "a.tif", image, nodata=0)
    with RasterFile(tmp_path / "a.tif", bands=("B04", "B02")) as file:
        assert (file.bands, file.grid, file.dtype, file.nodata) == (("B04", "B02"), GRID, np.uint16, 0.0)
        part = file.part(Window(500, 20, 30, 90))
    assert np.array_equal(part.pixels_CHW, image.pixels_CHW[[2, 0], 20:110, 500:530])
    assert np.array_equal(part.valid_HW, image.valid_HW[20:110, 500:530])
    assert part.grid == GRID[20:110, 500:530]


def test_files_that_cannot_be_used_are_refused(tmp_path: Path, image: Raster) -> None:
    raster.write(tmp_path / "a.tif", image, nodata=0)
    with pytest.raises(RasterError, match=r"a\.tif: has bands B02, B03, B04, lacks B08"):
        RasterFile(tmp_path / "a.tif", bands=("B02", "B08"))
    with pytest.raises(RasterError, match="cannot be read as a raster"):
        RasterFile(tmp_path / "b.tif")
    with rasterio.open(tmp_path / "d.tif", "w", count=1, height=4, width=4, dtype="uint8", transform=GRID.transform):
        pass
    with pytest.raises(RasterError, match="no coordinate reference system"):
        RasterFile(tmp_path / "d.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    (tmp_path / "c.tif").write_bytes(content)
    with RasterFile(tmp_path / "c.tif") as file, pytest.raises(RasterError, match=r"c\.tif: cannot be read"):
        file.part(whole(file.grid))
