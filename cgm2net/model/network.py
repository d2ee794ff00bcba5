"""CGM2Net: one network that restores the clear image and maps land cover under clouds.

Li, Wang, Shi, Dong, Liu, Chen, Li: "CGM2Net: Cloud-Guided Mamba-Based Multitask Network for Multimodal Remote Sensing
Semantic Segmentation and Cloud Removal", IEEE JSTARS 19 (2026) 14358-14374. Of the paper the abstract is public: it
names the parts (dual-stream encoder; CGFR, CGSI, MBF at each stage; two decoders that help each other). Everything
else here is this project's own design and no figure of this project is the paper's.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cgm2net.errors import ModelError
from cgm2net.model.decoders import ClassModulation, RestorationDecoder, SegmentationDecoder, TopDown
from cgm2net.model.encoder import STEM_STRIDE, DualStreamEncoder

_LIMIT = 4.0


class _Size(NamedTuple):
    channels: tuple[int, ...]
    num_blocks: int
    num_states: int


SIZES = {
    "tiny": _Size(channels=(32, 64, 96), num_blocks=1, num_states=4),
    "small": _Size(channels=(48, 96, 160), num_blocks=1, num_states=4),
    "base": _Size(channels=(96, 192, 320), num_blocks=2, num_states=16),
}
"""What the one dial of size sets: channels of the stages, Mamba blocks a stage and stream, states of CGSI's scan."""


class NetworkConfig(BaseModel):
    """Everything that fixes the network's shape; travels with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_optical_bands: int = Field(ge=1)
    num_sar_bands: int = Field(ge=1)
    num_classes: int = Field(ge=2)
    size: Literal["tiny", "small", "base"] = "tiny"
    restoration: bool = True
    "CGFR."
    interaction: bool = True
    "CGSI."
    fusion: bool = True
    "MBF; off is one linear layer on both streams."
    exchange: bool = True
    "What the decoders give each other."
    cloud_guidance: bool = True
    "Off: an all-clear mask everywhere."


class Prediction(NamedTuple):
    """What the network gives."""

    clear_BCHW: Tensor
    "Clear image, reflectance; not clamped to 0-1."
    logits_BKHW: Tensor
    "Class scores on the label grid, before softmax."
    spread_BCHW: Tensor
    "Expected size of the clear image's error (scale of a Laplace distribution), reflectance, before calibration."


class Standardise(nn.Module):
    """Bands to mean 0 and deviation 1 over clear ground, limited, so that no thick cloud shouts down the rest.

    The figures are buffers: measured on the training tiles, they travel with the weights.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, num_bands: int, *, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.full((num_bands,), mean))
        self.register_buffer("std_C", torch.full((num_bands,), std))

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Return (x - mean) / std, limited to -4..4."""
        return ((pixels_BHWC - self.mean_C) / self.std_C).clamp(-_LIMIT, _LIMIT)

    def set(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Take measured figures; a band that does not vary keeps a deviation of 0.001."""
        self.mean_C.copy_(mean_C)
        self.std_C.copy_(std_C.clamp(min=1e-3))


class CGM2Net(nn.Module):
    """The network.

    Raises:
        ModelError: at call, if an input's shape does not fit the configuration.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels, num_blocks, num_states = SIZES[config.size]
        self.standard_optical = Standardise(config.num_optical_bands, mean=0.15, std=0.1)
        self.standard_sar = Standardise(config.num_sar_bands, mean=0.5, std=0.2)
        self.stride = STEM_STRIDE * 2 ** (len(channels) - 1)
        self.encoder = DualStreamEncoder(
            num_optical_bands=config.num_optical_bands, num_sar_bands=config.num_sar_bands, channels=channels,
            num_blocks=num_blocks, num_states=num_states, restoration=config.restoration,
            interaction=config.interaction, fusion=config.fusion,
        )  # fmt: skip
        self.to_image, self.to_classes = TopDown(channels), TopDown(channels)
        self.segment = SegmentationDecoder(channels[0], config.num_classes, exchange=config.exchange)
        self.restore = RestorationDecoder(channels[0], config.num_optical_bands)
        self.modulate = ClassModulation(channels[0], config.num_classes) if config.exchange else None

    def forward(
        self,
        optical_BCHW: Tensor,
        sar_BCHW: Tensor,
        cloud_B1HW: Tensor,
        *,
        label_shape: tuple[int, int] | None = None,
    ) -> Prediction:
        """Restore and map.

        Args:
            optical_BCHW: cloudy reflectance, 0-1.
            sar_BCHW: SAR, dB scaled to 0-1.
            cloud_B1HW: cloud, a probability or a 0/1 mask.
            label_shape: (H', W') of the label grid where it is coarser than the pixels.
        """
        self._check(optical_BCHW, sar_BCHW, cloud_B1HW)
        if not self.config.cloud_guidance:
            cloud_B1HW = torch.zeros_like(cloud_B1HW)
        optical, sar, cloud = (x.permute(0, 2, 3, 1) for x in (optical_BCHW, sar_BCHW, cloud_B1HW))
        seen = self.standard_optical(optical)
        fused = self.encoder(torch.cat([seen, cloud], dim=-1), self.standard_sar(sar), cloud)
        class_features, coarse = self.segment.features(self.to_classes(fused))
        image_features = self.to_image(fused)
        if self.modulate is not None:
            image_features = self.modulate(image_features, coarse.softmax(dim=-1))
        image_features = self.restore.features(image_features)
        candidate, gate, spread = self.restore(image_features, seen, cloud)
        candidate = self.standard_optical.mean_C + self.standard_optical.std_C * candidate
        clear = optical + gate * (candidate - optical)
        logits = self.segment(class_features, coarse, image_features if self.modulate is not None else None)
        logits_BKHW = logits.permute(0, 3, 1, 2)
        if label_shape is not None and label_shape != tuple(logits_BKHW.shape[2:]):
            logits_BKHW = F.adaptive_avg_pool2d(logits_BKHW, label_shape)
        return Prediction(clear.permute(0, 3, 1, 2), logits_BKHW, spread.permute(0, 3, 1, 2))

    def _check(self, optical: Tensor, sar: Tensor, cloud: Tensor) -> None:
        batch, _, height, width = optical.shape
        wanted = {
            "optical": (optical, self.config.num_optical_bands),
            "sar": (sar, self.config.num_sar_bands),
            "cloud": (cloud, 1),
        }
        for name, (tensor, bands) in wanted.items():
            if tuple(tensor.shape) != (batch, bands, height, width):
                raise ModelError(
                    f"{name} has shape {tuple(tensor.shape)}, this network takes {(batch, bands, height, width)}"
                )
        if height % self.stride or width % self.stride:
            raise ModelError(
                f"an image of {height}x{width} px does not divide into the network's stride of {self.stride}; pad or"
                " crop it"
            )
