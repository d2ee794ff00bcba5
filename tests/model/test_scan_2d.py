"""The 2-D selective scan: directions, and the compiled kernel that reads them in place."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cgm2net.errors import ModelError
from cgm2net.model.scan import DIRECTIONS, Backend, Direction, scan_2d

FAST: list[Backend] = ["chunked", "numba"]
EVERY: list[Backend] = ["reference", *FAST]


def make_arguments(
    *, batch: int, height: int, width: int, channels: int, state: int, num_scans: int = 4, seed: int = 0
) -> list[Tensor]:
    """x, delta, A, B, C, D in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pixels = (batch, height, width)
    return [
        normal(*pixels, channels),
        nn.functional.softplus(normal(*pixels, num_scans, channels) - 1),
        -torch.exp(normal(num_scans, channels, state)),
        normal(*pixels, num_scans, state),
        normal(*pixels, num_scans, state),
        normal(channels),
    ]


def run(
    arguments: list[Tensor], backend: Backend, dtype: torch.dtype, directions: tuple[Direction, ...] = DIRECTIONS
) -> list[Tensor]:
    """Output and the gradients of a fixed weighted sum of it."""
    leaves = [value.to(dtype, copy=True).requires_grad_() for value in arguments]
    y = scan_2d(*leaves, directions=directions, backend=backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights.to(dtype))]


def assert_close(got: list[Tensor], wanted: list[Tensor], *, relative: float) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).abs().max() <= relative * b.abs().max().clamp(min=1e-3)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


BY_HAND: dict[tuple[Direction, ...], list[list[float]]] = {
    ("right",): [[1, 2.5], [4.25, 6.125]],  # walks 1 2 3 4
    ("left",): [[3.25, 4.5], [5, 4]],  # walks 4 3 2 1
    ("down",): [[1, 3.75], [3.5, 5.875]],  # walks 1 3 2 4
    ("up",): [[3.5, 4], [5, 4]],  # walks 4 2 3 1
    DIRECTIONS: [[8.75, 14.75], [17.75, 20]],  # their sum
}


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("directions", BY_HAND)
def test_two_by_two_map_by_hand(backend: Backend, directions: tuple[Direction, ...]) -> None:
    # Δ = B = C = 1 and a decay of one half: each pixel's value plus half of what came before
    x_BHWD = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    ones = torch.ones(1, 2, 2, len(directions), 1)
    rates = torch.full((len(directions), 1, 1), -math.log(2))
    y_BHWD = scan_2d(x_BHWD, ones, rates, ones, ones, directions=directions, backend=backend)
    torch.testing.assert_close(y_BHWD[0, :, :, 0], torch.tensor(BY_HAND[directions]))


@pytest.mark.parametrize("backend", EVERY)
def test_skip_is_added_once(backend: Backend) -> None:
    x_BHWD = torch.tensor([2.0, 3.0]).expand(1, 3, 2, 2)
    still = torch.zeros(1, 3, 2, 4, 2)
    y_BHWD = scan_2d(x_BHWD, still, -torch.ones(4, 2, 2), still, still, torch.tensor([5.0, 7.0]), backend=backend)
    torch.testing.assert_close(y_BHWD, torch.tensor([10.0, 21.0]).expand(1, 3, 2, 2))


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 5, 16, 40, 112]),
    state=st.sampled_from([1, 3, 4, 16]),
    directions=st.permutations(DIRECTIONS).flatmap(lambda d: st.integers(1, 4).map(lambda k: tuple(d[:k]))),
    seed=st.integers(0, 99),
)
def test_equals_reference_forward_and_backward(
    backend: Backend,
    batch: int,
    height: int,
    width: int,
    channels: int,
    state: int,
    directions: tuple[Direction, ...],
    seed: int,
) -> None:
    arguments = make_arguments(
        batch=batch, height=height, width=width, channels=channels, state=state, num_scans=len(directions), seed=seed
    )
    wanted = run(arguments, "reference", torch.float64, directions)
    assert_close(run(arguments, backend, torch.float32, directions), wanted, relative=1e-4)


def test_views_are_read_right_and_inputs_left_alone() -> None:
    # B and C as slices of one projection, x transposed: nothing contiguous
    x, delta, A, B, C, D = (t.float() for t in make_arguments(batch=2, height=4, width=6, channels=16, state=3))
    both = torch.cat([B, C], dim=-1)
    before = both.clone()
    x_view = x.transpose(1, 2).contiguous().transpose(1, 2)
    y = scan_2d(x_view, delta, A, both[..., :3], both[..., 3:], D, backend="numba")
    assert torch.equal(y, scan_2d(x, delta, A, B, C, D, backend="numba"))
    assert torch.equal(both, before)


@pytest.mark.parametrize("backend", EVERY)
def test_transposing_swaps_rows_with_columns(backend: Backend) -> None:
    x, delta, A, B, C, D = make_arguments(batch=1, height=3, width=5, channels=2, state=2)
    x, delta, A, B, C, D = (t.float() for t in (x, delta, A, B, C, D))
    swapped: tuple[Direction, ...] = ("down", "up", "right", "left")
    y = scan_2d(x, delta, A, B, C, D, backend=backend)
    turned = [t.transpose(1, 2) for t in (x, delta, B, C)]
    y_turned = scan_2d(turned[0], turned[1], A, turned[2], turned[3], D, directions=swapped, backend=backend)
    torch.testing.assert_close(y_turned.transpose(1, 2), y)


@pytest.mark.parametrize("backend", EVERY)
def test_turning_the_map_around_swaps_senses(backend: Backend) -> None:
    x, delta, A, B, C, D = (t.float() for t in make_arguments(batch=1, height=3, width=5, channels=2, state=2))
    swapped: tuple[Direction, ...] = ("left", "right", "up", "down")
    y = scan_2d(x, delta, A, B, C, D, backend=backend)
    turned = [t.flip(1, 2) for t in (x, delta, B, C)]
    y_turned = scan_2d(turned[0], turned[1], A, turned[2], turned[3], D, directions=swapped, backend=backend)
    torch.testing.assert_close(y_turned.flip(1, 2), y)


@pytest.mark.parametrize("backend", EVERY)
def test_state_is_carried_across_a_masked_region(backend: Backend) -> None:
    # only the first pixel writes (3); Δ = 0 in the rest: each pixel reads 3 exactly
    delta = torch.zeros(1, 6, 7, 1, 4)
    delta[:, 0, 0] = 1
    ones = torch.ones(1, 6, 7, 1, 1)
    y = scan_2d(
        torch.full((1, 6, 7, 4), 3.0), delta, -torch.ones(1, 4, 1), ones, ones, directions=["down"], backend=backend
    )
    assert torch.equal(y, torch.full((1, 6, 7, 4), 3.0))


def test_same_bits_with_any_number_of_threads(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from cgm2net.model.scan import compiled

    arguments = make_arguments(batch=3, height=20, width=19, channels=48, state=2)
    results = []
    for count in (1, 2, 2):
        torch.set_num_threads(count)
        results.append(run(arguments, "numba", torch.float32))
    monkeypatch.setattr(compiled, "_torch_team", lambda: None)  # where torch has no GNU OpenMP
    results.append(run(arguments, "numba", torch.float32))
    for other, (a, b) in itertools.product(results[1:], enumerate(results[0])):
        assert torch.equal(other[a], b)


def test_vector_exp_is_exact_to_rounding() -> None:
    import numba
    import numpy as np

    from cgm2net.model.scan import _simd

    load, store, exp = _simd.load, _simd.store, _simd.exp

    @numba.njit
    def apply(values: np.ndarray) -> None:
        for i in range(0, values.size, 16):
            store(values, i, exp(load(values, i)))

    x = np.concatenate([np.linspace(-87, 88, 65_520), np.zeros(16)]).astype(np.float32)
    got = x.copy()
    apply(got)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(got / exact - 1).max() < 2e-7
    assert (got[-16:] == 1).all()
    ends = np.array([-1e30, -np.inf, np.inf, np.nan] * 4, np.float32)
    apply(ends)
    assert (ends[:2] < 2e-38).all()
    assert ends[2] > 2e38
    assert np.isnan(ends[3])


class _Scanner(nn.Module):
    def forward(self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return scan_2d(x, delta, A, B, B)


def test_exported_graph_gives_the_same_on_other_maps() -> None:
    def example(height: int, width: int) -> tuple[Tensor, ...]:
        a = make_arguments(batch=2, height=height, width=width, channels=3, state=2)
        return tuple(a[i].float() for i in (0, 1, 2, 3))

    axes = {1: torch.export.Dim("height", min=2, max=512), 2: torch.export.Dim("width", min=2, max=512)}
    program = torch.export.export(_Scanner(), example(5, 6), dynamic_shapes=(axes, axes, None, axes))
    for height, width in ((2, 2), (4, 16), (9, 7)):
        inputs = example(height, width)
        torch.testing.assert_close(program.module()(*inputs), _Scanner()(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("index", "name", "shape"),
    [
        (0, "x", (2, 3, 4)),
        (0, "x", (2, 0, 4, 5)),
        (1, "delta", (2, 3, 4, 3, 5)),
        (2, "A", (4, 6, 2)),
        (3, "B", (2, 3, 4, 4, 3)),
        (4, "C", (2, 4, 3, 4, 2)),
        (5, "D", (4,)),
    ],
)
def test_wrong_shape_is_named(index: int, name: str, shape: tuple[int, ...]) -> None:
    arguments = make_arguments(batch=2, height=3, width=4, channels=5, state=2)
    arguments[index] = torch.zeros(shape)
    with pytest.raises(ModelError, match=rf"scan_2d: {name} has shape \({shape[0]},"):
        scan_2d(*arguments)


@pytest.mark.parametrize("directions", [(), ("right", "right"), ("north",)])
def test_wrong_directions_are_refused(directions: tuple[Direction, ...]) -> None:
    arguments = make_arguments(batch=1, height=2, width=2, channels=2, state=1, num_scans=len(directions))
    with pytest.raises(ModelError, match="directions"):
        scan_2d(*arguments, directions=directions)
