"""What the report shows beside the evaluation's tables: facts, pictures of tiles, where the tiles lie.

They are kept with the tables, so that the page can be written again once the verdict is known.

Axes: H, W pixels, 3 colours.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from cgm2net import pictures
from cgm2net.data.dataset import BOUNDS
from cgm2net.errors import DataError
from cgm2net.files import write_aside
from cgm2net.lineage import UNKNOWN

PARTS_FILE = "page.json"

Split = Literal["train", "val", "test"]
Rank = Literal["worst", "median", "best"]
RANKS: tuple[Rank, ...] = ("worst", "median", "best")
"""In the order of the page."""
NUM_RANKED = 3
"""Tiles of each rank that the page has room for."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class ReportFacts(_Part):
    """What the page says of the model, the tiles and the run; ``unknown`` where nobody knows."""

    title: str
    model_name: str
    network_size: str
    num_parameters: int
    steps: int
    seed: int
    optical_bands: tuple[str, ...]
    sar_bands: tuple[str, ...]
    classes: tuple[str, ...]
    gsd_m: float
    size_px: int
    "Side of a tile."
    cloud_threshold: float
    "A pixel with a higher cloud probability counts as cloudy."
    data_hash: str
    "Of the tiles that the model was tested on."
    trained_data_hash: str
    "Of the tiles that it was trained on."
    library_version: str
    "That trained it."
    git_commit: str = UNKNOWN
    "Of the code that tested it."
    git_dirty: str = UNKNOWN
    "``true`` where that code was changed after the commit."
    run_id: str = UNKNOWN
    run_url: str | None = None
    "Page of the run; none where the store of runs is no server."


class TilePictures(_Part):
    """One tile as PNG files, all of one size, by fixed stretches."""

    rank: Rank
    tile_id: str
    cloudy: bytes
    restored: bytes
    reference: bytes
    predicted: bytes
    label: bytes


class RegionPlace(_Part):
    """Where the tiles of a region lie."""

    region: str
    split: Split
    num_tiles: int
    "Dates of one place counted singly."
    west: float
    south: float
    east: float
    "Above 180 for a region across the 180th meridian."
    north: float


class TilePlace(_Part):
    """Where a test tile lies, as :class:`RegionPlace` says."""

    tile_id: str
    west: float
    south: float
    east: float
    north: float


class PageParts(_Part):
    """All that the page shows beside the tables."""

    facts: ReportFacts
    pictures: tuple[TilePictures, ...] = ()
    "The worst first."
    regions: tuple[RegionPlace, ...] = ()
    tiles: tuple[TilePlace, ...] = ()
    "Of the test split."


def write_parts(folder: Path, parts: PageParts) -> None:
    """Write ``page.json``, aside and renamed."""
    with write_aside(folder / PARTS_FILE) as aside:
        aside.write_text(parts.model_dump_json(indent=1) + "\n")


def read_parts(folder: Path) -> PageParts:
    """Read ``page.json``.

    Raises:
        DataError: if it is absent or of another version.
    """
    path = folder / PARTS_FILE
    if not path.is_file():
        raise DataError(f"{path}: not there; run the stage `evaluate`, which writes it")
    try:
        return PageParts.model_validate_json(path.read_text())
    except ValidationError as error:
        raise DataError(f"{path}: not of this version: {error}; run the stage `evaluate` again") from error


def tile_pictures(
    sample: Mapping[str, object], *, rank: Rank, optical_bands: tuple[str, ...], classes: tuple[str, ...]
) -> TilePictures:
    """Draw a tile.

    Args:
        sample: a dataset's sample with ``restored_CHW`` and ``predicted_HW``.
        rank: where the tile stands among the others.
        optical_bands: names of the bands.
        classes: name of each class code.
    """
    images = {"cloudy": "optical_CHW", "restored": "restored_CHW", "reference": "clear_CHW"}
    maps = {"predicted": "predicted_HW", "label": "label_HW"}
    colours = {
        **{name: pictures.true_colour(np.asarray(sample[key]), optical_bands) for name, key in images.items()},
        **{name: pictures.class_map(np.asarray(sample[key]), classes) for name, key in maps.items()},
    }
    shown = {name: _png(image_HW3) for name, image_HW3 in colours.items()}
    return TilePictures(rank=rank, tile_id=str(sample["id"]), **shown)


def region_places(table: pd.DataFrame) -> tuple[RegionPlace, ...]:
    """Return the box around each region's tiles, by name.

    Args:
        table: of the tiles of all splits: ``region``, ``split`` and :data:`BOUNDS`; without bounds nothing is
            returned.
    """
    if not set(BOUNDS) <= set(table.columns):
        return ()
    return tuple(_region_place(str(name), tiles) for name, tiles in table.groupby("region", sort=True))


def tile_places(table: pd.DataFrame) -> tuple[TilePlace, ...]:
    """Return where each tile lies, in the table's order; nothing where the table has no :data:`BOUNDS`."""
    if not set(BOUNDS) <= set(table.columns):
        return ()
    boxes = pd.concat([_unwrapped(tiles) for _, tiles in table.groupby("region")]).loc[table.index]
    rows = boxes[["tile_id", *BOUNDS]].to_dict("records")
    return tuple(TilePlace.model_validate(row) for row in rows)


def _region_place(name: str, tiles: pd.DataFrame) -> RegionPlace:
    boxes = _unwrapped(tiles)
    return RegionPlace(
        region=name, split=tiles["split"].iloc[0], num_tiles=len(tiles),
        west=float(boxes["west"].min()), south=float(boxes["south"].min()),
        east=float(boxes["east"].max()), north=float(boxes["north"].max()),
    )  # fmt: skip


def _unwrapped(tiles: pd.DataFrame) -> pd.DataFrame:
    """Let the longitudes of a region run on past 180 where it lies on both sides of the 180th meridian."""
    boxes = tiles.copy()
    boxes["east"] += 360.0 * (boxes["east"] < boxes["west"])
    if boxes["east"].max() - boxes["west"].min() > 180.0:
        beyond = boxes["west"] < 0.0
        boxes.loc[beyond, ["west", "east"]] += 360.0
    return boxes


def _png(image_HW3: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    buffer = BytesIO()
    nameless = {"Software": None}  # matplotlib's version would be in the bytes
    imsave(buffer, image_HW3, format="png", metadata=nameless, pil_kwargs={"optimize": True})  # type: ignore[arg-type]
    return buffer.getvalue()
