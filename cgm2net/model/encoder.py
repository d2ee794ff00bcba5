"""The dual-stream encoder: per stage a Mamba block for each stream, then CGFR, CGSI and MBF."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.blocks import Conv, MambaBlock, Unfold
from cgm2net.model.fusion import MambaFusion, PlainFusion
from cgm2net.model.interaction import SemanticInteraction
from cgm2net.model.restoration import FeatureRestoration

STEM_STRIDE = 2
WINDOW_SPAN_PX = 64
"""Reach of CGFR's widest windows in every stage, in pixels of the image."""


class Stem(nn.Sequential):
    """Pixels to tokens of half the resolution, nothing thrown away before it is weighed."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__(
            Unfold(STEM_STRIDE), Conv(bands * STEM_STRIDE**2, channels), nn.GELU(), Conv(channels, channels)
        )


class Downsample(nn.Sequential):
    """Normalise, then a strided 3x3 convolution to half the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.LayerNorm(inputs), Conv(inputs, outputs, stride=2))


class EncoderStage(nn.Module):
    """One stage: encode both streams, restore (CGFR), let them interact (CGSI), fuse (MBF)."""

    def __init__(
        self, channels: int, *, num_blocks: int, num_states: int, stride: int,
        restoration: bool, interaction: bool, fusion: bool, guided: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.optical_blocks = nn.Sequential(*(MambaBlock(channels) for _ in range(num_blocks)))
        self.sar_blocks = nn.Sequential(*(MambaBlock(channels) for _ in range(num_blocks)))
        widest = max(1, WINDOW_SPAN_PX // (8 * stride))
        pools = (1, widest) if widest > 1 else (1,)
        self.restoration = FeatureRestoration(channels, pools=pools, guided=guided) if restoration else None
        self.interaction = SemanticInteraction(channels, num_states=num_states) if interaction else None
        self.fusion = MambaFusion(channels) if fusion else PlainFusion(channels)

    def encode(self, optical_BHWC: Tensor, sar_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Pass each stream through its own Mamba blocks."""
        return self.optical_blocks(optical_BHWC), self.sar_blocks(sar_BHWC)

    def restore(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor]:
        """CGFR, where it is switched on."""
        if self.restoration is None:
            return optical_BHWC, sar_BHWC
        return self.restoration(optical_BHWC, sar_BHWC, cloud_BHW1)  # type: ignore[no-any-return]

    def interact(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor]:
        """CGSI, where it is switched on."""
        if self.interaction is None:
            return optical_BHWC, sar_BHWC
        return self.interaction(optical_BHWC, sar_BHWC, cloud_BHW1)  # type: ignore[no-any-return]

    def fuse(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """MBF, or one linear layer where it is switched off."""
        return self.fusion(optical_BHWC, sar_BHWC, cloud_BHW1)  # type: ignore[no-any-return]


class DualStreamEncoder(nn.Module):
    """Optical and SAR streams through all stages; one fused map a stage."""

    def __init__(
        self, *, num_optical_bands: int, num_sar_bands: int, channels: tuple[int, ...], num_blocks: int,
        num_states: int, restoration: bool, interaction: bool, fusion: bool, guided: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.optical_stem = Stem(num_optical_bands + 1, channels[0])
        self.sar_stem = Stem(num_sar_bands, channels[0])
        pairs = list(itertools.pairwise(channels))
        self.optical_downs = nn.ModuleList(Downsample(*pair) for pair in pairs)
        self.sar_downs = nn.ModuleList(Downsample(*pair) for pair in pairs)
        self.stages = nn.ModuleList(
            EncoderStage(
                width, num_blocks=num_blocks, num_states=num_states, stride=STEM_STRIDE * 2**index,
                restoration=restoration, interaction=interaction, fusion=fusion, guided=guided,
            )
            for index, width in enumerate(channels)
        )  # fmt: skip

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> list[Tensor]:
        """Return the fused maps, finest first: (B, H / 2, W / 2, C_1), (B, H / 4, …), …

        Args:
            optical_BHWC: pixels with the mask as their last band.
            sar_BHWC: SAR pixels.
            cloud_BHW1: cloud, 0-1, at full resolution.
        """
        optical, sar, cloud = self.optical_stem(optical_BHWC), self.sar_stem(sar_BHWC), _half(cloud_BHW1)
        fused: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, EncoderStage)
            if index:
                optical, sar = self.optical_downs[index - 1](optical), self.sar_downs[index - 1](sar)
                cloud = _half(cloud)
            optical, sar = stage.encode(optical, sar)
            optical, sar = stage.restore(optical, sar, cloud)
            optical, sar = stage.interact(optical, sar, cloud)
            fused.append(stage.fuse(optical, sar, cloud))
        return fused


def _half(cloud_BHW1: Tensor) -> Tensor:
    """Area-pool the mask to half the resolution."""
    return F.avg_pool2d(cloud_BHW1.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
