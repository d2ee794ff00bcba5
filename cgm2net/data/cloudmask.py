"""Stage ``cloudmask``: for every scene the probability that cloud or its shadow hides the ground."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from cgm2net import raster
from cgm2net.catalog import accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.agreement import MASK_FILE, OTHER_FILE, ComparedScene, Comparison, draw_agreement
from cgm2net.data.bands import is_classified
from cgm2net.data.cloud_methods import (
    COVER_THRESHOLD,
    Find,
    cloud_finder,
    method_of,
    version_of,
    weights_of,
)
from cgm2net.errors import GridError, RasterError, SceneError
from cgm2net.grids import blocks_in, describe_grid, part_of, whole
from cgm2net.raster import Raster
from cgm2net.settings import CLOUD_BANDS, CloudmaskSettings, ProductLevel
from cgm2net.streams import RasterFile, RasterWriter, small_cache

NUM_PICTURED = 6
"""Scenes in ``agreement.png``, those whose masks agree least."""

_BLOCK_PX = 1024  # of the blocks that are worked on: looking around each costs less, the larger they are


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
    """Write a cloud probability for every scene; memory does not grow with a scene.

    Args:
        scenes: ``scenes.csv`` of the stage ``coregister``.
        out_dir: new folder; gets ``SCENE_ID/cloud.tif`` (float32 probability 0-1) and ``scenes.csv``, the table last,
            with ``cloud_method``, ``cloud_version``, ``cloud_weights`` (SHA-256, empty for rules) and ``cloud_cover``.
            With ``compare_with`` also ``SCENE_ID/compared.tif`` by that method, ``cloud_compared`` (its name),
            ``cloud_agreement``, ``cloud_iou``, ``cloud_not_compared`` (why a scene was not), and ``agreement.png``.
        settings: method, growth, comparison, processes.

    Raises:
        DataError: if no scene is left.
        BackendError: if a method's package is not installed.
    """
    table = read_scenes(scenes)
    going_on = accepted_scenes(table)
    jobs = [_job(row, settings) for row in going_on.to_dict("records")]
    results, hits = map_scenes(
        mask_scene, jobs, stage="cloudmask", out_dir=out_dir, num_workers=settings.num_workers, cluster=settings.cluster
    )
    merged = merge_results(table, [_judged(facts, out_dir, settings) for facts in results])
    if settings.compare_with is not None:
        _draw(merged, out_dir, settings.compare_with)
    write_scenes(merged, out_dir / "scenes.csv")
    done = accepted_scenes(merged)
    return CloudmaskReport(
        found=len(going_on), masked=len(done), refused=len(going_on) - len(done), from_cache=hits,
        mean_cover=float(done["cloud_cover"].mean()),
    )  # fmt: skip


def _job(row: dict[Any, Any], settings: CloudmaskSettings) -> SceneJob:
    files = {role: Path(row[role]) for role in ("optical", "extra", "cloud") if row.get(role)}
    method = method_of(
        settings, delivered="cloud" in files, classified="cloud" in files and _classified(files["cloud"])
    )
    other = settings.compare_with or ""
    parameters: dict[str, object] = {
        "method": method, "version": version_of(method), "dilation_px": settings.dilation_px,
        "product_level": settings.product_level,
    }  # fmt: skip
    if other:
        parameters |= {"compared": other, "compared_version": version_of(other)}
    used = {"optical", *(role for name in (method, other) if name for role in _roles(name))}
    inputs = {role: path for role, path in files.items() if role in used}
    return SceneJob(scene_id=row["scene_id"], parameters=parameters, inputs=inputs)


def _classified(path: Path) -> bool:
    with rasterio.open(path) as file:
        return is_classified(file)


def _roles(method: str) -> tuple[str, ...]:
    """Return which files a method looks at beside the optical one."""
    return ("extra",) if method in CLOUD_BANDS else ("cloud",)


def _judged(facts: Facts, out_dir: Path, settings: CloudmaskSettings) -> Facts:
    """Return the facts with the mask's path; refused where both methods agree too little."""
    if not facts["accepted"]:
        return facts
    agreement = facts.get("cloud_agreement")
    if isinstance(agreement, float) and agreement < settings.min_agreement:
        reason = (
            f"cloud masks {facts['cloud_method']} and {facts['cloud_compared']} agree on {agreement:.1%} of the pixels,"
            f" wanted at least {settings.min_agreement:.1%}; look at agreement.png, deliver a mask for the scene, or"
            " lower cloudmask.min_agreement"
        )
        return {**facts, "accepted": False, "reason": reason}
    return {**facts, "cloud": str(out_dir.resolve() / str(facts["scene_id"]) / MASK_FILE)}


@dataclass(frozen=True, kw_only=True)
class _SceneFiles:
    """A :class:`cgm2net.data.cloud_methods.CloudImage` of open files; the extra bands follow the network's."""

    image: RasterFile
    extra: RasterFile | None
    mask: RasterFile | None

    @property
    def grid(self) -> GeoBox:
        return self.image.grid

    def optical(self, window: Window) -> Raster:
        optical = self.image.part(window)
        if self.extra is None:
            return optical
        more_CHW = self.extra.part(window).pixels_CHW
        return replace(
            optical, pixels_CHW=np.concatenate([optical.pixels_CHW, more_CHW]), bands=optical.bands + self.extra.bands
        )

    def delivered(self, window: Window) -> Raster | None:
        return None if self.mask is None else self.mask.part(window)


def _open(files: dict[str, Path], stack: ExitStack) -> _SceneFiles:
    image = stack.enter_context(RasterFile(files["optical"]))
    extra = mask = None
    if "extra" in files:
        more = [name for name in raster.read_names(files["extra"]) if name not in image.bands]
        extra = stack.enter_context(RasterFile(files["extra"], bands=more)) if more else None
    if "cloud" in files:
        mask = stack.enter_context(RasterFile(files["cloud"]))
    for what, file in {"extra bands": extra, "cloud mask": mask}.items():
        if file is not None and file.grid != image.grid:
            raise GridError(
                f"optical and {what}: grids differ: {describe_grid(image.grid)} against {describe_grid(file.grid)}"
            )
    return _SceneFiles(image=image, extra=extra, mask=mask)


def mask_scene(job: SceneJob, folder: Path) -> Facts:
    """Write one scene's masks; return methods, versions, cover and agreement.

    Raises:
        SceneError: if a file cannot be read, or the method cannot work with what there is.
    """
    method, level = str(job.parameters["method"]), _level(job)
    try:
        with ExitStack() as stack, small_cache():
            image = _open(job.inputs, stack)
            find = _finder(job, image, method)
            facts: Facts = {
                "cloud_method": method, "cloud_version": job.parameters["version"],
                "cloud_weights": weights_of(method, image.optical(Window(0, 0, 1, 1)).bands, product_level=level),
            }  # fmt: skip
            if "compared" not in job.parameters:
                return {**facts, "cloud_cover": _write(image, find, folder)}
            return {**facts, **_write_both(job, image, find, folder)}
    except RasterError as error:
        raise SceneError(job.scene_id, str(error)) from error


def _finder(job: SceneJob, image: _SceneFiles, method: str) -> Find:
    dilation_px = job.parameters["dilation_px"]
    assert isinstance(dilation_px, int)
    return cloud_finder(method, image, dilation_px=dilation_px, product_level=_level(job))


def _level(job: SceneJob) -> ProductLevel:
    return "l2a" if job.parameters["product_level"] == "l2a" else "l1c"


def _write_both(job: SceneJob, image: _SceneFiles, find: Find, folder: Path) -> Facts:
    """Write the mask and the one that it is compared with; return cover, agreement, or why there is none."""
    method, other = str(job.parameters["method"]), str(job.parameters["compared"])
    if method == other:
        comparison, problem = None, "the scene's own method is the one to compare with"
    else:
        comparison, problem = _comparison(job, image, other)
    facts: Facts = {"cloud_cover": _write(image, find, folder, comparison=comparison)}
    if comparison is None:
        return {**facts, "cloud_not_compared": problem}
    if comparison.problem:
        (folder / OTHER_FILE).unlink()
    return {**facts, "cloud_compared": other, **comparison.facts()}


def _comparison(job: SceneJob, image: _SceneFiles, other: str) -> tuple[Comparison | None, str]:
    try:
        return Comparison(_finder(job, image, other)), ""
    except RasterError as error:
        return None, str(error)


def _write(image: _SceneFiles, find: Find, folder: Path, *, comparison: Comparison | None = None) -> float:
    """Write the masks block by block; return the cover, the share of measured pixels that count as cloud."""
    cloudy = measured = 0
    with ExitStack() as stack:
        file = stack.enter_context(_mask_file(folder / MASK_FILE, image.grid))
        other = stack.enter_context(_mask_file(folder / OTHER_FILE, image.grid)) if comparison else None
        for block in blocks_in(image.grid, whole(image.grid), height_px=_BLOCK_PX, width_px=_BLOCK_PX):
            probability_HW, valid_HW = find(block), image.optical(block).valid_HW
            file.write(_as_raster(probability_HW, image.grid, block), block)
            measured += int(valid_HW.sum())
            cloudy += int((probability_HW[valid_HW] > COVER_THRESHOLD).sum())
            if comparison and other:
                other.write(_as_raster(comparison.add(block, probability_HW, valid_HW), image.grid, block), block)
    return round(cloudy / measured, 6) if measured else 0.0


def _mask_file(path: Path, grid: GeoBox) -> RasterWriter:
    return RasterWriter(path, grid=grid, bands=("cloud",), dtype="float32", nodata=None)


def _as_raster(probability_HW: np.ndarray, grid: GeoBox, block: Window) -> Raster:
    everywhere = np.ones(probability_HW.shape, bool)
    return Raster(pixels_CHW=probability_HW[None], valid_HW=everywhere, bands=("cloud",), grid=part_of(grid, block))


def _draw(merged: pd.DataFrame, out_dir: Path, other: str) -> None:
    """Draw the scenes whose masks agree least, those refused for it among them."""
    if "cloud_agreement" not in merged.columns:
        return
    compared = merged[merged["cloud_agreement"].notna()].sort_values(["cloud_agreement", "scene_id"])
    scenes = [
        ComparedScene(
            optical=Path(row["optical"]), folder=out_dir / row["scene_id"],
            title=f"{row['scene_id']}\n{row['cloud_method']}, {row['cloud_agreement']:.1%} equal",
        )
        for row in compared.head(NUM_PICTURED).to_dict("records")
    ]  # fmt: skip
    if scenes:
        draw_agreement(scenes, out_dir / "agreement.png", other=other)
