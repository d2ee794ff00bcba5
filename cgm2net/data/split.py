"""Which split a scene belongs to: by region, so that no ground stands on both sides, or as the catalogue says."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from cgm2net.errors import DataError
from cgm2net.settings import TileSettings

SPLITS = ("train", "val", "test")


def split_scenes(scenes: pd.DataFrame, *, settings: TileSettings, seed: int) -> dict[str, str]:
    """Say which split each scene belongs to.

    Raises:
        DataError: if the catalogue is to say it and does not, or puts a region on both sides.
    """
    if settings.split == "region":
        of_region = split_regions(sorted(set(scenes["region"])), settings=settings, seed=seed)
        pairs = zip(scenes["scene_id"], scenes["region"], strict=True)
        return {scene_id: of_region[region] for scene_id, region in pairs}
    given = scenes["split"].tolist() if "split" in scenes.columns else []
    if not given or set(given) - set(SPLITS):
        raise DataError("tile.split is `catalog`, but the catalogue's column split does not say train, val or test for"
                        " every scene; fill it, or set tile.split to `region`")  # fmt: skip
    shared = scenes.groupby("region")["split"].nunique().loc[lambda count: count > 1].index.tolist()
    if shared and not settings.shared_regions:
        raise DataError(
            f"{len(shared)} regions stand in several splits of the catalogue ({', '.join(shared[:5])}): scores on"
            " ground that was learned say little; set tile.split to `region`, or tile.shared_regions to true to"
            " compare with published figures"
        )
    return dict(zip(scenes["scene_id"], given, strict=True))


def split_regions(regions: Sequence[str], *, settings: TileSettings, seed: int) -> dict[str, str]:
    """Say which split each region belongs to.

    Regions are ranked by a hash of seed and name, so that one more region moves at most the ones at the borders and
    the order of the catalogue has no say.

    Raises:
        DataError: if there are fewer regions than splits.
    """
    if len(regions) < len(SPLITS):
        raise DataError(
            f"{len(regions)} regions ({', '.join(regions)}) cannot fill {', '.join(SPLITS)}: no region may stand on"
            " both sides of a split; add scenes of other regions"
        )
    ranked = sorted(regions, key=lambda region: hashlib.sha256(f"{seed}/{region}".encode()).hexdigest())
    num_test = max(1, round(settings.test_share * len(regions)))
    num_val = min(max(1, round(settings.val_share * len(regions))), len(regions) - 2)
    num_test = min(num_test, len(regions) - num_val - 1)
    names = ["test"] * num_test + ["val"] * num_val + ["train"] * (len(regions) - num_test - num_val)
    return dict(zip(ranked, names, strict=True))
