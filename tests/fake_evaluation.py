"""A small evaluation as the stage `evaluate` leaves it, with figures chosen by hand, for the tests of its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgm2net.evaluation.image_metrics import sum_names
from cgm2net.evaluation.metrics import nest
from cgm2net.evaluation.page_parts import (
    PageParts,
    RegionPlace,
    ReportFacts,
    TilePictures,
    TilePlace,
    region_places,
    tile_pictures,
    tile_places,
)
from cgm2net.files import write_json

BANDS = ("B02", "B03", "B04")
CLASSES = ("water", "rice <i>& lotus</i>")
FACTS = ReportFacts(
    title="A <b>bold</b> run", model_name="cgm2net", network_size="tiny", num_parameters=1_234_567, steps=400, seed=0,
    optical_bands=BANDS, sar_bands=("VV", "VH"), classes=CLASSES, gsd_m=10.0, size_px=16, cloud_threshold=0.5,
    data_hash="d" * 64, trained_data_hash="d" * 64, library_version="0.1.0",
)  # fmt: skip
METRICS = {
    "all/psnr": 25.0, "clear/psnr": 28.0, "cloudy/psnr": 22.5, "copy/all/psnr": 12.0, "copy/clear/psnr": 28.5,
    "copy/cloudy/psnr": 9.25, "all/sam": 5.0, "cloudy/sam": 8.0, "copy/all/sam": 15.0, "copy/cloudy/sam": 26.0,
    "all/miou": 0.7, "clear/miou": 0.75, "cloudy/miou": 0.625, "majority/all/miou": 0.1, "majority/clear/miou": 0.1,
    "majority/cloudy/miou": 0.125,
}  # fmt: skip
DOUBT = {"all/ece": 0.0233, "cloudy/ece": 0.0348, "all/coverage": 0.893, "all/interval": 0.0521}


def tile_table() -> pd.DataFrame:
    """Two dates of one place, north, and one of another region, south; pixels and squared errors chosen by hand."""
    table = pd.DataFrame(
        {
            "tile_id": ["n1_0_0", "n2_0_0", "s1_0_0"], "scene_id": ["n1", "n2", "s1"],
            "region": ["north", "north", "south"], "cover": [0.5, 0.25, 0.0],
            "all/psnr": [20.0, 21.0, 30.0], "copy/all/psnr": [9.0, 9.5, 29.0], "all/oa": [0.75, 0.8, 0.9],
            "cloudy/psnr": [18.0, 19.0, np.nan], "copy/cloudy/psnr": [8.0, 8.5, np.nan],
            "cloudy/oa": [0.5, 0.6, np.nan],
        }
    )  # fmt: skip
    sums = {f"sum/{part}{group}/{name}": 0.0 for part in ("", "copy/") for group in ("clear", "cloudy")
            for name in sum_names(BANDS)}  # fmt: skip
    pairs = {f"sum/{g}/{a}>{p}": 0 for g in ("clear", "cloudy") for a in CLASSES for p in CLASSES}
    table = table.assign(**sums, **pairs)
    table["sum/cloudy/pixels"] = [100.0, 50.0, 0.0]
    table["sum/cloudy/squared"] = [3.0, 1.5, 0.0]  # over 3 bands: a mean squared error of 0.01, which is 20 dB
    table["sum/clear/pixels"] = [100.0, 150.0, 200.0]
    table["sum/clear/squared"] = [0.3, 0.45, 0.6]  # 0.001, 30 dB
    table["sum/copy/cloudy/pixels"] = [100.0, 50.0, 0.0]
    table["sum/copy/cloudy/squared"] = [30.0, 15.0, 0.0]  # 0.1, 10 dB
    table["sum/cloudy/water>water"] = [60, 20, 0]
    return table


def tiles_reaching(by_region: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """One tile a region, of 100 clear and 100 cloudy pixels, with sums that come to the PSNR and mIoU given for it.

    Both classes get the same IoU: of their pixels a share ``miou`` is right, the rest is answered as the other's, half
    of it each way.
    """
    table = pd.DataFrame({"tile_id": [f"{name}_0_0" for name in by_region], "region": list(by_region)})
    for group in ("clear", "cloudy"):
        sums = {f"sum/{group}/{name}": 1.0 for name in sum_names(BANDS)} | {f"sum/{group}/pixels": 100.0}
        table = table.assign(**sums)
        psnr = np.array([metrics.get(f"{group}/psnr", 20.0) for metrics in by_region.values()])
        table[f"sum/{group}/squared"] = 100 * len(BANDS) * 10 ** (-psnr / 10)
        miou = np.array([metrics.get(f"{group}/miou", 0.5) for metrics in by_region.values()])
        for actual in ("water", "forest"):
            for predicted in ("water", "forest"):
                pixels = miou if actual == predicted else (1 - miou) / 2
                table[f"sum/{group}/{actual}>{predicted}"] = 1000 * pixels
    return table


def picture(tile_id: str, rank: Any) -> TilePictures:
    """Pictures of random and of even pixels, labels coarser than they."""
    rng = np.random.default_rng(0)
    sample = {
        "id": tile_id, "optical_CHW": rng.uniform(0, 0.3, (3, 16, 16)), "restored_CHW": np.full((3, 16, 16), 0.1),
        "clear_CHW": np.zeros((3, 16, 16)), "label_HW": np.ones((8, 8), int), "predicted_HW": np.zeros((8, 8), int),
    }  # fmt: skip
    return tile_pictures(sample, rank=rank, optical_bands=BANDS, classes=CLASSES)


def places() -> tuple[tuple[RegionPlace, ...], tuple[TilePlace, ...]]:
    """Two test regions, one of them on two dates, one to train and one to validate on."""
    table = pd.DataFrame(
        {
            "tile_id": ["n1_0_0", "n2_0_0", "s1_0_0", "t", "v"],
            "region": ["north", "north", "south", "east <1>", "west"],
            "split": ["test", "test", "test", "train", "val"],
            "west": [6.0, 6.0, 6.1, 9.0, 7.0], "south": [49.0, 49.0, 48.0, 48.5, 48.7],
            "east": [6.02, 6.02, 6.12, 9.02, 7.02], "north": [49.01, 49.01, 48.01, 48.51, 48.71],
        }
    )  # fmt: skip
    return region_places(table), tile_places(table[table["split"] == "test"])


def write_evaluation(folder: Path, *, metrics: Mapping[str, float]) -> Path:
    """Write what `evaluate` leaves, as far as the page reads it."""
    write_json(folder / "metrics.json", nest(metrics))
    by_class = {"class": CLASSES, "all/pixels": [300, 100]}
    for group in ("all", "clear", "cloudy"):
        by_class |= {f"{group}/{name}": [0.875, np.nan] for name in ("precision", "recall", "iou")}
    pd.DataFrame(by_class).to_csv(folder / "by_class.csv", index=False)
    pairs = {"actual": np.repeat(CLASSES, 2), "predicted": np.tile(CLASSES, 2)}
    pd.DataFrame(pairs | {"all": [30, 10, 0, 0], "clear": 0, "cloudy": [3, 1, 2, 2]}).to_csv(
        folder / "confusion.csv", index=False
    )
    cover = {"cover": ["0-0.2", "0.2-1"], "tiles": [1, 2], "all/psnr": [30.0, 24.0], "cloudy/psnr": [np.nan, 22.5]}
    pd.DataFrame(cover | {"copy/all/psnr": [29.0, 9.0], "all/miou": [0.8, 0.6]}).to_csv(
        folder / "by_cover.csv", index=False
    )
    tile_table().to_parquet(folder / "tiles.parquet", index=False)
    return folder


def reliability() -> pd.DataFrame:
    """Surer than right in the lower bin."""
    return pd.DataFrame(
        {
            "group": ["all", "all", "cloudy"], "low": [0.6, 0.8, 0.8], "high": [0.8, 1.0, 1.0],
            "pixels": [100, 300, 40], "confidence": [0.7, 0.9, 0.9], "accuracy": [0.5, 0.9, 0.6],
        }
    )  # fmt: skip


def page_parts() -> PageParts:
    """Pictures of two tiles, places of all."""
    regions, tiles = places()
    shown = (picture("n1_0_0", "worst"), picture("s1_0_0", "best"))
    return PageParts(facts=FACTS, pictures=shown, regions=regions, tiles=tiles)


def write_calibrated(folder: Path) -> Path:
    """Write an evaluation of a calibrated model."""
    write_evaluation(folder, metrics=METRICS | DOUBT)
    reliability().to_csv(folder / "reliability.csv", index=False)
    return folder
