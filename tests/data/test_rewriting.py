"""Files of other conventions become files of this pipeline's, to the number."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from cgm2net import raster
from cgm2net.data import rewriting
from cgm2net.data.reading import Reading, split
from cgm2net.data.rewriting import rewrite
from cgm2net.errors import RasterError

UTM = "EPSG:32633"
CORNER = Affine(10, 0, 500_000, 0, -10, 5_300_000)


def write(
    path: Path, pixels: object, *, crs: str | None = UTM, transform: Affine = CORNER, nodata: float | None = None
):
    pixels_CHW = np.asarray(pixels)
    count, height, width = pixels_CHW.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels_CHW.dtype.name, crs=crs,
        transform=transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(pixels_CHW)
    return path


def made(source: Path, role: str, fragment: str, optical: Path | None = None) -> raster.Raster:
    target = source.with_name("made.tif")
    rewrite(source, target, role=role, reading=split(f"a#{fragment}")[1], optical=optical)
    return raster.read(target)


def test_an_offset_is_taken_away_and_dark_ground_stays_measured(tmp_path: Path) -> None:
    stored = np.array([[[1000, 3000, 0]], [[900, 1001, 0]]], np.uint16)
    image = made(write(tmp_path / "a.tif", stored), "optical", "bands=B02,B03&offset=-1000")
    # 1000 - 1000 and 900 - 1000 are dark ground, not nodata; 0 in both bands is nodata
    assert image.pixels_CHW.tolist() == [[[1, 2000, 0]], [[1, 1, 0]]]
    assert image.valid_HW.tolist() == [[True, True, False]]
    assert (image.bands, image.dtype) == (("B02", "B03"), np.uint16)
    assert raster.read_nodata(tmp_path / "made.tif") == 0


def test_reflectance_becomes_dn(tmp_path: Path) -> None:
    stored = np.array([[[0.25, np.nan, -0.01, 1e9, 0.00006]]], np.float32)
    image = made(write(tmp_path / "a.tif", stored), "reference", "bands=B02&scale=10000")
    assert image.pixels_CHW.tolist() == [[[2500, 0, 1, 65535, 1]]]


def test_names_alone_leave_the_stored_numbers(tmp_path: Path) -> None:
    stored = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    image = made(write(tmp_path / "a.tif", stored), "optical", "bands=blue,green")
    assert np.array_equal(image.pixels_CHW, stored)


def test_sar_in_doubles_becomes_single_db(tmp_path: Path) -> None:
    stored = np.array([[[-12.5, -np.inf, np.nan, -7.25]], [[-20.0, -21.0, -22.0, -9.5]]])
    image = made(write(tmp_path / "a.tif", stored), "sar", "bands=VV,VH")
    assert image.dtype == np.float32
    assert image.valid_HW.tolist() == [[True, False, False, True]]
    assert image.pixels_CHW[:, 0, 3].tolist() == [-7.25, -9.5]
    assert np.isnan(image.pixels_CHW[:, 0, 1:3]).all()


def test_linear_power_becomes_db(tmp_path: Path) -> None:
    stored = np.array([[[0.1, 0.0, 1.0]], [[0.01, 0.1, -1.0]]])
    image = made(write(tmp_path / "a.tif", stored), "sar", "bands=VV,VH&linear=1")
    np.testing.assert_allclose(image.pixels_CHW[:, 0, 0], [-10, -20], rtol=1e-6)
    assert image.valid_HW.tolist() == [[True, False, False]]
    scaled = made(write(tmp_path / "b.tif", stored * 100), "sar", "bands=VV,VH&linear=1&scale=0.01")
    np.testing.assert_allclose(scaled.pixels_CHW[:, 0, 0], [-10, -20], rtol=1e-6)


def test_codes_are_mapped_and_all_others_unknown(tmp_path: Path) -> None:
    stored = np.array([[[10, 20, 30, 70, 0, 95]]], np.uint8)
    label = made(write(tmp_path / "a.tif", stored, nodata=0), "label", "codes=10:0,20:1,30:1")
    assert label.pixels_CHW.tolist() == [[[0, 1, 1, 255, 255, 255]]]
    assert label.dtype == np.uint8


def test_codes_stored_as_other_numbers(tmp_path: Path) -> None:
    label = made(write(tmp_path / "a.tif", np.array([[[3.0, np.nan, 0.0]]])), "label", f"crs={UTM}")
    assert label.pixels_CHW.tolist() == [[[3, 255, 0]]]
    with pytest.raises(RasterError, match=r"b\.tif: holds values 0 to 1\.5, wanted whole codes"):
        made(write(tmp_path / "b.tif", np.array([[[1.5, 0.0]]])), "label", f"crs={UTM}")
    with pytest.raises(RasterError, match="holds values -1 to 300"):
        made(write(tmp_path / "c.tif", np.array([[[-1, 300]]], np.int16)), "label", f"crs={UTM}")


def test_a_mask_that_declares_its_first_code_nodata_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.array([[[0, 1]]], np.uint8), nodata=0)
    with pytest.raises(RasterError, match="declares 0 as nodata"):
        made(source, "cloud", f"crs={UTM}")


def test_an_array_lies_on_the_optical_image(tmp_path: Path) -> None:
    optical = write(tmp_path / "o.tif", np.ones((1, 2, 3), np.uint16))
    np.save(tmp_path / "m.npy", np.array([[True, False, True], [False, False, True]]))
    mask = made(tmp_path / "m.npy", "cloud", "grid=optical", optical)
    assert mask.pixels_CHW.tolist() == [[[1, 0, 1], [0, 0, 1]]]
    assert mask.grid == raster.read_grid(optical)
    assert mask.dtype == np.uint8


def test_a_coarser_file_covers_what_the_optical_image_covers(tmp_path: Path) -> None:
    optical = write(tmp_path / "o.tif", np.ones((1, 20, 30), np.uint16))
    local = 'LOCAL_CS["nowhere",UNIT["metre",1]]'
    label = write(tmp_path / "l.tif", np.zeros((1, 2, 3), np.uint8), crs=local, transform=Affine.scale(5, -5))
    grid = made(label, "label", "grid=optical", optical).grid
    assert (grid.transform, grid.crs.epsg) == (Affine(100, 0, 500_000, 0, -100, 5_300_000), 32633)
    odd = write(tmp_path / "odd.tif", np.zeros((1, 2, 2), np.uint8), crs=local)
    with pytest.raises(RasterError, match=r"odd\.tif: is 2x2 px and cannot cover the optical image evenly: 30x20 px"):
        made(odd, "label", "grid=optical", optical)


def test_a_missing_crs_is_given_by_hand_or_told(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.ones((1, 1, 2), np.uint16), crs=None)
    assert made(source, "optical", "crs=EPSG:32632").grid.crs.epsg == 32632
    with pytest.raises(RasterError, match=r"does not say where on Earth it lies; add grid=optical"):
        made(source, "reference", "bands=B02")
    with pytest.raises(RasterError, match="nowhere is no coordinate reference system"):
        made(source, "reference", "crs=nowhere")


def test_a_probability_keeps_its_fractions(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.array([[[0, 50, 100]]], np.uint8))
    assert made(source, "cloud", "scale=0.01").pixels_CHW.tolist() == [[pytest.approx([0, 0.5, 1])]]
    source = write(tmp_path / "b.tif", np.array([[[0.25, np.nan]]], np.float32))
    mask = made(source, "cloud", f"crs={UTM}")
    assert (mask.pixels_CHW[0, 0, 0], mask.valid_HW.tolist()) == (0.25, [[True, False]])


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY")
    for name in ("o.npy", "t.npy", "none.npy"):
        with pytest.raises(RasterError, match=f"{name}: cannot be read as a NumPy array of numbers"):
            made(tmp_path / name, "cloud", "grid=optical", tmp_path / "none.tif")


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros(3), r"an array of shape \(3,\)"),
        (np.zeros((2, 2), complex), "holds complex128 values"),
        (np.zeros((2, 2), "U1"), "holds <U1 values"),
        (np.zeros((2, 2, 2)), "cloud has 2 bands, wanted one"),
    ],
)
def test_arrays_that_are_no_mask(tmp_path: Path, pixels: np.ndarray, said: str) -> None:
    optical = write(tmp_path / "o.tif", np.ones((1, 2, 2), np.uint16))
    np.save(tmp_path / "m.npy", pixels)
    with pytest.raises(RasterError, match=said):
        made(tmp_path / "m.npy", "cloud", "grid=optical", optical)


def test_names_must_fit_the_bands(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.ones((2, 1, 1), np.uint16))
    with pytest.raises(RasterError, match=r"a\.tif: has 2 bands, 3 names were given: B02, B03, B04; name all of them"):
        made(source, "optical", "bands=B02,B03,B04")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.random.default_rng(0).integers(1, 9999, (4, 64, 64), np.uint16))
    source.write_bytes(source.read_bytes()[:4000])
    with pytest.raises(RasterError, match="cannot be read"):
        made(source, "optical", "offset=-1000")


def test_windows_give_what_the_whole_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, (2, 600, 700)).astype(np.uint16)
    whole = made(write(tmp_path / "a.tif", stored), "optical", "bands=B02,B03&offset=-1000")
    monkeypatch.setattr(rewriting, "_COLUMNS_PX", 256)
    assert np.array_equal(
        made(tmp_path / "a.tif", "optical", "bands=B02,B03&offset=-1000").pixels_CHW, whole.pixels_CHW
    )
    wanted = np.where((stored == 0).all(axis=0), 0, np.clip(stored.astype(int) - 1000, 1, None))
    assert np.array_equal(whole.pixels_CHW, wanted)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", np.random.default_rng(0).normal(-12, 3, (2, 40, 50)))
    for name in ("one", "two"):
        rewrite(source, tmp_path / name, role="sar", reading=Reading(bands=("VV", "VH")))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
