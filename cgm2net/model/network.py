"""CGM2Net: one network that restores the clear image and maps land cover under clouds.

Li, Wang, Shi, Dong, Liu, Chen, Li: "CGM2Net: Cloud-Guided Mamba-Based Multitask Network for Multimodal Remote Sensing
Semantic Segmentation and Cloud Removal", IEEE JSTARS 19 (2026) 14358-14374. Of the paper the abstract is public: it
names the parts (dual-stream encoder; CGFR, CGSI, MBF at each stage; two decoders that help each other). Everything
else here is this project's own design and no figure of this project is the paper's.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cgm2net.model.blocks import MambaBlock
from cgm2net.model.decoders import ClassModulation, RestorationDecoder, SegmentationDecoder, TopDown
from cgm2net.model.encoder import DualStreamEncoder
from cgm2net.model.fusion import MambaFusion
from cgm2net.model.interaction import SemanticInteraction
from cgm2net.model.interface import Answer, Network, NetworkConfig
from cgm2net.model.restoration import FeatureRestoration


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


class CGM2Net(Network):
    """The network."""

    title = "CGM2Net"
    large_parts = (MambaBlock, FeatureRestoration, SemanticInteraction, MambaFusion)

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        channels, num_blocks, num_states = SIZES[config.size]
        self.encoder = DualStreamEncoder(
            num_optical_bands=config.num_optical_bands, num_sar_bands=config.num_sar_bands, channels=channels,
            num_blocks=num_blocks, num_states=num_states, restoration=config.restoration,
            interaction=config.interaction, fusion=config.fusion, guided=config.cloud_guidance,
        )  # fmt: skip
        self.to_image, self.to_classes = TopDown(channels), TopDown(channels)
        self.segment = SegmentationDecoder(channels[0], config.num_classes, exchange=config.image_to_classes)
        self.restore = RestorationDecoder(channels[0], config.num_optical_bands, guided=config.cloud_guidance)
        self.modulate = ClassModulation(channels[0], config.num_classes) if config.classes_to_image else None

    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """See :meth:`Network.answer`."""
        seen = self.standard_optical(optical_BHWC)
        fused = self.encoder(torch.cat([seen, cloud_BHW1], dim=-1), sar_BHWC, cloud_BHW1)
        class_features, coarse = self.segment.features(self.to_classes(fused))
        image_features = self.to_image(fused)
        if self.modulate is not None:
            image_features = self.modulate(image_features, coarse.softmax(dim=-1))
        image_features = self.restore.features(image_features)
        candidate, gate, spread = self.restore(image_features, seen, cloud_BHW1)
        clear = optical_BHWC + gate * (self.standard_optical.undo(candidate) - optical_BHWC)
        logits = self.segment(class_features, coarse, image_features if self.config.image_to_classes else None)
        return Answer(clear, logits, spread)
