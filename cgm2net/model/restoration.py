"""CGFR, cloud-guided feature restoration: what the clear part of the image teaches is applied under the cloud.

The module's name and purpose are those of Li et al. 2026 (CGM2Net, IEEE JSTARS 19, 14358-14374), of which the
abstract is public; its inside is this project's own design (DESIGN.md, "The network").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.model.blocks import Conv
from cgm2net.model.scan.backends import is_traced

WINDOW = 8
"""Side of an attention window, in tokens."""


class ChannelCorrelation(nn.Module):
    """Transposed attention of optical queries on SAR keys, learned where it is clear and applied everywhere.

    The C x C map is the correlation of optical with SAR channels over the pixels of the image, each weighted by
    ``1 - m``, so it costs linear time and no clouded pixel has a say in it. After Restormer's transposed attention:
    Zamir et al. 2022, doi:10.1109/CVPR52688.2022.00564.
    """

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.temperature_h11 = nn.Parameter(torch.full((num_heads, 1, 1), 4.0))

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """Return what SAR says about optics, (B, H, W, C)."""
        clear_B1L1 = (1.0 - cloud_BHW1).flatten(1, 2).unsqueeze(1)
        query_BhLc = self._heads(self.query(optical_BHWC)) * clear_B1L1
        key_BhLc = self._heads(self.key(sar_BHWC)) * clear_B1L1
        query_BhLc, key_BhLc = F.normalize(query_BhLc, dim=2), F.normalize(key_BhLc, dim=2)
        logits_Bhcc = query_BhLc.transpose(2, 3) @ key_BhLc * self.temperature_h11
        weights_Bhcc = logits_Bhcc.float().softmax(dim=-1).to(sar_BHWC.dtype)
        found_BhLc = self._heads(self.value(sar_BHWC)) @ weights_Bhcc.transpose(2, 3)
        return found_BhLc.transpose(1, 2).reshape(optical_BHWC.shape)

    def _heads(self, tokens_BHWC: Tensor) -> Tensor:
        batch, height, width, channels = tokens_BHWC.shape
        return tokens_BHWC.reshape(batch, height * width, self.num_heads, channels // self.num_heads).transpose(1, 2)


class SpatialCorrelation(nn.Module):
    """Window attention that carries optical values from clear pixels to clouded ones that look alike to the radar.

    Queries and keys are SAR features, values are optical ones, and each key's logit carries ``log(1 - m)``: from a
    pixel with m = 1 nothing is taken, exactly. A learned null token answers where a window holds no clear pixel.
    With a dilation the window's tokens lie ``dilation`` apart, so that it reaches ``8 x dilation`` tokens at the
    same cost.
    """

    def __init__(self, channels: int, *, num_heads: int, dilation: int) -> None:
        super().__init__()
        self.num_heads, self.dilation = num_heads, dilation
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.null_logit_h = nn.Parameter(torch.zeros(num_heads))
        self.null_value_C = nn.Parameter(torch.zeros(channels))
        self.position_hP = nn.Parameter(torch.zeros(num_heads, (2 * WINDOW - 1) ** 2))
        steps = torch.arange(WINDOW)
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        dy = rows.flatten()[:, None] - rows.flatten()[None] + WINDOW - 1
        dx = columns.flatten()[:, None] - columns.flatten()[None] + WINDOW - 1
        self.register_buffer("position_index_LL", dy * (2 * WINDOW - 1) + dx, persistent=False)

    position_index_LL: Tensor

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor]:
        """Return carried optical values (B, H, W, C), and the weight (B, H, W, 1) that found no clear pixel."""
        _, height, width, channels = optical_BHWC.shape
        query, key = self._windows(self.query(sar_BHWC)), self._windows(self.key(sar_BHWC))
        value = self._windows(self.value(optical_BHWC))
        # Padding counts as cloud: nothing is taken from outside the image.
        clear_w1L1 = self._windows(1.0 - cloud_BHW1, heads=1)
        bias_hLL = self.position_hP[:, self.position_index_LL]
        logits_whLL = (query * (channels // self.num_heads) ** -0.5) @ key.mT + bias_hLL
        logits_whLL = logits_whLL.float() + clear_w1L1.float().log().mT
        null_whL1 = self.null_logit_h.float().view(-1, 1, 1).expand(*logits_whLL.shape[:-1], 1)
        weights = torch.cat([logits_whLL, null_whL1], dim=-1).softmax(dim=-1).to(value.dtype)
        carried_whLc = weights[..., :-1] @ value
        null_whLc = weights[..., -1:] * self.null_value_C.view(self.num_heads, 1, -1)
        found = self._restore(carried_whLc + null_whLc, height, width)
        return found, self._restore(weights[..., -1:].mean(-3, keepdim=True), height, width)

    def _windows(self, tokens_BHWC: Tensor, *, heads: int | None = None) -> Tensor:
        """(B, H, W, C) to (B, rows, d, columns, d, heads, 64, C / heads), zero-padded to whole windows.

        The windows keep their five axes: in a traced graph of open sizes these stay simple.
        """
        padded = _pad_to(tokens_BHWC, WINDOW * self.dilation)
        split = padded.unflatten(3, (heads or self.num_heads, -1))
        split = split.unflatten(2, (-1, WINDOW, self.dilation)).unflatten(1, (-1, WINDOW, self.dilation))
        return split.permute(0, 1, 3, 4, 6, 7, 2, 5, 8).flatten(6, 7)  # type: ignore[no-any-return]

    @staticmethod
    def _restore(windows_whLc: Tensor, height: int, width: int) -> Tensor:
        """Undo :meth:`_windows` and cut the padding off."""
        split = windows_whLc.unflatten(6, (WINDOW, WINDOW))
        whole: Tensor = split.permute(0, 1, 6, 2, 3, 7, 4, 5, 8).flatten(7, 8).flatten(4, 6).flatten(1, 3)
        if is_traced():
            rows, columns = (torch.arange(size, device=whole.device) for size in (height, width))
            return whole.index_select(1, rows).index_select(2, columns)
        return whole[:, :height, :width]


def _pad_to(tokens_BHWC: Tensor, multiple: int) -> Tensor:
    """Pad height and width with zeros to multiples.

    A gather stands for the pad in a traced graph: of open sizes torch.export cannot prove what a pad adds up to.
    """
    height, width = tokens_BHWC.shape[1:3]
    if not is_traced():
        rows, columns = -height % multiple, -width % multiple
        return F.pad(tokens_BHWC, (0, 0, 0, columns, 0, rows)) if rows or columns else tokens_BHWC
    for axis, size in ((1, height), (2, width)):
        index = torch.arange((size + multiple - 1) // multiple * multiple, device=tokens_BHWC.device)
        inside = (index < size).to(tokens_BHWC.dtype)
        tokens_BHWC = tokens_BHWC.index_select(axis, index.clamp(max=size - 1))
        tokens_BHWC = tokens_BHWC * inside.view((-1, 1, 1) if axis == 1 else (-1, 1))
    return tokens_BHWC


class SpeckleFilter(nn.Module):
    """A normalised 3x3 kernel for every pixel, predicted from SAR and from clear optics, averages the SAR feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predict = nn.Linear(2 * channels, 10)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """Return the filtered SAR feature, (B, H, W, C)."""
        seen = torch.cat([sar_BHWC, (1.0 - cloud_BHW1) * optical_BHWC], dim=-1)
        predicted = self.predict(seen)
        kernel_BHW9, blend_BHW1 = predicted[..., :9].softmax(dim=-1), predicted[..., 9:].sigmoid()
        _, height, width, _ = sar_BHWC.shape
        padded = F.pad(sar_BHWC.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
        smooth = torch.zeros_like(sar_BHWC)
        for tap in range(9):
            dy, dx = divmod(tap, 3)
            smooth = smooth + kernel_BHW9[..., tap : tap + 1] * padded[:, dy : dy + height, dx : dx + width]
        return sar_BHWC + blend_BHW1 * (smooth - sar_BHWC)  # type: ignore[no-any-return]


class FeatureRestoration(nn.Module):
    """CGFR: a candidate for every optical token, put in its place as far as the cloud and a learned gate say.

    .. math:: o' = o + m \\, g(o, s, c, m) \\, (c - o)

    Where m = 0 the optical feature passes through unchanged, to the bit.
    """

    def __init__(self, channels: int, *, dilations: tuple[int, ...]) -> None:
        super().__init__()
        num_heads = max(1, channels // 32)
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.speckle = SpeckleFilter(channels)
        self.channel = ChannelCorrelation(channels, num_heads=num_heads)
        self.spatial = nn.ModuleList(
            SpatialCorrelation(channels, num_heads=num_heads, dilation=dilation) for dilation in dilations
        )
        self.candidate = nn.Linear(channels * (2 + len(dilations)), channels)
        self.gate = nn.Linear(3 * channels + 1 + len(dilations), channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        self.refine = Conv(channels, channels)

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> tuple[Tensor, Tensor]:
        """Restore the optical stream and filter the SAR stream.

        Args:
            optical_BHWC: optical features.
            sar_BHWC: SAR features.
            cloud_BHW1: cloud cover of each token, 0-1.

        Returns:
            Both streams, (B, H, W, C) each.
        """
        sar_BHWC = self.speckle(optical_BHWC, sar_BHWC, cloud_BHW1)
        optical, sar = self.norm_optical(optical_BHWC), self.norm_sar(sar_BHWC)
        found = [self.spatial_one(layer, optical, sar, cloud_BHW1) for layer in self.spatial]
        carried, missing = [f for f, _ in found], [n for _, n in found]
        candidate = self.candidate(torch.cat([self.channel(optical, sar, cloud_BHW1), *carried, sar], dim=-1))
        candidate = candidate + self.refine(F.gelu(candidate))
        gate = self.gate(torch.cat([optical, sar, candidate, cloud_BHW1, *missing], dim=-1)).sigmoid()
        return optical_BHWC + cloud_BHW1 * gate * (candidate - optical_BHWC), sar_BHWC

    @staticmethod
    def spatial_one(layer: nn.Module, optical: Tensor, sar: Tensor, cloud: Tensor) -> tuple[Tensor, Tensor]:
        """Call one spatial correlation (typed)."""
        return layer(optical, sar, cloud)  # type: ignore[no-any-return]
