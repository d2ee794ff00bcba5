"""Tiles as samples for learning and scoring."""

from fractions import Fraction
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch
import zarr
from torch import Tensor

from cgm2net import sensors
from cgm2net.errors import DataError
from cgm2net.files import read_json

STORE = "tiles.zarr"
TABLE = "tiles.parquet"
META_FILE = "meta.json"
BOUNDS = ("west", "south", "east", "north")
"""Columns of the table: where a tile lies [degrees, WGS 84]; west is above east across the 180th meridian."""
ARRAYS = ("optical", "sar", "reference", "cloud", "label", "valid")
CLOUD_LEVELS = 255
"""Cloud probabilities are stored as uint8, probability x 255."""


class Sample(TypedDict):
    """One tile, or a batch of tiles with one more axis in front."""

    optical_CHW: Tensor
    "float32, cloudy reflectance 0-1; 0 where nothing was measured."
    sar_CHW: Tensor
    "float32, dB scaled to 0-1; 0 where nothing was measured."
    cloud_HW: Tensor
    "float32, probability of cloud 0-1; 1 where the optical image has no data."
    clear_CHW: Tensor
    "float32, reference reflectance 0-1."
    label_HW: Tensor
    "int64 on the label grid, which may be coarser, 255 = ignore."
    valid_HW: Tensor
    "bool, optical, SAR and reference all measured."
    id: str
    "Tile."


class TileDataset(torch.utils.data.Dataset[Sample]):
    """The tiles of one split, in the order of the table.

    Raises:
        DataError: if there is no table, or the split has no tile.
    """

    def __init__(self, tiles_dir: Path, *, split: str) -> None:
        if not (tiles_dir / META_FILE).is_file():
            raise DataError(f"{tiles_dir}: no tiles there; run the stage `tile`")
        meta = read_json(tiles_dir / META_FILE)
        self.optical_bands: tuple[str, ...] = tuple(meta["optical_bands"])  # type: ignore[arg-type]
        self.sar_bands: tuple[str, ...] = tuple(meta["sar_bands"])  # type: ignore[arg-type]
        self.classes: tuple[str, ...] = tuple(meta["classes"])  # type: ignore[arg-type]
        self.gsd_m, self.data_hash = float(str(meta["gsd_m"])), str(meta["data_hash"])
        self.size_px = int(str(meta["size_px"]))
        self.label_share = Fraction(str(meta.get("label_share", 1)))
        "Side of a pixel as a fraction of a label pixel's; 1 where they are one."
        table = pd.read_parquet(tiles_dir / TABLE)
        self.positions = np.flatnonzero(table["split"] == split)
        if not self.positions.size:
            raise DataError(f"{tiles_dir}: split {split!r} has no tile; splits are {sorted(set(table['split']))}")
        self.table = table.iloc[self.positions].reset_index(drop=True)
        group = zarr.open_group(tiles_dir / STORE, mode="r")
        self._arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
        self._loaded: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Sample:
        return to_sample(
            self.stored(index),
            optical_bands=self.optical_bands,
            sar_bands=self.sar_bands,
            name=self.table["tile_id"][index],
        )

    @property
    def nbytes(self) -> int:
        """Bytes that :meth:`preload` takes."""
        return int(sum(array.nbytes // array.shape[0] for array in self._arrays.values())) * len(self)

    def preload(self) -> "TileDataset":
        """Read the whole split into memory; what a small set wants before many epochs."""
        self._loaded = {name: np.stack([array[int(i)] for i in self.positions]) for name, array in self._arrays.items()}
        return self

    def stored(self, index: int) -> dict[str, np.ndarray]:
        """Return a tile's arrays as the store has them: DN, dB, levels; height and width last."""
        if self._loaded:
            return {name: array[index] for name, array in self._loaded.items()}
        return {name: np.asarray(array[int(self.positions[index])]) for name, array in self._arrays.items()}


def to_inputs(
    optical_CHW: np.ndarray,
    sar_CHW: np.ndarray,
    cloud_HW: np.ndarray,
    *,
    optical_bands: tuple[str, ...],
    sar_bands: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn stored values into the network's input; training and prediction both call this.

    Args:
        optical_CHW: DN, 0 in every band where nothing was measured.
        sar_CHW: dB, NaN where nothing was measured.
        cloud_HW: float32, probability of cloud 0-1.
        optical_bands: names of the optical bands.
        sar_bands: names of the SAR bands.

    Returns:
        Optical and SAR, float32 0-1, 0 where nothing was measured; and cloud, 1 where the optics have no data.
    """
    measured_HW = (optical_CHW != sensors.OPTICAL_NODATA).any(axis=0)
    cloud = np.where(measured_HW, cloud_HW, np.float32(1.0))
    return sensors.to_unit_range(optical_CHW, optical_bands), sensors.to_unit_range(sar_CHW, sar_bands), cloud


def to_sample(
    stored: dict[str, np.ndarray], *, optical_bands: tuple[str, ...], sar_bands: tuple[str, ...], name: str
) -> Sample:
    """Turn stored arrays into what the network takes, and what its answers are held against."""
    cloud_HW = stored["cloud"].astype(np.float32) / CLOUD_LEVELS
    optical, sar, cloud = to_inputs(
        stored["optical"], stored["sar"], cloud_HW, optical_bands=optical_bands, sar_bands=sar_bands
    )
    return Sample(
        optical_CHW=torch.from_numpy(optical),
        sar_CHW=torch.from_numpy(sar),
        cloud_HW=torch.from_numpy(cloud),
        clear_CHW=torch.from_numpy(sensors.to_unit_range(stored["reference"], optical_bands)),
        label_HW=torch.from_numpy(stored["label"].astype(np.int64)),
        valid_HW=torch.from_numpy(stored["valid"].copy()),
        id=name,
    )
