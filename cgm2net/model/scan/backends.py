"""Which implementation of the scan runs where."""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from cgm2net.errors import BackendError

Backend = Literal["auto", "reference", "chunked", "numba", "mamba_ssm", "triton"]
"""How a scan is computed.

* ``reference``: plain loop over the sequence; any float dtype; for tests.
* ``chunked``: pure torch, vectorised; any device; exports with ``torch.export`` and ONNX.
* ``numba``: compiled loop for the CPU, float32 inside; needs numba.
* ``mamba_ssm``: the CUDA package's kernel; needs a GPU and ``pip install 'cgm2net[cuda]'``.
* ``triton``: own kernels for CUDA that read the directions of a map where they lie, float32 inside; needs triton, which
  torch's CUDA builds bring; maps only (:func:`~cgm2net.model.scan.scan_2d`).
* ``auto``: ``chunked`` while a graph is traced or exported and for float64; else on a GPU ``mamba_ssm``, or for a map
  ``triton``, and on a CPU ``numba``, where they can be imported; else ``chunked``. ``mamba_ssm`` stands before
  ``triton`` because how fast the latter is has not been measured: whoever installed the former has built it for speed.
"""


def is_traced() -> bool:
    """Whether a graph is being recorded, so that sizes may be symbolic and no foreign kernel can be called."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


@cache
def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:  # mamba_ssm is often installed without its compiled part, so finding its files is not enough
        return False
    return True


def mamba_kernel() -> Callable[..., Tensor]:
    """``mamba_ssm``'s fused scan.

    Raises:
        BackendError: where the package or its compiled part is absent.
    """
    try:
        interface: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError as error:
        raise BackendError(
            f"scan backend 'mamba_ssm' cannot be imported ({error}); install 'cgm2net[cuda]' on a machine with CUDA, "
            "or use backend='auto'"
        ) from error
    return cast(Callable[..., Tensor], interface.selective_scan_fn)


def _check_triton(*, of_map: bool) -> str:
    """The kind of device that the Triton kernels run on here.

    Raises:
        BackendError: where triton is absent, or the scan is not one of a map.
    """
    if not of_map:
        raise BackendError("scan backend 'triton' scans maps (scan_2d), not sequences; use backend='auto'")
    if not _importable("triton"):
        raise BackendError(
            "scan backend 'triton' needs the package triton, which torch's CUDA builds for Linux bring; "
            "install one of these, or use backend='auto'"
        )
    fused: Any = importlib.import_module("cgm2net.model.scan.fused")
    return "cpu" if fused.is_interpreted() else "cuda"


def choose(backend: Backend, x: Tensor, *, of_map: bool = True) -> Backend:
    """The implementation that will run for ``x``: ``backend`` itself, checked, or what ``auto`` stands for.

    Args:
        backend: what was asked for.
        x: the scan's input.
        of_map: whether the scan is :func:`~cgm2net.model.scan.scan_2d`.

    Raises:
        BackendError: if the asked backend is unknown, not installed or cannot run on ``x``'s device or dtype.
    """
    if backend not in get_args(Backend):
        raise BackendError(f"unknown scan backend {backend!r}; choose one of {', '.join(get_args(Backend))}")
    if backend == "auto":
        if is_traced() or x.dtype == torch.float64:
            return "chunked"
        if x.device.type == "cuda":
            if _importable("mamba_ssm.ops.selective_scan_interface"):
                return "mamba_ssm"
            return "triton" if of_map and _importable("triton") else "chunked"
        return "numba" if x.device.type == "cpu" and _importable("numba") else "chunked"
    if backend == "mamba_ssm":
        mamba_kernel()
    if backend == "numba" and not _importable("numba"):
        raise BackendError("scan backend 'numba' needs the package numba; install it, or use backend='auto'")
    if backend in ("numba", "triton") and x.dtype == torch.float64:
        raise BackendError(f"scan backend {backend!r} computes in float32, the input is float64; use backend='chunked'")
    devices = {"numba": "cpu", "mamba_ssm": "cuda"}
    if backend == "triton":
        devices["triton"] = _check_triton(of_map=of_map)
    wanted = devices.get(backend, x.device.type)
    if x.device.type != wanted:
        raise BackendError(
            f"scan backend {backend!r} runs on {wanted}, the input is on {x.device.type}; "
            "move the input or use backend='auto'"
        )
    return backend
