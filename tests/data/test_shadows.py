"""Shadows of clouds on hand-made images, and that windows of an image hold what the whole holds."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from cgm2net.data import shadows
from cgm2net.data.clouds import simple_cloud
from cgm2net.data.shadows import Look, ShadowGeometry, cloud_or_shadow, shadow_geometry
from cgm2net.errors import RasterError

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
CLOUD = (0.6, 0.6, 0.6, 0.62, 0.45, 0.35)
FIELD = (0.06, 0.10, 0.08, 0.45, 0.25, 0.15)


def field(height: int = 128, width: int = 128) -> np.ndarray:
    """Return reflectance of a field with a little noise."""
    noise = np.random.default_rng(0).normal(1, 0.03, (6, height, width))
    return np.asarray(np.array(FIELD)[:, None, None] * noise, np.float32)


def looking(image: np.ndarray, valid: np.ndarray | None = None) -> tuple[Look, dict[str, int]]:
    """Return what looks at an image and the image's size."""
    height, width = image.shape[1:]
    known = np.ones((height, width), bool) if valid is None else valid

    def look(window: Window) -> tuple[np.ndarray, np.ndarray]:
        assert min(window.col_off, window.row_off) >= 0
        assert (window.row_off + window.height, window.col_off + window.width) <= (height, width)
        return image[:, *window.toslices()], known[window.toslices()]

    return look, {"height": height, "width": width}


def found(
    image: np.ndarray, valid: np.ndarray | None = None, *, bands: Sequence[str] = BANDS
) -> tuple[ShadowGeometry | None, np.ndarray]:
    """Return the geometry of an image and where it has shadow but no cloud."""
    look, size = looking(image, valid)
    geometry = shadow_geometry(look, bands, **size)
    every = cloud_or_shadow(look, bands, Window(0, 0, size["width"], size["height"]), geometry=geometry, **size)
    return geometry, (every > 0.5) & ~(simple_cloud(image, bands) > 0.5)


def with_shadow(row: int, column: int, *, depth: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Return a field under one cloud at (30-50, 30-55), its shadow (row, column) further; and the shadow's mask."""
    image = field()
    shadow = np.zeros((128, 128), bool)
    shadow[30 + row : 50 + row, 30 + column : 55 + column] = True
    image[:, shadow] *= depth
    image[:, 30:50, 30:55] = np.array(CLOUD)[:, None, None]
    shadow[30:50, 30:55] = False
    return image, shadow


@pytest.mark.parametrize(("row", "column"), [(25, 30), (-24, 35), (40, 10), (60, 60), (0, -28)])
def test_a_shadow_is_found_on_its_side(row: int, column: int) -> None:
    image, true = with_shadow(row, column)
    geometry, mask = found(image)
    assert geometry is not None
    assert np.abs(np.subtract(geometry.offset_px, (row, column))).max() <= 2
    assert geometry.level == pytest.approx(0.45, abs=0.01)
    assert (mask & true).sum() / (mask | true).sum() > 0.85


def test_dark_ground_that_no_cloud_shades_is_left_alone() -> None:
    image = field()
    image[:, 30:50, 30:55] = np.array(CLOUD)[:, None, None]
    image[:, 90:94, :] *= 0.4  # a river, not of the cloud's shape
    assert not found(image)[1].any()


def test_a_wedge_without_data_is_no_shadow() -> None:
    image, _ = with_shadow(25, 30, depth=1.0)
    valid = np.ones((128, 128), bool)
    valid[:, 85:] = False
    image[:, ~valid] = 0.0
    assert not found(image, valid)[1].any()
    assert found(image)[1].any()  # it would be taken for one


def test_without_cloud_ground_or_near_infrared_there_is_no_shadow() -> None:
    assert found(field())[0] is None
    overcast = np.broadcast_to(np.array(CLOUD, np.float32)[:, None, None], (6, 64, 64)).copy()
    assert found(overcast)[0] is None
    assert found(with_shadow(25, 30)[0][:3], bands=BANDS[:3])[0] is None
    with pytest.raises(RasterError, match="needs bands B02 and B04"):
        found(field()[3:], bands=BANDS[3:])


# Not a multiple of the filters' steps; clouds everywhere, some cut by the edge, and a wedge.
SPOTS = np.random.default_rng(5).integers(-10, (300, 410), (60, 2))


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = field(301, 413)
    for shaded in (True, False):
        for row, column in SPOTS + ((21, 33) if shaded else (0, 0)):
            part = (slice(None), slice(max(row, 0), row + 14), slice(max(column, 0), column + 17))
            image[part] = image[part] * 0.4 if shaded else np.array(CLOUD)[:, None, None]
    valid = np.add.outer(np.arange(301), 2 * np.arange(413)) > 90
    return np.where(valid, image, 0).astype(np.float32), valid


IMAGE, VALID = scene()
GEOMETRY = found(IMAGE, VALID)[0]


@cache
def everywhere(geometry: ShadowGeometry | None) -> np.ndarray:
    look, size = looking(IMAGE, VALID)
    return cloud_or_shadow(look, BANDS, Window(0, 0, 413, 301), geometry=geometry, **size)


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 300), column=st.integers(0, 412), height=st.integers(1, 301), width=st.integers(1, 413))
def test_a_window_holds_to_the_bit_what_the_whole_holds_there(row: int, column: int, height: int, width: int) -> None:
    assert GEOMETRY is not None
    assert np.abs(np.subtract(GEOMETRY.offset_px, (21, 33))).max() <= 1
    look, size = looking(IMAGE, VALID)
    window = Window(column, row, min(width, 413 - column), min(height, 301 - row))
    for geometry in (GEOMETRY, ShadowGeometry(offset_px=(-97, 80), level=0.4), None):
        whole = everywhere(geometry)
        part = cloud_or_shadow(look, BANDS, window, geometry=geometry, **size)
        np.testing.assert_array_equal(part, whole[window.toslices()])
        assert part.dtype == np.float32
        assert 0 <= part.min() <= part.max() <= 1


def test_looking_in_strips_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "_STRIP_PX", 37)
    assert found(IMAGE, VALID)[0] == GEOMETRY


def test_a_large_image_is_searched_in_windows_with_cloud_and_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "WHOLE_PX", 300 * 300)
    monkeypatch.setattr(shadows, "SAMPLE_PX", 100)
    monkeypatch.setattr(shadows, "_GLANCE_PX", 60)
    look, size = looking(IMAGE, VALID)
    windows = shadows._samples(look, BANDS, **size)
    assert len(windows) == shadows.NUM_SAMPLES
    assert {(2 * w.row_off + 100 >= 301, 2 * w.col_off + 100 >= 413) for w in windows} == {
        (down, right) for down in (False, True) for right in (False, True)
    }  # one a quarter
    for window in windows:
        mask = simple_cloud(IMAGE[:, *window.toslices()], BANDS) > 0.5
        assert 0 < mask.mean() < 1
    geometry = shadow_geometry(look, BANDS, **size)
    assert geometry is not None
    assert np.abs(np.subtract(geometry.offset_px, (21, 33))).max() <= 1
    clear, size = looking(field(301, 413))
    assert shadow_geometry(clear, BANDS, **size) is None
