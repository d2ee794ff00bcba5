"""The fused Triton scan: on a GPU where there is one, else in Triton's interpreter and through its compiler.

Triton decides at its import whether it interprets, for the whole process; so a child does, which runs this file.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from test_scan_2d import make_arguments
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cgm2net.errors import BackendError
from cgm2net.model.scan import DIRECTIONS, Direction, backends, scan_2d, selective_scan
from cgm2net.model.scan.backends import choose

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROWS: tuple[Direction, ...] = ("right", "left")
COLUMNS: tuple[Direction, ...] = ("down", "up")
FLOATS = (torch.float32,) * 6
HALVES = (torch.bfloat16,) * 6
AUTOCAST = (torch.bfloat16, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float32)

OPERANDS = ("x", "delta", "A", "B", "C", "D")
PAD = 1024
"""Numbers around every array of the kernels: NaN, so that what is read there is seen, and must stay so."""


class Case(NamedTuple):
    """A call of scan_2d; ``segment`` are the pixels that a program walks."""

    height: int
    width: int
    channels: int
    state: int
    directions: tuple[Direction, ...] = DIRECTIONS
    batch: int = 1
    segment: int = 16
    dtypes: tuple[torch.dtype, ...] = FLOATS
    skip: bool = True
    strided: bool = False
    wide: bool = False

    def arguments(self) -> list[Tensor | None]:
        sizes = {"batch": self.batch, "height": self.height, "width": self.width, "channels": self.channels}
        made = make_arguments(**sizes, state=self.state, num_scans=len(self.directions))
        values: list[Tensor | None] = [t.to(dtype) for t, dtype in zip(made, self.dtypes, strict=True)]
        return values if self.skip else [*values[:5], None]

    def weights(self) -> Tensor:
        shape = (self.batch, self.height, self.width, self.channels)
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        return weights.to(self.dtypes[0])


CASES = {
    "batch, four directions, odd sizes": Case(3, 7, 40, 3, batch=2),
    "two blocks of channels": Case(3, 9, 70, 1, directions=("left", "down")),
    "one block of 64": Case(4, 5, 64, 1, directions=ROWS),
    "sixteen states": Case(2, 9, 5, 16, directions=("up",)),
    "right": Case(3, 6, 33, 4, directions=("right",)),
    "left": Case(3, 6, 33, 4, directions=("left",)),
    "down": Case(3, 6, 33, 4, directions=("down",)),
    "up": Case(3, 6, 33, 4, directions=("up",)),
    "another order": Case(6, 3, 7, 2, directions=("up", "right", "down")),
    "one pixel": Case(1, 1, 3, 2),
    "one row": Case(1, 11, 3, 1, segment=8),
    "one column": Case(11, 1, 3, 1, segment=8),
    "interleaved rows": Case(3, 8, 8, 1, directions=ROWS),
    "interleaved columns": Case(6, 4, 8, 1, directions=COLUMNS),
    "full segments": Case(5, 14, 4, 1, directions=("up",), segment=64),
    "many segments": Case(9, 8, 4, 1, directions=("left",), segment=8),
    "no skip": Case(3, 4, 5, 2, directions=("right", "up"), skip=False),
    "views": Case(3, 4, 16, 3, directions=COLUMNS, strided=True),
    "offsets of 64 bits": Case(5, 4, 6, 2, directions=("left", "down"), wide=True),
    "bfloat16": Case(3, 4, 6, 2, dtypes=HALVES),
    "mixed dtypes": Case(3, 4, 6, 1, dtypes=AUTOCAST),
}


class Guard(TorchFunctionMode):
    """Lays every new array between NaNs, and fills it with them."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return self.lay(result) if func in (torch.empty, torch.empty_like) else result

    def lay(self, values: Tensor) -> Tensor:
        """A copy of ``values`` with its strides, NaN where they come from torch.empty."""
        size = values.untyped_storage().nbytes() // values.element_size()
        with torch._C.DisableTorchFunction():
            buffer = torch.full((size + 2 * PAD,), float("nan"), dtype=values.dtype, device=values.device)
            self.buffers.append((buffer, size))
            return buffer.as_strided(values.shape, values.stride(), PAD)

    def copy(self, values: Tensor) -> Tensor:
        return self.lay(values).copy_(values)

    def check(self) -> None:
        for buffer, size in self.buffers:
            assert buffer[:PAD].isnan().all()
            assert buffer[PAD + size :].isnan().all()


def strided(t: Tensor) -> Tensor:
    """The same values, not contiguous."""
    return torch.stack([t, t], dim=-1)[..., 0] if t.ndim < 4 else t.transpose(1, 2).contiguous().transpose(1, 2)


@contextmanager
def cut(case: Case) -> Iterator[None]:
    """The constants that a case sets."""
    from cgm2net.model.scan import fused

    before = fused._SEGMENT, fused._MAX_OFFSET
    fused._SEGMENT, fused._MAX_OFFSET = case.segment, 0 if case.wide else before[1]
    yield
    fused._SEGMENT, fused._MAX_OFFSET = before


def run_guarded(case: Case, device: str) -> dict[str, Tensor]:
    """Output and all gradients."""
    guard = Guard()
    values = [None if t is None else t.to(device) for t in case.arguments()]
    values = [strided(t) if case.strided and t is not None else t for t in values]
    leaves = [None if t is None else guard.copy(t).requires_grad_() for t in values]
    with cut(case), guard:
        y = scan_2d(*leaves, directions=case.directions, backend="triton")  # type: ignore[arg-type]
        asked = [leaf for leaf in leaves if leaf is not None]
        gradients = torch.autograd.grad(y, asked, case.weights().to(device))
    guard.check()
    return {"y": y.detach().cpu(), **{name: g.cpu() for name, g in zip(OPERANDS, gradients, strict=False)}}


def run_plain(case: Case, device: str) -> Tensor:
    """Output where no gradient is asked for, so that no state is kept."""
    values = [None if t is None else t.to(device) for t in case.arguments()]
    with cut(case):
        return scan_2d(*values, directions=case.directions, backend="triton").cpu()  # type: ignore[arg-type]


def by_definition(case: Case) -> dict[str, Tensor]:
    """The reference back end in float64, on the same rounded inputs."""
    leaves = [None if t is None else t.double().requires_grad_() for t in case.arguments()]
    y = scan_2d(*leaves, directions=case.directions, backend="reference")  # type: ignore[arg-type]
    gradients = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], case.weights().double())
    return {"y": y.detach(), **dict(zip(OPERANDS, gradients, strict=False))}


def carried(device: str) -> Tensor:
    """One pixel writes 3, in all others Δ is 0; read down the columns."""
    delta = torch.zeros(1, 6, 7, 1, 4, device=device)
    delta[:, 0, 0] = 1
    ones = torch.ones(1, 6, 7, 1, 1, device=device)
    x, rates = torch.full((1, 6, 7, 4), 3.0, device=device), torch.full((1, 4, 1), -0.7, device=device)
    return scan_2d(x, delta, rates, ones, ones, directions=["down"], backend="triton").cpu()


def everything(device: str) -> dict[str, Any]:
    plain = run_plain(CASES["views"], device)
    return {"carried": carried(device), "plain": plain, **{n: run_guarded(case, device) for n, case in CASES.items()}}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if torch.cuda.is_available():
        return everything("cuda")
    file = tmp_path_factory.mktemp("triton") / "answers.pt"
    child("interpret", file, TRITON_INTERPRET="1")
    return cast(dict[str, Any], torch.load(file))


def child(task: str, file: Path, **environment: str) -> None:
    command = [sys.executable, __file__, task, str(file)]
    done = subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_equals_reference_forward_and_backward(name: str, answers: dict[str, Any]) -> None:
    case, got = CASES[name], answers[name]
    wanted = by_definition(case)
    for key, value in wanted.items():
        dtype = case.dtypes[0] if key == "y" else case.dtypes[OPERANDS.index(key)]
        assert got[key].dtype == dtype, key
        assert got[key].shape == value.shape, key
        error = (got[key].double() - value).norm() / value.norm().clamp(min=1e-6)
        assert error <= (1e-5 if dtype == torch.float32 else 1e-2), key


@needs_triton
def test_same_without_gradients(answers: dict[str, Any]) -> None:
    assert torch.equal(answers["plain"], answers["views"]["y"])


@needs_triton
def test_state_is_carried_across_a_masked_region(answers: dict[str, Any]) -> None:
    assert torch.equal(answers["carried"], torch.full((1, 6, 7, 4), 3.0))


@needs_triton
def test_compiles_for_a_gpu_and_no_sum_leaves_a_warp(tmp_path: Path) -> None:
    file = tmp_path / "shared.pt"
    child("compile", file, TRITON_CACHE_DIR=str(tmp_path / "cache"), TRITON_INTERPRET="0")
    shared_bytes = torch.load(file)
    assert len(shared_bytes) == 6
    assert set(shared_bytes.values()) == {0}


def compile_all() -> dict[str, int]:
    """Compile the kernels as for an H100; the bytes of shared memory that each would take."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cgm2net.model.scan import _fused_states, _fused_walks, fused

    halves = ("value_ptr", "x_ptr", "delta_ptr", "y_ptr", "dy_ptr", "dx_ptr", "ddelta_ptr")
    kernels: list[tuple[Any, dict[str, bool], int]] = [
        (_fused_states.sum_segments, {"ADJOINT": False, "WIDE": False}, fused._REGISTERS),
        (_fused_states.sum_segments, {"ADJOINT": True, "WIDE": True}, fused._REGISTERS),
        (_fused_states.carry_states, {"ADJOINT": False}, fused._REGISTERS),
        (_fused_walks.walk_forward, {"WIDE": False}, fused._REGISTERS),
        (_fused_walks.walk_backward, {"WIDE": False}, fused._REGISTERS_BACKWARD),
        (_fused_walks.walk_backward, {"WIDE": True}, fused._REGISTERS_BACKWARD),
    ]
    found = {}
    for kernel, flags, registers in kernels:
        constants = {**flags, "BLOCK": 64}
        pointers = {name: "*bf16" if name in halves else "*fp32" for name in kernel.arg_names if name.endswith("_ptr")}
        integers = dict.fromkeys(kernel.arg_names, "i32")
        signature = integers | pointers | dict.fromkeys(constants, "constexpr")
        whole = not flags.get("WIDE")  # the others stand for channels that are no multiple of 16
        aligned = [i for i, name in enumerate(kernel.arg_names) if name in pointers or (name == "D" and whole)]
        attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
        source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": 1, "maxnreg": registers, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        found[f"{kernel.__name__} {flags}"] = compiled.metadata.shared
    return found


def on(device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """What :func:`choose` looks at of an input."""
    return cast(Tensor, SimpleNamespace(device=torch.device(device), dtype=dtype))


def test_auto_on_a_gpu_takes_what_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    present: set[str] = set()
    monkeypatch.setattr(backends, "_importable", lambda module: module.split(".")[0] in present)
    assert choose("auto", on("cuda")) == "chunked"
    present.add("triton")
    assert choose("auto", on("cuda")) == "triton"
    assert choose("auto", on("cuda"), of_map=False) == "chunked"
    assert choose("auto", on("cuda", torch.float64)) == "chunked"
    assert choose("auto", on("cpu")) == "chunked"
    present.add("mamba_ssm")
    assert choose("auto", on("cuda")) == "mamba_ssm"


def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_importable", lambda module: False)
    with pytest.raises(BackendError, match="needs the package triton"):
        choose("triton", on("cuda"))


@needs_triton
def test_refused_on_a_cpu_in_float64_and_for_sequences() -> None:
    with pytest.raises(BackendError, match="runs on cuda, the input is on cpu"):
        choose("triton", on("cpu"))
    with pytest.raises(BackendError, match="the input is float64"):
        choose("triton", on("cuda", torch.float64))
    u, A = torch.zeros(1, 2, 3), torch.zeros(2, 1)
    with pytest.raises(BackendError, match="scans maps"):
        selective_scan(u, u, A, A, A, backend="triton")


if __name__ == "__main__":
    torch.save({"interpret": lambda: everything("cpu"), "compile": compile_all}[sys.argv[1]](), sys.argv[2])
