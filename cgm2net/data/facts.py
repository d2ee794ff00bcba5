"""Facts about one scene, read from its files block by block: what validation judges.

Axes: C bands, N sampled pixels, H, W.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError, RasterioIOError
from rasterio.windows import Window

from cgm2net.compute import Facts, SceneJob
from cgm2net.data.levels import Quantiles, band_order, extreme, quantiles_of, radiometry
from cgm2net.errors import RasterError
from cgm2net.raster import band_names, valid_mask
from cgm2net.sensors import LABEL_IGNORE

_WINDOW_PX = 1024
_SAMPLE_PX = 1 << 18
_MEASURED = ("optical", "sar", "reference")

SPREAD = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Shares at which the quantiles of a file's spread are taken."""


@dataclass(frozen=True, kw_only=True)
class _File:
    """What one readable raster file turned out to hold."""

    grid: GeoBox | None
    "None where the file has no CRS."
    bands: tuple[str, ...]
    sample_CN: np.ndarray
    "Stored values of valid pixels on a regular lattice over the whole scene."
    quantiles: Quantiles
    nodata_share: float
    codes: tuple[int, ...]
    "Values found, where the file holds bytes; empty otherwise."
    fingerprint: str
    "SHA-256 of all pixels; empty where one value fills the file (an all-clear mask may equal an all-water label)."
    facts: Facts
    "All of it that a person may want to know."


def scene_facts(job: SceneJob, _folder: Path) -> Facts:
    """Read every file of a scene to its last block and say what was found.

    A file that cannot be read is a fact, not an error; what would follow from it is then None.

    Args:
        job: ``inputs`` are the files that exist by role; ``parameters`` has ``roles`` (all that the scene table
            names) and the texts ``acquired_optical`` and ``acquired_sar``.

    Returns:
        One value a column that :mod:`cgm2net.data.expectations` judges, and under ``files`` what each holds.
    """
    files: dict[str, _File] = {}
    problems: dict[str, str] = {}
    roles = job.parameters["roles"]
    assert isinstance(roles, list)
    for role in roles:
        try:
            if role not in job.inputs:
                raise RasterError("there is no such file")
            files[role] = _read(job.inputs[role])
        except (RasterioIOError, CRSError, RasterError) as error:
            problems[role] = _explain(error, job.inputs.get(role))
    quantiles = {role: file.quantiles for role, file in files.items()}
    return {
        "unreadable": "; ".join(f"{role}: {problem}" for role, problem in problems.items()),
        "without_crs": " ".join(role for role, file in files.items() if file.grid is None),
        **{f"{role}_bands": " ".join(files[role].bands) if role in files else None for role in _MEASURED},
        "identical_files": "; ".join(_identical(files)),
        **_dates(job.parameters),
        **_grids(files),
        **extreme("nodata", {role: files[role].nodata_share for role in _MEASURED if role in files}),
        **radiometry(quantiles),
        **band_order(
            {role: (files[role].bands, files[role].sample_CN) for role in ("optical", "reference") if role in files}
        ),
        **_labels(files.get("label")),
        "files": {role: file.facts for role, file in files.items()},
    }


def _explain(error: Exception, path: Path | None) -> str:
    """Return what GDAL says, without the folders of this machine, on one line."""
    text = str(error.__cause__ or error)
    return " ".join((text.replace(str(path), path.name).removeprefix(f"{path.name}: ") if path else text).split())


def _read(path: Path) -> _File:
    with rasterio.open(path) as file:
        dtype = file.dtypes[0]
        if np.dtype(dtype).kind not in "uif":
            raise RasterError(f"holds {dtype} values, wanted real numbers: DN or detected backscatter in dB")
        bands, crs, num_pixels = band_names(file), file.crs, file.height * file.width
        seen = _Seen(step=max(1, ceil(sqrt(num_pixels / _SAMPLE_PX))))
        for window in _windows(file.height, file.width):
            seen.add(file.read(window=window), window, file.nodata)
        grid = None if crs is None else GeoBox(file.shape, file.transform, crs)
        pixel_size = [abs(file.transform.a), abs(file.transform.e)]
    sample_CN = np.concatenate(seen.samples, axis=1)
    quantiles = quantiles_of(sample_CN, bands)
    nodata_share = 1.0 - seen.num_valid / num_pixels
    facts: Facts = {
        "crs": _crs_name(crs), "pixel_size": pixel_size, "width_px": file.width, "height_px": file.height,
        "bands": list(bands), "dtype": dtype, "quantiles": quantiles, "num_sampled": sample_CN.shape[1],
        "nodata_share": nodata_share, "nonfinite_share": seen.num_nonfinite / (num_pixels * len(bands)),
        "spread": _spread(sample_CN, bands), "counts": _counts(seen),
    }  # fmt: skip
    return _File(
        grid=grid, bands=bands, sample_CN=sample_CN, quantiles=quantiles, nodata_share=nodata_share, facts=facts,
        codes=tuple(sorted(int(value) for value in seen.values)) if dtype == "uint8" else (),
        fingerprint=f"{seen.digest.hexdigest()} {file.shape} {dtype}" if len(seen.values) > 1 else "",
    )  # fmt: skip


def _spread(sample_CN: np.ndarray, bands: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the quantiles of every band at :data:`SPREAD`; nothing where there is no pixel."""
    if sample_CN.shape[1] == 0:
        return {}
    table = np.quantile(sample_CN.astype(np.float64), SPREAD, axis=1).T
    return {name: [round(float(value), 4) for value in row] for name, row in zip(bands, table, strict=True)}


class _Seen:
    """What has been seen of a file, window by window; holds a bounded sample, never the scene."""

    def __init__(self, *, step: int) -> None:
        self._step = step
        self.num_valid = 0
        self.num_nonfinite = 0
        self.digest = hashlib.sha256()
        self.samples: list[np.ndarray] = []
        self.values: set[float] = set()
        "All values of bytes; of wider types only enough to tell whether there is more than one."
        self.byte_counts = np.zeros(256, np.int64)
        "Pixels of each value of bytes, all bands together."

    def add(self, pixels_CHW: np.ndarray, window: Window, nodata: float | None) -> None:
        valid_HW = valid_mask(pixels_CHW, nodata)
        self.num_valid += int(valid_HW.sum())
        self.num_nonfinite += int((~np.isfinite(pixels_CHW)).sum())
        self.digest.update(pixels_CHW.tobytes())
        if pixels_CHW.dtype == np.uint8:
            self.byte_counts += np.bincount(pixels_CHW.ravel(), minlength=256)
            self.values = set(np.flatnonzero(self.byte_counts).tolist())
        elif len(self.values) < 2:
            self.values.update((float(pixels_CHW.min()), float(pixels_CHW.max())))
        rows = slice(-window.row_off % self._step, None, self._step)
        columns = slice(-window.col_off % self._step, None, self._step)
        self.samples.append(pixels_CHW[:, rows, columns][:, valid_HW[rows, columns]])


def _counts(seen: _Seen) -> dict[str, int]:
    """Return pixels of each value, for files of bytes; their codes are text, as JSON wants keys."""
    return {str(code): int(seen.byte_counts[code]) for code in np.flatnonzero(seen.byte_counts)}


def _windows(height: int, width: int) -> Iterator[Window]:
    for row in range(0, height, _WINDOW_PX):
        for column in range(0, width, _WINDOW_PX):
            yield Window(column, row, min(_WINDOW_PX, width - column), min(_WINDOW_PX, height - row))


def _crs_name(crs: rasterio.CRS | None) -> str:
    if crs is None:
        return "none"
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt().split('"')[1]


def _identical(files: Mapping[str, _File]) -> list[str]:
    pairs = combinations([(role, file.fingerprint) for role, file in files.items() if file.fingerprint], 2)
    return [f"{one} = {other}" for (one, first), (other, second) in pairs if first == second]


def _dates(parameters: Mapping[str, object]) -> Facts:
    """Return the days between the acquisitions (None where one is unknown) and the dates that are none."""
    times: list[datetime] = []
    wrong: list[str] = []
    for column in ("acquired_optical", "acquired_sar"):
        text = str(parameters[column])
        try:
            if text:
                time = datetime.fromisoformat(text)
                times.append(time if time.tzinfo else time.replace(tzinfo=UTC))
        except ValueError:
            wrong.append(f"{column} {text!r}")
    gap = abs((times[0] - times[1]).total_seconds()) / 86_400 if len(times) == 2 else None
    return {"wrong_dates": "; ".join(wrong), "gap_days": gap}


def _grids(files: Mapping[str, _File]) -> Facts:
    """Return how the files lie on the optical footprint, and how much their pixel sizes differ.

    The overlap is the least share of the optical footprint that another file covers, 0 where the two CRS cannot be
    related; the ratio compares pixel sizes in the optical CRS, over the files that overlap.
    """
    crs = ", ".join(f"{role} {file.facts['crs']}" for role, file in files.items())
    grids = {role: file.grid for role, file in files.items() if file.grid is not None}
    overlaps: dict[str, float] = {}
    sizes: list[float] = []
    for role, grid in grids.items() if "optical" in grids else ():
        footprint = footprint_on(grid, grids["optical"])
        optical = grids["optical"].extent
        overlaps[role] = 0.0 if footprint is None else min(1.0, footprint.intersection(optical).area / optical.area)
        if footprint is not None and overlaps[role] > 0:
            sizes.append(sqrt(footprint.area / (grid.shape[0] * grid.shape[1])))
    overlaps.pop("optical", None)
    ratio = max(sizes) / min(sizes) if sizes else None
    return {"crs": crs, "gsd_ratio": ratio, **extreme("overlap", overlaps, largest=False)}


def footprint_on(grid: GeoBox, target: GeoBox) -> Geometry | None:
    """Return a grid's outline in the CRS of another; None where no way leads there."""
    assert target.crs is not None
    try:
        footprint = grid.extent.to_crs(target.crs)
    except ProjError:  # an anonymous CRS: nothing leads from it to the ground
        return None
    # Coordinates that a CRS cannot have (metres taken for degrees) come back infinite.
    return footprint if footprint.is_valid else None


def _labels(label: _File | None) -> Facts:
    """Return the class codes found and the largest; -1 where the file holds no bytes or more than one band."""
    if label is None:
        return {"label_codes": None, "label_max_code": None}
    if len(label.bands) != 1 or not label.codes:
        return {"label_codes": f"{len(label.bands)} bands of {label.facts['dtype']}", "label_max_code": -1}
    codes = [code for code in label.codes if code != LABEL_IGNORE]
    return {"label_codes": " ".join(map(str, codes)), "label_max_code": max(codes, default=0)}
