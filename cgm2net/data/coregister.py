"""Stage ``coregister``: all rasters of a scene onto its optical grid, the SAR image moved to where it belongs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from rasterio.enums import Resampling
from scipy import ndimage

from cgm2net import raster, sensors
from cgm2net.catalog import FILE_ROLES, accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.cloudmask import COVER_THRESHOLD, find_cloud
from cgm2net.data.shift import Shift, WindowShift, measure_shift
from cgm2net.data.stored import Border, PlacedSar, require_codes, to_codes, without_border
from cgm2net.errors import RasterError, SceneError
from cgm2net.grids import smooth_resampling, whole
from cgm2net.raster import Raster
from cgm2net.settings import CoregisterSettings

NUM_PICTURED = 12
"""Scenes in ``shifts.png``, the first by id."""

CLOUD_RIM_PX = 3
"""Kept away from clouds when the shift is measured without a clear reference."""

WINDOW_COLUMNS = ("scene_id", *WindowShift.__dataclass_fields__)


# What stands where a file that comes onto the optical grid holds nothing. 255 is neither a class nor a probability.
_CARRIED = MappingProxyType({
    "reference": sensors.OPTICAL_NODATA, "label": sensors.LABEL_IGNORE, "cloud": sensors.LABEL_IGNORE,
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CoregisterReport:
    """Counts of one run."""

    found: int
    moved: int
    "SAR shift measured and removed."
    aligned: int
    "Measured shift too small to remove."
    unsure: int
    "Left in place; the table says why."
    refused: int
    from_cache: int


def coregister(scenes: Path, out_dir: Path, *, settings: CoregisterSettings) -> CoregisterReport:
    """Put all rasters of every accepted scene on its optical grid and remove the shift of its SAR image.

    The shift is measured against the reference where there is one, else against the cloudy image where it is clear.
    Only translations are removed. SAR values are interpolated once, in dB.

    Args:
        scenes: scene table of ``validate``.
        out_dir: new folder; gets ``SCENE_ID/{optical,sar,reference,label,cloud}.tif``, ``shifts.png`` (the windows'
            vectors of the first scenes), ``windows.csv`` and, last, ``scenes.csv`` with ``dx_px``, ``dy_px`` (where
            the SAR content lay: right and down of the optical content; removed where ``shift_status`` is ``moved``),
            ``shift_rmse_px``, ``shift_agreement``, ``shift_windows``, ``shift_status`` and ``shift_reason``.
        settings: bands to keep, and when a shift is believed.

    Raises:
        DataError: if no scene is left.
    """
    table = read_scenes(scenes)
    going_on = accepted_scenes(table)
    parameters = settings.model_dump(mode="json", exclude={"num_workers"})
    jobs = [
        SceneJob(
            scene_id=row["scene_id"],
            parameters=parameters,
            inputs={role: Path(row[role]) for role in FILE_ROLES if row[role]},
        )
        for row in going_on.to_dict("records")
    ]
    results, hits = map_scenes(align_scene, jobs, stage="coregister", out_dir=out_dir, num_workers=settings.num_workers)
    windows = [{"scene_id": facts["scene_id"], **w} for facts in results for w in _take_windows(facts)]
    vectors = pd.DataFrame(windows, columns=list(WINDOW_COLUMNS))
    vectors.to_csv(out_dir / "windows.csv", index=False, lineterminator="\n", float_format="%.4f")
    merged = merge_results(table, [_with_paths(facts, job, out_dir) for facts, job in zip(results, jobs, strict=True)])
    done = accepted_scenes(merged)
    _draw(done.head(NUM_PICTURED), vectors, out_dir / "shifts.png")
    write_scenes(merged, out_dir / "scenes.csv")
    counts = done["shift_status"].value_counts()
    return CoregisterReport(
        found=len(going_on),
        moved=int(counts.get("moved", 0)),
        aligned=int(counts.get("aligned", 0)),
        unsure=int(counts.get("unsure", 0)),
        refused=len(going_on) - len(done),
        from_cache=hits,
    )


def align_scene(job: SceneJob, folder: Path) -> Facts:
    """Write one scene's rasters on the optical grid; return the shift and its windows.

    Raises:
        SceneError: if a file cannot be read, lacks a band, or cannot be projected.
    """
    settings = CoregisterSettings.model_validate(job.parameters)
    try:
        shift = _align(job.inputs, folder, settings)
    except RasterError as error:
        reason = str(error)
        for path in job.inputs.values():
            reason = reason.replace(str(path), path.name)  # the table's bytes shall not depend on where it is made
        raise SceneError(job.scene_id, reason) from error
    return {
        "dx_px": shift.dx_px,
        "dy_px": shift.dy_px,
        "shift_rmse_px": shift.rmse_px,
        "shift_agreement": shift.agreement,
        "shift_windows": shift.num_windows,
        "shift_status": shift.status,
        "shift_reason": shift.reason,
        "windows": [asdict(window) for window in shift.windows],
    }


def _align(files: dict[str, Path], folder: Path, settings: CoregisterSettings) -> Shift:
    optical = raster.read(files["optical"], bands=settings.optical_bands)
    raster.write(folder / "optical.tif", optical, nodata=sensors.OPTICAL_NODATA)
    carried = {role: _carry(role, files[role], optical, folder) for role in _CARRIED if role in files}
    sar = _read_sar(files["sar"], settings.sar_bands)
    if "reference" in carried:
        ground = carried["reference"]
        usable_HW = ground.valid_HW
    else:
        ground = optical
        usable_HW = clear_ground(optical, carried.get("cloud"))
    shift = measure_shift(
        ground.pixels_CHW,
        PlacedSar(sar, optical.grid).part(whole(optical.grid)).pixels_CHW,
        usable_HW=usable_HW,
        window_px=settings.window_px,
        max_shift_px=settings.max_shift_px,
        min_shift_px=settings.min_shift_px,
        min_agreement=settings.min_agreement,
        max_rmse_px=settings.max_rmse_px,
    )
    moved = (shift.dx_px, shift.dy_px) if shift.status == "moved" else (0.0, 0.0)
    placed = PlacedSar(sar, optical.grid, shift_px=moved).part(whole(optical.grid))
    raster.write(folder / "sar.tif", placed, nodata=sensors.SAR_NODATA)
    return shift


def _carry(role: str, path: Path, optical: Raster, folder: Path) -> Raster:
    """Write a scene's file on the optical grid and return it."""
    if role == "reference":
        source = raster.read(path, bands=optical.bands)
        resampling = smooth_resampling(source.grid, optical.grid)
    else:  # nearest: a delivered mask may hold classes
        source, resampling = _read_codes(role, path), Resampling.nearest
    nodata = float("nan") if source.dtype.kind == "f" else _CARRIED[role]
    carried = raster.warp(source, optical.grid, resampling=resampling, fill=nodata)
    raster.write(folder / f"{role}.tif", carried, nodata=nodata)
    return carried


def _read_codes(role: str, path: Path) -> Raster:
    source = raster.read(path)
    require_codes(role, num_bands=len(source.bands), nodata=raster.read_nodata(path), path=path)
    return to_codes(source, what=f"{path}: {role}")


def _read_sar(path: Path, bands: Sequence[str]) -> Raster:
    """Read SAR as float32, its border of zeros invalid."""
    source = raster.read(path, bands=bands)
    pixels = source.pixels_CHW.astype(np.float32)
    border = Border(height=pixels.shape[1], width=pixels.shape[2])
    border.add(pixels)
    return without_border(replace(source, pixels_CHW=pixels), border.mask(whole(source.grid)))


def clear_ground(optical: Raster, delivered: Raster | None) -> np.ndarray:
    """Return bool (H, W): measured, and away from cloud and shadow.

    Args:
        optical: cloudy image.
        delivered: mask or classification on the same grid; the rule finds clouds where there is none.

    Raises:
        RasterError: if the file is neither, or the rule lacks a band.
    """
    if delivered is None:
        probability_HW = find_cloud("simple", optical, None, dilation_px=0)
    else:
        known = np.where(delivered.valid_HW, delivered.pixels_CHW, 1)
        method = "scl" if known.max() > 1 else "given"
        probability_HW = find_cloud(method, optical, replace(delivered, pixels_CHW=known), dilation_px=0)
    return away_from_cloud(probability_HW > COVER_THRESHOLD, optical.valid_HW)


def away_from_cloud(cloud_HW: np.ndarray, valid_HW: np.ndarray) -> np.ndarray:
    """Return bool (H, W): valid, and no cloud nearer than the rim of :data:`CLOUD_RIM_PX`."""
    # Masks leave thin rims outside, and a rim is an edge that SAR does not have.
    return np.asarray(valid_HW & ~ndimage.binary_dilation(cloud_HW, iterations=CLOUD_RIM_PX))


def _take_windows(facts: Facts) -> Sequence[dict[str, object]]:
    windows = facts.pop("windows", [])
    assert isinstance(windows, list)
    return windows


def _with_paths(facts: Facts, job: SceneJob, out_dir: Path) -> Facts:
    if not facts["accepted"]:
        return facts
    folder = out_dir.resolve() / job.scene_id
    return {**facts, **{role: str(folder / f"{role}.tif") for role in job.inputs}}


def _draw(done: pd.DataFrame, vectors: pd.DataFrame, path: Path) -> None:
    """Draw each scene's window vectors: agreeing ones dark, the others pale; an arrow of 4 px is a window step long."""
    from matplotlib.figure import Figure

    columns = min(4, len(done))
    rows = -(-len(done) // columns)
    figure = Figure(figsize=(3 * columns, 3.3 * rows), layout="constrained")
    for axes, scene in zip(figure.subplots(rows, columns, squeeze=False).flat, done.to_dict("records"), strict=False):
        mine = vectors[vectors["scene_id"] == scene["scene_id"]]
        if len(mine):
            colours = np.where(mine["agrees"].astype(bool), "#08519c", "#c6c6c6")
            axes.quiver(
                mine["col"], mine["row"], mine["dx_px"], mine["dy_px"],
                color=colours, angles="xy", scale_units="xy", scale=4 / _step(mine["col"]), width=0.01,
            )  # fmt: skip
        vector = f"{scene['dx_px']:.2f}, {scene['dy_px']:.2f} px"
        axes.set_title(f"{scene['scene_id']}\n{scene['shift_status']} {vector}", fontsize=8)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.2)
        axes.invert_yaxis()
        axes.tick_params(labelsize=6)
    for axes in figure.axes[len(done) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _step(positions: pd.Series) -> float:
    steps = np.diff(np.unique(positions))
    return float(steps.max()) if steps.size else 1.0
