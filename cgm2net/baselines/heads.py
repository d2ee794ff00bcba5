"""What the networks share: inputs, norms, and heads for the image, the classes and the spread; tokens (B, H, W, C)."""

import torch
from torch import Tensor, nn

from cgm2net.model.blocks import Conv
from cgm2net.model.decoders import spread_of

_GROUP_CHANNELS = 8


class Norm(nn.GroupNorm):
    """Group normalisation of channels-last tokens.

    Wu and He 2018, doi:10.1007/978-3-030-01261-8_1. Unlike batch statistics it is the same for an image alone, in a
    batch, in training and in use.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(max(1, channels // _GROUP_CHANNELS), channels)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return super().forward(tokens_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ImageHead(Conv):
    """A 3x3 convolution to image values that begins at 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class GatedHead(nn.Module):
    r"""Features to a candidate image c, standardised, and a gate g, both learned: :math:`y = x + g \, (c - x)`.

    The freedom that CGM2Net has, without its start from the mask: c begins at 0, the mean, and g at one half.
    """

    def __init__(self, channels: int, num_bands: int) -> None:
        super().__init__()
        self.image = ImageHead(channels, 2 * num_bands)

    def forward(self, features_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return candidate and gate, (B, H, W, bands) each."""
        candidate, gate = self.image(features_BHWC).chunk(2, dim=-1)
        return candidate, gate.sigmoid()


class ClassHead(nn.Sequential):
    """3x3 convolution, GELU, 1x1 convolution: features to class scores."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(Conv(channels, channels), nn.GELU(), nn.Linear(channels, num_classes))


class SpreadHead(nn.Module):
    """Features to a spread in reflectance; the features are not taught by it."""

    def __init__(self, channels: int, num_bands: int) -> None:
        super().__init__()
        self.doubt = nn.Sequential(Conv(channels, channels), nn.GELU(), Conv(channels, num_bands))

    def forward(self, features_BHWC: Tensor) -> Tensor:
        """Return the spread, (B, H, W, bands)."""
        return spread_of(self.doubt(features_BHWC.detach()))


def stack(*maps_BHWC: Tensor) -> Tensor:
    """Put the channels of several maps after each other."""
    return torch.cat(maps_BHWC, dim=-1)
