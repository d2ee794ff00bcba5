"""Wrong cloud masks: how much does a network depend on a good one?"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.interface import Prediction

Spoiling = Literal["none", "dilated", "eroded", "dropped"]

REACH_PX = 4
"""By so much a mask grows or shrinks on every side."""

BLOCK_PX = 16
"""Side of the squares in which a dropped mask says clear."""


class Spoiled(nn.Module):
    """A network that is shown a wrong mask; what is scored as cloudy stays what it is."""

    def __init__(self, network: nn.Module, how: Spoiling) -> None:
        super().__init__()
        self.network, self.how = network, how

    def forward(self, optical_BCHW: Tensor, sar_BCHW: Tensor, cloud_B1HW: Tensor, **options: object) -> Prediction:
        """Call the network with the spoiled mask."""
        return self.network(optical_BCHW, sar_BCHW, spoil(cloud_B1HW, self.how), **options)  # type: ignore[no-any-return]


def spoil(cloud_B1HW: Tensor, how: Spoiling) -> Tensor:
    """Return a mask grown or shrunk by :data:`REACH_PX`, or without a quarter of its squares of :data:`BLOCK_PX`.

    Which squares are dropped is the same for every image: every second one of every second row.
    """
    width = 2 * REACH_PX + 1
    if how == "dilated":
        return F.max_pool2d(cloud_B1HW, width, stride=1, padding=REACH_PX)
    if how == "eroded":
        return -F.max_pool2d(-cloud_B1HW, width, stride=1, padding=REACH_PX)
    if how == "dropped":
        rows, columns = (torch.arange(size, device=cloud_B1HW.device) // BLOCK_PX % 2 for size in cloud_B1HW.shape[2:])
        return cloud_B1HW * (1.0 - (rows[:, None] * columns[None]).to(cloud_B1HW.dtype))
    return cloud_B1HW
