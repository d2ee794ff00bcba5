"""Rasters as values and files: round trips, windows, and what resampling does to pixels and to nodata."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.errors import GridError, RasterError
from cgm2net.grids import whole
from cgm2net.raster import Raster, Warped

CRS = "EPSG:32632"


def grid(height: int, width: int, *, x: float = 500_000.0, y: float = 5_000_000.0, gsd: float = 10.0) -> GeoBox:
    return GeoBox((height, width), Affine(gsd, 0, x, 0, -gsd, y), CRS)


def image(pixels_CHW: np.ndarray, *names: str, valid_HW: np.ndarray | None = None) -> Raster:
    height, width = pixels_CHW.shape[1:]
    valid = np.ones((height, width), bool) if valid_HW is None else valid_HW
    return Raster(pixels_CHW=pixels_CHW, valid_HW=valid, bands=names, grid=grid(height, width))


@pytest.fixture
def optical() -> Raster:
    """Two bands, rising DN, a wedge of two columns without data."""
    pixels = np.arange(1, 2 * 6 * 8 + 1, dtype=np.uint16).reshape(2, 6, 8)
    valid = np.ones((6, 8), bool)
    valid[:, :2] = False
    return image(np.where(valid, pixels, 0), "B02", "B08", valid_HW=valid)


def same(first: Raster, second: Raster) -> bool:
    pixels = np.array_equal(first.pixels_CHW, second.pixels_CHW, equal_nan=first.pixels_CHW.dtype.kind == "f")
    return (
        pixels
        and np.array_equal(first.valid_HW, second.valid_HW)
        and first.bands == second.bands
        and first.grid == second.grid
        and first.pixels_CHW.dtype == second.pixels_CHW.dtype
    )


def test_a_file_gives_back_what_was_written(optical: Raster, tmp_path: Path) -> None:
    raster.write(tmp_path / "a.tif", optical, nodata=0, tags={"made_by": "test"})
    assert same(raster.read(tmp_path / "a.tif"), optical)
    assert raster.read_grid(tmp_path / "a.tif") == optical.grid
    assert raster.read_names(tmp_path / "a.tif") == ("B02", "B08")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.tags()["made_by"] == "test"


def test_nodata_that_is_not_a_number(tmp_path: Path) -> None:
    pixels = np.array([[[-12.5, 3.0], [-7.25, -9.0]]], np.float32)
    sar = image(pixels, "VV", valid_HW=np.array([[True, False], [True, True]]))
    raster.write(tmp_path / "a.tif", sar, nodata=float("nan"))
    back = raster.read(tmp_path / "a.tif")
    assert np.isnan(back.pixels_CHW[0, 0, 1])
    np.testing.assert_array_equal(back.valid_HW, sar.valid_HW)
    np.testing.assert_array_equal(back.pixels_CHW[:, sar.valid_HW], pixels[:, sar.valid_HW])


@given(dn=st.integers(1, 65_535), dark=st.sampled_from([(0,), (1,), (0, 1)]))
def test_only_nodata_in_every_band_is_invalid(dn: int, dark: tuple[int, ...]) -> None:
    pixels = np.full((2, 1, 1), dn, np.uint16)
    pixels[list(dark)] = 0
    assert raster.valid_mask(pixels, 0).item() == (len(dark) < 2)


def test_bytes_are_equal_on_two_writes(optical: Raster, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        raster.write(tmp_path / name, optical, nodata=0)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_bands_are_read_in_the_order_asked_for(optical: Raster, tmp_path: Path) -> None:
    raster.write(tmp_path / "a.tif", optical, nodata=0)
    back = raster.read(tmp_path / "a.tif", bands=["B08", "B02"])
    assert same(back, optical.select(["B08", "B02"]))
    np.testing.assert_array_equal(back.pixels_CHW[0], optical.pixels_CHW[1])


def test_a_missing_band_is_named_with_the_file_and_what_it_has(optical: Raster, tmp_path: Path) -> None:
    raster.write(tmp_path / "a.tif", optical, nodata=0)
    with pytest.raises(RasterError, match=r"a\.tif: has bands B02, B08, lacks B11"):
        raster.read(tmp_path / "a.tif", bands=["B02", "B11"])
    with pytest.raises(RasterError, match="bands VV are not among B02, B08"):
        optical.select(["VV"])


def test_a_window_knows_where_it_lies(optical: Raster, tmp_path: Path) -> None:
    raster.write(tmp_path / "a.tif", optical, nodata=0)
    part = raster.read(tmp_path / "a.tif", window=Window(3, 2, 4, 3))
    np.testing.assert_array_equal(part.pixels_CHW, optical.pixels_CHW[:, 2:5, 3:7])
    assert part.grid == grid(3, 4, x=500_030.0, y=4_999_980.0)


@pytest.mark.parametrize("window", [Window(-1, 0, 4, 4), Window(0, 3, 4, 4), Window(5, 0, 4, 4)])
def test_a_window_beyond_the_file_is_refused(optical: Raster, tmp_path: Path, window: Window) -> None:
    raster.write(tmp_path / "a.tif", optical, nodata=0)
    with pytest.raises(RasterError, match=r"a\.tif: columns .* rows .* asked for, the file has 8x6 px"):
        raster.read(tmp_path / "a.tif", window=window)


def test_a_file_that_is_no_raster_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("a page that says 404")
    for reader in (raster.read, raster.read_grid, raster.read_names):
        with pytest.raises(RasterError, match=r"a\.tif: cannot be read as a raster"):
            reader(tmp_path / "a.tif")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 10_000, (1, 300, 300), np.uint16)
    raster.write(tmp_path / "a.tif", image(noise, "B02"), nodata=0)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(RasterError, match=r"a\.tif: cannot be read as a raster"):
        raster.read(tmp_path / "a.tif")


def test_a_file_without_crs_is_refused(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 2, "width": 2, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=Affine(1, 0, 5, 0, -1, 5), **profile) as file:
        file.write(np.ones((1, 2, 2), np.uint8))
    with pytest.raises(RasterError, match=r"a\.tif: has no coordinate reference system"):
        raster.read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels_CHW": np.zeros((6, 8), np.uint16)}, r"shape \(6, 8\), expected \(bands, height, width\)"),
        ({"pixels_CHW": np.zeros((2, 6, 7), np.uint16)}, r"pixels \(6, 7\), valid mask \(6, 8\) and grid \(6, 8\)"),
        ({"valid_HW": np.ones((5, 8), bool)}, r"valid mask \(5, 8\)"),
        ({"valid_HW": np.ones((6, 8), np.uint8)}, "dtype uint8, expected bool"),
        ({"bands": ("B02",)}, "2 bands of pixels"),
        ({"bands": ("B02", "B02")}, "unique"),
    ],
)
def test_parts_that_do_not_agree_make_no_raster(optical: Raster, change: dict[str, object], message: str) -> None:
    with pytest.raises(RasterError, match=message):
        replace(optical, **change)  # type: ignore[arg-type]


def test_grids_are_compared_whole(optical: Raster) -> None:
    raster.require_same_grid(optical, replace(optical, grid=grid(6, 8)), what="scene a")
    moved = replace(optical, grid=grid(6, 8, x=500_000.5))
    with pytest.raises(GridError, match=r"scene a: grids differ: 8x6 px of 10x10.*500000\.0.*against.*500000\.5"):
        raster.require_same_grid(optical, moved, what="scene a")


@pytest.mark.parametrize("resampling", [Resampling.nearest, Resampling.bilinear, Resampling.cubic])
def test_content_stays_where_it_is_on_the_ground(resampling: Resampling) -> None:
    pixels = np.full((1, 16, 16), 100, np.uint16)
    pixels[0, 5, 9] = 1000
    # The target begins 3 px further right and 2 px further down, so the mark stands 3 px further left, 2 px further up.
    target = grid(8, 8, x=500_030.0, y=4_999_980.0)
    warped = raster.warp(image(pixels, "B02"), target, resampling=resampling, fill=0)
    np.testing.assert_array_equal(warped.pixels_CHW, pixels[:, 2:10, 3:11])
    assert warped.pixels_CHW[0, 3, 6] == 1000
    assert warped.grid == target
    assert warped.valid_HW.all()


def test_half_a_pixel_is_the_mean_of_two() -> None:
    pixels = np.tile(np.arange(10, dtype=np.float32), (1, 10, 1))
    warped = raster.warp(image(pixels, "VV"), grid(10, 9, x=500_005.0), resampling=Resampling.bilinear, fill=np.nan)
    np.testing.assert_allclose(warped.pixels_CHW[0, 4], np.arange(9) + 0.5, atol=1e-5)


@pytest.mark.parametrize("shift_m", [2.0, 5.0, 8.0])
@pytest.mark.parametrize("resampling", [Resampling.bilinear, Resampling.cubic])
def test_a_wedge_of_nodata_does_not_bleed(shift_m: float, resampling: Resampling) -> None:
    valid = np.ones((20, 20), bool)
    valid[:, :7] = False
    pixels = np.where(valid, 3000, 0).astype(np.uint16)[None]
    warped = raster.warp(
        image(pixels, "B02", valid_HW=valid), grid(20, 19, x=500_000.0 + shift_m), resampling=resampling, fill=0
    )
    assert set(np.unique(warped.pixels_CHW[:, warped.valid_HW])) == {3000}
    assert not warped.pixels_CHW[:, ~warped.valid_HW].any()
    # Column j shows what lies shift_m / 10 px to its right: from half a pixel on, column 6 is a measured one.
    assert (~warped.valid_HW).sum(axis=1).tolist() == [6 if shift_m >= 5 else 7] * 20


def test_ground_that_the_source_does_not_cover_is_filled() -> None:
    warped = raster.warp(
        image(np.full((1, 4, 4), 7, np.uint8), "label"), grid(4, 6), resampling=Resampling.nearest, fill=255
    )
    assert warped.pixels_CHW[0, 0].tolist() == [7, 7, 7, 7, 255, 255]
    assert warped.valid_HW[0].tolist() == [True] * 4 + [False] * 2


def test_labels_keep_their_codes_on_a_finer_grid() -> None:
    label = image(np.array([[[0, 5], [3, 1]]], np.uint8), "label")
    warped = raster.warp(label, grid(4, 4, gsd=5.0), resampling=Resampling.nearest, fill=255)
    np.testing.assert_array_equal(warped.pixels_CHW[0], np.kron([[0, 5], [3, 1]], np.ones((2, 2))))


def test_onto_its_own_grid_nothing_is_resampled(optical: Raster) -> None:
    assert raster.warp(optical, optical.grid, resampling=Resampling.bilinear, fill=0) is optical


def test_a_crs_that_leads_nowhere_is_refused(optical: Raster) -> None:
    nowhere = GeoBox((4, 4), Affine(10, 0, 0, 0, -10, 0), 'LOCAL_CS["plan",UNIT["metre",1]]')
    with pytest.raises(RasterError, match=r"cannot resample 8x6 px of 10x10, EPSG:32632.* to 4x4 px"):
        raster.warp(optical, nowhere, resampling=Resampling.nearest, fill=0)


def test_averaging_takes_the_mean_of_what_was_measured() -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    valid = np.ones((4, 4), bool)
    valid[0, 0] = False
    warped = raster.warp(
        image(pixels, "VV", valid_HW=valid), grid(2, 2, gsd=20), resampling=Resampling.average, fill=np.nan
    )
    # 1 4 5 without the 0 · 2 3 6 7 · 8 9 12 13 · 10 11 14 15
    np.testing.assert_allclose(warped.pixels_CHW[0], [[10 / 3, 4.5], [10.5, 12.5]], rtol=1e-6)


def test_on_its_own_grid_a_window_is_cut_out(optical: Raster) -> None:
    seen = Warped(optical, optical.grid, resampling=Resampling.bilinear, fill=0)
    assert same(seen.part(whole(optical.grid)), optical)
    beyond = seen.part(Window(6, 4, 4, 4))
    np.testing.assert_array_equal(beyond.pixels_CHW[:, :2, :2], optical.pixels_CHW[:, 4:, 6:])
    assert beyond.valid_HW.sum() == 4
    assert not beyond.pixels_CHW[:, 2:].any()
