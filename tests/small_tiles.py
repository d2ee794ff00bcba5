"""A few small tiles of the sample's kind, for tests that train."""

from pathlib import Path

import pandas as pd
import pytest
from rasterio.enums import Resampling

from cgm2net import raster
from cgm2net.data import synthetic
from cgm2net.data.tile import tile
from cgm2net.grids import coarser
from cgm2net.settings import TileSettings

CLASSES = ("forest", "rangeland", "agriculture", "urban", "barren", "water")


def make_tiles(folder: Path, *, label_gsd_m: float = 10.0) -> Path:
    """Four regions of 64 px of 10 m, as if co-registered already, cut into tiles of 32 px."""
    rows = []
    for region in range(4):
        spec = synthetic.SceneSpec(region=region, date="2024-06-01", size_px=64, cover=0.5)
        row = {"scene_id": f"s{region}", "region": f"r{region}", "accepted": True, "reason": ""}
        for role in ("optical", "reference", "label", "cloud"):
            path = folder / f"s{region}" / f"{role}.tif"
            path.parent.mkdir(exist_ok=True)
            synthetic.write(synthetic.uri(role, spec), path)
            row[role] = f"s{region}/{role}.tif"
        label = raster.read(folder / row["label"])
        coarse = coarser(label.grid, gsd_m=label_gsd_m)
        label = raster.warp(label, coarse, resampling=Resampling.nearest, fill=255)
        raster.write(folder / row["label"], label, nodata=255)
        rows.append({**row, "sar": _sar_on_grid(folder, region, spec)})
    for name in ("acquired_optical", "acquired_sar", "license", "source"):
        rows = [{**row, name: ""} for row in rows]
    pd.DataFrame(rows).to_csv(folder / "scenes.csv", index=False)
    settings = TileSettings(size_px=32, stride_px=32, classes=CLASSES, num_workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tile(folder / "scenes.csv", folder / "tile", settings=settings, seed=0)
    return folder / "tile"


def _sar_on_grid(folder: Path, region: int, spec: synthetic.SceneSpec) -> str:
    sar = raster.warp(
        synthetic.render(spec)["sar"], synthetic.optical_grid(spec), resampling=Resampling.bilinear, fill=float("nan")
    )
    raster.write(folder / f"s{region}" / "sar.tif", sar, nodata=float("nan"))
    return f"s{region}/sar.tif"
