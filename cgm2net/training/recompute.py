"""Less memory for more time: what a network's large parts hold for the backward pass is computed a second time."""

from collections.abc import Callable
from functools import partial

from torch.utils.checkpoint import checkpoint

from cgm2net.model.interface import Network


def recompute(network: Network) -> None:
    """Let every part that :attr:`Network.large_parts` names forget its activations; results stay the same.

    To be called once, on a network that is not copied afterwards: a copy would go on using this one's weights.
    """
    for module in network.modules():
        if isinstance(module, network.large_parts):
            module.forward = partial(_twice, module.forward)


def _twice(forward: Callable[..., object], *arguments: object) -> object:
    return checkpoint(forward, *arguments, use_reentrant=False)
