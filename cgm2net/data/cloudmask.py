"""Stage ``cloudmask``: for every scene the probability that cloud or its shadow hides the ground."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy import ndimage

from cgm2net import raster, sensors
from cgm2net.catalog import accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.clouds import RULE_BANDS
from cgm2net.data.shadows import cloud_or_shadow, shadow_geometry
from cgm2net.errors import RasterError, SceneError
from cgm2net.grids import blocks_in, common, padded, whole
from cgm2net.raster import Raster
from cgm2net.settings import CloudmaskSettings

COVER_THRESHOLD = 0.5
"""A pixel with a higher probability counts into the cover."""

_SCL_PROBABILITY = {0: 1.0, 3: 1.0, 8: 0.6, 9: 1.0, 10: 1.0}


class CloudImage(Protocol):
    """An optical image and the mask that came with it, to be had in windows that lie inside."""

    @property
    def grid(self) -> GeoBox: ...  # noqa: D102
    def optical(self, window: Window) -> Raster: ...  # noqa: D102
    def delivered(self, window: Window) -> Raster | None: ...  # noqa: D102


Find = Callable[[Window], np.ndarray]
"""Gives the probability of cloud or shadow in a window, float32 (H, W), 0-1: to the bit what the whole holds there."""


class CloudMethod(NamedTuple):
    """A way to find clouds."""

    version: str
    "Goes into the table and the cache key; raised when the answer changes."
    find: Callable[[CloudImage], Find]
    "Looks at an image as a whole, as far as it must, and returns what finds clouds in its windows."
    grow: bool
    """Whether the edge is grown by ``dilation_px``: a delivered mask is taken as it is, and the rule is soft enough to
    reach where clouds thin out (grown by 1 px it agrees less with true masks)."""


def _given(image: CloudImage) -> Find:
    def find(window: Window) -> np.ndarray:
        delivered = image.delivered(window)
        if delivered is None:
            raise RasterError("the catalogue has no cloud mask for this scene; name one, or choose another method")
        # Where the mask does not reach nothing is known: that counts as cloud.
        values = np.where(delivered.valid_HW, delivered.pixels_CHW[0], 1).astype(np.float32)
        if values.min() < 0.0 or values.max() > 1.0:
            raise RasterError(
                f"the delivered mask holds values from {values.min():g} to {values.max():g}, expected 0-1; a Sentinel-2"
                " scene classification is read by method `scl`"
            )
        return np.asarray(values)

    return find


def _scl(image: CloudImage) -> Find:
    if all(_codes(image, block).max() <= 1 for block in blocks_in(image.grid, whole(image.grid))):
        found = np.unique(_codes(image, next(blocks_in(image.grid, whole(image.grid)))))
        raise _no_classification(found)

    def find(window: Window) -> np.ndarray:
        codes = _codes(image, window)
        probability = np.zeros(codes.shape, np.float32)
        for code, value in _SCL_PROBABILITY.items():
            probability[codes == code] = value
        return probability

    return find


def _codes(image: CloudImage, window: Window) -> np.ndarray:
    delivered = image.delivered(window)
    if delivered is None:
        raise RasterError(
            "method `scl` reads the scene classification from the catalogue's cloud column, which is empty"
        )
    codes = np.where(delivered.valid_HW, delivered.pixels_CHW[0], 0)
    if not np.isin(codes, np.arange(12)).all():
        raise _no_classification(np.unique(codes))
    return codes


def _no_classification(codes: np.ndarray) -> RasterError:
    return RasterError(f"not a Sentinel-2 scene classification: codes {codes[:8].tolist()}, expected 0-11")


def _simple(image: CloudImage) -> Find:
    size = {"height": image.grid.shape[0], "width": image.grid.shape[1]}
    bands = tuple(name for name in RULE_BANDS if name in image.optical(Window(0, 0, 1, 1)).bands)

    def look(window: Window) -> tuple[np.ndarray, np.ndarray]:
        optical = image.optical(window)
        return sensors.to_unit_range(optical.select(bands).pixels_CHW, bands), optical.valid_HW

    geometry = shadow_geometry(look, bands, **size)
    return lambda window: cloud_or_shadow(look, bands, window, geometry=geometry, **size)


METHODS = MappingProxyType({
    "given": CloudMethod("1", _given, grow=False),
    "scl": CloudMethod("1", _scl, grow=True),
    "simple": CloudMethod("1", _simple, grow=False),
})  # fmt: skip
"""`given`: the mask that the catalogue names. `scl`: Sentinel-2 L2A scene classification; 9, 10 (cloud, cirrus) and 3
(shadow) count 1, as does 0 (no data), 8 (cloud, medium probability) 0.6. `simple`: :mod:`cgm2net.data.clouds` and
:mod:`cgm2net.data.shadows`."""


@dataclass(frozen=True, kw_only=True)
class CloudmaskReport:
    """Counts of one run."""

    found: int
    masked: int
    refused: int
    from_cache: int
    mean_cover: float
    "Over the accepted scenes."


def cloudmask(scenes: Path, out_dir: Path, *, settings: CloudmaskSettings) -> CloudmaskReport:
    """Write a cloud probability for every scene.

    Args:
        scenes: ``scenes.csv`` of the stage ``coregister``.
        out_dir: new folder; gets ``SCENE_ID/cloud.tif`` (float32 probability 0-1) and ``scenes.csv``, the table last,
            with method, version and cover.
        settings: method, growth, processes.

    Raises:
        DataError: if no scene is left.
    """
    table = read_scenes(scenes)
    going_on = accepted_scenes(table)
    jobs = []
    for row in going_on.to_dict("records"):
        files = {role: Path(row[role]) for role in ("optical", "cloud") if row[role]}
        method = method_of(settings, delivered="cloud" in files)
        used = {"optical": files["optical"]} if method == "simple" else files
        parameters = {"method": method, "version": METHODS[method].version, "dilation_px": settings.dilation_px}
        jobs.append(SceneJob(scene_id=row["scene_id"], parameters=parameters, inputs=used))
    results, hits = map_scenes(mask_scene, jobs, stage="cloudmask", out_dir=out_dir, num_workers=settings.num_workers)
    located = [_with_path(facts, out_dir) for facts in results]
    merged = merge_results(table, located)
    write_scenes(merged, out_dir / "scenes.csv")
    done = accepted_scenes(merged)
    return CloudmaskReport(
        found=len(going_on), masked=len(done), refused=len(going_on) - len(done), from_cache=hits,
        mean_cover=float(done["cloud_cover"].mean()),
    )  # fmt: skip


def method_of(settings: CloudmaskSettings, *, delivered: bool) -> str:
    """Return the method for a scene that comes with a mask, or without."""
    if settings.method == "given_or_simple":
        return "given" if delivered else "simple"
    return settings.method


def cloud_finder(method: str, image: CloudImage, *, dilation_px: int) -> Find:
    """Return what finds clouds in the windows of an image; training and prediction both call this.

    Raises:
        RasterError: if the method cannot work with what there is; so may what is returned.
    """
    chosen = METHODS[method]
    find = chosen.find(image)
    if not chosen.grow or not dilation_px:
        return find

    def grown(window: Window) -> np.ndarray:
        around = padded(image.grid, window, by_px=dilation_px)
        size = 2 * dilation_px + 1
        (_, here) = common(window, around)
        return np.asarray(ndimage.grey_dilation(find(around), size=(size, size))[here])

    return grown


@dataclass(frozen=True, kw_only=True)
class _InMemory:
    """A :class:`CloudImage` that was read whole."""

    image: Raster
    mask: Raster | None

    @property
    def grid(self) -> GeoBox:
        return self.image.grid

    def optical(self, window: Window) -> Raster:
        return self.image.part(window)

    def delivered(self, window: Window) -> Raster | None:
        return None if self.mask is None else self.mask.part(window)


def find_cloud(method: str, optical: Raster, delivered: Raster | None, *, dilation_px: int) -> np.ndarray:
    """Return the probability of cloud or shadow in an image, float32 (H, W), 0-1; see :func:`cloud_finder`.

    Raises:
        RasterError: if the method cannot work with what there is.
    """
    if delivered is not None:
        raster.require_same_grid(optical, delivered, what="optical and cloud mask")
    find = cloud_finder(method, _InMemory(image=optical, mask=delivered), dilation_px=dilation_px)
    return find(whole(optical.grid))


def mask_scene(job: SceneJob, folder: Path) -> Facts:
    """Write one scene's ``cloud.tif``; return method, version and cover."""
    method, dilation_px = str(job.parameters["method"]), job.parameters["dilation_px"]
    assert isinstance(dilation_px, int)
    optical = raster.read(job.inputs["optical"])
    delivered = raster.read(job.inputs["cloud"]) if "cloud" in job.inputs else None
    try:
        probability = find_cloud(method, optical, delivered, dilation_px=dilation_px)
    except RasterError as error:
        raise SceneError(job.scene_id, str(error)) from error
    mask = Raster(pixels_CHW=probability[None], valid_HW=optical.valid_HW, bands=("cloud",), grid=optical.grid)
    raster.write(folder / "cloud.tif", mask, nodata=None)
    measured = probability[optical.valid_HW]
    cover = float((measured > COVER_THRESHOLD).mean()) if measured.size else 0.0
    return {"cloud_method": method, "cloud_version": METHODS[method].version, "cloud_cover": round(cover, 6)}


def _with_path(facts: Facts, out_dir: Path) -> Facts:
    if not facts["accepted"]:
        return facts
    return {**facts, "cloud": str(out_dir.resolve() / str(facts["scene_id"]) / "cloud.tif")}
