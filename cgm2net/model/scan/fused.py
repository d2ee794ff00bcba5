"""The fused GPU scan of a map as a differentiable function: fp32 states and sums, whatever dtypes the inputs have.

Forward is four launches: what each segment adds, the carry over segments, rows, columns; backward is another four. No
GPU was at hand where this was written: the tests run the kernels in Triton's interpreter and compile them for one, and
how fast they are is **not measured**.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from cgm2net.model.scan._fused_states import STEPS, carry_states, sum_segments
from cgm2net.model.scan._fused_walks import walk_backward, walk_forward

_SEGMENT = 64
"""Pixels that a program walks, a multiple of :data:`STEPS`. Shorter ones lengthen the carry, longer ones leave few
programs."""

_MAX_BLOCK = 64
"""Most channels of a program: two to a thread of its one warp."""

_MAX_OFFSET = 2**31 - 1
"""Above it, offsets within an image are computed in 64 bits, which costs registers."""

_REGISTERS, _REGISTERS_BACKWARD = 128, 168
"""Most registers of a thread. Left alone the compiler takes up to 255, and half as many warps fit. Within these limits
all kernels but the backward walk compile without spilling (for sm_90, by Triton 3.7.1)."""


class Way(NamedTuple):
    """A scan's axis and sense."""

    column: bool
    backward: bool


def scan_fused(  # noqa: PLR0917 - the operands of the formula, in its order
    x_BHWD: Tensor,
    delta_BHWKD: Tensor,
    A_KDN: Tensor,
    B_BHWKN: Tensor,
    C_BHWKN: Tensor,
    D_D: Tensor | None = None,
    *,
    ways: Sequence[Way],
) -> Tensor:
    """Scan a map along ``ways``, one for each index of K and at most four, and add up the outputs.

    Inputs may be float32, bfloat16 and float16 in any mixture, and each gradient has its input's dtype. Nothing is
    added by atomics: the same inputs give the same bits. For the backward walk the states of every 8th pixel are kept,
    4 N / 8 bytes a pixel, scan and channel.

    Args:
        x_BHWD: tokens.
        delta_BHWKD: step sizes, positive or zero.
        A_KDN: decay rates, negative.
        B_BHWKN: what is written into the state.
        C_BHWKN: what is read from it.
        D_D: skip weights.
        ways: axis and sense of each scan.

    Returns:
        y_BHWD in ``x``'s dtype.
    """
    y_BHWD: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
        tuple(ways), x_BHWD, delta_BHWKD, A_KDN, B_BHWKN, C_BHWKN, D_D
    )
    return y_BHWD


def is_interpreted() -> bool:
    """Whether Triton runs these kernels in its interpreter, on the CPU (``TRITON_INTERPRET=1`` when it is imported)."""
    return not isinstance(sum_segments, triton.JITFunction)


class _Plan(NamedTuple):
    """Sizes, and how the work is cut."""

    ways: tuple[Way, ...]
    batch: int
    height: int
    width: int
    channels: int
    state: int

    @classmethod
    def of(cls, ways: tuple[Way, ...], x_BHWD: Tensor, A_KDN: Tensor) -> "_Plan":
        batch, height, width, channels = x_BHWD.shape
        return cls(ways, batch, height, width, channels, A_KDN.shape[2])

    @property
    def length(self) -> int:
        return self.height * self.width

    @property
    def block(self) -> int:
        return min(_MAX_BLOCK, max(32, 1 << (self.channels - 1).bit_length()))

    @property
    def num_blocks(self) -> int:
        return math.ceil(self.channels / self.block)

    @property
    def num_chunks(self) -> int:
        """Chunks of a segment."""
        return int(min(_SEGMENT // STEPS.value, math.ceil(self.length / STEPS.value)))

    @property
    def num_segments(self) -> int:
        return math.ceil(self.length / (self.num_chunks * int(STEPS.value)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """What all kernels that walk pixels take: K, N, D, segments, chunks of a segment."""
        return len(self.ways), self.state, self.channels, self.num_segments, self.num_chunks

    def options(self, *, registers: int = _REGISTERS) -> dict[str, Any]:
        """What the kernels are compiled for: one warp, so that no sum over channels leaves it."""
        return {"BLOCK": self.block, "num_warps": 1, "maxnreg": registers, "enable_fp_fusion": True}

    def offsets(self) -> dict[str, bool]:
        """Whether offsets within an image need 64 bits."""
        return {"WIDE": self.length * len(self.ways) * max(self.channels, 2 * self.state) > _MAX_OFFSET}

    def launches(self) -> list[tuple[int, int, int, int, int]]:
        """For each axis: its scans, three bits each; their number; the scans of earlier launches; length, stride."""
        launches, done = [], 0
        for column, stride in ((False, 1), (True, self.width)):
            passes = [2 * k + way.backward for k, way in enumerate(self.ways) if way.column == column]
            if passes:
                packed = sum(code << 3 * j for j, code in enumerate(passes))
                launches.append((packed, len(passes), done, self.length, stride))
                done += len(passes)
        return launches


class _Scan(torch.autograd.Function):
    """The kernels with the tensors that they fill."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        ways: tuple[Way, ...],
        x_BHWD: Tensor,
        delta_BHWKD: Tensor,
        A_KDN: Tensor,
        B_BHWKN: Tensor,
        C_BHWKN: Tensor,
        D_D: Tensor | None,
    ) -> Tensor:
        plan = _Plan.of(ways, x_BHWD, A_KDN)
        x, delta = x_BHWD.contiguous(), delta_BHWKD.contiguous()
        rate_KND = (A_KDN.float() * math.log2(math.e)).transpose(1, 2).contiguous()
        pair_BHWKN2 = torch.stack([B_BHWKN.float(), C_BHWKN.float()], dim=-1)
        skip_D = x.new_zeros(plan.channels) if D_D is None else D_D.contiguous()
        num_slots = plan.num_chunks if any(ctx.needs_input_grad) else 1
        y_BHWD = torch.empty_like(x)
        with torch.cuda.device_of(x):
            state_BKSTND = _enter(plan, x, delta, rate_KND, pair_BHWKN2, num_slots=num_slots, adjoint=False)
            tensors = (x, delta, rate_KND, pair_BHWKN2, skip_D, state_BKSTND, _sums(y_BHWD), y_BHWD)
            for launch in plan.launches():
                walk_forward[plan.batch * plan.num_segments * plan.num_blocks,](
                    *tensors, *launch, *plan.sizes, num_slots, **plan.offsets(), **plan.options()
                )
        ctx.plan = plan
        ctx.dtypes = (A_KDN.dtype, B_BHWKN.dtype, C_BHWKN.dtype, None if D_D is None else D_D.dtype)
        ctx.save_for_backward(x, delta, rate_KND, pair_BHWKN2, skip_D, state_BKSTND)
        return y_BHWD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy_BHWD: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        x, delta, rate_KND, pair_BHWKN2, skip_D, state_BKSTND = ctx.saved_tensors
        dy = dy_BHWD.contiguous()
        dx, ddelta = torch.empty_like(x), torch.empty_like(delta)
        dpair_PBHWKN2 = _floats(x, plan.num_blocks, *pair_BHWKN2.shape)
        dD_BSD = _floats(x, plan.batch, plan.num_segments, plan.channels)
        with torch.cuda.device_of(x):
            carry_BKSTND = _enter(plan, dy, delta, rate_KND, pair_BHWKN2, num_slots=1, adjoint=True)
            dA_BKSTND = torch.empty_like(carry_BKSTND)
            inputs = (x, delta, rate_KND, pair_BHWKN2, skip_D, dy, state_BKSTND, carry_BKSTND)
            outputs = (_sums(dx), dx, ddelta, dA_BKSTND, dpair_PBHWKN2, dD_BSD)
            options = plan.offsets() | plan.options(registers=_REGISTERS_BACKWARD)
            for launch in plan.launches():
                walk_backward[plan.batch * plan.num_segments * plan.num_blocks,](
                    *inputs, *outputs, *launch, *plan.sizes, plan.num_chunks, **options
                )
        dtype_A, dtype_B, dtype_C, dtype_D = ctx.dtypes
        dA_KDN = dA_BKSTND.sum((0, 2, 3)).transpose(1, 2).to(dtype_A)
        dB_BHWKN, dC_BHWKN = dpair_PBHWKN2.sum(0).unbind(-1)
        dD_D = None if dtype_D is None else dD_BSD.sum((0, 1)).to(dtype_D)
        return None, dx, ddelta, dA_KDN, dB_BHWKN.to(dtype_B), dC_BHWKN.to(dtype_C), dD_D


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _sums(result: Tensor) -> Tensor:
    """Where the scans' outputs are added up in float32: the result itself, if that is its dtype."""
    return result if result.dtype == torch.float32 else torch.empty_like(result, dtype=torch.float32)


def _enter(
    plan: _Plan,
    value_BHWD: Tensor,
    delta_BHWKD: Tensor,
    rate_KND: Tensor,
    pair_BHWKN2: Tensor,
    *,
    num_slots: int,
    adjoint: bool,
) -> Tensor:
    """Make states (B, K, segments, slots, N, D); fill slot 0 with what enters each segment, forth or from its end."""
    scans, segments, blocks = len(plan.ways), plan.num_segments, plan.num_blocks
    state_BKSTND = _floats(value_BHWD, plan.batch, scans, segments, num_slots, plan.state, plan.channels)
    total_BKSD = _floats(value_BHWD, plan.batch, scans, segments, plan.channels)
    codes = sum((2 * way.column + way.backward) << 2 * k for k, way in enumerate(plan.ways))
    options = {"ADJOINT": adjoint, **plan.options()}
    sum_segments[plan.batch * segments * blocks, scans](
        *(value_BHWD, delta_BHWKD, rate_KND, pair_BHWKN2, state_BKSTND, total_BKSD),
        *(codes, plan.length, plan.width, *plan.sizes, num_slots),
        **options,
        **plan.offsets(),
    )
    carry_states[plan.batch * scans * blocks, plan.state](
        state_BKSTND, total_BKSD, rate_KND, codes, *plan.sizes[:-1], num_slots, **options
    )
    return state_BKSTND
