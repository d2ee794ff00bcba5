"""Layers that the stages and both decoders share; all tokens are channels-last, (B, H, W, C).

Channels last keeps row order a free view for the scan, normalisation and linear layers contiguous, and lets
convolutions run in their own channels-last memory format without a copy.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.scan import DIRECTIONS, scan_2d


class Conv(nn.Conv2d):
    """A 2-D convolution on channels-last tokens that keeps (or, with a stride, divides) the map's size."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=(kernel - 1) // 2, groups=groups)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C_in) to (B, H / stride, W / stride, C_out)."""
        return super().forward(tokens_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvMLP(nn.Module):
    """Pointwise expansion, 3x3 depthwise convolution, GELU, pointwise contraction."""

    def __init__(self, channels: int, *, ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.expand = nn.Linear(channels, hidden)
        self.spatial = Conv(hidden, hidden, groups=hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.contract(F.gelu(self.spatial(self.expand(tokens_BHWC))))  # type: ignore[no-any-return]


FIRST_STEPS = (0.01, 1.0)
"""Step sizes that a scan begins with: its state remembers between one and a hundred tokens."""

FIRST_SKIP = 0.5


class ScanParameters(nn.Module):
    r"""Input-dependent parameters of a selective scan, for K directions at once.

    .. math::
        \Delta = \mathrm{softplus}(W_2 W_1 \hat x + b), \quad B = W_B \hat x, \quad C = W_C \hat x, \quad A = -e^{a}

    with x̂ the token at unit variance over its channels. Gu and Dao 2023, doi:10.48550/arXiv.2312.00752, with another
    start: there what the scan reads is a few hundredths of the skip D x, and stays so in a short training; here they
    begin alike. A starts at -1..-N, softplus(b) evenly on a log scale over :data:`FIRST_STEPS`, D at
    :data:`FIRST_SKIP`.
    """

    def __init__(self, channels: int, *, num_states: int, num_directions: int) -> None:
        super().__init__()
        self.num_states, self.num_directions = num_states, num_directions
        self.rank = max(1, math.ceil(channels / 16))
        self.project = nn.Linear(channels, num_directions * (self.rank + 2 * num_states), bias=False)
        self.delta_weight_KRD = nn.Parameter(torch.empty(num_directions, self.rank, channels))
        nn.init.uniform_(self.delta_weight_KRD, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(step) for step in FIRST_STEPS)
        step_KD = torch.exp(torch.rand(num_directions, channels) * (high - low) + low)
        self.delta_bias_KD = nn.Parameter(step_KD + torch.log(-torch.expm1(-step_KD)))
        a_KDN = torch.arange(1.0, num_states + 1).log().expand(num_directions, channels, num_states)
        self.A_log_KDN = nn.Parameter(a_KDN.clone())
        self.D = nn.Parameter(torch.full((channels,), FIRST_SKIP))

    def forward(self, tokens_BHWD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return delta (B, H, W, K, D) > 0, B and C (B, H, W, K, N)."""
        batch, height, width, _ = tokens_BHWD.shape
        projected = self.project(F.layer_norm(tokens_BHWD, tokens_BHWD.shape[-1:])).view(
            batch, height, width, self.num_directions, -1
        )
        low, b_BHWKN, c_BHWKN = projected.split([self.rank, self.num_states, self.num_states], dim=-1)
        delta_BHWKD = torch.einsum("bhwkr,krd->bhwkd", low, self.delta_weight_KRD)
        return F.softplus(delta_BHWKD + self.delta_bias_KD), b_BHWKN, c_BHWKN

    def A_KDN(self) -> Tensor:  # noqa: N802
        """Return the decay rates (K, D, N), negative, in float32."""
        return -torch.exp(self.A_log_KDN.float())


class Scan2D(nn.Module):
    """Project, 3x3 depthwise convolution, four-direction selective scan, normalise, project back.

    After VMamba's SS2D without its gate: Liu et al. 2024, doi:10.48550/arXiv.2401.10166.
    """

    def __init__(self, channels: int, *, num_states: int = 1) -> None:
        super().__init__()
        self.inward = nn.Linear(channels, channels)
        self.spatial = Conv(channels, channels, groups=channels)
        self.parameters_of = ScanParameters(channels, num_states=num_states, num_directions=len(DIRECTIONS))
        self.norm = nn.LayerNorm(channels)
        self.outward = nn.Linear(channels, channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); every output depends on the whole map."""
        x_BHWD = F.silu(self.spatial(self.inward(tokens_BHWC)))
        delta, b, c = self.parameters_of(x_BHWD)
        y_BHWD = scan_2d(x_BHWD, delta, self.parameters_of.A_KDN(), b, c, self.parameters_of.D)
        return self.outward(self.norm(y_BHWD))  # type: ignore[no-any-return]


class MambaBlock(nn.Module):
    """Residual Mamba block: norm, 2-D selective scan, add; norm, convolutional MLP, add."""

    def __init__(self, channels: int, *, num_states: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.scan = Scan2D(channels, num_states=num_states)
        self.mlp = ConvMLP(channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        tokens_BHWC = tokens_BHWC + self.scan(self.norm1(tokens_BHWC))
        return tokens_BHWC + self.mlp(self.norm2(tokens_BHWC))  # type: ignore[no-any-return]


class Unfold(nn.Module):
    """Space to channels: (B, H, W, C) to (B, H / r, W / r, C r r); nothing is lost."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """See the class."""
        return F.pixel_unshuffle(tokens_BHWC.permute(0, 3, 1, 2), self.factor).permute(0, 2, 3, 1)


def fold(tokens_BHWC: Tensor, factor: int) -> Tensor:
    """Channels to space: (B, H, W, C r r) to (B, H r, W r, C)."""
    return F.pixel_shuffle(tokens_BHWC.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def double(tokens_BHWC: Tensor) -> Tensor:
    """Double height and width by nearest neighbour; a convolution follows everywhere it is used."""
    tokens_BCHW = tokens_BHWC.permute(0, 3, 1, 2)
    return F.interpolate(tokens_BCHW, scale_factor=2.0, mode="nearest").permute(0, 2, 3, 1)
