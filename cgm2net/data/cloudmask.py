"""Stage ``cloudmask``: for every scene the probability that cloud or its shadow hides the ground."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cgm2net import raster, sensors
from cgm2net.catalog import accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.clouds import simple_cloud, simple_shadow
from cgm2net.errors import RasterError, SceneError
from cgm2net.raster import Raster
from cgm2net.settings import CloudmaskSettings

COVER_THRESHOLD = 0.5
"""A pixel with a higher probability counts into the cover."""

_SCL_PROBABILITY = {0: 1.0, 3: 1.0, 8: 0.6, 9: 1.0, 10: 1.0}


class CloudMethod(NamedTuple):
    """A way to find clouds; ``find`` gives float32 (H, W), 0-1, from the optical image and the delivered mask."""

    version: str
    "Goes into the table and the cache key; raised when the answer changes."
    find: Callable[[Raster, Raster | None], np.ndarray]
    grow: bool
    """Whether the edge is grown by ``dilation_px``: a delivered mask is taken as it is, and the rule is soft enough to
    reach where clouds thin out (grown by 1 px it agrees less with true masks)."""


def _given(_optical: Raster, delivered: Raster | None) -> np.ndarray:
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


def _scl(_optical: Raster, delivered: Raster | None) -> np.ndarray:
    if delivered is None:
        raise RasterError(
            "method `scl` reads the scene classification from the catalogue's cloud column, which is empty"
        )
    codes = np.where(delivered.valid_HW, delivered.pixels_CHW[0], 0)
    if not np.isin(codes, np.arange(12)).all() or codes.max() <= 1:
        raise RasterError(
            f"not a Sentinel-2 scene classification: codes {np.unique(codes)[:8].tolist()}, expected 0-11"
        )
    probability = np.zeros(codes.shape, np.float32)
    for code, value in _SCL_PROBABILITY.items():
        probability[codes == code] = value
    return probability


def _simple(optical: Raster, _delivered: Raster | None) -> np.ndarray:
    reflectance = sensors.to_unit_range(optical.pixels_CHW, optical.bands)
    cloud = np.where(optical.valid_HW, simple_cloud(reflectance, optical.bands), 0.0)
    shadow = simple_shadow(reflectance, optical.bands, cloud_HW=cloud, valid_HW=optical.valid_HW)
    return np.asarray(np.maximum(cloud, shadow))


METHODS = MappingProxyType({
    "given": CloudMethod("1", _given, grow=False),
    "scl": CloudMethod("1", _scl, grow=True),
    "simple": CloudMethod("1", _simple, grow=False),
})  # fmt: skip
"""`given`: the mask that the catalogue names. `scl`: Sentinel-2 L2A scene classification; 9, 10 (cloud, cirrus) and 3
(shadow) count 1, as does 0 (no data), 8 (cloud, medium probability) 0.6. `simple`: :mod:`cgm2net.data.clouds`."""


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
        method = settings.method
        if method == "given_or_simple":
            method = "given" if "cloud" in files else "simple"
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


def find_cloud(method: str, optical: Raster, delivered: Raster | None, *, dilation_px: int) -> np.ndarray:
    """Return the probability of cloud or shadow, float32 (H, W), 0-1; training and prediction both call this.

    Raises:
        RasterError: if the method cannot work with what there is.
    """
    if delivered is not None:
        raster.require_same_grid(optical, delivered, what="optical and cloud mask")
    chosen = METHODS[method]
    probability = chosen.find(optical, delivered)
    if chosen.grow and dilation_px:
        size = 2 * dilation_px + 1
        probability = ndimage.grey_dilation(probability, size=(size, size))
    return np.asarray(probability, np.float32)


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
