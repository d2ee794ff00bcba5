"""What makes the network's own doubt mean something: figures measured on the validation tiles, kept in the card."""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

INTERVAL_SHARE = 0.9
"""Share of the true values that the stated interval is to hold."""

_Factor = Annotated[float, Field(gt=0.0)]


class Calibration(BaseModel):
    """Factors for clear and for clouded pixels; between them the cloud probability interpolates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature_clear: _Factor = 1.0
    "Class logits are divided by it: Guo et al. 2017, doi:10.48550/arXiv.1706.04599."
    temperature_cloudy: _Factor = 1.0
    interval_clear: tuple[_Factor, ...]
    "One a band: half of the interval that holds 90 % of the true values, in units of the network's spread."
    interval_cloudy: tuple[_Factor, ...]


def probabilities(logits_BKHW: Tensor, cloud_BHW: Tensor, calibration: Calibration) -> Tensor:
    """Return calibrated class probabilities (B, K, H, W).

    Args:
        logits_BKHW: of the network.
        cloud_BHW: cloud, 0-1, on the grid of the logits.
        calibration: of the network's card.
    """
    clear, cloudy = calibration.temperature_clear, calibration.temperature_cloudy
    temperature_B1HW = (clear + (cloudy - clear) * cloud_BHW).unsqueeze(1)
    return (logits_BKHW.float() / temperature_B1HW).softmax(dim=1)


def half_width(spread_BCHW: Tensor, cloud_BHW: Tensor, calibration: Calibration) -> Tensor:
    """Return half the width of the interval that holds 90 % of the true values, reflectance (B, C, H, W).

    Args:
        spread_BCHW: of the network.
        cloud_BHW: cloud, 0-1.
        calibration: of the network's card.
    """
    clear, cloudy = (
        torch.tensor(factors, dtype=torch.float32, device=spread_BCHW.device).view(1, -1, 1, 1)
        for factors in (calibration.interval_clear, calibration.interval_cloudy)
    )
    return spread_BCHW.float() * (clear + (cloudy - clear) * cloud_BHW.unsqueeze(1))
