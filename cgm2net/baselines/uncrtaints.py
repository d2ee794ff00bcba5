"""UnCRtainTS for one date: depthwise blocks that keep their resolution, image and variance predicted together.

Ebel et al. 2023, doi:10.1109/CVPRW59228.2023.00202. It differs: one date, so no temporal attention; half resolution,
pixels unfolded into channels, because full resolution costs four times as much at equal parameters; the mask is seen
as a band; the scale of a Laplace distribution for each band instead of the variance of a
normal one, taught by the common loss, whose error is taken as given; a head for classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.baselines.heads import ClassHead, ImageHead, Norm, stack
from cgm2net.model.blocks import Conv, Unfold, fold
from cgm2net.model.decoders import spread_of
from cgm2net.model.interface import Answer, Network, NetworkConfig

_STRIDE = 2
_EXPANSION = 2
_SQUEEZE = 4


class _Size(NamedTuple):
    channels: int
    num_blocks: int


SIZES = {
    "tiny": _Size(channels=128, num_blocks=8),
    "small": _Size(channels=192, num_blocks=9),
    "base": _Size(channels=384, num_blocks=14),
}
"""Channels and blocks."""


class SqueezeExcite(nn.Module):
    """Scale each channel by what the whole map says: Hu et al. 2018, doi:10.1109/CVPR.2018.00745."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        mean_B11C = tokens_BHWC.mean(dim=(1, 2), keepdim=True)
        return tokens_BHWC * self.excite(F.gelu(self.squeeze(mean_B11C))).sigmoid()  # type: ignore[no-any-return]


class MBConv(nn.Module):
    """Norm, expand, 3x3 depthwise convolution, squeeze and excite, contract, add.

    Sandler et al. 2018, doi:10.1109/CVPR.2018.00474.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels * _EXPANSION
        self.norm = Norm(channels)
        self.expand, self.contract = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.spatial = Conv(hidden, hidden, groups=hidden)
        self.excite = SqueezeExcite(hidden, channels // _SQUEEZE)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        hidden = F.gelu(self.spatial(F.gelu(self.expand(self.norm(tokens_BHWC)))))
        return tokens_BHWC + self.contract(self.excite(hidden))  # type: ignore[no-any-return]


class UnCRtainTS(Network):
    """The network."""

    title = "UnCRtainTS"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels, num_blocks = SIZES[config.size]
        bands, full = config.num_optical_bands + 1 + config.num_sar_bands, channels // _STRIDE**2
        self.stem = nn.Sequential(Unfold(_STRIDE), Conv(bands * _STRIDE**2, channels))
        self.blocks = nn.Sequential(*(MBConv(channels) for _ in range(num_blocks)))
        self.norm = Norm(channels)
        self.up = nn.Linear(channels, full * _STRIDE**2)
        self.detail = Conv(bands, full)
        self.image = ImageHead(full, 2 * config.num_optical_bands)
        self.classes = ClassHead(full, config.num_classes)

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`; the image begins at the mean."""
        seen = stack(self.standard_optical(optical_BHWC), cloud_BHW1, sar_BHWC)
        body = self.norm(self.blocks(self.stem(seen)))
        features = F.gelu(fold(self.up(body), _STRIDE) + self.detail(seen))
        image, doubt = self.image(features).chunk(2, dim=-1)
        mean_C = torch.logit(self.standard_optical.mean_C, eps=1e-3)
        return Answer((image + mean_C).sigmoid(), self.classes(features), spread_of(doubt))
