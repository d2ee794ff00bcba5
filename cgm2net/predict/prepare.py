"""What must be known of a whole scene before the network sees a window of it: its clouds, and where its SAR lies."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.data.clear import CLOUD_RIM_PX, away_from_cloud
from cgm2net.data.cloud_methods import COVER_THRESHOLD, Find, cloud_finder, method_of, version_of
from cgm2net.data.pair import UsableShares
from cgm2net.data.shift import Shift, measure_in_windows
from cgm2net.files import write_aside
from cgm2net.grids import blocks_in, common, inside, padded, whole
from cgm2net.predict.scene import Scene
from cgm2net.settings import CLOUD_BANDS, CloudmaskSettings, CoregisterSettings
from cgm2net.streams import small_cache

CLOUD_FILE = "cloud.tif"
CLOUD_LEVELS = 250
"""Stored cloud probability that means 1."""
CLOUD_NODATA = 255

_HEIGHT_PX, _WIDTH_PX = 512, 512  # of the blocks in which a scene is looked through

Progress = Callable[[int, int], None]
"""Is told how many steps of how many are done."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Clouds and shift of a scene."""

    cloud_path: Path
    "uint8 on the scene's grid: probability x 250, 255 where the optical image has no data."
    cloud_method: str
    cloud_version: str
    cloud_cover: float
    "Share of the measured pixels whose probability exceeds 0.5."
    shift: Shift
    "Of SAR against the optical image, in pixels of the scene's grid."

    def cloud(self, window: Window) -> np.ndarray:
        """Return the probability in a window, float32 (H, W), 0-1; 1 where nothing is known, and beyond the scene."""
        codes, known = read_cloud(self.cloud_path, window)
        return np.where(known, codes / np.float32(CLOUD_LEVELS), np.float32(1))


def prepare(
    scene: Scene,
    folder: Path,
    *,
    coregister: CoregisterSettings,
    cloudmask: CloudmaskSettings,
    progress: Progress | None = None,
) -> Prepared:
    """Find a scene's clouds, then measure the shift of its SAR where it is clear; block by block.

    Args:
        scene: opened scene.
        folder: gets ``cloud.tif``.
        coregister: when a shift is believed, and which bands beside the model's a cloud method may look at.
        cloudmask: how clouds are found; by ``given_or_simple`` a delivered classification is read as one.
        progress: is told of every block.

    Raises:
        RasterError: if the method does not suit the scene, or a file cannot be read.
    """
    steps = _Steps(progress, total=2 * sum(1 for _ in _blocks(scene)) + 1)
    method = method_of(cloudmask, delivered=scene.inputs.cloud is not None, classified=scene.classified)
    path = folder / CLOUD_FILE
    with small_cache():
        image = scene.with_optical((*coregister.extra_optical_bands, *CLOUD_BANDS.get(method, ())))
        find = cloud_finder(
            method, image, dilation_px=cloudmask.dilation_px, product_level=cloudmask.product_level
        )  # fmt: skip
        cover = _write_cloud(scene, path, find, steps)
        shift = _measure(scene, path, coregister, steps)
    steps.done()
    return Prepared(
        cloud_path=path, cloud_method=method, cloud_version=version_of(method), cloud_cover=cover, shift=shift
    )


def read_cloud(path: Path, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Return stored cloud codes in a window, uint8 (H, W), and where they are known, bool; windows may reach beyond."""
    grid = raster.read_grid(path)
    codes = np.full((window.height, window.width), CLOUD_NODATA, np.uint8)
    part = inside(grid, window)
    if part is not None:
        codes[common(part, window)[1]] = raster.read(path, window=part).pixels_CHW[0]
    return codes, codes != CLOUD_NODATA


class _Steps:
    """Counts steps and tells of each."""

    def __init__(self, progress: Progress | None, *, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _blocks(scene: Scene) -> Iterator[Window]:
    return blocks_in(scene.grid, whole(scene.grid), height_px=_HEIGHT_PX, width_px=_WIDTH_PX)


def _write_cloud(scene: Scene, path: Path, find: Find, steps: _Steps) -> float:
    """Write the scene's cloud file; return its cover."""
    height, width = scene.grid.shape
    profile = {
        "driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": "uint8", "nodata": CLOUD_NODATA,
        "crs": str(scene.grid.crs), "transform": scene.grid.transform, "compress": "deflate", "zlevel": 1,
        "tiled": True, "blockxsize": raster.BLOCK_PX, "blockysize": raster.BLOCK_PX, "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    cloudy = measured = 0
    with write_aside(path) as aside, rasterio.open(aside, "w", **profile) as file:
        file.descriptions = ("cloud",)
        for block in _blocks(scene):
            valid = scene.optical(block).valid_HW
            codes = _codes(find(block))
            file.write(np.where(valid, codes, CLOUD_NODATA).astype(np.uint8), 1, window=block)
            measured += int(valid.sum())
            cloudy += int((_is_cloud(codes) & valid).sum())
            steps.done()
    return cloudy / measured if measured else 0.0


def _codes(probability_HW: np.ndarray) -> np.ndarray:
    """Return the probability as it is stored; rounding never makes cloud of what is none, or the other way round."""
    codes = np.rint(probability_HW * CLOUD_LEVELS)
    cloud = probability_HW > COVER_THRESHOLD
    half = CLOUD_LEVELS // 2
    return np.asarray(np.where(cloud, np.maximum(codes, half + 1), np.minimum(codes, half)), np.uint8)


def _is_cloud(codes_HW: np.ndarray) -> np.ndarray:
    return np.asarray(codes_HW > COVER_THRESHOLD * CLOUD_LEVELS)


class _ScenePair:
    """A scene as :class:`cgm2net.data.pair.ImagePair`, its SAR where its grid says; clouds from the file just made."""

    def __init__(self, scene: Scene, cloud_path: Path) -> None:
        self._scene, self._cloud_path = scene, cloud_path

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self._scene.grid.shape
        return height, width

    def optical(self, window: Window) -> np.ndarray:
        return self._scene.optical(window).pixels_CHW

    def sar(self, window: Window) -> np.ndarray:
        return self._scene.sar(window).pixels_CHW

    def usable(self, window: Window) -> np.ndarray:
        around = padded(self._scene.grid, window, by_px=CLOUD_RIM_PX)
        codes, known = read_cloud(self._cloud_path, around)
        return np.asarray(away_from_cloud(_is_cloud(codes) & known, known)[common(window, around)[1]])


def _measure(scene: Scene, cloud_path: Path, settings: CoregisterSettings, steps: _Steps) -> Shift:
    pair = _ScenePair(scene, cloud_path)
    shares = UsableShares(pair.shape, window_px=settings.window_px)
    for block in _blocks(scene):
        usable = pair.usable(block)
        if usable.any():
            usable &= np.isfinite(pair.sar(block)).all(axis=0)
        shares.add(usable, row=block.row_off, col=block.col_off)
        steps.done()
    return measure_in_windows(pair, shares.places(), settings=settings)
