"""How fast, and which parameters are held small."""

import math
from typing import Any

from torch import nn

from cgm2net.settings import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of a step: a straight rise over the warm-up, then half a cosine down to a hundredth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Decay matrices and kernels only: norms, biases, decay rates of the scans and loss weights are left alone."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        spared = parameter.ndim < 2 or any(word in name for word in ("A_log", "delta_bias", "position", "temperature"))
        (free if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
