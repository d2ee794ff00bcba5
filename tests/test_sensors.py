"""Scales worked by hand; what is not a band is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgm2net import sensors
from cgm2net.errors import RasterError


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_reflectance_is_dn_over_10000_and_clipped() -> None:
    scaled = sensors.to_unit_range(np.array([[[0, 2500, 10_000, 15_000]]], np.uint16), ["B02"])
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, [[[0.0, 0.25, 1.0, 1.0]]])


def test_each_radar_band_has_its_own_range() -> None:
    # VV: (-10 + 25) / 25; VH: (-13 + 32.5) / 32.5
    np.testing.assert_allclose(sensors.to_unit_range(column(-10, -13), ["VV", "VH"]).ravel(), [0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(sensors.to_unit_range(column(-13, -10), ["VH", "VV"]).ravel(), [0.6, 0.6], rtol=1e-6)


def test_what_was_not_measured_becomes_0() -> None:
    assert sensors.to_unit_range(column(np.nan), ["VV"]).item() == 0.0


@given(unit=st.floats(0, 1, width=32), name=st.sampled_from(sorted(sensors.BANDS)))
def test_scaling_is_undone(unit: float, name: str) -> None:
    back = sensors.to_unit_range(sensors.from_unit_range(column(unit), [name]), [name])
    assert back.item() == pytest.approx(unit, abs=1e-6)


def test_the_order_of_an_l1c_product() -> None:
    names = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12"
    assert " ".join(band.name for band in sensors.SENTINEL2) == names


def test_planetscope_comes_blue_first_in_dn() -> None:
    assert [band.name for band in sensors.PLANETSCOPE] == ["blue", "green", "red", "nir"]
    np.testing.assert_array_equal(sensors.to_unit_range(column(5000, 20_000), ["blue", "nir"]).ravel(), [0.5, 1.0])
    assert {sensors.COMMON_NAMES[band.name] for band in sensors.PLANETSCOPE} == {"blue", "green", "red", "nir"}


def test_an_unknown_band_is_named_with_the_known_ones() -> None:
    with pytest.raises(RasterError, match=r"unknown band 'B13'; known bands: B01, B02.*VV, VH"):
        sensors.band("B13")
