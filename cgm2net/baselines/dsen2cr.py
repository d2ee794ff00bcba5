"""DSen2-CR: a residual network at full resolution that corrects the cloudy image.

Meraner et al. 2020, doi:10.1016/j.isprsjprs.2020.05.013. It differs: the mask is seen as a band, fewer and narrower
blocks, standardised inputs, the common loss instead of the cloud-adaptive one, a last convolution that begins at 0,
and heads for classes and spread.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.baselines.heads import ClassHead, ImageHead, SpreadHead, stack
from cgm2net.model.blocks import Conv
from cgm2net.model.interface import Answer, Network, NetworkConfig

_RESIDUAL_SCALE = 0.1


class _Size(NamedTuple):
    channels: int
    num_blocks: int


SIZES = {
    "tiny": _Size(channels=64, num_blocks=8),
    "small": _Size(channels=96, num_blocks=10),
    "base": _Size(channels=192, num_blocks=14),
}
"""Channels and residual blocks; the paper has 256 and 16."""


class ScaledBlock(nn.Module):
    """Convolution, ReLU, convolution; a tenth of it is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return tokens_BHWC + _RESIDUAL_SCALE * self.conv2(F.relu(self.conv1(tokens_BHWC)))  # type: ignore[no-any-return]


class DSen2CR(Network):
    """The network."""

    title = "DSen2-CR"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels, num_blocks = SIZES[config.size]
        self.stem = Conv(config.num_optical_bands + 1 + config.num_sar_bands, channels)
        self.blocks = nn.Sequential(*(ScaledBlock(channels) for _ in range(num_blocks)))
        self.image = ImageHead(channels, config.num_optical_bands)
        self.classes = ClassHead(channels, config.num_classes)
        self.spread = SpreadHead(channels, config.num_optical_bands)

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`."""
        seen = stack(self.standard_optical(optical_BHWC), cloud_BHW1, sar_BHWC)
        features = self.blocks(F.relu(self.stem(seen)))
        clear = optical_BHWC + self.standard_optical.std_C * self.image(features)
        return Answer(clear, self.classes(features), self.spread(features))
