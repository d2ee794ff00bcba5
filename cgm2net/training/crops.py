"""Training samples: random crops, turned and mirrored, every one a function of the seed and its number alone."""

import numpy as np
import torch

from cgm2net.data.dataset import Sample, TileDataset, to_sample


class Crops(torch.utils.data.Dataset[Sample]):
    """Crop number i of a training; the tiles are shuffled anew in every pass.

    Because nothing but the seed and i decides what crop i is, a training that was interrupted goes on with the very
    samples that it would have seen, and processes share the work by sharing the numbers.
    """

    def __init__(self, tiles: TileDataset, *, crop_px: int, count: int, seed: int) -> None:
        self.tiles, self.crop_px, self.count, self.seed = tiles, crop_px, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        epoch, position = divmod(number, len(self.tiles))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.tiles))
        index = int(order[position])
        draw = np.random.default_rng([self.seed, 1, number])
        stored = self.tiles.stored(index)
        share, size_px = self.tiles.label_share, stored["optical"].shape[-1]
        # In steps of whole label pixels, where these are larger.
        top, left = draw.integers(0, (size_px - self.crop_px) // share.denominator + 1, 2) * share.denominator
        turns, mirrored = int(draw.integers(0, 4)), bool(draw.integers(0, 2))
        cut = {}
        for name, array in stored.items():
            scale = share if name == "label" else 1
            first_row, first_col, side = int(top * scale), int(left * scale), int(self.crop_px * scale)
            part = array[..., first_row : first_row + side, first_col : first_col + side]
            cut[name] = turn(part, turns, mirrored=mirrored)
        return to_sample(
            cut,
            optical_bands=self.tiles.optical_bands,
            sar_bands=self.tiles.sar_bands,
            name=self.tiles.table["tile_id"][index],
        )


def turn(array: np.ndarray, turns: int, *, mirrored: bool) -> np.ndarray:
    """Turn the last two axes by quarter turns, and mirror them left to right; every layer of a tile alike."""
    turned = np.rot90(array, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)
