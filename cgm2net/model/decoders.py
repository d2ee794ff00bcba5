"""The two decoders and what they give each other.

Segmentation speaks first, coarsely; its class probabilities modulate the restoration decoder, whose restored
features then refine the classes.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.blocks import Conv, ConvMLP, double, fold
from cgm2net.model.encoder import STEM_STRIDE

MAX_CLEAR_GATE = 0.25
"""At most so much of a pixel is replaced where the mask says clear: measurements outweigh what is imagined."""

RIM_PX = 2
"""So far from a cloud this limit is lifted: thin cloud reaches beyond the edge of any mask."""

_GATE_CLEAR, _GATE_CLOUD = -2.0, 4.0  # logits that it begins with

_LOG_SPREAD = -4.0  # a reflectance of 0.02, that it begins near
_LOG_SPREAD_LIMITS = (-9.0, 0.0)


class TopDown(nn.Module):
    """From the coarsest fused map to the finest, adding each on the way (B, H / 2, W / 2, C_1)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.narrow = nn.ModuleList(nn.Linear(coarse, fine) for fine, coarse in pairs)
        self.mix = nn.ModuleList(Conv(fine, fine) for fine, _ in pairs)
        self.norm = nn.ModuleList(nn.LayerNorm(fine) for fine, _ in pairs)

    def forward(self, fused: list[Tensor]) -> Tensor:
        """Merge the fused maps, finest first."""
        merged = fused[-1]
        for level in range(len(fused) - 2, -1, -1):
            merged = fused[level] + double(self.narrow[level](merged))
            merged = merged + F.gelu(self.mix[level](self.norm[level](merged)))
        return merged


class ClassModulation(nn.Module):
    """Class probabilities scale and shift the restoration features: each class knows its own spectrum.

    After spatially-adaptive normalisation: Park et al. 2019, doi:10.1109/CVPR.2019.00244.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(num_classes, 2 * channels)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, features_BHWC: Tensor, probabilities_BHWK: Tensor) -> Tensor:
        """Return modulated features, (B, H, W, C)."""
        scale, shift = self.project(probabilities_BHWK).chunk(2, dim=-1)
        return features_BHWC + self.norm(features_BHWC) * scale + shift  # type: ignore[no-any-return]


class RestorationDecoder(nn.Module):
    """Fused features and the input's own detail to a clear image and to how far it replaces the input.

    .. math:: y = x + g \\, (c - x)

    The gate g follows the mask: begun open under cloud, and never above :data:`MAX_CLEAR_GATE` where it is clear and
    farther than :data:`RIM_PX` from any cloud; the candidate c is an image of its own, so that nothing of a thick cloud
    has to be subtracted. Unguided, the gate has to be learned from what is seen.
    """

    def __init__(self, channels: int, num_bands: int, *, guided: bool = True) -> None:
        super().__init__()
        self.num_bands, self.guided = num_bands, guided
        self.mlp = ConvMLP(channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, (channels // 2) * STEM_STRIDE**2)
        self.detail = Conv(num_bands + 1, channels // 2)
        self.mix = Conv(channels // 2, channels // 2)
        self.head = Conv(channels // 2, 2 * num_bands)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.doubt = nn.Sequential(Conv(channels // 2, channels // 2), nn.GELU(), Conv(channels // 2, num_bands))

    def features(self, features_BHWC: Tensor) -> Tensor:
        """Refine the half-resolution features, (B, H / 2, W / 2, C)."""
        return features_BHWC + self.mlp(self.norm(features_BHWC))  # type: ignore[no-any-return]

    def forward(self, features_BHWC: Tensor, optical_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return candidate, in the standardised units of ``optical_BHWC``, gate and spread; (B, H, W, bands) each.

        The spread, in reflectance, is read from features that it does not teach: what is restored stays what it would
        be without it.
        """
        full = fold(self.up(features_BHWC), STEM_STRIDE)
        seen = torch.cat([optical_BHWC * (1.0 - cloud_BHW1), cloud_BHW1], dim=-1)
        full = F.gelu(full + self.detail(seen))
        full = full + F.gelu(self.mix(full))
        candidate, gate = self.head(full).split(self.num_bands, dim=-1)
        spread = spread_of(self.doubt(full.detach()))
        if not self.guided:
            return candidate, gate.sigmoid(), spread
        start = _GATE_CLEAR + (_GATE_CLOUD - _GATE_CLEAR) * cloud_BHW1
        most = MAX_CLEAR_GATE + (1.0 - MAX_CLEAR_GATE) * _grown(cloud_BHW1)
        return candidate, most * (gate + start).sigmoid(), spread


def _grown(cloud_BHW1: Tensor) -> Tensor:
    """Let a mask reach :data:`RIM_PX` farther on every side."""
    cloud_B1HW = cloud_BHW1.permute(0, 3, 1, 2)
    return F.max_pool2d(cloud_B1HW, 2 * RIM_PX + 1, stride=1, padding=RIM_PX).permute(0, 2, 3, 1)


def spread_of(raw_BHWC: Tensor) -> Tensor:
    """Return a spread in reflectance, 0.0001 to 1, of an open number; 0 stands for 0.02."""
    return torch.exp((raw_BHWC.float() + _LOG_SPREAD).clamp(*_LOG_SPREAD_LIMITS))


class SegmentationDecoder(nn.Module):
    """Fused features to class logits at full resolution, before and after the restored features are seen."""

    def __init__(self, channels: int, num_classes: int, *, exchange: bool) -> None:
        super().__init__()
        self.mlp = ConvMLP(channels)
        self.norm = nn.LayerNorm(channels)
        self.coarse = nn.Linear(channels, num_classes)
        self.refine = Conv(2 * channels if exchange else channels, channels)
        self.head = nn.Linear(channels, num_classes * STEM_STRIDE**2)

    def features(self, features_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return half-resolution features and coarse logits (B, H / 2, W / 2, K)."""
        features_BHWC = features_BHWC + self.mlp(self.norm(features_BHWC))
        return features_BHWC, self.coarse(features_BHWC)

    def forward(self, features_BHWC: Tensor, coarse_BHWK: Tensor, restored_BHWC: Tensor | None) -> Tensor:
        """Return logits (B, H, W, K)."""
        seen = features_BHWC if restored_BHWC is None else torch.cat([features_BHWC, restored_BHWC], dim=-1)
        logits = fold(self.head(F.gelu(self.refine(seen))), STEM_STRIDE)
        return logits + double(coarse_BHWK)
