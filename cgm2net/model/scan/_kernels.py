"""The compiled scan: one loop over pixels in walking order, 16 channels at a time.

Arrays are flat and contiguous; their axes stand in their names: B batch, L pixels in memory order, K scans (directions
or groups), G = K or 1 (the input's scans: its own for each, or one for all), N state, D channels (a multiple of 16),
S blocks of channels, T kept states. A scan walks the pixels in steps of its stride, wrapping within the map: ±1 along
rows, ±width down columns. Nothing is flipped, transposed or copied.

A task is one image and one block of channels, all scans one after another, so that no two tasks write the same place;
what is reduced over tasks (dA over images, dB and dC over blocks) goes to a place of the task's own and is summed
afterwards. So the bits do not depend on the number of threads.
"""

# ruff: noqa: PLR0917 - inlined parts of one loop, whose state is their arguments

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import carray  # type: ignore[attr-defined]  # public, but not in __all__
from numpy.typing import NDArray

from cgm2net.model.scan._simd import LANES, address, claim, exp, fma, load, mul, prefetch, splat, store, total

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CHUNK = 16
"""The state is kept every so many steps for the backward walk, which recomputes those between."""

_AHEAD = 8
"""Steps between asking for a pixel and reading it; the backward walk asks a whole chunk ahead."""

_compile: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, error_model="numpy", forceinline=True
)


class Sizes(NamedTuple):
    """Lengths of the axes; ``own`` is G, ``block`` the channels of a task."""

    batch: int
    length: int
    scans: int
    own: int
    state: int
    channels: int
    block: int


class Inputs(NamedTuple):
    """What forward and backward both read."""

    x_BLGD: Floats
    delta_BLKD: Floats
    A_KND: Floats
    B_BLKN: Floats
    C_BLKN: Floats


class Gradients(NamedTuple):
    """``dx`` is added to; the others are written, dA per image, dB and dC per block of channels."""

    x_BLGD: Floats
    delta_BLKD: Floats
    A_BKND: Floats
    B_SBLKN: Floats
    C_SBLKN: Floats


class Task(NamedTuple):
    """What one call of the inner loop works on: an image, a scan, a block of channels."""

    image: int
    k: int
    block: int
    d0: int
    width: int


class Scratch(NamedTuple):
    """One thread's working memory in the backward walk."""

    h: Floats
    decay: Floats
    carry: Floats
    dA: Floats
    dwrite: Floats
    dlog: Floats


@_compile
def _floats(size: int) -> Floats:
    """Working memory on a cache line's border: a vector across two lines costs twice, and more where just written."""
    array = np.empty(size + LANES, np.float32)
    skip = -(array.ctypes.data // 4) % LANES
    return array[skip : skip + size]


@_compile
def _follow(pixel: int, stride: int, length: int) -> int:
    """The next pixel of a walk; past the end of a column it goes on at the next one's start."""
    pixel += stride
    if pixel >= length:
        pixel -= length - 1
    elif pixel < 0:
        pixel += length - 1
    return pixel


@_compile
def _fill(pixels: Ints, pixel: int, stride: int, length: int, steps: int) -> int:
    """The next ``steps`` pixels of a walk, from the last place to the first; returns the pixel after them."""
    for t in range(steps - 1, -1, -1):
        pixels[t] = pixel
        pixel = _follow(pixel, stride, length)
    return pixel


@_compile
def _task(sizes: Sizes, number: int, k: int) -> Task:
    blocks = -(-sizes.channels // sizes.block)
    d0 = number % blocks * sizes.block
    return Task(number // blocks, k, number % blocks, d0, min(sizes.block, sizes.channels - d0))


@_compile
def _places(sizes: Sizes, task: Task, pixel: int) -> tuple[int, int, int]:
    """Where the task's channels of a pixel begin in x and in Δ, and its states in B and C."""
    at = task.image * sizes.length + pixel
    at_k = at * sizes.scans + task.k
    at_g = at * sizes.own + (task.k if sizes.own > 1 else 0)
    return at_g * sizes.channels + task.d0, at_k * sizes.channels + task.d0, at_k * sizes.state


@_compile
def _save(sizes: Sizes, task: Task, rows_RND: Floats, row: int, h: Floats) -> None:
    for n in range(sizes.state):
        for d in range(0, task.width, LANES):
            store(rows_RND, (row * sizes.state + n) * sizes.channels + task.d0 + d, load(h, n * sizes.block + d))


@_compile
def _restore(sizes: Sizes, task: Task, rows_RND: Floats, row: int, h: Floats) -> None:
    for n in range(sizes.state):
        for d in range(0, task.width, LANES):
            store(h, n * sizes.block + d, load(rows_RND, (row * sizes.state + n) * sizes.channels + task.d0 + d))


@_compile
def _forward(
    counter: Ints, sizes: Sizes, first: Ints, stride: Ints, inputs: Inputs, y_BLGD: Floats, kept_BKTND: Floats
) -> None:
    """Add the scans' outputs to ``y``; keep every :data:`CHUNK`-th state unless ``kept`` is empty."""
    length, chunks = sizes.length, -(-sizes.length // CHUNK)
    h = _floats(sizes.state * sizes.block)
    while True:
        number = claim(counter)
        if number >= sizes.batch * -(-sizes.channels // sizes.block):
            return
        for k in range(sizes.scans):
            task = _task(sizes, number, k)
            h[:] = 0
            pixel = coming = first[k]
            for _ in range(_AHEAD):
                coming = _follow(coming, stride[k], length)
            for t in range(length):
                if t % CHUNK == 0 and kept_BKTND.size > 0:
                    _save(sizes, task, kept_BKTND, (task.image * sizes.scans + k) * chunks + t // CHUNK, h)
                _step(sizes, task, inputs, y_BLGD, h, pixel, coming)
                pixel, coming = _follow(pixel, stride[k], length), _follow(coming, stride[k], length)


@_compile
def _step(sizes: Sizes, task: Task, inputs: Inputs, y_BLGD: Floats, h: Floats, pixel: int, coming: int) -> None:
    """One pixel forward."""
    at_x, at_delta, at_n = _places(sizes, task, pixel)
    _, soon_delta, _ = _places(sizes, task, coming)
    for d in range(0, task.width, LANES):
        prefetch(inputs.delta_BLKD, soon_delta + d)
        delta = load(inputs.delta_BLKD, at_delta + d)
        write = mul(delta, load(inputs.x_BLGD, at_x + d))
        y = load(y_BLGD, at_x + d)
        for n in range(sizes.state):
            i = n * sizes.block + d
            rate = load(inputs.A_KND, (task.k * sizes.state + n) * sizes.channels + task.d0 + d)
            h_n = fma(exp(mul(delta, rate)), load(h, i), mul(write, splat(inputs.B_BLKN[at_n + n])))
            store(h, i, h_n)
            y = fma(h_n, splat(inputs.C_BLKN[at_n + n]), y)
        store(y_BLGD, at_x + d, y)


@_compile
def _backward(
    counter: Ints,
    sizes: Sizes,
    last: Ints,
    stride: Ints,
    inputs: Inputs,
    dy_BLGD: Floats,
    kept_BKTND: Floats,
    gradients: Gradients,
) -> None:
    """Walk the scans backward, a chunk at a time: recompute its states from the kept one, then unwind it."""
    length, chunks = sizes.length, -(-sizes.length // CHUNK)
    span, block = sizes.state * sizes.block, sizes.block
    scratch = Scratch(
        _floats((CHUNK + 1) * span), _floats(CHUNK * span), _floats(span), _floats(span), _floats(block), _floats(block)
    )
    pixels, coming = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64)
    while True:
        number = claim(counter)
        if number >= sizes.batch * -(-sizes.channels // block):
            return
        for k in range(sizes.scans):
            task = _task(sizes, number, k)
            scan = task.image * sizes.scans + k
            scratch.carry[:] = 0
            scratch.dA[:] = 0
            steps = length - (chunks - 1) * CHUNK
            pixel = _fill(coming, last[k], -stride[k], length, steps)
            for chunk in range(chunks - 1, -1, -1):
                pixels, coming = coming, pixels
                pixel = _fill(coming, pixel, -stride[k], length, CHUNK)
                _restore(sizes, task, kept_BKTND, scan * chunks + chunk, scratch.h)
                for t in range(steps):
                    _replay(sizes, task, inputs, scratch, t, pixels[t], coming[t])
                for t in range(steps - 1, -1, -1):
                    _unwind(sizes, task, inputs, dy_BLGD, gradients, scratch, t, pixels[t], coming[t])
                steps = CHUNK
            _save(sizes, task, gradients.A_BKND, scan, scratch.dA)


@_compile
def _replay(sizes: Sizes, task: Task, inputs: Inputs, scratch: Scratch, t: int, pixel: int, coming: int) -> None:
    """Step ``t`` of a chunk forward again, keeping decay and state."""
    at_x, at_delta, at_n = _places(sizes, task, pixel)
    soon_x, soon_delta, _ = _places(sizes, task, coming)
    span = sizes.state * sizes.block
    for d in range(0, task.width, LANES):
        prefetch(inputs.delta_BLKD, soon_delta + d)
        prefetch(inputs.x_BLGD, soon_x + d)
        delta = load(inputs.delta_BLKD, at_delta + d)
        write = mul(delta, load(inputs.x_BLGD, at_x + d))
        for n in range(sizes.state):
            j = t * span + n * sizes.block + d
            rate = load(inputs.A_KND, (task.k * sizes.state + n) * sizes.channels + task.d0 + d)
            decay = exp(mul(delta, rate))
            store(scratch.decay, j, decay)
            store(scratch.h, j + span, fma(decay, load(scratch.h, j), mul(write, splat(inputs.B_BLKN[at_n + n]))))


@_compile
def _unwind(
    sizes: Sizes,
    task: Task,
    inputs: Inputs,
    dy_BLGD: Floats,
    gradients: Gradients,
    scratch: Scratch,
    t: int,
    pixel: int,
    coming: int,
) -> None:
    """Step ``t`` backward: ``carry`` holds the gradient of the state as the later steps see it.

    What is summed over channels (dB, dC) stays in registers, what is summed over states (of Δ x and of Δ A) in scratch.
    """
    at_x, at_delta, at_n = _places(sizes, task, pixel)
    soon_x, soon_delta, _ = _places(sizes, task, coming)
    state, block, span = sizes.state, sizes.block, sizes.state * sizes.block
    partial = task.block * sizes.batch * sizes.length * sizes.scans * state + at_n
    zero = splat(np.float32(0))
    for n in range(state):
        dB, dC = zero, zero
        B, C = splat(inputs.B_BLKN[at_n + n]), splat(inputs.C_BLKN[at_n + n])
        for d in range(0, task.width, LANES):
            i = n * block + d
            delta, x = load(inputs.delta_BLKD, at_delta + d), load(inputs.x_BLGD, at_x + d)
            dy, rate = load(dy_BLGD, at_x + d), load(inputs.A_KND, (task.k * state + n) * sizes.channels + task.d0 + d)
            dh = fma(dy, C, load(scratch.carry, i))
            dC = fma(dy, load(scratch.h, (t + 1) * span + i), dC)
            dB = fma(dh, mul(delta, x), dB)
            carry = mul(dh, load(scratch.decay, t * span + i))
            store(scratch.carry, i, carry)
            dexponent = mul(carry, load(scratch.h, t * span + i))
            store(scratch.dA, i, fma(dexponent, delta, load(scratch.dA, i)))
            dwrite = fma(dh, B, load(scratch.dwrite, d) if n > 0 else zero)
            dlog = fma(dexponent, rate, load(scratch.dlog, d) if n > 0 else zero)
            if n < state - 1:
                store(scratch.dwrite, d, dwrite)
                store(scratch.dlog, d, dlog)
            else:
                prefetch(gradients.delta_BLKD, soon_delta + d)
                prefetch(dy_BLGD, soon_x + d)
                prefetch(gradients.x_BLGD, soon_x + d)
                store(gradients.delta_BLKD, at_delta + d, fma(x, dwrite, dlog))
                store(gradients.x_BLGD, at_x + d, fma(delta, dwrite, load(gradients.x_BLGD, at_x + d)))
        gradients.B_SBLKN[partial + n] = total(dB)
        gradients.C_SBLKN[partial + n] = total(dC)


@_compile
def _array(table: Ints, entry: int) -> Floats:
    return carray(address(table[2 * entry]), table[2 * entry + 1], np.float32)


@_compile
def _inputs(arrays: Ints) -> Inputs:
    return Inputs(_array(arrays, 0), _array(arrays, 1), _array(arrays, 2), _array(arrays, 3), _array(arrays, 4))


@_compile
def _header(table: Any) -> tuple[Ints, Sizes, Ints, Ints, Ints]:
    """What ``compiled._run`` wrote: counter, sizes, starts, strides, (address, size) pairs."""
    head = carray(table, 8, np.int64)
    walks = carray(table, 8 + 2 * head[3] + 24, np.int64)[8:]
    sizes = Sizes(head[1], head[2], head[3], head[4], head[5], head[6], head[7])
    return head[:1], sizes, walks[: head[3]], walks[head[3] : 2 * head[3]], walks[2 * head[3] :]


def forward(table: Any) -> None:
    """Take forward tasks until none is left; any number of threads may."""
    counter, sizes, first, stride, arrays = _header(table)
    _forward(counter, sizes, first, stride, _inputs(arrays), _array(arrays, 5), _array(arrays, 6))


def backward(table: Any) -> None:
    """Take backward tasks until none is left; any number of threads may."""
    counter, sizes, last, stride, arrays = _header(table)
    gradients = Gradients(
        _array(arrays, 7), _array(arrays, 8), _array(arrays, 9), _array(arrays, 10), _array(arrays, 11)
    )
    _backward(counter, sizes, last, stride, _inputs(arrays), _array(arrays, 5), _array(arrays, 6), gradients)
