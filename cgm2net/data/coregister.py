"""Stage ``coregister``: all rasters of a scene onto its optical grid, the SAR image moved to where it belongs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net.catalog import FILE_ROLES, accepted_scenes, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.aligned import align
from cgm2net.data.shift import Shift, WindowShift
from cgm2net.errors import RasterError, SceneError
from cgm2net.settings import CoregisterSettings

NUM_PICTURED = 12
"""Scenes in ``shifts.png``, the first by id."""

WINDOW_COLUMNS = ("scene_id", "role", *WindowShift.__dataclass_fields__)


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
    """Put all rasters of every accepted scene on its optical grid and remove the shifts of its reference and its SAR.

    The reference is measured against the cloudy image where that is clear; SAR against the reference where there is
    one, else against the cloudy image where it is clear. A translation is removed, or an affine displacement where the
    windows agree on it. Values are interpolated once, SAR in dB.

    Args:
        scenes: scene table of ``validate``.
        out_dir: new folder; gets ``SCENE_ID/{optical,sar,reference,label,cloud}.tif``, ``shifts.png`` (the windows'
            vectors of the first scenes), ``windows.csv`` and, last, ``scenes.csv`` with ``dx_px``, ``dy_px`` (where
            the SAR content lay: right and down of the optical content; removed where ``shift_status`` is ``moved``),
            ``shift_gradient`` (how both change along columns and rows, where they do), ``shift_rmse_px``,
            ``shift_error_px``, ``shift_agreement``, ``shift_windows``, ``shift_status``, ``shift_reason``, and the
            same of the reference as ``reference_…``; ``extra`` where bands are kept for the cloud mask.
        settings: bands to keep, and when a shift is believed.

    Raises:
        DataError: if no scene is left.
    """
    table = read_scenes(scenes)
    going_on = accepted_scenes(table)
    parameters = settings.model_dump(mode="json", exclude={"num_workers", "cluster"})
    jobs = [
        SceneJob(
            scene_id=row["scene_id"],
            parameters=parameters,
            inputs={role: Path(row[role]) for role in FILE_ROLES if row[role]},
        )
        for row in going_on.to_dict("records")
    ]
    results, hits = map_scenes(
        align_scene,
        jobs,
        stage="coregister",
        out_dir=out_dir,
        num_workers=settings.num_workers,
        cluster=settings.cluster,
    )
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
        shifts = align(job.inputs, folder, settings)
    except RasterError as error:
        reason = str(error)
        for path in job.inputs.values():
            reason = reason.replace(str(path), path.name)  # the table's bytes shall not depend on where it is made
        raise SceneError(job.scene_id, reason) from error
    found = {"sar": shifts.sar} | ({"reference": shifts.reference} if shifts.reference else {})
    windows = [{"role": role, **asdict(window)} for role, shift in found.items() for window in shift.windows]
    of_reference = {f"reference_{name}": value for name, value in _facts(shifts.reference).items()}
    return {**_facts(shifts.sar), **of_reference, "windows": windows}


def _facts(shift: Shift | None) -> Facts:
    if shift is None:
        return {}
    gradient = " ".join(f"{value:.6f}" for value in shift.displacement.gradient)
    return {
        "dx_px": shift.dx_px, "dy_px": shift.dy_px,
        "shift_gradient": gradient if shift.displacement.is_affine else "",
        "shift_rmse_px": shift.rmse_px, "shift_error_px": shift.error_px, "shift_agreement": shift.agreement,
        "shift_windows": shift.num_windows, "shift_status": shift.status, "shift_reason": shift.reason,
    }  # fmt: skip


def _take_windows(facts: Facts) -> Sequence[dict[str, object]]:
    windows = facts.pop("windows", [])
    assert isinstance(windows, list)
    return windows


def _with_paths(facts: Facts, job: SceneJob, out_dir: Path) -> Facts:
    if not facts["accepted"]:
        return facts
    folder = out_dir.resolve() / job.scene_id
    roles = [*job.inputs, *(["extra"] if job.parameters["extra_optical_bands"] else [])]
    return {**facts, **{role: str(folder / f"{role}.tif") for role in roles}}


def _draw(done: pd.DataFrame, vectors: pd.DataFrame, path: Path) -> None:
    """Draw each scene's window vectors: agreeing ones dark, the others pale; an arrow of 4 px is a window step long."""
    from matplotlib.figure import Figure

    columns = min(4, len(done))
    rows = -(-len(done) // columns)
    figure = Figure(figsize=(3 * columns, 3.3 * rows), layout="constrained")
    for axes, scene in zip(figure.subplots(rows, columns, squeeze=False).flat, done.to_dict("records"), strict=False):
        mine = vectors[(vectors["scene_id"] == scene["scene_id"]) & (vectors["role"] == "sar")]
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
