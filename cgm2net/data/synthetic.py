"""Synthetic scenes: a ``synthetic:`` URI names a file of a seeded scene; equal URIs give equal bytes.

``synthetic:ROLE?region=3&date=2024-07-05&cover=0.5&shift=1.3,-0.7``, with ROLE one of optical, sar, reference, label,
cloud and the fields of :class:`SceneSpec` as keys. A region has one landscape; its scenes differ by date, clouds,
shift and wedge. Optics, reference, label and cloud share one grid of 10 m; SAR has its own, a fraction of a pixel off
and a little larger, and is wrongly geocoded by ``shift``. The picture is made in :mod:`cgm2net.data.scenery`; here are
the names, the files and the sample.
"""

from datetime import date as Date
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from pydantic import ValidationError

from cgm2net import raster
from cgm2net.catalog import FILE_ROLES
from cgm2net.data.scenery.scene import DEFECTS, SAR_MARGIN_PX, SceneSpec, optical_grid, render, sar_grid
from cgm2net.errors import FetchError
from cgm2net.sensors import LABEL_IGNORE, OPTICAL_NODATA, SAR_NODATA

__all__ = [
    "DEFECTS", "SAR_MARGIN_PX", "SCHEME", "SceneSpec", "optical_grid", "parse", "render", "sample_catalog", "sar_grid",
    "uri", "write",
]  # fmt: skip

SCHEME = "synthetic"

_NODATA = {
    "optical": OPTICAL_NODATA, "reference": OPTICAL_NODATA, "sar": SAR_NODATA, "label": LABEL_IGNORE,
    "cloud": LABEL_IGNORE,
}  # fmt: skip


def parse(uri: str) -> tuple[str, SceneSpec]:
    """Return role and spec of a ``synthetic:`` URI.

    Raises:
        FetchError: if scheme, role, a key or a value is not one that this module knows.
    """
    scheme, _, rest = uri.partition(":")
    role, _, query = rest.partition("?")
    if scheme != SCHEME or role not in FILE_ROLES:
        raise FetchError(f"{uri!r}: expected {SCHEME}:ROLE?region=…&date=… with ROLE one of {', '.join(FILE_ROLES)}")
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        raise FetchError(f"{uri!r}: a key stands there twice")
    try:
        return role, SceneSpec.model_validate(dict(pairs))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise FetchError(f"{uri!r}: {faults}; keys are {', '.join(SceneSpec.model_fields)}") from error


def uri(role: str, spec: SceneSpec) -> str:
    """Return the URI of a file of a scene; fields at their default are left out."""
    values = {name: getattr(spec, name) for name in SceneSpec.model_fields}
    fields = SceneSpec.model_fields
    given = {name: v for name, v in values.items() if fields[name].is_required() or v != fields[name].default}
    if "shift" in given:
        given["shift"] = ",".join(map(repr, spec.shift))
    return f"{SCHEME}:{role}?" + "&".join(f"{key}={value}" for key, value in given.items())


def write(uri: str, path: Path) -> None:
    """Write the file that a ``synthetic:`` URI names, a compressed GeoTIFF with band names.

    Raises:
        FetchError: if the URI is not understood.
    """
    role, spec = parse(uri)
    path.unlink(missing_ok=True)  # GDAL opens what it overwrites, and fails on a truncated file
    raster.write(path, render(spec)[role], nodata=_NODATA[role])
    if spec.defect == "truncated" and role == "optical":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 6 // 10])


def sample_catalog(*, num_regions: int, scenes_per_region: int, size_px: int, seed: int) -> list[dict[str, str]]:
    """Return the rows of the sample's catalogue: good scenes, one nearly overcast, one of each defect.

    Args:
        num_regions: regions ``r00``, ``r01``, … of the good scenes; the broken ones have their own after them.
        scenes_per_region: dates in each, spread over the seasons.
        size_px: of every scene.
        seed: of landscapes, clouds, dates and shifts.

    Returns:
        Catalogue rows as text, without checksums.
    """
    rng = np.random.default_rng([seed, num_regions, scenes_per_region])
    num = num_regions * scenes_per_region
    covers = rng.permutation(np.linspace(0.1, 0.85, num)) if num > 1 else np.array([0.4])
    wedges = ["optical" if k % 8 == 3 else "sar" if k % 8 == 6 else "none" for k in range(num)]
    rows = []
    for k in range(num):
        region, turn = divmod(k, scenes_per_region)
        spec = _drawn_spec(rng, region, size_px=size_px, seed=seed, part=(turn + rng.random()) / scenes_per_region)
        spec = spec.model_copy(update={"cover": round(float(covers[k]), 3), "wedge": wedges[k]})
        rows.append(_row(f"r{region:02d}-{spec.date:%Y%m%d}", spec, with_cloud=k % 2 == 0))
    overcast = _drawn_spec(rng, 0, size_px=size_px, seed=seed, part=0.55).model_copy(update={"cover": 0.9})
    rows.append(_row(f"r00-{overcast.date:%Y%m%d}-overcast", overcast, with_cloud=True))
    for k, defect in enumerate(DEFECTS):
        spec = _drawn_spec(rng, num_regions + k, size_px=size_px, seed=seed, part=0.5)
        spec = spec.model_copy(update={"cover": 0.2, "defect": defect})
        rows.append(_row(f"broken-{defect.replace('_', '-')}", spec, with_cloud=k % 2 == 0))
    return rows


def _drawn_spec(rng: np.random.Generator, region: int, *, size_px: int, seed: int, part: float) -> SceneSpec:
    """Return a spec with drawn date (``part`` of the season from mid-March to mid-November), shift and day gaps."""
    dx, dy = np.round(rng.uniform(-3.5, 3.5, 2), 2)
    return SceneSpec(
        region=region,
        date=Date(2024, 3, 15) + timedelta(int(part * 240)),
        seed=seed,
        size_px=size_px,
        shift=(float(dx), float(dy)),
        sar_days=int(rng.integers(-4, 5)),
        reference_days=int(rng.choice([-1, 1]) * rng.integers(5, 19)),
    )


def _row(scene_id: str, spec: SceneSpec, *, with_cloud: bool) -> dict[str, str]:
    files = {role: uri(role, spec) if with_cloud or role != "cloud" else "" for role in FILE_ROLES}
    return {
        "scene_id": scene_id,
        "region": f"r{spec.region:02d}",
        "acquired_optical": f"{spec.date}T10:30:00Z",
        "acquired_sar": f"{spec.date + timedelta(spec.sar_days)}T05:40:00Z",
        **files,
        "license": "CC0-1.0",
        "source": SCHEME,
    }
