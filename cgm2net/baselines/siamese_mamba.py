"""Siamese Mamba: both streams through the same Mamba blocks, cross and concat Mamba between them, no cloud guidance.

After Sigma: Wan et al. 2024, doi:10.48550/arXiv.2404.04256. It differs: this project's Mamba block and decoder,
three stages from half resolution on, the mask as a band of the optics, and a gated image beside the classes.
"""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.baselines.heads import ClassHead, GatedHead, SpreadHead, stack
from cgm2net.model.blocks import Conv, MambaBlock, ScanParameters, fold
from cgm2net.model.decoders import TopDown
from cgm2net.model.encoder import STEM_STRIDE, Downsample, Stem
from cgm2net.model.interface import Answer, Network, NetworkConfig
from cgm2net.model.scan import DIRECTIONS, Direction, scan_2d


class _Size(NamedTuple):
    channels: tuple[int, ...]
    num_blocks: int
    num_states: int


SIZES = {
    "tiny": _Size(channels=(48, 80, 128), num_blocks=2, num_states=4),
    "small": _Size(channels=(72, 136, 200), num_blocks=2, num_states=4),
    "base": _Size(channels=(96, 192, 320), num_blocks=5, num_states=16),
}
"""Channels of the stages, Mamba blocks a stage, states of the scans that fuse."""

_ALONG: tuple[Direction, ...] = ("right", "left")


class Exchanger(nn.Module):
    """One modality's half of a cross Mamba block."""

    def __init__(self, channels: int, *, num_states: int) -> None:
        super().__init__()
        self.norm, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.inward, self.outward = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.spatial = Conv(channels, channels, groups=channels)
        self.parameters_of = ScanParameters(channels, num_states=num_states, num_directions=len(DIRECTIONS))

    def tokens(self, features_BHWC: Tensor) -> Tensor:
        """Return what is scanned."""
        return F.silu(self.spatial(self.inward(self.norm(features_BHWC))))

    def scan(self, tokens_BHWD: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Return what is read, projected."""
        y_BHWD = scan_2d(tokens_BHWD, delta, self.parameters_of.A_KDN(), b, c, self.parameters_of.D)
        return self.outward(self.norm_out(y_BHWD))  # type: ignore[no-any-return]


class CrossMamba(nn.Module):
    """Each modality writes its own state and reads it as the other asks (C exchanged)."""

    def __init__(self, channels: int, *, num_states: int) -> None:
        super().__init__()
        self.optical = Exchanger(channels, num_states=num_states)
        self.sar = Exchanger(channels, num_states=num_states)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams with what was read added."""
        x_o, x_s = self.optical.tokens(optical_BHWC), self.sar.tokens(sar_BHWC)
        delta_o, b_o, c_o = self.optical.parameters_of(x_o)
        delta_s, b_s, c_s = self.sar.parameters_of(x_s)
        y_o, y_s = self.optical.scan(x_o, delta_o, b_o, c_s), self.sar.scan(x_s, delta_s, b_s, c_o)
        return optical_BHWC + y_o, sar_BHWC + y_s


class ConcatMamba(nn.Module):
    """Both modalities as one sequence, all optical pixels and then all radar pixels, scanned forth and back."""

    def __init__(self, channels: int, *, num_states: int) -> None:
        super().__init__()
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.inward = nn.Linear(channels, channels)
        self.spatial = Conv(channels, channels, groups=channels)
        self.parameters_of = ScanParameters(channels, num_states=num_states, num_directions=len(_ALONG))
        self.norm_out = nn.LayerNorm(channels)
        self.skip, self.outward = nn.Linear(2 * channels, channels), nn.Linear(2 * channels, channels)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> Tensor:
        """Return one fused map (B, H, W, C)."""
        both = torch.cat([self.norm_optical(optical_BHWC), self.norm_sar(sar_BHWC)])
        # one map above the other, row by row: the sequence of the paper
        x_BHWD = torch.cat(F.silu(self.spatial(self.inward(both))).chunk(2), dim=1)
        delta, b, c = self.parameters_of(x_BHWD)
        y_BHWD = scan_2d(
            x_BHWD, delta, self.parameters_of.A_KDN(), b, c, self.parameters_of.D, directions=_ALONG
        )  # fmt: skip
        read = stack(*self.norm_out(y_BHWD).chunk(2, dim=1))
        return self.skip(stack(optical_BHWC, sar_BHWC)) + self.outward(read)  # type: ignore[no-any-return]


class SiameseStage(nn.Module):
    """The same blocks for both streams, then cross and concat Mamba."""

    def __init__(self, channels: int, *, num_blocks: int, num_states: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(MambaBlock(channels) for _ in range(num_blocks)))
        self.cross = CrossMamba(channels, num_states=num_states)
        self.concat = ConcatMamba(channels, num_states=num_states)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both streams and the fused map."""
        optical, sar = self.blocks(torch.cat([optical_BHWC, sar_BHWC])).chunk(2)
        crossed = self.cross(optical, sar)
        return optical, sar, self.concat(*crossed)


class SiameseMamba(Network):
    """The network."""

    title = "Siamese Mamba"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels, num_blocks, num_states = SIZES[config.size]
        bands, full = config.num_optical_bands, channels[0] // 2
        self.optical_stem, self.sar_stem = Stem(bands + 1, channels[0]), Stem(config.num_sar_bands, channels[0])
        self.downs = nn.ModuleList(Downsample(*pair) for pair in itertools.pairwise(channels))
        self.stages = nn.ModuleList(
            SiameseStage(width, num_blocks=num_blocks, num_states=num_states) for width in channels
        )
        self.merge = TopDown(channels)
        self.up = nn.Linear(channels[0], full * STEM_STRIDE**2)
        self.detail = Conv(bands + 1, full)
        self.mix = Conv(full, full)
        self.image = GatedHead(full, bands)
        self.classes = ClassHead(full, config.num_classes)
        self.spread = SpreadHead(full, bands)

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`."""
        seen = stack(self.standard_optical(optical_BHWC), cloud_BHW1)
        optical, sar = self.optical_stem(seen), self.sar_stem(sar_BHWC)
        fused: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            if index:
                optical, sar = self.downs[index - 1](torch.cat([optical, sar])).chunk(2)
            optical, sar, both = stage(optical, sar)
            fused.append(both)
        features = F.gelu(fold(self.up(self.merge(fused)), STEM_STRIDE) + self.detail(seen))
        features = features + F.gelu(self.mix(features))
        candidate, gate = self.image(features)
        clear = optical_BHWC + gate * (self.standard_optical.undo(candidate) - optical_BHWC)
        return Answer(clear, self.classes(features), self.spread(features))
