"""The 1-D selective scan, with the signature of ``mamba_ssm``."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cgm2net.errors import ModelError
from cgm2net.model.scan.backends import Backend, choose, mamba_kernel
from cgm2net.model.scan.recurrence import scan_chunked, scan_reference


def selective_scan(  # noqa: PLR0917 - the signature of mamba_ssm's function
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    r"""Selective scan of a sequence: a drop-in for ``mamba_ssm``'s ``selective_scan_fn``.

    .. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \quad y_t = (C_t h_t + D u_t)\,\mathrm{silu}(z_t)

    Args:
        u: input (b, d, l).
        delta: step sizes (b, d, l), before bias and softplus.
        A: decay rates (d, n), real, negative.
        B: (b, n, l); or (b, g, n, l) for g groups of d/g channels; or (d, n), constant over the sequence, which costs
            as much as d groups.
        C: as B.
        D: skip weights (d).
        z: gate (b, d, l).
        delta_bias: added to ``delta`` (d).
        delta_softplus: whether softplus is applied to ``delta`` + bias.
        backend: see :data:`~cgm2net.model.scan.backends.Backend`.

    Returns:
        y (b, d, l) in ``u``'s dtype; computed in float64 where ``u`` is float64, else in float32.

    Raises:
        ModelError: if shapes do not fit; names the argument, its shape and the one wanted.
        BackendError: if the backend is not installed or cannot run on ``u``.
    """
    _check(u, A, B=B, C=C, delta=delta, D=D, z=z, delta_bias=delta_bias)
    chosen = choose(backend, u, of_map=False)
    if chosen == "mamba_ssm":
        return mamba_kernel()(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    compute = torch.float64 if u.dtype == torch.float64 else torch.float32
    step = delta.to(compute)
    if delta_bias is not None:
        step = step + delta_bias.to(compute)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    y = _scan(u.to(compute), step, A.to(compute), B.to(compute), C.to(compute), backend=chosen)
    if D is not None:
        y = y + u.to(compute) * D.to(compute)[:, None]
    if z is not None:
        y = y * F.silu(z.to(compute))
    return y.to(u.dtype)


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *, backend: Backend) -> Tensor:
    """The bare recurrence on (b, d, l); groups become the axis K of independent scans."""
    batch, channels, length = u.shape
    B_BLKN, C_BLKN = (_per_group(matrix, batch=batch, length=length) for matrix in (B, C))
    groups = math.lcm(B_BLKN.shape[2], C_BLKN.shape[2])
    B_BLKN, C_BLKN = (_to_groups(matrix, groups) for matrix in (B_BLKN, C_BLKN))
    A_KDN = A.unflatten(0, (groups, channels // groups))
    if backend == "numba":
        from cgm2net.model.scan.compiled import scan_compiled, transposed

        x_BLKD, delta_BLKD = (transposed(t).unflatten(2, A_KDN.shape[:2]) for t in (u, delta))
        return transposed(scan_compiled(x_BLKD, delta_BLKD, A_KDN, B_BLKN, C_BLKN).flatten(2))
    x_BLKD, delta_BLKD = (t.transpose(1, 2).unflatten(2, A_KDN.shape[:2]) for t in (u, delta))
    scan = scan_reference if backend == "reference" else scan_chunked
    return scan(x_BLKD, delta_BLKD, A_KDN, B_BLKN, C_BLKN).flatten(2).transpose(1, 2)


def _per_group(matrix: Tensor, *, batch: int, length: int) -> Tensor:
    """(d, n), (b, n, l) or (b, g, n, l) → (b, l, g, n), where a constant has one group per channel."""
    if matrix.ndim == 2:
        return matrix.expand(batch, length, *matrix.shape)
    return (matrix[:, None] if matrix.ndim == 3 else matrix).permute(0, 3, 1, 2)


def _to_groups(matrix_BLGN: Tensor, groups: int) -> Tensor:
    if matrix_BLGN.shape[2] == groups:
        return matrix_BLGN
    return matrix_BLGN.repeat_interleave(groups // matrix_BLGN.shape[2], dim=2)


def _check(u: Tensor, A: Tensor, *, B: Tensor, C: Tensor, **others: Tensor | None) -> None:
    if u.ndim != 3 or 0 in u.shape:
        raise ModelError(f"selective_scan: u has shape {tuple(u.shape)}, expected (batch, channels, length), none 0")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels or A.shape[1] == 0 or A.is_complex():
        raise ModelError(
            f"selective_scan: A is {A.dtype} {tuple(A.shape)}, expected real ({channels}, state): one row a channel"
        )
    for name, value in others.items():
        wanted = (channels,) if name in ("D", "delta_bias") else tuple(u.shape)
        if value is not None and tuple(value.shape) != wanted:
            raise ModelError(f"selective_scan: {name} has shape {tuple(value.shape)}, expected {wanted}")
    state = A.shape[1]
    for name, matrix in (("B", B), ("C", C)):
        shape = tuple(matrix.shape)
        plain = shape in ((channels, state), (batch, state, length))
        fits = len(shape) == 4 and (shape[0], *shape[2:]) == (batch, state, length)
        if not (plain or (fits and shape[1] > 0 and channels % shape[1] == 0)):
            raise ModelError(
                f"selective_scan: {name} has shape {shape}, expected ({batch}, {state}, {length}), or "
                f"({batch}, groups, {state}, {length}) with groups dividing {channels}, or ({channels}, {state})"
            )
