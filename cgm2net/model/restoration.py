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
    r"""What each kind of ground looks like in this image, learned where it is clear and applied everywhere.

    .. math:: v_p = \frac{\sum_i (1 - m_i)\, k_{ip}\, v_i + \tau\, \mu_p}{\sum_i (1 - m_i)\, k_{ip} + \tau}, \qquad
        f_i = \sum_p q_{ip}\, v_p

    Every channel p of a head is a kind of ground that SAR tells apart: keys k and queries q are softmax over the
    channels of SAR features, values v are optical features. So a C x C map, from kinds to optical values, is summed
    over the clear pixels of the whole image in linear time; no clouded pixel has a say in it. A kind that is nowhere
    clear falls back to a learned value. After efficient attention: Shen et al. 2021, doi:10.1109/WACV48630.2021.00357.
    """

    def __init__(self, channels: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.temperature_h11 = nn.Parameter(torch.full((num_heads, 1, 1), 2.0))
        self.prior_hcc = nn.Parameter(torch.zeros(num_heads, channels // num_heads, channels // num_heads))

    def forward(self, optical_BHWC: Tensor, sar_BHWC: Tensor, cloud_BHW1: Tensor) -> Tensor:
        """Return what SAR says about optics, (B, H, W, C)."""
        clear_B1L1 = (1.0 - cloud_BHW1).flatten(1, 2).unsqueeze(1)
        query_BhLp = self._kinds(self.query(sar_BHWC))
        key_BhLp = self._kinds(self.key(sar_BHWC)) * clear_B1L1
        value_BhLc = self._heads(self.value(optical_BHWC))
        total_Bhpc = key_BhLp.transpose(2, 3) @ value_BhLc
        count_Bhp1 = key_BhLp.sum(dim=2).unsqueeze(-1)
        kinds_Bhpc = (total_Bhpc + self.prior_hcc) / (count_Bhp1 + 1.0)
        found_BhLc = query_BhLp @ kinds_Bhpc
        return found_BhLc.transpose(1, 2).reshape(optical_BHWC.shape)

    def _kinds(self, tokens_BHWC: Tensor) -> Tensor:
        return (self._heads(tokens_BHWC).float() * self.temperature_h11).softmax(dim=-1).to(tokens_BHWC.dtype)

    def _heads(self, tokens_BHWC: Tensor) -> Tensor:
        batch, height, width, channels = tokens_BHWC.shape
        return tokens_BHWC.reshape(batch, height * width, self.num_heads, channels // self.num_heads).transpose(1, 2)


class SpatialCorrelation(nn.Module):
    """Window attention that carries optical values from clear pixels to clouded ones that look alike to the radar.

    Queries and keys are SAR features, values are optical ones, and each key's logit carries ``log(1 - m)``: from a
    pixel with m = 1 nothing is taken, exactly. A learned null token answers where a window holds no clear pixel.
    With ``pool`` above 1 keys and values are means over the clear part of cells of ``pool`` x ``pool`` tokens: the
    window reaches ``8 x pool`` tokens at the same cost.
    """

    def __init__(self, channels: int, *, num_heads: int, pool: int) -> None:
        super().__init__()
        self.num_heads, self.pool = num_heads, pool
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
        # Padding counts as cloud: nothing is taken from outside the image.
        clear_whLp1 = self._cells(1.0 - cloud_BHW1, heads=1)
        clear_whL1 = clear_whLp1.mean(dim=5)
        key_whLc = self._clear_mean(self.key(sar_BHWC), clear_whLp1, clear_whL1)
        value_whLc = self._clear_mean(self.value(optical_BHWC), clear_whLp1, clear_whL1)
        query_whLpc = self._cells(self.query(sar_BHWC)) * (channels // self.num_heads) ** -0.5
        bias_hL1L = self.position_hP[:, self.position_index_LL].unsqueeze(2)
        logits_whLpL = (query_whLpc.flatten(4, 5) @ key_whLc.mT).unflatten(4, query_whLpc.shape[4:6]) + bias_hL1L
        logits_whLpL = logits_whLpL.float() + clear_whL1.float().log().mT.unsqueeze(4)
        null_whLp1 = self.null_logit_h.float().view(-1, 1, 1, 1).expand(*logits_whLpL.shape[:-1], 1)
        weights = torch.cat([logits_whLpL, null_whLp1], dim=-1).softmax(dim=-1).to(value_whLc.dtype)
        carried = (weights[..., :-1].flatten(4, 5) @ value_whLc).unflatten(4, query_whLpc.shape[4:6])
        null = weights[..., -1:] * self.null_value_C.view(self.num_heads, 1, 1, -1)
        found = self._restore(carried + null, height, width)
        return found, self._restore(weights[..., -1:].mean(3, keepdim=True), height, width)

    def _clear_mean(self, tokens_BHWC: Tensor, clear_whLp1: Tensor, clear_whL1: Tensor) -> Tensor:
        """Average each cell's clear tokens, (B, rows, columns, heads, 64, C / heads); 0 where none is clear."""
        cells_whLpc = self._cells(tokens_BHWC)
        if self.pool == 1:
            return cells_whLpc.squeeze(5)
        return (cells_whLpc * clear_whLp1).mean(dim=5) / clear_whL1.clamp(min=1e-6)

    def _cells(self, tokens_BHWC: Tensor, *, heads: int | None = None) -> Tensor:
        """(B, H, W, C) to (B, rows, columns, heads, 64 cells, pool x pool, C / heads), zero-padded to whole windows.

        The windows keep their axes: in a traced graph of open sizes these stay simple.
        """
        padded = _pad_to(tokens_BHWC, WINDOW * self.pool)
        split = padded.unflatten(3, (heads or self.num_heads, -1))
        split = split.unflatten(2, (-1, WINDOW, self.pool)).unflatten(1, (-1, WINDOW, self.pool))
        return split.permute(0, 1, 4, 7, 2, 5, 3, 6, 8).flatten(6, 7).flatten(4, 5)  # type: ignore[no-any-return]

    def _restore(self, cells_whLpc: Tensor, height: int, width: int) -> Tensor:
        """Undo :meth:`_cells` and cut the padding off."""
        split = cells_whLpc.unflatten(5, (self.pool, self.pool)).unflatten(4, (WINDOW, WINDOW))
        whole: Tensor = split.permute(0, 1, 4, 6, 2, 5, 7, 3, 8).flatten(7, 8).flatten(4, 6).flatten(1, 3)
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

    Where m = 0 the optical feature passes through unchanged, to the bit. Unguided, the gate alone decides.
    """

    def __init__(self, channels: int, *, pools: tuple[int, ...], guided: bool = True) -> None:
        super().__init__()
        self.guided = guided
        num_heads = max(1, channels // 32)
        self.norm_optical, self.norm_sar = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.speckle = SpeckleFilter(channels)
        self.channel = ChannelCorrelation(channels, num_heads=num_heads)
        self.spatial = nn.ModuleList(SpatialCorrelation(channels, num_heads=num_heads, pool=pool) for pool in pools)
        self.candidate = nn.Linear(channels * (2 + len(pools)), channels)
        self.gate = nn.Linear(3 * channels + 1 + len(pools), channels)
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
        share = cloud_BHW1 * gate if self.guided else gate
        return optical_BHWC + share * (candidate - optical_BHWC), sar_BHWC

    @staticmethod
    def spatial_one(layer: nn.Module, optical: Tensor, sar: Tensor, cloud: Tensor) -> tuple[Tensor, Tensor]:
        """Call one spatial correlation (typed)."""
        return layer(optical, sar, cloud)  # type: ignore[no-any-return]
