"""What the network says of a row of windows, and what of that is stored."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from rasterio.windows import Window

from cgm2net import sensors
from cgm2net.data.cloud_methods import COVER_THRESHOLD
from cgm2net.data.dataset import to_inputs
from cgm2net.errors import MetricError
from cgm2net.model.calibration import half_width, probabilities
from cgm2net.predict.layers import CODE_NODATA, PROBABILITY_SCALE, UNCERTAINTY_NODATA, Origin
from cgm2net.predict.model import LoadedModel
from cgm2net.predict.products import Block
from cgm2net.predict.windows import WINDOW_PX
from cgm2net.weights import Card

_MAX_DN = UNCERTAINTY_NODATA - 1


class Band(NamedTuple):
    """Rows of a scene over some columns, as read; nothing of it lies outside the scene."""

    window: Window
    optical_CHW: np.ndarray
    "DN."
    sar_CHW: np.ndarray
    "dB, NaN where there is none."
    cloud_HW: np.ndarray
    "float32, 0-1."
    measured_HW: np.ndarray
    "bool, the optical image has data."
    heard_HW: np.ndarray
    "bool, SAR has data."

    def cut(self, window: Window) -> "Band":
        """Return a part, given in the scene's pixels."""
        top, left = window.row_off - self.window.row_off, window.col_off - self.window.col_off
        part = (..., slice(top, top + window.height), slice(left, left + window.width))
        return Band(window, *(array[part] for array in self[1:]))


def answers(
    band: Band, places: Sequence[tuple[int, int]], *, model: LoadedModel, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Let the network see windows of a band, a batch at a time; those with nothing to predict are passed over.

    Args:
        band: holds every pixel of the windows that lies inside the scene; beyond, the image is mirrored.
        places: row and column of each window's upper-left corner in the scene, negative above and left of it.
        model: network and card.
        batch_size: windows at once.

    Yields:
        Number of the window in ``places``, and float32 (2 C + K, 256, 256): image, half width of its interval
        (reflectance both), calibrated class probabilities.

    Raises:
        MetricError: at a number that is not finite.
    """
    corners = [(top - band.window.row_off, left - band.window.col_off) for top, left in places]
    usable_HW = band.measured_HW & band.heard_HW
    wanted = [n for n, corner in enumerate(corners) if _inside(usable_HW, *corner).any()]
    for begin in range(0, len(wanted), batch_size):
        chosen = wanted[begin : begin + batch_size]
        inputs = zip(*(_inputs(band, *corners[n], card=model.card) for n in chosen), strict=True)
        yield from zip(chosen, _ask(model, *(torch.from_numpy(np.stack(arrays)) for arrays in inputs)), strict=True)


def _inputs(band: Band, top: int, left: int, *, card: Card) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one window as the network takes it; all windows at once would be the largest thing in memory."""
    optical, sar, cloud = to_inputs(
        *(_inside(array, top, left) for array in (band.optical_CHW, band.sar_CHW, band.cloud_HW)),
        optical_bands=card.optical_bands, sar_bands=card.sar_bands,
    )  # fmt: skip
    return _mirrored(optical, top, left), _mirrored(sar, top, left), _mirrored(cloud[None], top, left)


def stored(answer_CHW: np.ndarray, band: Band, *, card: Card, keep_clear: bool) -> Block:
    """Turn blended answers into what is written.

    Args:
        answer_CHW: as :func:`answers` gives them, blended.
        band: the same pixels as read.
        card: of the network.
        keep_clear: keep the measured values of pixels that the mask calls clear.
    """
    num_bands = len(card.optical_bands)
    image_CHW, width_CHW, probability_KHW = np.split(answer_CHW, [num_bands, 2 * num_bands])
    predicted_HW = band.measured_HW & band.heard_HW
    origin = np.where(predicted_HW, Origin.RESTORED, np.where(band.measured_HW, Origin.NO_SAR, Origin.NO_DATA))
    restored = np.where(predicted_HW, _digital(image_CHW, lowest=1), sensors.OPTICAL_NODATA)
    uncertainty = np.where(predicted_HW, _digital(width_CHW, lowest=0), UNCERTAINTY_NODATA)
    if keep_clear:
        kept_HW = band.measured_HW & (band.cloud_HW <= COVER_THRESHOLD)
        origin = np.where(kept_HW, Origin.MEASURED, origin)
        restored = np.where(kept_HW, band.optical_CHW, restored)
        uncertainty = np.where(kept_HW, 0, uncertainty)
    sure, cloud = (np.rint(share / PROBABILITY_SCALE) for share in (probability_KHW.max(axis=0), band.cloud_HW))
    return Block(
        restored_CHW=restored.astype(np.uint16),
        uncertainty_CHW=uncertainty.astype(np.uint16),
        classes_HW=np.where(predicted_HW, probability_KHW.argmax(axis=0), sensors.LABEL_IGNORE).astype(np.uint8),
        confidence_HW=np.where(predicted_HW, sure, CODE_NODATA).astype(np.uint8),
        cloud_HW=np.where(band.measured_HW, cloud, CODE_NODATA).astype(np.uint8),
        origin_HW=origin.astype(np.uint8),
    )


def _ask(model: LoadedModel, optical: torch.Tensor, sar: torch.Tensor, cloud: torch.Tensor) -> np.ndarray:
    optical, sar, cloud = (tensor.to(model.device) for tensor in (optical, sar, cloud))
    with torch.inference_mode():
        prediction = model.network(optical, sar, cloud)
        parts = (
            prediction.clear_BCHW.clamp(0.0, 1.0),
            half_width(prediction.spread_BCHW, cloud[:, 0], model.card.calibration),
            probabilities(prediction.logits_BKHW, cloud[:, 0], model.card.calibration),
        )
        answer_BCHW = torch.cat(parts, dim=1).float().cpu().numpy()
    if not np.isfinite(answer_BCHW).all():
        raise MetricError("the network's answer holds numbers that are not finite; was it trained to the end?")
    return np.asarray(answer_BCHW)


def _inside(image: np.ndarray, top: int, left: int) -> np.ndarray:
    return image[..., max(top, 0) : top + WINDOW_PX, max(left, 0) : left + WINDOW_PX]


def _mirrored(part_CHW: np.ndarray, top: int, left: int) -> np.ndarray:
    """Fill a window up of which a part lies inside; beyond the edge the image is mirrored, as often as it takes."""
    above, before = max(-top, 0), max(-left, 0)
    below, after = WINDOW_PX - above - part_CHW.shape[1], WINDOW_PX - before - part_CHW.shape[2]
    return np.pad(part_CHW, [(0, 0), (above, below), (before, after)], mode="symmetric")


def _digital(reflectance: np.ndarray, *, lowest: int) -> np.ndarray:
    return np.clip(np.rint(reflectance * sensors.REFLECTANCE_SCALE), lowest, _MAX_DN)
