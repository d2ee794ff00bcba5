"""A small world for the STAC source: image files behind a server that counts bytes, and a real STAC API beside it.

One Sentinel-2 tile of 512 px in UTM 32 N; all values are random, but known.
"""

import http.server
import json
import socket
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import polygon

SIDE_PX = 512
TILE = GeoBox((SIDE_PX, SIDE_PX), Affine(10, 0, 499_980, 0, -10, 5_400_000), "EPSG:32632")
AREA = GeoBox((64, 80), Affine(10, 0, 501_000, 0, -10, 5_399_000), "EPSG:32632")
"""What the tests ask for: rows 100 to 164, columns 102 to 182 of the tile."""

LEVELS = {"B02": 300, "B03": 450, "B04": 350, "B08": 2400, "B11": 1700, "B12": 900}
CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))
SCL_CLOUD, SCL_VEGETATION = 9, 4


def bbox_of(grid: GeoBox) -> str:
    """Return degrees, a little within a grid, so that the grid of the box is that grid."""
    left, bottom, right, top = grid.boundingbox.bbox
    inside = GeoBox((1, 1), Affine(right - left - 8, 0, left + 4, 0, bottom - top + 8, top - 4), grid.crs)
    return ",".join(f"{degrees:.7f}" for degrees in inside.geographic_extent.boundingbox.bbox)


@dataclass
class Traffic:
    """What a file server does and did."""

    root: Path
    url: str = ""
    fail: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    "Path -> status of its next answers."
    gone: set[str] = field(default_factory=set)
    "Paths that are not found."
    asked: Counter[str] = field(default_factory=Counter)
    "Requests a path."
    sent: Counter[str] = field(default_factory=Counter)
    "Bytes a path."
    queries: list[str] = field(default_factory=list)
    "Query strings of all requests."
    on_sent: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)


class FileHandler(http.server.BaseHTTPRequestHandler):
    """GET and HEAD with ranges."""

    protocol_version = "HTTP/1.1"
    traffic: Traffic

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        name, _, query = self.path.lstrip("/").partition("?")
        with self.traffic.lock:
            self.traffic.queries.append(query)
            self.traffic.asked[name] += 1
            status = self.traffic.fail[name].pop(0) if self.traffic.fail[name] else 0
        path = self.traffic.root / name
        if status or name in self.traffic.gone or not path.is_file():
            self.send_response(status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        start, stop = 0, len(content)
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            try:
                self.wfile.write(content[start:stop])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            with self.traffic.lock:
                self.traffic.sent[name] += stop - start
            self.traffic.on_sent()


@contextmanager
def serving(handler: type, **members: Any) -> Iterator[str]:
    """Run a handler on loopback; yield its address."""
    made = type("Handler", (handler,), members)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


@contextmanager
def file_server(root: Path) -> Iterator[Traffic]:
    traffic = Traffic(root)
    with serving(FileHandler, traffic=traffic) as traffic.url:
        yield traffic


@contextmanager
def stac_api(folder: Path, items: Sequence[Mapping[str, Any]], licenses: Mapping[str, str]) -> Iterator[str]:
    """Run `rustac serve` over items; yield its address."""
    files = [folder / "items.json"]
    files[0].write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    for name, license in licenses.items():
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(collection(name, license)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "rustac", "serve", "--addr", f"127.0.0.1:{port}", *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            said = ""
            while "Serving" not in said:
                line = server.stdout.readline()
                assert line, f"rustac ended: {said}"
                said += line
            await_port(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def await_port(port: int) -> None:
    """Wait until something listens there; a refused connection comes back at once."""
    for _ in range(20_000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            continue
        return
    raise AssertionError(f"nothing listens on {port}")


def collection(name: str, license: str) -> dict[str, Any]:
    return {
        "type": "Collection", "stac_version": "1.0.0", "id": name, "description": name, "license": license, "links": [],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]},
        },
    }  # fmt: skip


def item(
    name: str, collection: str, when: str, assets: Mapping[str, str], *, grid: GeoBox = TILE, **properties: Any
) -> dict[str, Any]:
    """Return a STAC item; assets are key -> address."""
    corners = [grid.transform * (col * grid.shape[1], row * grid.shape[0]) for col, row in CORNERS]
    outline = polygon(corners, grid.crs).to_crs("EPSG:4326")
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": collection, "links": [],
        "geometry": outline.json, "bbox": list(outline.boundingbox.bbox),
        "assets": {key: {"href": href, "type": "image/tiff; application=geotiff"} for key, href in assets.items()},
        "properties": {"datetime": when, "proj:code": str(grid.crs), **properties},
    }  # fmt: skip


def write_band(path: Path, pixels_HW: np.ndarray, *, nodata: float | None, grid: GeoBox = TILE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels_HW.shape
    scale = grid.shape[1] / width
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype=pixels_HW.dtype, nodata=nodata,
        crs=str(grid.crs), transform=grid.transform * Affine.scale(scale), tiled=True, blockxsize=64, blockysize=64,
        compress="deflate",
    ) as file:  # fmt: skip
        file.write(pixels_HW, 1)


def optical_dn(day: str) -> dict[str, np.ndarray]:
    """Return the true DN of a day, bands of 512 px, those of 20 m of 256."""
    rng = np.random.default_rng(int(day.replace("-", "")))
    sides = {name: SIDE_PX // (2 if name in ("B11", "B12") else 1) for name in LEVELS}
    return {
        name: rng.integers(level - 200, level + 400, (sides[name],) * 2).astype(np.uint16)
        for name, level in LEVELS.items()
    }


def sar_power(day: str) -> dict[str, np.ndarray]:
    """Return linear power, -32768 in the first 50 columns, which nothing was measured in."""
    rng = np.random.default_rng(int(day.replace("-", "")) + 1)
    bands = {}
    for name, level in (("VV", 0.1), ("VH", 0.02)):
        power = (level * rng.gamma(4.4, 1 / 4.4, (SIDE_PX, SIDE_PX))).astype(np.float32)
        power[:, :50] = -32768
        bands[name] = power
    return bands


def scl(cloud_columns: int) -> np.ndarray:
    """Return a classification, 256 px of 20 m: so many columns of the area (of 40) are cloud, the rest vegetation."""
    codes = np.full((SIDE_PX // 2,) * 2, SCL_VEGETATION, np.uint8)
    first = 51  # the area begins there
    codes[:, first : first + cloud_columns] = SCL_CLOUD
    return codes


def sentinel2(
    root: Path, url: str, day: str, *, cloud_columns: int = 0, offset: int = 1000,
    keys: Mapping[str, str] | None = None, grid: GeoBox = TILE, **properties: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write an optical date's files, DN + offset; return its item, by default as Planetary Computer has them."""
    names = keys or {band: band for band in LEVELS}
    assets = {}
    for band, dn in optical_dn(day).items():
        write_band(root / day / f"{band}.tif", dn + np.uint16(offset), nodata=0, grid=grid)
        assets[names[band]] = f"{url}/{day}/{band}.tif"
    write_band(root / day / "SCL.tif", scl(cloud_columns), nodata=0, grid=grid)
    assets["SCL" if keys is None else "scl"] = f"{url}/{day}/SCL.tif"
    given = {
        "platform": "Sentinel-2A", "s2:mgrs_tile": "32UMU", "sat:relative_orbit": 65, "eo:cloud_cover": 50.0,
        "s2:processing_baseline": "05.10",
    }  # fmt: skip
    name = f"S2A_MSIL2A_{day.replace('-', '')}T103000"
    return item(name, "sentinel-2-l2a", f"{day}T10:30:00Z", assets, grid=grid, **given | properties)


def sentinel1(root: Path, url: str, day: str, orbit: int, *, hour: str = "05:40", **properties: Any) -> dict[str, Any]:
    """Write a SAR pass's files; return its item, which names GRD as product type, as Planetary Computer's RTC do."""
    assets = {}
    for band, power in sar_power(day).items():
        write_band(root / f"s1-{day}" / f"{band}.tif", power, nodata=-32768)
        assets[band.lower()] = f"{url}/s1-{day}/{band}.tif"
    given = {"platform": "SENTINEL-1A", "sat:relative_orbit": orbit, "sar:product_type": "GRD"}
    name = f"S1A_IW_GRDH_1SDV_{day.replace('-', '')}T{hour.replace(':', '')}00_rtc"
    return item(name, "sentinel-1-rtc", f"{day}T{hour}:00Z", assets, **given | properties)


def signed(href: str) -> str:
    """Sign an address; a hook as users write them."""
    return f"{href}?sig=secret"
