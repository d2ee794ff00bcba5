"""Files made of items: values to the number, the window alone, what is missing, what was interrupted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from stac_world import AREA, TILE, Traffic, file_server, optical_dn, sar_power, sentinel1, sentinel2, write_band

from cgm2net.data.sources import stac_read
from cgm2net.data.sources.stac_api import Service
from cgm2net.data.sources.stac_documents import RoleSource
from cgm2net.data.sources.stac_pairs import passes_of
from cgm2net.data.sources.stac_sources import cloud_source, cover_of, optical_source, sar_source, stated_cover
from cgm2net.errors import FetchError, RasterError
from cgm2net.raster import read_nodata

SERVICE = Service(url="http://api")
IN_AREA = (slice(100, 164), slice(102, 182))
EARTH_SEARCH = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir16", "B12": "swir22"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    with file_server(tmp_path_factory.mktemp("files")) as traffic:
        yield traffic


@pytest.fixture
def traffic(served: Traffic) -> Traffic:
    for counts in (served.asked, served.sent, served.gone, served.fail, served.queries):
        counts.clear()
    return served


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """GDAL does not try again by itself."""
    monkeypatch.setattr(stac_read, "_GDAL", {**stac_read._GDAL, "GDAL_HTTP_MAX_RETRY": "0"})


def source(role: str, *items: dict[str, Any], bands: tuple[str, ...] = ()) -> RoleSource:
    (found,) = passes_of([pystac.Item.from_dict(item) for item in items], AREA.geographic_extent)
    if role == "cloud":
        made = cloud_source(found, SERVICE, crs="EPSG:32632")
        assert made is not None
        return made
    make = sar_source if role == "sar" else optical_source
    return make(found, SERVICE, bands or (("VV", "VH") if role == "sar" else ("B02", "B08")), crs="EPSG:32632")


def stored(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with rasterio.open(path) as file:
        assert GeoBox(file.shape, file.transform, file.crs) == AREA
        return file.read(), file.descriptions


def test_optical_values_are_dn_without_offset(traffic, tmp_path):
    made = source("optical", sentinel2(traffic.root, traffic.url, "2024-06-01"))
    stac_read.write("optical", made, AREA, tmp_path / "o.tif", kept_dir=tmp_path / "kept")
    pixels, bands = stored(tmp_path / "o.tif")
    assert bands == ("B02", "B08")
    assert pixels.dtype == np.uint16
    assert read_nodata(tmp_path / "o.tif") == 0
    true = optical_dn("2024-06-01")
    np.testing.assert_array_equal(pixels, np.stack([true[band][IN_AREA] for band in bands]))
    assert not (tmp_path / "kept").exists()


def test_an_offset_that_the_api_took_away_is_not_taken_away_again(traffic):
    item = sentinel2(
        traffic.root, traffic.url, "2024-06-02", offset=0, keys=EARTH_SEARCH,
        **{"earthsearch:boa_offset_applied": True},
    )  # fmt: skip
    item["assets"]["blue"]["raster:bands"] = [{"scale": 0.0001, "offset": -0.1}]
    pixels = stac_read.read("optical", source("optical", item), AREA)
    np.testing.assert_array_equal(pixels[0], optical_dn("2024-06-02")["B02"][IN_AREA])


def test_dark_ground_becomes_1_and_what_is_not_measured_0(traffic):
    values = np.full((512, 512), 1500, np.uint16)
    values[100, 102:104] = 700, 1000  # below the offset, and at it
    values[101, 102:112] = 0
    item = sentinel2(traffic.root, traffic.url, "2024-06-03")
    for band in ("B02", "B08"):
        write_band(traffic.root / f"2024-06-03/{band}.tif", values, nodata=0)
    pixels = stac_read.read("optical", source("optical", item), AREA)
    assert pixels[0, 0, :3].tolist() == [1, 1, 500]
    assert pixels[:, 1, :11].tolist() == [[0] * 10 + [500]] * 2


def test_a_band_alone_without_data_is_a_gap_unless_its_offset_was_taken_away(traffic):
    dark = np.full((512, 512), 1500, np.uint16)
    dark[100, 102] = 0
    raw = sentinel2(traffic.root, traffic.url, "2024-06-13")
    harmonised = sentinel2(traffic.root, traffic.url, "2024-06-14", **{"earthsearch:boa_offset_applied": True})
    for day in ("13", "14"):
        write_band(traffic.root / f"2024-06-{day}/B02.tif", dark, nodata=0)
        write_band(traffic.root / f"2024-06-{day}/B08.tif", np.full_like(dark, 1500), nodata=0)
    assert stac_read.read("optical", source("optical", raw), AREA)[:, 0, :2].tolist() == [[0, 500], [0, 500]]
    assert stac_read.read("optical", source("optical", harmonised), AREA)[:, 0, :2].tolist() == [[1, 1500], [1500] * 2]


def test_bands_of_20_m_are_interpolated(traffic):
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 20 + 2000, (256, 1))
    item = sentinel2(traffic.root, traffic.url, "2024-06-04")
    write_band(traffic.root / "2024-06-04/B11.tif", ramp, nodata=0)
    pixels = stac_read.read("optical", source("optical", item, bands=("B11",)), AREA)
    # A 10 m column c lies at c / 2 - 0.25 of the 20 m columns, that is at 10 c - 5 of the ramp.
    wanted = 2000 + 10 * np.arange(102, 182) - 5 - 1000
    np.testing.assert_allclose(pixels[0], np.tile(wanted, (64, 1)), atol=1)


def test_sar_is_decibel_of_linear_power(traffic, tmp_path):
    made = source("sar", sentinel1(traffic.root, traffic.url, "2024-06-01", 66))
    stac_read.write("sar", made, AREA, tmp_path / "s.tif", kept_dir=tmp_path / "kept")
    pixels, bands = stored(tmp_path / "s.tif")
    assert bands == ("VV", "VH")
    assert pixels.dtype == np.float32
    assert np.isnan(read_nodata(tmp_path / "s.tif"))
    true = np.stack([sar_power("2024-06-01")[band][IN_AREA] for band in bands])
    np.testing.assert_allclose(pixels, 10 * np.log10(true), atol=1e-5)


def test_where_sar_measured_nothing_it_is_nan(traffic):
    made = source("sar", sentinel1(traffic.root, traffic.url, "2024-06-02", 66))
    west = AREA.translate_pix(-92, 0)  # begins at column 10; the first 50 hold nodata
    pixels = stac_read.read("sar", made, west)
    assert np.isnan(pixels[:, :, :40]).all()
    assert np.isfinite(pixels[:, :, 40:]).all()


def test_a_classification_keeps_its_codes(traffic, tmp_path):
    made = source("cloud", sentinel2(traffic.root, traffic.url, "2024-06-05", cloud_columns=20))
    stac_read.write("cloud", made, AREA, tmp_path / "c.tif", kept_dir=tmp_path / "kept")
    pixels, bands = stored(tmp_path / "c.tif")
    assert bands == ("SCL",)
    assert read_nodata(tmp_path / "c.tif") is None  # 0 is a code: no data
    np.testing.assert_array_equal(pixels[0], np.tile(np.repeat([9, 4], 40), (64, 1)).astype(np.uint8))
    measured, hidden = cover_of(made, AREA, cache_dir=tmp_path)
    assert measured == 1
    assert hidden == pytest.approx(0.5, abs=0.04)  # looked up at 60 m


def test_items_of_one_overflight_are_mosaicked_each_with_its_offset(traffic):
    east = TILE.translate_pix(140, 0)  # begins in the middle of the area
    first = sentinel2(traffic.root, traffic.url, "2024-06-06")
    second = sentinel2(
        traffic.root, traffic.url, "2024-06-07", offset=0, grid=east, datetime="2024-06-06T10:30:04Z",
        **{"s2:mgrs_tile": "32UNU", "s2:processing_baseline": "03.00"},
    )  # fmt: skip
    values = np.full((512, 512), 1500, np.uint16)
    values[:, 130:] = 0  # ends within the area
    write_band(traffic.root / "2024-06-06/B02.tif", values, nodata=0)
    pixels = stac_read.read("optical", source("optical", first, second, bands=("B02",)), AREA)
    assert (pixels[0, :, :28] == 500).all()
    assert (pixels[0, :, 28:38] == 0).all()  # between the one's data and the other's
    np.testing.assert_array_equal(pixels[0, :, 38:], optical_dn("2024-06-07")["B02"][100:164, :42])


def test_an_item_in_another_projection_is_resampled(traffic):
    other = GeoBox((512, 512), Affine(10, 0, 58_400, 0, -10, 5_420_000), "EPSG:32633")
    item = sentinel2(traffic.root, traffic.url, "2024-06-08", grid=other)
    for band in ("B02", "B08"):
        write_band(traffic.root / f"2024-06-08/{band}.tif", np.full((512, 512), 1500, np.uint16), nodata=0, grid=other)
    ((east, north),) = other.extent.to_crs("EPSG:32632").centroid.points
    inside = GeoBox((20, 20), Affine(10, 0, round(east, -1), 0, -10, round(north, -1)), "EPSG:32632")
    (found,) = passes_of([pystac.Item.from_dict(item)], inside.geographic_extent)
    made = optical_source(found, SERVICE, ("B02",), crs="EPSG:32632")
    assert (stac_read.read("optical", made, inside) == 500).all()


def test_only_the_window_is_read(traffic):
    large = GeoBox((2048, 2048), TILE.transform, TILE.crs)
    noise = np.random.default_rng(0).integers(1200, 4000, (2048, 2048)).astype(np.uint16)
    item = sentinel2(traffic.root, traffic.url, "2024-06-09")
    write_band(traffic.root / "2024-06-09/B02.tif", noise, nodata=0, grid=large)
    pixels = stac_read.read("optical", source("optical", item, bands=("B02",)), AREA)
    np.testing.assert_array_equal(pixels[0], noise[IN_AREA] - 1000)
    size = (traffic.root / "2024-06-09/B02.tif").stat().st_size
    assert size > 5_000_000
    # The area touches 3 x 2 blocks of 64 px, 6 kB each; GDAL reads the header and whole chunks of 16 kB.
    assert traffic.sent["2024-06-09/B02.tif"] < 0.03 * size


def test_blocks_do_not_show(traffic, tmp_path, monkeypatch):
    item = sentinel2(traffic.root, traffic.url, "2024-06-10")
    made = source("optical", item, bands=("B02", "B11"))
    stac_read.write("optical", made, AREA, tmp_path / "whole.tif", kept_dir=tmp_path / "kept")
    monkeypatch.setattr(stac_read, "_BLOCK_PX", 32)
    stac_read.write("optical", made, AREA, tmp_path / "blocks.tif", kept_dir=tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "blocks.tif")[0], stored(tmp_path / "whole.tif")[0])


def test_an_interrupted_reading_goes_on_at_the_next_block(traffic, tmp_path, monkeypatch):
    monkeypatch.setattr(stac_read, "_BLOCK_PX", 32)
    made = source("optical", sentinel2(traffic.root, traffic.url, "2024-06-11"))
    stac_read.write("optical", made, AREA, tmp_path / "once.tif", kept_dir=tmp_path / "kept")
    blocks: list[int] = []
    load = stac_read._load

    def loads(*arguments: Any) -> Any:
        blocks.append(1)
        if len(blocks) == 4:
            raise KeyboardInterrupt
        return load(*arguments)

    monkeypatch.setattr(stac_read, "_load", loads)
    with pytest.raises(KeyboardInterrupt):
        stac_read.write("optical", made, AREA, tmp_path / "again.tif", kept_dir=tmp_path / "kept")
    assert not (tmp_path / "again.tif").exists()
    assert len(list((tmp_path / "kept").iterdir())) == 3
    stac_read.write("optical", made, AREA, tmp_path / "again.tif", kept_dir=tmp_path / "kept")
    assert len(blocks) == 7  # of 6 blocks one was begun twice
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "once.tif").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("status", "error"), [(404, FileNotFoundError), (403, PermissionError)])
def test_an_asset_that_is_not_given_out_is_told_from_a_fault(traffic, impatient, status, error):
    made = source("optical", sentinel2(traffic.root, traffic.url, f"2024-07-0{status % 10}"))
    traffic.fail[f"2024-07-0{status % 10}/B08.tif"] = [status] * 20
    with pytest.raises(error, match=rf"2024-07-0{status % 10}/B08\.tif \(HTTP {status}\)"):
        stac_read.read("optical", made, AREA)


def test_a_busy_server_is_a_fault_and_the_next_try_succeeds(traffic, impatient):
    made = source("optical", sentinel2(traffic.root, traffic.url, "2024-07-05"))
    traffic.fail["2024-07-05/B08.tif"] = [503] * 2
    with pytest.raises(FetchError, match="item S2A_MSIL2A_20240705T103000: cannot be read"):
        stac_read.read("optical", made, AREA)
    assert stac_read.read("optical", made, AREA).all()


def test_gdal_tries_again_by_itself(traffic, monkeypatch):
    monkeypatch.setattr(stac_read, "_GDAL", {**stac_read._GDAL, "GDAL_HTTP_RETRY_DELAY": "0.01"})
    made = source("optical", sentinel2(traffic.root, traffic.url, "2024-07-06"))
    traffic.fail["2024-07-06/B08.tif"] = [503, 429]
    assert stac_read.read("optical", made, AREA).all()


def test_a_server_that_is_away_is_a_fault(traffic, impatient):
    item = sentinel2(traffic.root, traffic.url, "2024-07-07")
    item["assets"]["B02"]["href"] = "http://127.0.0.1:9/B02.tif?sig=secret"
    with pytest.raises(FetchError) as raised:
        stac_read.read("optical", source("optical", item, bands=("B02",)), AREA)
    assert "secret" not in str(raised.value)


def test_a_file_on_this_machine_can_be_an_asset(traffic):
    item = sentinel2(traffic.root, str(traffic.root), "2024-07-08")
    assert stac_read.read("optical", source("optical", item), AREA).all()
    (traffic.root / "2024-07-08/B02.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"2024-07-08/B02\.tif"):
        stac_read.read("optical", source("optical", item), AREA)


def test_an_item_beside_the_area_leaves_it_empty_without_a_request(traffic):
    made = source("optical", sentinel2(traffic.root, traffic.url, "2024-07-09"))
    assert not stac_read.read("optical", made, AREA.translate_pix(5000, 0)).any()
    assert not traffic.asked


def test_without_a_classification_the_items_say_how_clouded_they_are(traffic):
    item = sentinel2(traffic.root, traffic.url, "2024-07-10")
    del item["assets"]["SCL"]
    (found,) = passes_of([pystac.Item.from_dict(item)], AREA.geographic_extent)
    assert cloud_source(found, SERVICE, crs="EPSG:32632") is None
    assert stated_cover(found) == 0.5
    del found.items[0].properties["eo:cloud_cover"]
    with pytest.raises(RasterError, match="has neither a scene classification nor a cloud cover"):
        stated_cover(found)
