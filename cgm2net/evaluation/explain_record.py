"""What CGM2Net did with a tile, part by part: heard from outside while it answers, so that the answer stays the same.

Axes: B a batch of one, C channels, K classes, H and W pixels, h and w tokens of a stage, Q tokens that are followed.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgm2net.errors import ModelError
from cgm2net.model.blocks import double
from cgm2net.model.encoder import EncoderStage
from cgm2net.model.fusion import MambaFusion
from cgm2net.model.interaction import SemanticInteraction
from cgm2net.model.interface import Network, Prediction
from cgm2net.model.network import CGM2Net
from cgm2net.model.restoration import FeatureRestoration, SpatialCorrelation

NUM_FOLLOWED = 3
"""Clouded tokens whose attention is shown."""

_CLOUDED = 0.5

Heard = dict[nn.Module, tuple[Any, Any]]
"""What went into a module and what came out, of its last call."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Where one window attention of CGFR found optical values, for the tokens that are followed."""

    pool: int
    weights_Qhw: np.ndarray
    "Attention on every token, the mean of the heads; what is missing to a sum of 1 found nothing clear."


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRecord:
    """What one stage of the encoder did."""

    stride: int
    "Pixels of a token's side."
    cloud_hw: np.ndarray
    "Mean of the mask that was given; a network without guidance does not see it."
    maps: dict[str, np.ndarray]
    "(h, w) each, by the names of :func:`record`; none of a part that is switched off."
    looks: tuple[Look, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What the network did with one image."""

    prediction: Prediction
    gate_HW: np.ndarray
    "Share of the candidate image in the answer, mean of the bands."
    coarse_KHW: np.ndarray
    "Class scores before the restored features are seen, on the label grid."
    followed_Q2: np.ndarray
    "Row and column [px] of the clouded tokens whose attention is shown, far apart."
    stages: tuple[StageRecord, ...]


@contextmanager
def listening(modules: Iterable[nn.Module]) -> Iterator[Heard]:
    """Yield what the modules take and give inside the block; afterwards nobody listens, whatever happened."""
    heard: Heard = {}

    def hear(module: nn.Module, given: Any, answered: Any) -> None:
        heard[module] = (given, answered)

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(hear))
        yield heard


def record(
    network: Network,
    optical_BCHW: Tensor,
    sar_BCHW: Tensor,
    cloud_B1HW: Tensor,
    *,
    label_shape: tuple[int, int] | None = None,
) -> Record:
    """Ask the network and note what its parts did.

    The maps of a stage:

    - ``gate``, share of CGFR's candidate in the restored optical feature, mean of the channels;
      ``found_D``, share of the attention to cells of D x D tokens that found a clear one; ``restored``,
      |o' - o| / |o|;
    - ``delta`` and ``damped``, CGSI's optical step sizes before and after the mask damps them, mean of channels and
      directions; ``to_optical`` and ``to_sar``, what each stream was handed by the other against what it read
      itself, |r| / (|r| + |y|); ``moved_optical`` and ``moved_sar``, |o'' - o'| / |o'|;
    - ``optical_share``, MBF's weight of optics over the sum of its weights of optics and SAR, mean of the channels.

    Args:
        network: a CGM2Net in evaluation mode.
        optical_BCHW: one image, as the network takes it.
        sar_BCHW: likewise.
        cloud_B1HW: likewise.
        label_shape: of the label grid, where it is coarser.

    Raises:
        ModelError: if the network is another, which has no such parts.
    """
    if not isinstance(network, CGM2Net):
        raise ModelError(f"{network.title} has no CGFR, CGSI and MBF to explain; name a model of {CGM2Net.title}")
    stages = [stage for stage in network.encoder.stages if isinstance(stage, EncoderStage)]
    ends = (network.encoder, network.segment.coarse, network.restore)
    with torch.no_grad(), listening([*ends, *(part for stage in stages for part in _parts(stage))]) as heard:
        prediction = network(optical_BCHW, sar_BCHW, cloud_B1HW, label_shape=label_shape)
    strides = [cloud_B1HW.shape[2] // fused_BhwC.shape[1] for fused_BhwC in heard[network.encoder][1]]
    clouds = [F.avg_pool2d(cloud_B1HW, stride)[0, 0] for stride in strides]
    followed_Q2 = far_apart(clouds, strides)
    _, (_, gate_BHWC, _) = heard[network.restore]
    coarse_BKHW = double(heard[network.segment.coarse][1]).permute(0, 3, 1, 2)
    return Record(
        prediction=prediction,
        gate_HW=_plain(gate_BHWC[0].mean(dim=-1)),
        coarse_KHW=_plain(F.adaptive_avg_pool2d(coarse_BKHW, prediction.logits_BKHW.shape[2:])[0]),
        followed_Q2=followed_Q2,
        stages=tuple(
            StageRecord(
                stride=stride, cloud_hw=_plain(cloud), maps=_maps(stage, heard),
                looks=_looks(stage, heard, followed_Q2 // stride),
            )
            for stage, stride, cloud in zip(stages, strides, clouds, strict=True)
        ),
    )  # fmt: skip


def far_apart(clouds: list[Tensor], strides: list[int], *, num: int = NUM_FOLLOWED) -> np.ndarray:
    """Return row and column [px] of at most ``num`` places that are clouded in every stage, each far from the others.

    Args:
        clouds: mask of each stage, (h, w).
        strides: pixels of a token's side in each stage, the coarsest last.
        num: places.

    Returns:
        int (Q, 2): the first is the nearest to the middle of all clouded places, each further one the farthest from
        those before it.
    """
    centres_P2 = np.indices(clouds[-1].shape).reshape(2, -1).T * strides[-1] + strides[-1] // 2
    tokens = [tuple((centres_P2 // stride).T) for stride in strides]
    seen = [cloud.cpu().numpy()[token] > _CLOUDED for cloud, token in zip(clouds, tokens, strict=True)]
    clouded_P = np.logical_and.reduce(seen)
    # A place at the edge has half of its surroundings outside, and says little.
    inner_P = ((centres_P2 > strides[-1]) & (centres_P2 < centres_P2.max(axis=0))).all(axis=1)
    clouded_P2 = centres_P2[clouded_P & inner_P if (clouded_P & inner_P).any() else clouded_P]
    chosen: list[int] = []
    while len(chosen) < min(num, len(clouded_P2)):
        others_Q2 = clouded_P2[chosen] if chosen else clouded_P2.mean(axis=0, keepdims=True)
        apart_P = np.linalg.norm(clouded_P2[:, None] - others_Q2, axis=-1).min(axis=1)
        chosen.append(int(apart_P.argmax() if chosen else apart_P.argmin()))
    return np.asarray(clouded_P2[chosen])


def look(layer: SpatialCorrelation, given: tuple[Tensor, Tensor, Tensor], followed_Q2: np.ndarray) -> Look:
    """Return the attention of a few tokens.

    The layer's answer is the sum of values, each times its weight: so its derivative after a value is the weight,
    whatever the windows are.

    Args:
        layer: one of CGFR's window attentions.
        given: what it took: optical and SAR (B, H, W, C), cloud (B, H, W, 1).
        followed_Q2: row and column of the tokens.
    """
    values: list[Tensor] = []

    def open_value(_module: nn.Module, _given: Any, value: Tensor) -> Tensor:
        values.append(value.detach().requires_grad_())
        return values[-1]

    with torch.enable_grad(), layer.value.register_forward_hook(open_value):
        found_BhwC, _ = layer(*given)
    weights = [
        torch.autograd.grad(found_BhwC[0, row, column].sum(), values[0], retain_graph=True)[0][0].mean(dim=-1)
        for row, column in followed_Q2
    ]
    empty = np.zeros((0, *given[0].shape[1:3]), np.float32)
    return Look(pool=layer.pool, weights_Qhw=np.stack([_plain(w) for w in weights]) if weights else empty)


def _parts(stage: EncoderStage) -> Iterator[nn.Module]:
    if (cgfr := stage.restoration) is not None:
        yield from (cgfr, cgfr.gate, *cgfr.spatial)
    if (cgsi := stage.interaction) is not None:
        yield from (cgsi, cgsi.optical.parameters_of)
        for stream in (cgsi.optical, cgsi.sar):
            yield from (stream.received, stream.norm_out)
    if isinstance(mbf := stage.fusion, MambaFusion):
        yield from (mbf.weigh_optical, mbf.weigh_sar)


def _maps(stage: EncoderStage, heard: Heard) -> dict[str, np.ndarray]:
    maps: dict[str, Tensor] = {}
    if stage.restoration is not None:
        maps |= _restoration_maps(stage.restoration, heard)
    if stage.interaction is not None:
        maps |= _interaction_maps(stage.interaction, heard)
    if isinstance(mbf := stage.fusion, MambaFusion):
        optical, sar = (heard[part][1].sigmoid().mean(dim=-1) for part in (mbf.weigh_optical, mbf.weigh_sar))
        maps["optical_share"] = optical / (optical + sar)
    return {name: _plain(map_Bhw[0]) for name, map_Bhw in maps.items()}


def _restoration_maps(cgfr: FeatureRestoration, heard: Heard) -> dict[str, Tensor]:
    (before, _, cloud), (after, _) = heard[cgfr]
    gate = heard[cgfr.gate][1].sigmoid()
    maps = {"gate": (cloud * gate if cgfr.guided else gate).mean(dim=-1), "restored": _moved(before, after)}
    for layer in cgfr.spatial:
        assert isinstance(layer, SpatialCorrelation)
        maps[f"found_{layer.pool}"] = 1.0 - heard[layer][1][1][..., 0]
    return maps


def _interaction_maps(cgsi: SemanticInteraction, heard: Heard) -> dict[str, Tensor]:
    (optical, sar, cloud), (moved_optical, moved_sar) = heard[cgsi]
    delta_BhwKD = heard[cgsi.optical.parameters_of][1][0]
    maps = {
        "delta": delta_BhwKD.mean(dim=(-2, -1)),
        "damped": cgsi.damped(delta_BhwKD, cloud).mean(dim=(-2, -1)),
    }
    for name, stream in (("to_optical", cgsi.optical), ("to_sar", cgsi.sar)):
        received = heard[stream.received][1]
        own = heard[stream.norm_out][0][0] - received
        maps[name] = received.norm(dim=-1) / (received.norm(dim=-1) + own.norm(dim=-1)).clamp(min=1e-12)
    return maps | {"moved_optical": _moved(optical, moved_optical), "moved_sar": _moved(sar, moved_sar)}


def _moved(before_BhwC: Tensor, after_BhwC: Tensor) -> Tensor:
    size_Bhw = before_BhwC.norm(dim=-1).clamp(min=1e-12)
    return torch.div((after_BhwC - before_BhwC).norm(dim=-1), size_Bhw)


def _looks(stage: EncoderStage, heard: Heard, followed_Q2: np.ndarray) -> tuple[Look, ...]:
    layers = [] if stage.restoration is None else list(stage.restoration.spatial)
    return tuple(look(layer, heard[layer][0], followed_Q2) for layer in layers if isinstance(layer, SpatialCorrelation))


def _plain(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().float().cpu().numpy())
