"""The methods that come in packages: the packages' own answers, to the bit and in any window; and what they refuse."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy import ndimage

from cgm2net import raster
from cgm2net.catalog import read_catalog
from cgm2net.data import cloud_methods, clouds_csmask, clouds_s2cloudless
from cgm2net.data.cloud_methods import CloudImage, cloud_finder, find_cloud, version_of, weights_of
from cgm2net.errors import BackendError, RasterError
from cgm2net.raster import Raster
from cgm2net.sensors import COMMON_NAMES, SENTINEL2
from cgm2net.settings import CLOUD_BANDS, ProductLevel

REAL = Path(os.environ.get("CGM2NET_REAL_DATA", Path(__file__).parents[3] / "shared/data/sen12mscr"))
ALL = tuple(band.name for band in SENTINEL2)
SIX = ("B02", "B03", "B04", "B08", "B11", "B12")
FIELD = (1300, 1000, 900, 700, 1100, 2300, 2800, 3000, 3200, 1000, 20, 2000, 1200)
CLOUD = (6500, 6400, 6300, 6400, 6500, 6700, 6900, 6900, 7000, 2500, 400, 5000, 4000)


@pytest.fixture
def boosted() -> Any:
    return pytest.importorskip("s2cloudless")


@pytest.fixture
def csmask() -> Any:
    return pytest.importorskip("ukis_csmask.mask").CSmask


def image(height: int, width: int, *, bands: Sequence[str] = ALL) -> Raster:
    """Return fields under soft clouds, with a few rows of nodata."""
    rng = np.random.default_rng(7)
    thickness_HW = np.clip(ndimage.gaussian_filter(rng.normal(size=(height, width)), 6) * 20, 0, 1)
    field, cloud = (np.array(values, float)[:, None, None] for values in (FIELD, CLOUD))
    pixels = field + (cloud - field) * thickness_HW + rng.normal(0, 60, (13, height, width))
    valid = np.ones((height, width), bool)
    valid[:3] = False
    pixels_CHW = np.where(valid, np.maximum(pixels, 1), 0).astype(np.uint16)
    grid = GeoBox((height, width), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32632")
    return Raster(pixels_CHW=pixels_CHW, valid_HW=valid, bands=ALL, grid=grid).select(bands)


class _Image:
    """An image that is had in windows, as a scene is."""

    def __init__(self, image: Raster) -> None:
        self._image, self.grid = image, image.grid

    def optical(self, window: Window) -> Raster:
        return self._image.part(window)

    def delivered(self, window: Window) -> Raster | None:
        return None


def reflectance(image: Raster, bands: Sequence[str]) -> np.ndarray:
    """Return float32 (H, W, C)."""
    return np.moveaxis(image.select(bands).pixels_CHW, 0, -1).astype(np.float32) / np.float32(10_000)


def test_above_a_half_is_what_s2cloudless_masks(boosted: Any) -> None:
    scene = image(70, 90)
    detector = boosted.S2PixelCloudDetector(threshold=0.7, average_over=4, dilation_size=2)
    expected = detector.get_cloud_masks(reflectance(scene, CLOUD_BANDS["s2cloudless"])[None])[0].astype(bool)
    found = find_cloud("s2cloudless", scene, None, dilation_px=0)
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(found > 0.5, expected & scene.valid_HW)
    assert (found.dtype, float(found.min())) == (np.float32, 0.0)


def test_the_threshold_becomes_a_half_and_nothing_changes_sides() -> None:
    around = np.nextafter(np.float32(0.7), np.float32([0, 1]))
    probabilities = np.float32([0, 0.35, around[0], 0.7, around[1], 0.85, 1])
    found = clouds_s2cloudless._centred(probabilities)
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.5, 0.5, 0.75, 1], atol=1e-6)
    assert (found > 0.5).tolist() == [False, False, False, False, True, True, True]


@pytest.mark.parametrize(("level", "bands"), [("l1c", SIX), ("l2a", SIX[:4])])
def test_csmask_is_what_its_package_gives_of_the_whole(csmask: Any, level: ProductLevel, bands: Sequence[str]) -> None:
    scene = image(300, 210, bands=bands)  # narrower than a tile: mirrored more than once
    with warnings.catch_warnings(action="ignore"):  # it warns of images smaller than a tile
        theirs = csmask(
            img=reflectance(scene, bands), band_order=[COMMON_NAMES[name] for name in bands], product_level=level,
            intra_op_num_threads=1, providers=["CPUExecutionProvider"],
        )  # fmt: skip
    network = clouds_csmask.TiledNetwork(
        lambda window: np.moveaxis(reflectance(scene.part(window), bands), -1, 0), bands, level=level,
        height=300, width=210,
    )  # fmt: skip
    ours = network.classes(Window(0, 0, 210, 300))
    np.testing.assert_array_equal(ours.argmax(axis=0), theirs.csm[..., 0])
    np.testing.assert_allclose(ours.sum(axis=0), 1, atol=1e-6)
    found = find_cloud("csmask", scene, None, dilation_px=0, product_level=level)
    np.testing.assert_allclose(found, np.where(scene.valid_HW, 1 - ours[0], 0), atol=1e-6)


@pytest.mark.parametrize("method", ["s2cloudless", "csmask"])
def test_a_window_holds_to_the_bit_what_the_whole_holds(method: str, boosted: Any, csmask: Any) -> None:
    height, width = (48, 61) if method == "s2cloudless" else (230, 260)
    scene: CloudImage = _Image(image(height, width))
    expected = cloud_finder(method, scene, dilation_px=2)(Window(0, 0, width, height))
    find = cloud_finder(method, scene, dilation_px=2)
    assert 0.05 < (expected > 0.5).mean() < 0.95
    cuts = [(0, height // 3, height - 1, height), (0, width // 2, width)]
    for top, bottom in zip(cuts[0][:-1], cuts[0][1:], strict=True):
        for left, right in zip(cuts[1][:-1], cuts[1][1:], strict=True):
            part = find(Window(left, top, right - left, bottom - top))
            np.testing.assert_array_equal(part, expected[top:bottom, left:right])


def test_csmask_takes_bands_by_common_name(csmask: Any) -> None:
    scene = image(64, 64, bands=SIX[:4])
    planet = Raster(
        pixels_CHW=scene.pixels_CHW, valid_HW=scene.valid_HW, grid=scene.grid, bands=("blue", "green", "red", "nir")
    )
    expected = find_cloud("csmask", scene, None, dilation_px=0)
    np.testing.assert_array_equal(find_cloud("csmask", planet, None, dilation_px=0), expected)


def test_csmask_has_weights_for_each_level_and_for_four_bands_and_six(csmask: Any) -> None:
    hashes = {
        weights_of("csmask", bands, product_level=level) for bands in (SIX[:4], SIX, ALL) for level in ("l1c", "l2a")
    }
    assert len(hashes) == 4
    assert weights_of("simple", SIX, product_level="l1c") == ""


@pytest.mark.parametrize(("method", "missing"), [("s2cloudless", "B01, B05, B8A, B09, B10"), ("csmask", "nir")])
def test_missing_bands_are_named_with_what_to_do(method: str, missing: str) -> None:
    bands = SIX if method == "s2cloudless" else ("B02", "B03", "B04")
    with pytest.raises(RasterError, match=rf"method {method} needs bands .* lacks {missing}: name those in coregister"):
        cloud_finder(method, _Image(image(8, 8, bands=bands)), dilation_px=0)


def test_an_absent_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds_s2cloudless._detector.cache_clear()
    for name in ("s2cloudless", "s2cloudless.cloud_detector"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=r"s2cloudless.*pip install 'cgm2net\[clouds\]'"):
        clouds_s2cloudless.weights_path()
    monkeypatch.setattr(clouds_csmask, "PACKAGE", "no-such-package")
    with pytest.raises(BackendError, match=r"csmask.*no-such-package.*pip install 'cgm2net\[clouds\]'"):
        clouds_csmask.weights_path(SIX, level="l1c")
    absent = cloud_methods.METHODS["csmask"]._replace(package="no-such-package")
    monkeypatch.setattr(cloud_methods, "METHODS", {"csmask": absent})
    with pytest.raises(
        BackendError, match=r"csmask needs the package no-such-package.*pip install 'cgm2net\[clouds\]'"
    ):
        version_of("csmask")


@pytest.mark.skipif(not (REAL / "catalog.csv").is_file(), reason="no folder of real scenes")
def test_s2cloudless_gives_the_delivered_masks_of_real_scenes(boosted: Any) -> None:
    delivered = [row for row in read_catalog(REAL / "catalog.csv").to_dict("records") if row["cloud"]]
    for row in delivered:
        found = find_cloud("s2cloudless", raster.read(Path(row["optical"])), None, dilation_px=0)
        np.testing.assert_array_equal(found > 0.5, raster.read(Path(row["cloud"])).pixels_CHW[0] > 0)
