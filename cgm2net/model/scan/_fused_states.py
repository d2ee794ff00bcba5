"""Triton kernels of the fused 2-D scan: what they share, and how states get from segment to segment.

Axes: B batch, L pixels in memory order, K scans (directions), N state, D channels. Scans go along rows (place t of the
walk is pixel t) or down columns (t counts top to bottom, column after column), forth or back. Along either, the L
places are cut into chunks of :data:`STEPS` and segments of several chunks; places past the end are masked and change
nothing. A program is one warp: a block of channels and one segment, walked step by step in registers.

Every tensor in a kernel is one-dimensional, the block's channels, so that the compiler has one layout to choose and,
where D is a multiple of 16, none to convert; the steps of a chunk are a tuple, unrolled. States are taken one after
another and wait in memory from chunk to chunk, in a place that no other program touches: so N is a run-time value like
the sizes of the map, and only the block and the dtypes are compiled in. For other D a load and a store may differ in
layout, and a thread load what another has stored: hence the barrier at each chunk's end. Loads stand before stores
where they can: any two pointers may be aliases, so the compiler lifts no load above a store. ``rate`` is A log2(e), and
one exp2 gives the decay.
"""

# mypy: ignore-errors
# Triton's language only looks like Python: its tuples grow, its tensors have no types, and it knows no (*a, b).
# ruff: noqa: PLR0917, RUF005

import triton
import triton.language as tl

STEPS = tl.constexpr(8)
"""Pixels of a chunk: what is loaded at once, and the distance of the states kept for the backward walk."""


@triton.jit
def locate(D, num_segments, BLOCK: tl.constexpr):
    """Image, segment, block of channels, channels and their mask of this program."""
    num_blocks = tl.cdiv(D, BLOCK)
    block, number = tl.program_id(0) % num_blocks, tl.program_id(0) // num_blocks
    channels = block * BLOCK + tl.arange(0, BLOCK)
    return (number // num_segments).to(tl.int64), number % num_segments, block, channels, channels < D


@triton.jit
def walk_chunk(chunk, backward, stride, length, WIDE: tl.constexpr):
    """Pixels of a chunk in the order of a walk, and which of them lie in the map.

    ``stride`` is 1 along rows and the width down columns. Past the end, pixels are held at the last one: no address
    leaves the map.
    """
    sense = 1 - 2 * backward
    t = chunk * STEPS + backward * (STEPS - 1)
    held, line = tl.minimum(t, length - 1), length // stride
    pixel = held % line * stride + held // line
    if WIDE:
        pixel = pixel.to(tl.int64)
    pixels, inside = (), ()
    for _ in tl.static_range(STEPS):
        pixels, inside = pixels + (pixel,), inside + (t < length,)
        t += sense
        pixel += sense * stride
        wraps = (pixel < 0) | (pixel >= length)  # from a column's end to the next one's start, or back
        pixel = tl.where(wraps, pixel - sense * (length - 1), pixel)
        pixel = tl.where(t >= length - 1, length - 1, pixel)
    return pixels, inside


@triton.jit
def load_rows(pointer, pixels, inside, row, channels, mask):
    """The channels at each pixel of a chunk, ``row`` numbers apart; float32, 0 outside."""
    values = ()
    for i in tl.static_range(STEPS):
        value = tl.load(pointer + (pixels[i] * row + channels), mask=mask & inside[i], other=0.0)
        values = values + (value.to(tl.float32),)
    return values


@triton.jit
def load_numbers(pointer, pixels, row):
    """One number at each pixel of a chunk, of B or C; outside, the last pixel's: it meets a Δ of 0."""
    values = ()
    for i in tl.static_range(STEPS):
        values = values + (tl.load(pointer + pixels[i] * row),)
    return values


@triton.jit
def multiply(left, right):
    """Two chunks, step by step."""
    values = ()
    for i in tl.static_range(STEPS):
        values = values + (left[i] * right[i],)
    return values


@triton.jit(do_not_specialize=["codes", "length", "width", "K", "N", "num_segments", "num_chunks", "num_slots"])
def sum_segments(
    value_ptr,
    delta_ptr,
    rate_ptr,
    pair_ptr,
    state_ptr,
    total_ptr,
    codes,
    length,
    width,
    K,
    N,
    D,
    num_segments,
    num_chunks,
    num_slots,
    ADJOINT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What each segment adds to the state that enters it, and its sum of Δ; all scans in one launch.

    Value and matrix are x and B: h <- decay h + Δ x B from h = 0. ADJOINT: dy and C, each scan from its end: g <- decay
    (g + dy C), the gradient of the state as the pixel before sees it.

    Reads value (B, L, D), delta (B, L, K, D), rate (K, N, D) and pair (B, L, K, N, 2), which is B and C; ``codes`` has
    two bits a scan, column and backward. Writes total (B, K, segments, D), and slot 0 of state (B, K, segments, slots,
    N, D). Grid: (B * segments * blocks, K).
    """
    image, segment, _, channels, mask = locate(D, num_segments, BLOCK)
    k = tl.program_id(1)
    code = (codes >> (2 * k)) & 3
    backward, stride = (code & 1) ^ ADJOINT, tl.where(code >= 2, width, 1)
    at_k, at_segment = image * length * K + k, (image * K + k) * num_segments + segment
    pairs = pair_ptr + at_k * 2 * N + ADJOINT
    states = state_ptr + at_segment * num_slots * N * D + channels
    total = tl.zeros([BLOCK], tl.float32)
    for c in range(num_chunks):
        chunk = segment * num_chunks + tl.where(backward == 1, num_chunks - 1 - c, c)
        pixels, inside = walk_chunk(chunk, backward, stride, length, WIDE)
        values = load_rows(value_ptr + image * length * D, pixels, inside, D, channels, mask)
        deltas = load_rows(delta_ptr + at_k * D, pixels, inside, K * D, channels, mask)
        if not ADJOINT:
            values = multiply(values, deltas)
        for n in range(N):
            state = tl.load(states + n * D, mask=mask & (c > 0), other=0.0)
            rate = tl.load(rate_ptr + (k * N + n) * D + channels, mask=mask, other=0.0)
            matrix = load_numbers(pairs + 2 * n, pixels, 2 * K * N)
            for i in tl.static_range(STEPS):
                if ADJOINT:
                    state = tl.exp2(deltas[i] * rate) * (state + values[i] * matrix[i])
                else:
                    state = tl.exp2(deltas[i] * rate) * state + values[i] * matrix[i]
            tl.store(states + n * D, state, mask=mask)
        for i in tl.static_range(STEPS):
            total += deltas[i]
        tl.debug_barrier()
    tl.store(total_ptr + at_segment * D + channels, total, mask=mask)


@triton.jit(do_not_specialize=["codes", "K", "N", "num_segments", "num_slots"])
def carry_states(
    state_ptr,
    total_ptr,
    rate_ptr,
    codes,
    K,
    N,
    D,
    num_segments,
    num_slots,
    ADJOINT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Replace what each segment adds by the state that enters it, one segment after another.

    Reads and writes slot 0 of state and reads total, as :func:`sum_segments` wrote them. Grid: (B * K * blocks, N).
    """
    scan, _, _, channels, mask = locate(D, 1, BLOCK)
    n, k = tl.program_id(1), (scan % K).to(tl.int32)
    backward = ((codes >> (2 * k)) & 1) ^ ADJOINT
    row = num_slots * N * D
    states = state_ptr + scan * num_segments * row + n * D
    totals = total_ptr + scan * num_segments * D
    rate = tl.load(rate_ptr + (k * N + n) * D + channels, mask=mask, other=0.0)
    state = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_segments, STEPS):
        places, inside = (), ()
        for i in tl.static_range(STEPS):
            s = start + i
            place = tl.where(backward == 1, num_segments - 1 - s, s)
            places, inside = places + (place.to(tl.int64),), inside + (s < num_segments,)
        added = load_rows(states, places, inside, row, channels, mask)
        deltas = load_rows(totals, places, inside, D, channels, mask)
        tl.debug_barrier()
        for i in tl.static_range(STEPS):
            tl.store(states + places[i] * row + channels, state, mask=mask & inside[i])
            state = tl.exp2(deltas[i] * rate) * state + added[i]
