"""GLF-CR: two streams; radar guides where the optics look (global) and fills in what they lack (local).

Xu et al. 2022, doi:10.1016/j.isprsjprs.2022.08.002. It differs: half resolution, plain residual convolutions instead
of dense blocks, windows that do not shift, kernels for groups of channels, standardised inputs, the mask as a band,
and heads for classes and spread.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.baselines.heads import ClassHead, ImageHead, SpreadHead, stack
from cgm2net.model.blocks import Conv, Unfold, fold
from cgm2net.model.interface import Answer, Network, NetworkConfig

_STRIDE = 2
_WINDOW = 8
_KERNEL = 3
_HEAD_CHANNELS = 16


class _Size(NamedTuple):
    channels: int
    num_blocks: int
    num_groups: int


SIZES = {
    "tiny": _Size(channels=64, num_blocks=3, num_groups=8),
    "small": _Size(channels=96, num_blocks=4, num_groups=8),
    "base": _Size(channels=192, num_blocks=8, num_groups=16),
}
"""Channels of a stream, blocks, and kernels that a pixel gets."""


def filter_each(tokens_BHWC: Tensor, kernels_BHWGT: Tensor) -> Tensor:
    r"""Filter every pixel with a 3x3 kernel of its own; outside the map lie zeros.

    .. math:: y_{p,c} = \sum_{t=0}^{8} k_{p,g(c),t} \, x_{p + (\lfloor t / 3 \rfloor - 1,\; t \bmod 3 - 1),\, c}

    Args:
        tokens_BHWC: what is filtered.
        kernels_BHWGT: weights in row order, T = 9; group g takes C / G channels that follow each other.
    """
    batch, height, width, channels = tokens_BHWC.shape
    groups = kernels_BHWGT.shape[3]
    padded = F.pad(tokens_BHWC, (0, 0, 1, 1, 1, 1))
    total = tokens_BHWC.new_zeros(batch, height, width, groups, channels // groups)
    for tap in range(_KERNEL**2):
        row, column = divmod(tap, _KERNEL)
        moved = padded[:, row : row + height, column : column + width]
        total = total + kernels_BHWGT[..., tap, None] * moved.reshape(total.shape)
    return total.flatten(3)


class Residual(nn.Module):
    """Norm, convolution, GELU, convolution, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return tokens_BHWC + self.conv2(F.gelu(self.conv1(self.norm(tokens_BHWC))))  # type: ignore[no-any-return]


class GlobalFusion(nn.Module):
    r"""Attention in windows; both modalities say which pixels belong together, the optics are what is gathered.

    .. math:: A = \mathrm{softmax}\big((Q_o K_o^T + Q_s K_s^T) / \sqrt{2 d}\big)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = channels // _HEAD_CHANNELS
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.ask_optical = nn.Linear(channels, 3 * channels)
        self.ask_sar = nn.Linear(channels, 2 * channels)
        self.outward = nn.Linear(channels, channels)

    def _windows(self, tokens_BHWC: Tensor) -> Tensor:
        """(B, H, W, C) to (B windows, heads, pixels, channels of a head)."""
        batch, height, width, _ = tokens_BHWC.shape
        rows, columns = math.gcd(height, _WINDOW), math.gcd(width, _WINDOW)
        cut = tokens_BHWC.reshape(batch, height // rows, rows, width // columns, columns, self.num_heads, -1)
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)

    def _whole(self, windows: Tensor, like_BHWC: Tensor) -> Tensor:
        """The inverse of :meth:`_windows`."""
        batch, height, width, _ = like_BHWC.shape
        rows, columns = math.gcd(height, _WINDOW), math.gcd(width, _WINDOW)
        cut = windows.reshape(batch, height // rows, width // columns, self.num_heads, rows, columns, -1)
        return cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(like_BHWC.shape)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> Tensor:
        """Return the optical tokens with what was gathered added."""
        q_o, k_o, value = (self._windows(x) for x in self.ask_optical(self.norm_optical(optical_BHWC)).chunk(3, dim=-1))
        q_s, k_s = (self._windows(x) for x in self.ask_sar(self.norm_sar(sar_BHWC)).chunk(2, dim=-1))
        gathered = F.scaled_dot_product_attention(stack(q_o, q_s), stack(k_o, k_s), value)
        return optical_BHWC + self.outward(self._whole(gathered, optical_BHWC))  # type: ignore[no-any-return]


class LocalFusion(nn.Module):
    """Kernels, one a pixel and group, predicted from both, filter the radar, which is then added to the optics."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.inward = Conv(2 * channels, channels)
        self.kernels = nn.Linear(channels, num_groups * _KERNEL**2)
        self.outward = nn.Linear(channels, channels)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> Tensor:
        """Return the optical tokens with the filtered radar added."""
        optical, sar = self.norm_optical(optical_BHWC), self.norm_sar(sar_BHWC)
        hidden = F.gelu(self.inward(stack(optical, sar)))
        kernels_BHWGT = self.kernels(hidden).unflatten(-1, (self.num_groups, _KERNEL**2))
        return optical_BHWC + self.outward(filter_each(sar, kernels_BHWGT))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Each stream's own convolutions, then global and local fusion into the optical stream."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.optical, self.sar = Residual(channels), Residual(channels)
        self.everywhere, self.nearby = GlobalFusion(channels), LocalFusion(channels, num_groups)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams."""
        optical, sar = self.optical(optical_BHWC), self.sar(sar_BHWC)
        return self.nearby(self.everywhere(optical, sar), sar), sar


class GLFCR(Network):
    """The network."""

    title = "GLF-CR"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels, num_blocks, num_groups = SIZES[config.size]
        full = channels // 2
        self.optical_stem = nn.Sequential(Unfold(_STRIDE), Conv((config.num_optical_bands + 1) * _STRIDE**2, channels))
        self.sar_stem = nn.Sequential(Unfold(_STRIDE), Conv(config.num_sar_bands * _STRIDE**2, channels))
        self.stages = nn.ModuleList(Stage(channels, num_groups) for _ in range(num_blocks))
        self.gather = nn.Linear(channels * num_blocks, channels)
        self.up = Conv(channels, full * _STRIDE**2)
        self.detail = Conv(config.num_optical_bands + 1, full)
        self.image = ImageHead(full, config.num_optical_bands)
        self.classes = ClassHead(full, config.num_classes)
        self.spread = SpreadHead(full, config.num_optical_bands)

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`."""
        seen = stack(self.standard_optical(optical_BHWC), cloud_BHW1)
        optical, sar = self.optical_stem(seen), self.sar_stem(sar_BHWC)
        maps: list[Tensor] = []
        for stage in self.stages:
            optical, sar = stage(optical, sar)
            maps.append(optical)
        features = F.gelu(fold(self.up(self.gather(torch.cat(maps, dim=-1))), _STRIDE) + self.detail(seen))
        clear = optical_BHWC + self.standard_optical.std_C * self.image(features)
        return Answer(clear, self.classes(features), self.spread(features))
