"""Triton kernels of the fused 2-D scan: the walks that give outputs and gradients from each segment's entering state.

Axes and conventions: :mod:`~cgm2net.model.scan._fused_states`. A launch serves one axis; a program walks its segment
first one way, then the other, and adds to what earlier passes have left in a float32 array: y in the forward walk, dx
in the backward one. The last pass of all writes the result in its own dtype.
"""

# mypy: ignore-errors
# Triton's language only looks like Python: its tuples grow, its tensors have no types, and it knows no (*a, b).
# ruff: noqa: PLR0917, RUF005

import triton
import triton.language as tl

from cgm2net.model.scan._fused_states import STEPS, load_numbers, load_rows, locate, multiply, walk_chunk

LN_2 = tl.constexpr(0.6931471805599453)

_RUN_TIME = ["passes", "num_passes", "done", "length", "stride", "K", "N", "num_segments", "num_chunks", "num_slots"]


@triton.jit
def read_pass(passes, j):
    """Scan and sense of the j-th pass: three bits each, ``2 k + backward``."""
    code = (passes >> (3 * j)) & 7
    return code >> 1, code & 1


@triton.jit
def load_state(state_ptr, rate_ptr, pair_ptr, pixels, row, mask):
    """What a chunk needs of one state: its entering values, its rates, B and C."""
    state = tl.load(state_ptr, mask=mask, other=0.0)
    rate = tl.load(rate_ptr, mask=mask, other=0.0)
    return state, rate, load_numbers(pair_ptr, pixels, row), load_numbers(pair_ptr + 1, pixels, row)


@triton.jit(do_not_specialize=_RUN_TIME)
def walk_forward(
    x_ptr,
    delta_ptr,
    rate_ptr,
    pair_ptr,
    D_ptr,
    state_ptr,
    sum_ptr,
    y_ptr,
    passes,
    num_passes,
    done,
    length,
    stride,
    K,
    N,
    D,
    num_segments,
    num_chunks,
    num_slots,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y of the scans along one axis; ``done`` scans were walked by earlier launches.

    Reads x (B, L, D), delta (B, L, K, D), rate (K, N, D), pair (B, L, K, N, 2), which is B and C, D (D), and the
    entering states in slot 0 of state (B, K, segments, slots, N, D). Adds up sum (B, L, D), writes y (B, L, D), and
    writes the states that enter a segment's other chunks, in walking order, to the other slots; where there is one
    slot, they follow one another in it. Grid: (B * segments * blocks,).
    """
    image, segment, _, channels, mask = locate(D, num_segments, BLOCK)
    x_ptr += image * length * D
    sum_ptr += image * length * D
    y_ptr += image * length * D
    for j in range(num_passes):
        k, backward = read_pass(passes, j)
        position, at_k = done + j, image * length * K + k
        states = state_ptr + ((image * K + k) * num_segments + segment) * num_slots * N * D + channels
        rates, pairs = rate_ptr + k * N * D + channels, pair_ptr + at_k * 2 * N
        skip = tl.load(D_ptr + channels, mask=mask & (position == 0), other=0.0).to(tl.float32)
        for c in range(num_chunks):
            chunk = segment * num_chunks + tl.where(backward == 1, num_chunks - 1 - c, c)
            pixels, inside = walk_chunk(chunk, backward, stride, length, WIDE)
            x = load_rows(x_ptr, pixels, inside, D, channels, mask)
            deltas = load_rows(delta_ptr + at_k * D, pixels, inside, K * D, channels, mask)
            writes, y = multiply(x, deltas), ()
            for i in tl.static_range(STEPS):
                y = y + (skip * x[i],)
            entering = states + tl.minimum(c, num_slots - 1) * N * D
            leaving = states + tl.minimum(c + 1, num_slots - 1) * N * D
            for n in range(N):
                state, rate, B_n, C_n = load_state(
                    entering + n * D, rates + n * D, pairs + 2 * n, pixels, 2 * K * N, mask
                )
                read = ()
                for i in tl.static_range(STEPS):
                    state = tl.exp2(deltas[i] * rate) * state + writes[i] * B_n[i]
                    read = read + (y[i] + state * C_n[i],)
                y = read
                tl.store(leaving + n * D, state, mask=mask & (c + 1 < num_chunks))
            sums = load_rows(sum_ptr, pixels, inside, D, channels, mask & (position > 0))
            for i in tl.static_range(STEPS):
                at, valid = pixels[i] * D + channels, mask & inside[i]
                tl.store(sum_ptr + at, sums[i] + y[i], mask=valid & (position < K - 1))
                tl.store(y_ptr + at, sums[i] + y[i], mask=valid & (position == K - 1))
            tl.debug_barrier()  # the next chunk reads these states, the next pass these sums


@triton.jit
def replay(state, rate, deltas, writes, B):
    """The decays of a chunk, and the states before and after each of its steps."""
    decays, befores, afters = (), (), ()
    for i in tl.static_range(STEPS):
        decay = tl.exp2(deltas[i] * rate)
        befores = befores + (state,)
        state = decay * state + writes[i] * B[i]
        decays, afters = decays + (decay,), afters + (state,)
    return decays, befores, afters


@triton.jit
def unwind(carry, dA, rate, deltas, writes, dy, B, C, decays, befores, afters, dwrites, dlogs):
    """One state of a chunk from its last step to its first; dB and dC of each step are summed over channels.

    ``carry`` is the gradient of the state as the later steps see it. Sums over states: ``dwrites``, the gradient of
    Δ x, and ``dlogs``, what the gradient of Δ gets through the decays, over ln 2.
    """
    new_dwrites, new_dlogs, dB, dC = (), (), (), ()
    for i in tl.static_range(STEPS - 1, -1, -1):
        dstate = carry + dy[i] * C[i]
        dB, dC = (tl.sum(dstate * writes[i], 0),) + dB, (tl.sum(dy[i] * afters[i], 0),) + dC
        carry = dstate * decays[i]
        dexponent = carry * befores[i]
        dA += dexponent * deltas[i]
        new_dwrites = (dwrites[i] + dstate * B[i],) + new_dwrites
        new_dlogs = (dlogs[i] + dexponent * rate,) + new_dlogs
    return carry, dA, new_dwrites, new_dlogs, dB, dC


@triton.jit(do_not_specialize=_RUN_TIME)
def walk_backward(
    x_ptr,
    delta_ptr,
    rate_ptr,
    pair_ptr,
    D_ptr,
    dy_ptr,
    state_ptr,
    carry_ptr,
    sum_ptr,
    dx_ptr,
    ddelta_ptr,
    dA_ptr,
    dpair_ptr,
    dD_ptr,
    passes,
    num_passes,
    done,
    length,
    stride,
    K,
    N,
    D,
    num_segments,
    num_chunks,
    num_slots,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the scans along one axis, each walked from its end.

    Reads what :func:`walk_forward` reads, with a slot of state for every chunk; dy (B, L, D); and carry (B, K,
    segments, N, D), the gradient of the state that leaves each segment, which is used up. Adds up sum (B, L, D); writes
    dx (B, L, D), ddelta (B, L, K, D), and parts that are to be summed, so that no bit depends on the order of programs:
    dA (B, K, segments, N, D), dpair (blocks, B, L, K, N, 2), dD (B, segments, D). Grid: (B * segments * blocks,).
    """
    image, segment, block, channels, mask = locate(D, num_segments, BLOCK)
    x_ptr += image * length * D
    dy_ptr += image * length * D
    sum_ptr += image * length * D
    dx_ptr += image * length * D
    num_images = tl.num_programs(0) // (num_segments * tl.cdiv(D, BLOCK))
    for j in range(num_passes):
        k, backward = read_pass(passes, j)
        position, at_k = done + j, image * length * K + k
        at_segment = (image * K + k) * num_segments + segment
        carries, dAs = carry_ptr + at_segment * N * D + channels, dA_ptr + at_segment * N * D + channels
        rates, pairs = rate_ptr + k * N * D + channels, pair_ptr + at_k * 2 * N
        dpairs = dpair_ptr + (block.to(tl.int64) * num_images * length * K + at_k) * 2 * N
        skip = tl.load(D_ptr + channels, mask=mask & (position == 0), other=0.0).to(tl.float32)
        dD = tl.zeros([BLOCK], tl.float32)
        for c in range(num_chunks):
            chunk = segment * num_chunks + tl.where(backward == 1, c, num_chunks - 1 - c)
            states = state_ptr + (at_segment * num_slots + num_chunks - 1 - c) * N * D + channels
            pixels, inside = walk_chunk(chunk, backward, stride, length, WIDE)
            x = load_rows(x_ptr, pixels, inside, D, channels, mask)
            dy = load_rows(dy_ptr, pixels, inside, D, channels, mask)
            deltas = load_rows(delta_ptr + at_k * D, pixels, inside, K * D, channels, mask)
            writes, dwrites, dlogs = multiply(x, deltas), (), ()
            for _ in tl.static_range(STEPS):
                zero = tl.zeros([BLOCK], tl.float32)
                dwrites, dlogs = dwrites + (zero,), dlogs + (zero,)
            for n in range(N):
                state, rate, B_n, C_n = load_state(
                    states + n * D, rates + n * D, pairs + 2 * n, pixels, 2 * K * N, mask
                )
                carry = tl.load(carries + n * D, mask=mask, other=0.0)
                dA = tl.load(dAs + n * D, mask=mask & (c > 0), other=0.0)
                decays, befores, afters = replay(state, rate, deltas, writes, B_n)
                carry, dA, dwrites, dlogs, dB, dC = unwind(
                    carry, dA, rate, deltas, writes, dy, B_n, C_n, decays, befores, afters, dwrites, dlogs
                )
                tl.store(carries + n * D, carry, mask=mask)
                tl.store(dAs + n * D, dA, mask=mask)
                for i in tl.static_range(STEPS):
                    at = dpairs + 2 * n + pixels[i] * (2 * K * N)
                    tl.store(at, dB[i], mask=inside[i])
                    tl.store(at + 1, dC[i], mask=inside[i])
            x = load_rows(x_ptr, pixels, inside, D, channels, mask)  # again: kept through the loop it costs registers
            sums = load_rows(sum_ptr, pixels, inside, D, channels, mask & (position > 0))
            for i in tl.static_range(STEPS):
                at, valid = pixels[i] * D + channels, mask & inside[i]
                dx = sums[i] + skip * dy[i] + dwrites[i] * deltas[i]
                tl.store(sum_ptr + at, dx, mask=valid & (position < K - 1))
                tl.store(dx_ptr + at, dx, mask=valid & (position == K - 1))
                ddelta = dwrites[i] * x[i] + dlogs[i] * LN_2
                tl.store(ddelta_ptr + at_k * D + (pixels[i] * (K * D) + channels), ddelta, mask=valid)
                dD += dy[i] * x[i]
            tl.debug_barrier()  # the next chunk reads these carries and dA, the next pass these sums
        tl.store(dD_ptr + (image * num_segments + segment) * D + channels, dD, mask=mask & (position == 0))
