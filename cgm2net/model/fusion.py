"""MBF, Mamba-based fusion: the tokens of both streams interleaved into one sequence and scanned.

The module's name and purpose are those of Li et al. 2026 (CGM2Net, IEEE JSTARS 19, 14358-14374), of which the
abstract is public; its inside is this project's own design (DESIGN.md, "The network").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.blocks import Conv, ScanParameters
from cgm2net.model.scan import Direction, scan_2d

_ROWS: tuple[Direction, ...] = ("right", "left")
_COLUMNS: tuple[Direction, ...] = ("down", "up")


class MambaFusion(nn.Module):
    """MBF: scan o1 s1 o2 s2 … both ways along rows and columns, then weigh each stream by the other and by the cloud.

    Interleaved along its width, a map of H x W pixels is one of H x 2W tokens, and a row scan of it passes through
    o1 s1 o2 s2 …; interleaved along its height, a column scan does. The weights begin with optics ahead where it is
    clear, and SAR ahead under cloud.
    """

    def __init__(self, channels: int, *, num_states: int = 1) -> None:
        super().__init__()
        self.inward_optical, self.inward_sar = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.rows = ScanParameters(channels, num_states=num_states, num_directions=2)
        self.columns = ScanParameters(channels, num_states=num_states, num_directions=2)
        self.norm = nn.LayerNorm(channels)
        self.weigh_optical, self.weigh_sar = nn.Linear(channels + 1, channels), nn.Linear(channels + 1, channels)
        for layer, bias, slope in ((self.weigh_optical, 1.0, -2.0), (self.weigh_sar, 0.0, 1.0)):
            nn.init.constant_(layer.bias, bias)
            nn.init.constant_(layer.weight[:, -1], slope)
        self.merge = nn.Linear(2 * channels, channels)
        self.spatial = Conv(channels, channels)
        self.shortcut = nn.Linear(2 * channels, channels)

    def exchange(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Scan the interleaved tokens; return what was read at each stream's tokens, (B, H, W, C) each."""
        batch, height, width, channels = optical_BHWC.shape
        by_row = torch.stack([optical_BHWC, sar_BHWC], dim=3).reshape(batch, height, 2 * width, channels)
        by_column = torch.stack([optical_BHWC, sar_BHWC], dim=2).reshape(batch, 2 * height, width, channels)
        y_row = self._scan(by_row, self.rows, _ROWS).reshape(batch, height, width, 2, channels)
        y_column = self._scan(by_column, self.columns, _COLUMNS).reshape(batch, height, 2, width, channels)
        return y_row[:, :, :, 0] + y_column[:, :, 0], y_row[:, :, :, 1] + y_column[:, :, 1]

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """Fuse two streams (B, H, W, C), under cloud of 0-1, into one."""
        optical = F.silu(self.inward_optical(self.norm_optical(optical_BHWC)))
        sar = F.silu(self.inward_sar(self.norm_sar(sar_BHWC)))
        y_optical, y_sar = self.exchange(optical, sar)
        weighed_optical = self.norm(y_optical) * self.weigh_optical(torch.cat([sar, cloud_BHW1], dim=-1)).sigmoid()
        weighed_sar = self.norm(y_sar) * self.weigh_sar(torch.cat([optical, cloud_BHW1], dim=-1)).sigmoid()
        merged = self.merge(torch.cat([weighed_optical, weighed_sar], dim=-1))
        return self.shortcut(torch.cat([optical_BHWC, sar_BHWC], dim=-1)) + self.spatial(F.gelu(merged))  # type: ignore[no-any-return]

    def _scan(self, x: Tensor, parameters: ScanParameters, directions: tuple[Direction, ...]) -> Tensor:
        delta, b, c = parameters(x)
        return scan_2d(x, delta, parameters.A_KDN(), b, c, parameters.D, directions=directions)


class PlainFusion(nn.Module):
    """What stands in MBF's place when it is switched off: one linear layer on both streams."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = nn.Linear(2 * channels, channels)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:  # noqa: ARG002 - as MBF
        """Fuse two streams (B, H, W, C) into one."""
        return self.merge(torch.cat([optical_BHWC, sar_BHWC], dim=-1))  # type: ignore[no-any-return]
