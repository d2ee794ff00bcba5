"""The compiled CPU scan as a differentiable function: float32, several threads, the same bits whatever their number."""

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cgm2net.model.scan import _kernels
from cgm2net.model.scan._kernels import Sizes
from cgm2net.model.scan._simd import LANES

_MAX_BLOCK = 96
"""Most channels of one task: its states for a chunk of pixels then stay in the processor's second cache."""

_MIN_TASKS = 8
"""A smaller batch is cut into narrower blocks of channels, so that there is work for several threads."""


class Walk(NamedTuple):
    """The order of a scan over the flattened map."""

    first: int
    last: int
    stride: int


def scan_compiled(  # noqa: PLR0917 - the operands of the formula, in its order
    x_BLGD: Tensor,
    delta_BLKD: Tensor,
    A_KDN: Tensor,
    B_BLKN: Tensor,
    C_BLKN: Tensor,
    D_D: Tensor | None = None,
    *,
    walks: Sequence[Walk] | None = None,
) -> Tensor:
    """Scan pixels in the orders ``walks``, where they lie, in float32.

    It uses as many threads as torch would (``torch.set_num_threads``, ``OMP_NUM_THREADS``), at most
    ``NUMBA_NUM_THREADS``. Kernels are compiled at first use, some seconds, and kept on disk by numba.

    Args:
        x_BLGD: input; one for all scans (G = 1: outputs are then summed over the scans) or one for each (G = K).
        delta_BLKD: step sizes, positive or zero.
        A_KDN: decay rates, negative.
        B_BLKN: what is written into the state.
        C_BLKN: what is read from it.
        D_D: skip weights.
        walks: order of each scan; by default all from the first pixel to the last.

    Returns:
        y_BLGD, float32.
    """
    length, scans, channels = delta_BLKD.shape[1:]
    if walks is None:
        walks = [Walk(first=0, last=length - 1, stride=1)] * scans
    x, delta, A = (_to_lanes(t.float()) for t in (x_BLGD, delta_BLKD, A_KDN.transpose(1, 2)))
    D = None if D_D is None else _to_lanes(D_D.float())
    y_BLGD: Tensor = _Scan.apply(walks, x, delta, A, B_BLKN.float(), C_BLKN.float(), D)  # type: ignore[no-untyped-call]
    return y_BLGD[..., :channels]


def transposed(t_BXY: Tensor) -> Tensor:
    """A dense (B, Y, X): four times as fast as ``.transpose(1, 2).contiguous()``, backward too."""
    transposed_BYX: Tensor = _Transpose.apply(t_BXY)  # type: ignore[no-untyped-call]
    return transposed_BYX


def _to_lanes(t: Tensor) -> Tensor:
    """Fill the last axis up to whole vectors with channels that read and write nothing."""
    spare = -t.shape[-1] % LANES
    return F.pad(t, (0, spare)) if spare else t


class _Transpose(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, t_BXY: Tensor) -> Tensor:
        result_BYX = t_BXY.new_empty(t_BXY.shape[0], t_BXY.shape[2], t_BXY.shape[1])
        for result_YX, t_XY in zip(result_BYX, t_BXY, strict=True):
            result_YX.copy_(t_XY.t())  # torch has a blocked loop for this, but for two axes only
        return result_BYX

    @staticmethod
    def backward(_ctx: Any, gradient_BYX: Tensor) -> Tensor:
        return transposed(gradient_BYX)


class _Scan(torch.autograd.Function):
    """The kernels with the tensors that they fill."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        walks: Sequence[Walk],
        x_BLGD: Tensor,
        delta_BLKD: Tensor,
        A_KND: Tensor,
        B_BLKN: Tensor,
        C_BLKN: Tensor,
        D_D: Tensor | None,
    ) -> Tensor:
        inputs = [t.contiguous() for t in (x_BLGD, delta_BLKD, A_KND, B_BLKN, C_BLKN)]
        sizes = _sizes(*inputs[:3])
        y_BLGD = torch.zeros_like(inputs[0]) if D_D is None else inputs[0] * D_D
        chunks = math.ceil(sizes.length / _kernels.CHUNK) if any(ctx.needs_input_grad) else 0
        kept_BKTND = y_BLGD.new_empty(sizes.batch, sizes.scans, chunks, sizes.state, sizes.channels)
        first, stride = [walk.first for walk in walks], [walk.stride for walk in walks]
        _run("forward", sizes, first, stride, [*inputs, y_BLGD, kept_BKTND])
        ctx.walks = walks
        ctx.save_for_backward(*inputs, D_D, kept_BKTND)
        return y_BLGD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_BLGD: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, D_D, kept_BKTND = ctx.saved_tensors
        x_BLGD, delta_BLKD, A_KND, B_BLKN, C_BLKN = inputs
        sizes = _sizes(x_BLGD, delta_BLKD, A_KND)
        dy_BLGD = dy_BLGD.contiguous()
        dx_BLGD = torch.zeros_like(x_BLGD) if D_D is None else dy_BLGD * D_D
        ddelta_BLKD = torch.empty_like(delta_BLKD)
        dA_BKND = A_KND.new_empty(sizes.batch, *A_KND.shape)
        dB_SBLKN, dC_SBLKN = (t.new_empty(_blocks(sizes), *t.shape) for t in (B_BLKN, C_BLKN))
        last, stride = [walk.last for walk in ctx.walks], [walk.stride for walk in ctx.walks]
        gradients = [dx_BLGD, ddelta_BLKD, dA_BKND, dB_SBLKN, dC_SBLKN]
        _run("backward", sizes, last, stride, [*inputs, dy_BLGD, kept_BKTND, *gradients])
        dD_D = None if D_D is None else (dy_BLGD * x_BLGD).sum((0, 1, 2))
        return None, dx_BLGD, ddelta_BLKD, dA_BKND.sum(0), _sum_blocks(dB_SBLKN), _sum_blocks(dC_SBLKN), dD_D


def _sizes(x_BLGD: Tensor, delta_BLKD: Tensor, A_KND: Tensor) -> Sizes:
    """Sizes of the problem; the block comes from them alone, so that no sum depends on the number of threads."""
    batch, length, scans, channels = delta_BLKD.shape
    vectors = channels // LANES
    blocks = max(math.ceil(channels / _MAX_BLOCK), min(vectors, math.ceil(_MIN_TASKS / batch)))
    block = math.ceil(vectors / blocks) * LANES
    return Sizes(batch, length, scans, x_BLGD.shape[2], A_KND.shape[1], channels, block)


def _blocks(sizes: Sizes) -> int:
    return math.ceil(sizes.channels / sizes.block)


def _sum_blocks(gradient_SBLKN: Tensor) -> Tensor:
    return gradient_SBLKN[0] if len(gradient_SBLKN) == 1 else gradient_SBLKN.sum(0)


def _run(name: str, sizes: Sizes, starts: Sequence[int], strides: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Work off all tasks of a kernel; ``tensors`` must be contiguous."""
    arrays = [number for tensor in tensors for number in (tensor.data_ptr(), tensor.numel())]
    table = np.array([0, *sizes, *starts, *strides, *arrays], dtype=np.int64)
    threads = min(torch.get_num_threads(), _max_threads(), sizes.batch * _blocks(sizes))
    kernel, address = _kernel(name), table.ctypes.data
    team = _torch_team()
    if threads == 1:
        kernel.ctypes(address)
    elif team is not None:
        team(kernel.address, address, threads, 0)
    else:
        helpers = [_helpers().submit(kernel.ctypes, address) for _ in range(threads - 1)]
        kernel.ctypes(address)
        for helper in helpers:
            helper.result()


def _max_threads() -> int:
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set at run time


@cache
def _kernel(name: str) -> Any:
    signature = numba.types.void(numba.types.voidptr)
    return numba.cfunc(signature, cache=True)({"forward": _kernels.forward, "backward": _kernels.backward}[name])


@cache
def _torch_team() -> Callable[[int, int, int, int], None] | None:
    """The OpenMP runtime that torch has loaded, or None where torch uses another.

    Its threads wait for work by spinning, some milliseconds after each operation of torch. Threads of another pool,
    numba's ones too, would have to wait for them: with two cores a scan then takes four to ten times as long.
    """
    try:
        team = ctypes.CDLL("libgomp.so.1").GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.argtypes, team.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return team


@cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_max_threads(), thread_name_prefix="scan")
