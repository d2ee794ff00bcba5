"""Image metrics of restored tiles: PSNR, SSIM, MAE, RMSE, SAM, CC, as sums over a set divided once (:mod:`metrics`).

Predictions are clamped to 0-1 before they are scored, as the reference is.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cgm2net.evaluation.metrics import GROUPS, checked, cloud_groups, require_finite, with_all

IMAGE_METRICS = ("psnr", "ssim", "mae", "rmse", "sam", "cc")
SSIM_WINDOW_PX = 11
MIN_MSE = 1e-10
"""A smaller mean squared error counts as this one, so PSNR is at most 100 dB and a perfect copy stays finite."""

_SUMS = ("pixels", "squared", "absolute", "angle", "ssim", "ssim_pixels")
_MOMENTS = ("predicted", "reference", "predicted_squared", "reference_squared", "product")


class ImageMetrics:
    """Image metrics of a set of tiles, batch by batch, in constant memory.

    Args:
        num_bands: optical bands.
        cloud_threshold: a pixel with a higher cloud probability is cloudy.
    """

    def __init__(self, num_bands: int, *, cloud_threshold: float) -> None:
        self.sums_GS = np.zeros((len(GROUPS), len(_SUMS) + len(_MOMENTS) * num_bands))
        self._cloud_threshold = cloud_threshold

    def update(
        self,
        predicted_BCHW: torch.Tensor,
        reference_BCHW: torch.Tensor,
        *,
        cloud_BHW: torch.Tensor,
        valid_BHW: torch.Tensor,
    ) -> np.ndarray:
        """Add a batch.

        Args:
            predicted_BCHW: reflectance; clamped to 0-1 here.
            reference_BCHW: reflectance 0-1.
            cloud_BHW: cloud probability 0-1.
            valid_BHW: bool, True where measured.

        Returns:
            float64 (B, G, S): each tile's own sums, named by :func:`sum_names`.

        Raises:
            MetricError: at a number that is not finite, in any pixel, scored or not.
        """
        require_finite(predicted_BCHW, what="predicted image")
        require_finite(reference_BCHW, what="reference image")
        groups_BGHW = cloud_groups(cloud_BHW, valid_BHW, threshold=self._cloud_threshold)
        maps_BSHW = _image_maps(predicted_BCHW.clamp(0.0, 1.0), reference_BCHW, valid_BHW)
        sums_BGS = torch.einsum("bghw,bshw->bgs", groups_BGHW.double(), maps_BSHW).cpu().numpy()
        self.sums_GS += sums_BGS.sum(axis=0)
        return sums_BGS

    def merge(self, other: "ImageMetrics") -> None:
        """Add what another one has seen."""
        self.sums_GS += other.sums_GS

    def compute(self) -> dict[str, float]:
        """Return ``GROUP/METRIC`` of everything seen; see :func:`image_metrics`."""
        return image_metrics(self.sums_GS)


def image_metrics(sums_GS: np.ndarray) -> dict[str, float]:
    r"""Return the image metrics that sums amount to.

    ==== ==========================================================================================================
    psnr dB, peak 1: :math:`-10 \log_{10} \mathrm{MSE}`, MSE over the pixels and bands of the group, at least
         :data:`MIN_MSE`
    ssim mean over the group's pixels of the SSIM map (Wang et al. 2004, doi:10.1109/TIP.2003.819861), 11x11
         Gaussian, sigma 1.5, K 0.01 and 0.03, edges reflected; of those pixels only whose window holds no pixel that
         was not measured. The window of a cloudy pixel may hold clear ones.
    mae  reflectance
    rmse reflectance
    sam  degrees, mean over pixels of the angle between predicted and reference spectrum (Kruse et al. 1993,
         doi:10.1016/0034-4257(93)90013-N); a spectrum of zeros is at 90 degrees to every other
    cc   Pearson correlation of each band over the group's pixels, averaged over the bands whose reference varies; 0
         for a band predicted constant
    ==== ==========================================================================================================

    Args:
        sums_GS: float64, as :meth:`ImageMetrics.update` returns them, of one tile or added over any tiles.

    Returns:
        ``GROUP/METRIC`` for ``all``, ``clear`` and ``cloudy``; absent where nothing of the group can be measured.

    Raises:
        MetricError: if a metric is not finite.
    """
    metrics: dict[str, float] = {}
    for group, sums_S in with_all(sums_GS):
        metrics |= {f"{group}/{name}": value for name, value in _image_ratios(sums_S).items()}
    return checked(metrics)


def sum_names(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the S sums over a group's pixels.

    ``pixels``; ``squared`` and ``absolute`` errors over all bands; spectral ``angle`` [degrees]; ``ssim`` over
    ``ssim_pixels``; then, band by band, the first and second moments that correlations are made of.
    """
    return (*_SUMS, *(f"{moment}_{band}" for moment in _MOMENTS for band in bands))


def _image_maps(predicted_BCHW: torch.Tensor, reference_BCHW: torch.Tensor, valid_BHW: torch.Tensor) -> torch.Tensor:
    """Return float64 (B, S, H, W): what each pixel adds to each sum."""
    ssim_BHW = _ssim_map(predicted_BCHW, reference_BCHW)
    invalid_BHW = F.max_pool2d((~valid_BHW).float(), SSIM_WINDOW_PX, stride=1, padding=SSIM_WINDOW_PX // 2)
    whole_BHW = (invalid_BHW == 0).double()
    p, t = predicted_BCHW.double(), reference_BCHW.double()
    error = p - t
    cosine_BHW = (p * t).sum(1) / (p.norm(dim=1) * t.norm(dim=1)).clamp_min(1e-12)
    angle_BHW = cosine_BHW.clamp(-1.0, 1.0).acos().rad2deg()
    once = [
        torch.ones_like(angle_BHW),
        (error**2).sum(1),
        error.abs().sum(1),
        angle_BHW,
        ssim_BHW * whole_BHW,
        whole_BHW,
    ]
    return torch.cat([torch.stack(once, dim=1), p, t, p * p, t * t, p * t], dim=1)


def _ssim_map(predicted_BCHW: torch.Tensor, reference_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the SSIM of each pixel, averaged over bands, float64 (B, H, W)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, map_BCHW = structural_similarity_index_measure(
        predicted_BCHW.float(), reference_BCHW.float(), sigma=1.5, kernel_size=SSIM_WINDOW_PX, k1=0.01, k2=0.03,
        data_range=1.0, reduction="none", return_full_image=True,
    )  # fmt: skip
    assert isinstance(map_BCHW, torch.Tensor)
    return map_BCHW.double().mean(dim=1)


def _image_ratios(sums_S: np.ndarray) -> dict[str, float]:
    sums = dict(zip(_SUMS, sums_S.tolist(), strict=False))
    moments_MC = sums_S[len(_SUMS) :].reshape(len(_MOMENTS), -1)
    pixels, values = sums["pixels"], sums["pixels"] * moments_MC.shape[1]
    if pixels == 0:
        return {}
    mse = sums["squared"] / values
    metrics = {
        "psnr": -10 * math.log10(max(mse, MIN_MSE)),
        "mae": sums["absolute"] / values,
        "rmse": math.sqrt(mse),
        "sam": sums["angle"] / pixels,
    }
    if sums["ssim_pixels"]:
        metrics["ssim"] = sums["ssim"] / sums["ssim_pixels"]
    correlations = _correlations(moments_MC / pixels)
    if correlations.size:
        metrics["cc"] = float(correlations.mean())
    return metrics


def _correlations(means_MC: np.ndarray) -> np.ndarray:
    p, t, pp, tt, pt = means_MC
    # Below this share of the second moment a variance is rounding, not signal.
    p_varies, t_varies = pp - p * p > 1e-12 * pp, tt - t * t > 1e-12 * tt
    spread = np.sqrt(np.where(p_varies & t_varies, (pp - p * p) * (tt - t * t), 1.0))
    return np.asarray(np.where(p_varies, (pt - p * t) / spread, 0.0)[t_varies])
