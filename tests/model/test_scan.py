"""The 1-D selective scan: one mathematics in every back end."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cgm2net.errors import BackendError, ModelError
from cgm2net.model.scan import Backend, selective_scan
from cgm2net.model.scan.backends import choose

FAST: list[Backend] = ["chunked", "numba"]
EVERY: list[Backend] = ["reference", *FAST]


def make_arguments(
    *, batch: int, channels: int, length: int, state: int, matrix: str = "plain", extras: bool = True, seed: int = 0
) -> dict[str, Tensor]:
    """Float64 arguments; ``matrix`` is the form of B and C."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = {
        "plain": (batch, state, length),
        "grouped": (batch, channels // 3 if channels % 3 == 0 else 1, state, length),
        "constant": (channels, state),
    }[matrix]
    arguments = {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length) * 0.5,
        "A": -torch.exp(normal(channels, state)),
        "B": normal(*shape),
        "C": normal(*shape),
    }
    if extras:
        arguments |= {"D": normal(channels), "z": normal(batch, channels, length), "delta_bias": normal(channels)}
    return arguments


def run(arguments: dict[str, Tensor], backend: Backend, dtype: torch.dtype, **options: bool) -> list[Tensor]:
    """Output and the gradients of a fixed weighted sum of it, in float64."""
    leaves = {name: value.to(dtype, copy=True).requires_grad_() for name, value in arguments.items()}
    y = selective_scan(**leaves, backend=backend, **options)  # type: ignore[arg-type]
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return [t.double() for t in (y.detach(), *torch.autograd.grad(y, list(leaves.values()), weights.to(dtype)))]


def assert_close(got: list[Tensor], wanted: list[Tensor], *, relative: float) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= relative * b.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("backend", EVERY)
def test_two_tokens_by_hand(backend: Backend) -> None:
    # decay 0.5**Δ: h1 = 1*2*3 = 6; h2 = 0.25*6 + 2*1*5 = 11.5; y1 = 1*6 + 10*3; y2 = 4*11.5 + 10*5
    u, delta = torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[1.0, 2.0]]])
    B, C = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0, 4.0]]])
    y = selective_scan(u, delta, torch.tensor([[-math.log(2)]]), B, C, torch.tensor([10.0]), backend=backend)
    torch.testing.assert_close(y, torch.tensor([[[36.0, 96.0]]]))


@pytest.mark.parametrize("backend", EVERY)
def test_gradient_of_two_tokens_by_hand(backend: Backend) -> None:
    # as above without D, loss y2 = 4 (0.5**Δ2 * Δ1*2*u1 + Δ2*1*u2)
    u = torch.tensor([[[3.0, 5.0]]], requires_grad=True)
    delta = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    B, C = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[1.0, 4.0]]], requires_grad=True)
    y = selective_scan(u, delta, torch.tensor([[-math.log(2)]]), B, C, backend=backend)
    y[0, 0, 1].backward()
    torch.testing.assert_close(u.grad, torch.tensor([[[4 * 0.25 * 2, 4 * 2.0]]]))
    torch.testing.assert_close(delta.grad, torch.tensor([[[4 * 0.25 * 2 * 3, 4 * (5 - math.log(2) * 1.5)]]]))
    torch.testing.assert_close(C.grad, torch.tensor([[[0.0, 11.5]]]))


@pytest.mark.parametrize("backend", FAST)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 6, 17, 33]),
    length=st.integers(1, 70),
    state=st.sampled_from([1, 2, 4, 5]),
    matrix=st.sampled_from(["plain", "grouped", "constant"]),
    extras=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_reference_forward_and_backward(
    backend: Backend, batch: int, channels: int, length: int, state: int, matrix: str, extras: bool, seed: int
) -> None:
    arguments = make_arguments(
        batch=batch, channels=channels, length=length, state=state, matrix=matrix, extras=extras, seed=seed
    )
    wanted = run(arguments, "reference", torch.float64, delta_softplus=True)
    assert_close(run(arguments, backend, torch.float32, delta_softplus=True), wanted, relative=1e-4)


def test_chunked_equals_reference_to_rounding_in_float64() -> None:
    arguments = make_arguments(batch=2, channels=5, length=300, state=3)
    wanted = run(arguments, "reference", torch.float64, delta_softplus=True)
    assert_close(run(arguments, "chunked", torch.float64, delta_softplus=True), wanted, relative=1e-12)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_gradcheck(backend: Backend) -> None:
    arguments = make_arguments(batch=1, channels=2, length=18, state=2)
    leaves = [value.requires_grad_() for value in arguments.values()]

    def scan(*values: Tensor) -> Tensor:
        return selective_scan(**dict(zip(arguments, values, strict=True)), delta_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.parametrize("backend", EVERY)
def test_token_with_zero_step_is_as_if_absent(backend: Backend) -> None:
    arguments = {
        name: value.float()
        for name, value in make_arguments(batch=2, channels=4, length=40, state=3, extras=False).items()
    }
    arguments["delta"] = arguments["delta"].abs()
    arguments["delta"][..., 10:29] = 0
    kept = [t for t in range(40) if not 10 <= t < 29]
    shorter = {name: value if name == "A" else value[..., kept] for name, value in arguments.items()}
    y, y_shorter = (selective_scan(**a, backend=backend) for a in (arguments, shorter))  # type: ignore[arg-type]
    torch.testing.assert_close(y[..., kept], y_shorter, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", EVERY)
def test_masked_region_passes_the_state_exactly(backend: Backend) -> None:
    # written once with 3, then 50 tokens of Δ = 0: read is 3 at every one of them, to the bit
    delta = torch.zeros(1, 2, 51)
    delta[..., 0] = 1
    ones = torch.ones(1, 1, 51)
    y = selective_scan(torch.full((1, 2, 51), 3.0), delta, torch.full((2, 1), -0.7), ones, ones, backend=backend)
    assert torch.equal(y, torch.full((1, 2, 51), 3.0))


@pytest.mark.parametrize("backend", FAST)
def test_large_steps_neither_overflow_nor_turn_nan(backend: Backend) -> None:
    arguments = make_arguments(batch=1, channels=3, length=200, state=2, extras=False)
    arguments["delta"] = arguments["delta"].abs() * 1e3
    results = run(arguments, backend, torch.float32)
    assert all(result.isfinite().all() for result in results)
    assert_close(results[:1], run(arguments, "reference", torch.float64)[:1], relative=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_nan_is_not_hidden(backend: Backend) -> None:
    arguments = {
        name: value.float()
        for name, value in make_arguments(batch=1, channels=2, length=20, state=2, extras=False).items()
    }
    arguments["A"][0] = math.nan
    y = selective_scan(**arguments, backend=backend)  # type: ignore[arg-type]
    assert y[0, 0, 1:].isnan().all()
    assert y[0, 1].isfinite().all()


def test_bfloat16_is_computed_in_float32_and_returned_as_bfloat16() -> None:
    arguments = make_arguments(batch=1, channels=4, length=30, state=2)
    half = {name: value.bfloat16() for name, value in arguments.items()}
    y = selective_scan(**half, delta_softplus=True)  # type: ignore[arg-type]
    wanted = selective_scan(**{n: v.double() for n, v in half.items()}, delta_softplus=True)  # type: ignore[arg-type]
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, wanted.bfloat16())


class _Scanner(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, B, delta_softplus=True)


def test_exported_graph_gives_the_same_at_other_lengths() -> None:
    def example(length: int) -> tuple[Tensor, ...]:
        a = make_arguments(batch=2, channels=3, length=length, state=2, extras=False)
        return tuple(a[name].float() for name in ("u", "delta", "A", "B"))

    axis = {2: torch.export.Dim("length", min=2, max=10_000)}
    program = torch.export.export(_Scanner(), example(40), dynamic_shapes=(axis, axis, None, axis))
    for length in (2, 16, 17, 333):
        inputs = example(length)
        torch.testing.assert_close(program.module()(*inputs), _Scanner()(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (3, 8)),
        ("u", (2, 3, 0)),
        ("delta", (2, 3, 7)),
        ("A", (2, 4)),
        ("A", (3, 0)),
        ("B", (2, 4, 7)),
        ("B", (2, 2, 4, 8)),
        ("C", (2, 5, 8)),
        ("D", (4,)),
        ("z", (2, 8, 3)),
        ("delta_bias", (3, 1)),
    ],
)
def test_wrong_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    arguments = make_arguments(batch=2, channels=3, length=8, state=4) | {name: torch.zeros(shape)}
    with pytest.raises(ModelError, match=rf"selective_scan: {name} .*{shape[0]}"):
        selective_scan(**arguments)  # type: ignore[arg-type]


def test_complex_rates_are_refused() -> None:
    arguments = make_arguments(batch=1, channels=2, length=4, state=2)
    arguments["A"] = arguments["A"].to(torch.complex64)
    with pytest.raises(ModelError, match="real"):
        selective_scan(**arguments)  # type: ignore[arg-type]


def test_unknown_and_unfit_backends_are_refused() -> None:
    x = torch.zeros(1)
    with pytest.raises(BackendError, match="unknown scan backend 'fast'"):
        choose("fast", x)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="float32"):
        choose("numba", x.double())
    with pytest.raises(BackendError, match="runs on cpu"):
        choose("numba", x.to("meta"))


def test_auto_on_a_cpu() -> None:
    assert choose("auto", torch.zeros(1)) == "numba"
    assert choose("auto", torch.zeros(1).double()) == "chunked"


def test_without_optional_packages_chunked_runs_and_the_others_say_why() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["numba", "mamba_ssm", "mamba_ssm.ops", "triton"]))  # None: import fails
import torch
from cgm2net.errors import BackendError
from cgm2net.model.scan import selective_scan
from cgm2net.model.scan.backends import choose
ones = torch.ones(1, 1, 3)
assert choose("auto", ones) == "chunked"
assert selective_scan(ones, ones, -ones[0, :, :1], ones, ones).shape == ones.shape
for backend in ("numba", "mamba_ssm"):
    try:
        choose(backend, ones)
    except BackendError as error:
        assert backend in str(error) and "install" in str(error), error
    else:
        raise SystemExit(backend)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_mamba_ssm_equals_reference() -> None:
    pytest.importorskip("mamba_ssm.ops.selective_scan_interface", exc_type=ImportError)
    if not torch.cuda.is_available():
        pytest.skip("mamba_ssm needs a GPU")
    arguments = make_arguments(batch=2, channels=6, length=50, state=4)
    wanted = run(arguments, "reference", torch.float64, delta_softplus=True)
    leaves = {name: value.float().cuda().requires_grad_() for name, value in arguments.items()}
    y = selective_scan(**leaves, delta_softplus=True, backend="mamba_ssm")
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    got = [y.detach(), *torch.autograd.grad(y, list(leaves.values()), weights.to(y))]
    assert_close([value.double().cpu() for value in got], wanted, relative=1e-4)
