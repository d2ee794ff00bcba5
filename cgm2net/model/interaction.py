"""CGSI, cloud-guided semantic interaction: a cross-modal 2-D selective scan whose parameters the mask modulates.

The module's name and purpose are those of Li et al. 2026 (CGM2Net, IEEE JSTARS 19, 14358-14374), of which the
abstract is public; its inside is this project's own design (DESIGN.md, "The network").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.blocks import Conv, ScanParameters
from cgm2net.model.scan import DIRECTIONS, scan_2d


class _Stream(nn.Module):
    """One modality's half: projections in and out and its scan parameters."""

    def __init__(self, channels: int, *, num_states: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.inward = nn.Linear(channels, channels)
        self.spatial = Conv(channels, channels, groups=channels)
        self.parameters_of = ScanParameters(channels, num_states=num_states, num_directions=len(DIRECTIONS))
        self.received = nn.Linear(channels, channels, bias=False)
        self.norm_out = nn.LayerNorm(channels)
        self.outward = nn.Linear(channels, channels)
        # The streams begin apart; what the exchange adds has to be learned.
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def tokens(self, features_BHWC: Tensor) -> Tensor:
        return F.silu(self.spatial(self.inward(self.norm(features_BHWC))))

    def scan(self, tokens_BHWD: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return scan_2d(tokens_BHWD, delta, self.parameters_of.A_KDN(), b, c, self.parameters_of.D)

    def answer(self, own_BHWD: Tensor, other_BHWD: Tensor) -> Tensor:
        return self.outward(self.norm_out(own_BHWD + self.received(other_BHWD)))  # type: ignore[no-any-return]


class SemanticInteraction(nn.Module):
    r"""CGSI.

    .. math::
        \Delta_o' = \Delta_o \, (1 - a\,m), \qquad \tilde C = (1 - m)\, C_o + m\, C_s

    A clouded optical token hardly writes into the state, which is carried across it (Δ = 0 leaves the state as it
    is); both streams read through one mask-mixed C̃, so where it is clear the optics ask and under cloud the radar
    asks. What each reads is handed to the other where the other is the weaker: SAR to optics under cloud, optics to
    SAR where it is clear.
    """

    def __init__(self, channels: int, *, num_states: int) -> None:
        super().__init__()
        self.optical = _Stream(channels, num_states=num_states)
        self.sar = _Stream(channels, num_states=num_states)
        # sigmoid(2) = 0.88: it begins where the mask matters; a logit begun at 0 hardly moves in a short training.
        self.damping_logit_D = nn.Parameter(torch.full((channels,), 2.0))

    def damped(self, delta_BHWKD: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """Return the optical step sizes (B, H, W, K, D) with the clouded tokens' made small."""
        return delta_BHWKD * (1.0 - self.damping_logit_D.sigmoid() * cloud_BHW1.unsqueeze(-1))

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor]:
        """Let both streams exchange what they know; shapes (B, H, W, C) and cloud 0-1, both streams back."""
        x_o, x_s = self.optical.tokens(optical_BHWC), self.sar.tokens(sar_BHWC)
        delta_o, b_o, c_o = self.optical.parameters_of(x_o)
        delta_s, b_s, c_s = self.sar.parameters_of(x_s)
        cloud_BHW11 = cloud_BHW1.unsqueeze(-1)
        c_mixed = (1.0 - cloud_BHW11) * c_o + cloud_BHW11 * c_s
        y_o = self.optical.scan(x_o, self.damped(delta_o, cloud_BHW1), b_o, c_mixed)
        y_s = self.sar.scan(x_s, delta_s, b_s, c_mixed)
        return (
            optical_BHWC + self.optical.answer(y_o, cloud_BHW1 * y_s),
            sar_BHWC + self.sar.answer(y_s, (1.0 - cloud_BHW1) * y_o),
        )
