"""U-Net: early fusion, one encoder and decoder for both tasks.

Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28. It differs: group instead of no normalisation, GELU,
residual blocks, padded convolutions, nearest-neighbour doubling, three halvings, and a gated image beside the classes.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.baselines.heads import ClassHead, GatedHead, Norm, SpreadHead, stack
from cgm2net.model.blocks import Conv, double
from cgm2net.model.interface import Answer, Network, NetworkConfig

SIZES = {
    "tiny": (32, 64, 96, 128),
    "small": (48, 96, 160, 224),
    "base": (96, 192, 320, 448),
}
"""Channels at full, half, quarter and eighth resolution."""


class Block(nn.Module):
    """Two 3x3 convolutions, each after norm and GELU, beside a linear skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inward = nn.Linear(inputs, outputs)
        self.norm1, self.norm2 = Norm(outputs), Norm(outputs)
        self.conv1, self.conv2 = Conv(outputs, outputs), Conv(outputs, outputs)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, inputs) to (B, H, W, outputs)."""
        skip = self.inward(tokens_BHWC)
        hidden = self.conv1(F.gelu(self.norm1(skip)))
        return skip + self.conv2(F.gelu(self.norm2(hidden)))  # type: ignore[no-any-return]


class UNet(Network):
    """The network."""

    title = "U-Net"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels = SIZES[config.size]
        pairs = list(itertools.pairwise(channels))
        self.stem = Conv(config.num_optical_bands + 1 + config.num_sar_bands, channels[0])
        self.first = Block(channels[0], channels[0])
        self.shrink = nn.ModuleList(Conv(fine, coarse, stride=2) for fine, coarse in pairs)
        self.down = nn.ModuleList(Block(coarse, coarse) for _, coarse in pairs)
        self.up = nn.ModuleList(Block(coarse + fine, fine) for fine, coarse in pairs)
        self.norm = Norm(channels[0])
        self.image = GatedHead(channels[0], config.num_optical_bands)
        self.classes = ClassHead(channels[0], config.num_classes)
        self.spread = SpreadHead(channels[0], config.num_optical_bands)

    def features(self, pixels_BHWC: Tensor) -> Tensor:
        """Down and up again, (B, H, W, C_1)."""
        maps = [self.first(self.stem(pixels_BHWC))]
        for shrink, block in zip(self.shrink, self.down, strict=True):
            maps.append(block(shrink(maps[-1])))
        merged = maps.pop()
        for block in reversed(self.up):
            merged = block(stack(double(merged), maps.pop()))
        return F.gelu(self.norm(merged))

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`."""
        features = self.features(stack(self.standard_optical(optical_BHWC), cloud_BHW1, sar_BHWC))
        candidate, gate = self.image(features)
        clear = optical_BHWC + gate * (self.standard_optical.undo(candidate) - optical_BHWC)
        return Answer(clear, self.classes(features), self.spread(features))
