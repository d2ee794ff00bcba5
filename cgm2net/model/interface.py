"""What every network here is: the same values in, the same values out, one configuration.

Axes: B batch, C bands, K classes, H and W pixels.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from cgm2net.errors import ModelError
from cgm2net.settings import OWN_PARTS, Architecture

_LIMIT = 4.0

STRIDE = 8
"""Height and width of an image are multiples of it, whichever the network."""


class NetworkConfig(BaseModel):
    """Everything that fixes the network's shape; travels with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_optical_bands: int = Field(ge=1)
    num_sar_bands: int = Field(ge=1)
    num_classes: int = Field(ge=2)
    architecture: Architecture = "cgm2net"
    size: Literal["tiny", "small", "base"] = "tiny"
    restoration: bool = True
    "CGFR."
    interaction: bool = True
    "CGSI."
    fusion: bool = True
    "MBF; off is one linear layer on both streams."
    classes_to_image: bool = True
    "Class probabilities modulate the restoration decoder."
    image_to_classes: bool = True
    "Restored features enter the segmentation decoder."
    cloud_guidance: bool = True
    "Off: an all-clear mask everywhere, and no part that leans on it."
    soft_mask: bool = True
    "Off: the mask is cut at 0.5 into 0 and 1."
    sar: bool = True
    "Off: an even SAR image."

    @model_validator(mode="after")
    def _has_its_parts(self) -> "NetworkConfig":
        if self.architecture != "cgm2net" and (off := [name for name in OWN_PARTS if not getattr(self, name)]):
            raise ValueError(f"{', '.join(off)}: parts of cgm2net, which {self.architecture} has not; leave them on")
        return self


class Prediction(NamedTuple):
    """What a network gives."""

    clear_BCHW: Tensor
    "Clear image, reflectance; not clamped to 0-1."
    logits_BKHW: Tensor
    "Class scores on the label grid, before softmax."
    spread_BCHW: Tensor
    "Expected size of the clear image's error (scale of a Laplace distribution), reflectance, before calibration."


class Answer(NamedTuple):
    """A prediction with its channels last, at full resolution."""

    clear_BHWC: Tensor
    logits_BHWK: Tensor
    spread_BHWC: Tensor


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

    def undo(self, standard_BHWC: Tensor) -> Tensor:
        """Return x of (x - mean) / std."""
        return self.mean_C + self.std_C * standard_BHWC

    def set(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Take measured figures; a band that does not vary keeps a deviation of 0.001."""
        self.mean_C.copy_(mean_C)
        self.std_C.copy_(std_C.clamp(min=1e-3))


class Network(nn.Module, ABC):
    """Base of CGM2Net and of the networks that it is compared with.

    Raises:
        ModelError: at call, if an input's shape does not fit the configuration.
    """

    title: ClassVar[str]
    "Name that people know it by."
    large_parts: ClassVar[tuple[type[nn.Module], ...]] = ()
    "Kinds of modules whose activations fill the memory of a training."
    stride = STRIDE

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.standard_optical = Standardise(config.num_optical_bands, mean=0.15, std=0.1)
        self.standard_sar = Standardise(config.num_sar_bands, mean=0.5, std=0.2)

    @abstractmethod
    def answer(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Answer:
        """Restore and map.

        Args:
            optical_BHWC: cloudy reflectance, 0-1.
            sar_BHWC: standardised SAR.
            cloud_BHW1: cloud, 0-1.
        """

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
        optical, sar, cloud = (x.permute(0, 2, 3, 1) for x in (optical_BCHW, sar_BCHW, cloud_B1HW))
        if not self.config.cloud_guidance:
            cloud = torch.zeros_like(cloud)
        if not self.config.soft_mask:
            cloud = (cloud > 0.5).to(cloud.dtype)
        standard_sar = self.standard_sar(sar) if self.config.sar else torch.zeros_like(sar)
        clear, logits, spread = (x.permute(0, 3, 1, 2) for x in self.answer(optical, standard_sar, cloud))
        if label_shape is not None and label_shape != tuple(logits.shape[2:]):
            logits = F.adaptive_avg_pool2d(logits, label_shape)
        return Prediction(clear, logits, spread)

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
