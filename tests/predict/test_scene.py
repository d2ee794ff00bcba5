"""Scenes opened on the model's grid: every window holds what training would have seen there, whatever the files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from drawn import BANDS, CARD, HEIGHT, WIDTH, box, echo, land, read_sar, write
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.data.stored import Placed
from cgm2net.errors import RasterError
from cgm2net.grids import whole
from cgm2net.predict.scene import BandFile, Scene, files_as_inputs, open_scene
from cgm2net.raster import Raster

SAR_GRIDS = {
    "on the same grid": box(),
    "half a pixel off": box(HEIGHT + 20, WIDTH + 20, x=-95.0, y=-105.0),
    "of 20 m": box(290, 290, x=-33.3, y=-47.1, gsd=20.0),
    "of 4 m": box(1250, 1250, x=180.0, y=90.0, gsd=4.0),
    "in another zone": box(HEIGHT + 40, WIDTH + 40, x=-200, y=-200).to_crs("EPSG:32633", resolution=10),
    "in degrees": box().to_crs("EPSG:4326"),
}


@dataclass(frozen=True)
class Case:
    """An open scene and all of it at once, as training makes it."""

    scene: Scene
    optical: Raster
    sar: Raster
    moved: Raster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write(folder / "optical.tif", land(box()), BANDS, box(), nodata=0)
    for name, grid in SAR_GRIDS.items():
        write(folder / f"sar {name}.tif", echo(grid), ("VV", "VH"), grid, nodata=float("nan"))
    return folder


@pytest.fixture(scope="module")
def cases(folder: Path) -> Iterator[dict[str, Case]]:
    made = {}
    for name in SAR_GRIDS:
        path = folder / f"sar {name}.tif"
        scene = open_scene(files_as_inputs("s", optical=folder / "optical.tif", sar=path), CARD)
        optical, sar = raster.read(folder / "optical.tif"), read_sar(path)
        placed, moved = (
            Placed(sar, optical.grid, fill=np.nan, to_content=Affine.translation(*shift)).part(whole(optical.grid))
            for shift in ((0.0, 0.0), SHIFT)
        )
        made[name] = Case(scene, optical, placed, moved)
    yield made
    for case in made.values():
        case.scene.__exit__(None, None, None)


SHIFT = (1.3, -2.7)


def around(image: Raster, window: Window, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and mask of a window that may reach beyond an image by up to 1000 px."""
    pad = [(1000, 1000)] * 2
    rows, cols = (slice(first + 1000, last + 1000) for first, last in window.toranges())
    pixels = np.pad(np.where(image.valid_HW, image.pixels_CHW, fill), [(0, 0), *pad], constant_values=fill)
    return pixels[:, rows, cols], np.pad(image.valid_HW, pad)[rows, cols]


@pytest.mark.parametrize("name", SAR_GRIDS)
@settings(max_examples=8, deadline=None)
@given(row=st.integers(-90, 560), col=st.integers(-90, 640), height=st.integers(1, 600), width=st.integers(1, 700))
def test_every_window_holds_to_the_bit_what_training_sees_there(
    cases: dict[str, Case], name: str, row: int, col: int, height: int, width: int
) -> None:
    case, window = cases[name], Window(col, row, width, height)
    views = {
        "optical": (case.scene.optical(window), case.optical, 0),
        "sar": (case.scene.sar(window), case.sar, np.nan),
        "moved": (case.scene.sar(window, to_content=Affine.translation(*SHIFT)), case.moved, np.nan),
    }
    for what, (got, trained, fill) in views.items():
        pixels, valid = around(trained, window, fill)
        np.testing.assert_array_equal(got.pixels_CHW, pixels.astype(got.dtype), err_msg=what)
        np.testing.assert_array_equal(got.valid_HW, valid, err_msg=what)
        assert got.grid.shape == (height, width)
        assert got.grid.transform.almost_equals(case.scene.grid.translate_pix(col, row).transform)
    assert (views["optical"][0].dtype, views["sar"][0].dtype) == (np.uint16, np.float32)


def test_sar_much_finer_than_the_grid_is_averaged(cases: dict[str, Case]) -> None:
    facts = {name: case.scene.facts["resampled"] for name, case in cases.items()}
    assert facts["on the same grid"] == {}
    assert facts["half a pixel off"] == {"VV VH": "bilinear"}
    assert facts["of 4 m"] == {"VV VH": "average"}
    # Along each axis two and a half values are averaged: of their spread remains sqrt(1 + 1 + 1 / 4) / 2.5.
    fine = cases["of 4 m"].sar.pixels_CHW[0]
    assert np.nanstd(fine) == pytest.approx(3 * 0.6**2, rel=0.02)


def test_bands_of_several_files_and_grids_come_together(folder: Path, tmp_path: Path) -> None:
    coarse = box(270, 310, gsd=20.0)
    swir = land(coarse)[4:]
    write(tmp_path / "swir.tif", swir, ("", ""), coarse)
    paths = [*[str(folder / "optical.tif")] * 4, *[str(tmp_path / "swir.tif")] * 2]
    bands = tuple(
        BandFile(name=name, path=path, index=n) for name, path, n in zip(BANDS, paths, (1, 2, 3, 4, 1, 2), strict=True)
    )
    inputs = files_as_inputs("s", optical=folder / "optical.tif", sar=folder / "sar half a pixel off.tif")
    with open_scene(replace(inputs, optical=bands[::-1]), CARD) as scene:
        assert scene.grid == box()
        got = scene.optical(Window(5, 480, 600, 50))
        assert scene.facts["resampled"] == {"B11 B12": "bilinear", "VV VH": "bilinear"}
    fine = raster.read(folder / "optical.tif").part(Window(5, 480, 600, 50))
    source = Raster(pixels_CHW=swir, valid_HW=(swir > 0).any(axis=0), bands=BANDS[4:], grid=coarse)
    placed = raster.warp(source, box(), resampling=Resampling.bilinear, fill=0).part(Window(5, 480, 600, 50))
    valid = fine.valid_HW & placed.valid_HW
    np.testing.assert_array_equal(got.valid_HW, valid)
    np.testing.assert_array_equal(got.pixels_CHW[:4], np.where(valid, fine.pixels_CHW[:4], 0))
    np.testing.assert_array_equal(got.pixels_CHW[4:], np.where(valid, placed.pixels_CHW, 0))


def test_optics_in_degrees_are_seen_on_the_local_utm_grid(folder: Path, tmp_path: Path) -> None:
    degrees = box().to_crs("EPSG:4326")
    write(tmp_path / "optical.tif", land(degrees), BANDS, degrees, nodata=0)
    inputs = files_as_inputs("s", optical=tmp_path / "optical.tif", sar=folder / "sar half a pixel off.tif")
    with open_scene(inputs, CARD) as scene:
        assert scene.grid.crs.epsg == 32632
        assert scene.grid.resolution.x == 10.0
        every = scene.optical(whole(scene.grid))
        part = scene.optical(Window(100, 50, 90, 470))
    np.testing.assert_array_equal(part.pixels_CHW, every.pixels_CHW[:, 50:520, 100:190])
    source = raster.read(tmp_path / "optical.tif")
    placed = raster.warp(source, every.grid, resampling=Resampling.bilinear, fill=0)
    np.testing.assert_array_equal(every.pixels_CHW, placed.pixels_CHW)
    assert every.valid_HW.mean() > 0.8


def test_a_delivered_mask_comes_by_nearest_neighbour(folder: Path, tmp_path: Path) -> None:
    coarse = box(200, 310, gsd=20.0)  # the lower 130 rows have none
    classes = np.random.default_rng(3).integers(0, 12, (1, 200, 310)).astype(np.uint8)
    write(tmp_path / "scl.tif", classes, ("SCL",), coarse)
    write(tmp_path / "share.tif", (classes / 11).astype(np.float32), ("cloud",), coarse)
    files = {"optical": folder / "optical.tif", "sar": folder / "sar half a pixel off.tif"}
    with open_scene(files_as_inputs("s", **files, cloud=tmp_path / "scl.tif"), CARD) as scene:
        mask = scene.delivered(Window(10, 380, 100, 60))
    assert mask is not None
    np.testing.assert_array_equal(mask.pixels_CHW[0, :20], classes[0, 190:, 5:55].repeat(2, 0).repeat(2, 1))
    assert (mask.pixels_CHW[0, 20:] == 255).all()
    assert mask.valid_HW.any(axis=1).tolist() == [True] * 20 + [False] * 40
    with open_scene(files_as_inputs("s", **files, cloud=tmp_path / "share.tif"), CARD) as scene:
        mask = scene.delivered(Window(10, 380, 100, 60))
    assert mask is not None
    assert np.isnan(mask.pixels_CHW[0, 20:]).all()
    with open_scene(files_as_inputs("s", **files), CARD) as scene:
        assert scene.delivered(Window(10, 380, 100, 60)) is None
    write(tmp_path / "zero.tif", classes, ("SCL",), coarse, nodata=0)  # a class of its own: no data
    with open_scene(files_as_inputs("s", **files, cloud=tmp_path / "zero.tif"), CARD) as scene:
        mask = scene.delivered(Window(0, 0, 620, 400))
    assert mask is not None
    np.testing.assert_array_equal(mask.valid_HW[:, :610], (classes[0] > 0).repeat(2, 0).repeat(2, 1)[:, :610])
    write(tmp_path / "zero.tif", classes % 2, ("cloud",), coarse, nodata=0)
    with pytest.raises(RasterError, match=r"zero\.tif: cloud declares 0 as nodata"):
        open_scene(files_as_inputs("s", **files, cloud=tmp_path / "zero.tif"), CARD)


def test_files_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "page.tif").write_text("a page that says 404")
    with pytest.raises(RasterError, match=r"page\.tif: cannot be read as a raster"):
        files_as_inputs("s", optical=tmp_path / "page.tif", sar=folder / "sar of 20 m.tif")
    inputs = files_as_inputs("s", optical=folder / "optical.tif", sar=folder / "sar of 20 m.tif")
    with pytest.raises(RasterError, match=r"page\.tif: cannot be read as a raster"):
        open_scene(replace(inputs, cloud=tmp_path / "page.tif"), CARD)
    with rasterio.open(folder / "optical.tif") as file:
        start = int(file.get_tag_item("BLOCK_OFFSET_2_3", "TIFF", bidx=1))
    content = bytearray((folder / "optical.tif").read_bytes())
    content[start : start + 16] = bytes(16)
    (tmp_path / "torn.tif").write_bytes(content)
    torn = tuple(replace(band, path=str(tmp_path / "torn.tif")) for band in inputs.optical)
    with open_scene(replace(inputs, optical=torn), CARD, checked=False) as scene:
        scene.optical(Window(0, 0, 200, 300))
        with pytest.raises(RasterError, match=r"torn\.tif: cannot be read as a raster"):
            scene.optical(whole(scene.grid))
