"""The 2-D selective scan: a map walked as one sequence in up to four directions, summed."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from cgm2net.errors import ModelError
from cgm2net.model.scan.backends import Backend, choose
from cgm2net.model.scan.sequence import selective_scan

Direction = Literal["right", "left", "down", "up"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def scan_2d(  # noqa: PLR0917 - the operands of the formula, in its order
    x_BHWD: Tensor,
    delta_BHWKD: Tensor,
    A_KDN: Tensor,
    B_BHWKN: Tensor,
    C_BHWKN: Tensor,
    D_D: Tensor | None = None,
    *,
    directions: Sequence[Direction] = DIRECTIONS,
    backend: Backend = "auto",
) -> Tensor:
    r"""Selective scan of a map along several directions, summed over them.

    ``right`` walks the pixels row by row from left to right, as one sequence over the whole map (as VMamba does);
    ``left`` is its reverse; ``down`` walks column by column from top to bottom; ``up`` is its reverse.

    Everything is channels-last in pixel order: one ``Linear`` on the tokens of a map gives Δ, B and C in these axes
    without a copy, rows are a free view, and a pixel's channels are contiguous, which is what the compiled kernel's
    vector units read.

    Args:
        x_BHWD: tokens.
        delta_BHWKD: step sizes per direction, **after** softplus and any gate, at least 0. Where 0, the pixel neither
            writes nor decays: the state passes unchanged.
        A_KDN: decay rates per direction, negative.
        B_BHWKN: what is written into the state, per direction.
        C_BHWKN: what is read from the state, per direction.
        D_D: skip weights; ``D * x`` is added **once**, not once a direction.
        directions: what each index of K means; any subset, each at most once.
        backend: see :data:`~cgm2net.model.scan.backends.Backend`. All but ``numba`` and ``triton`` lay each direction
            out as a sequence of its own and lay the results back.

    Returns:
        y_BHWD in ``x``'s dtype; computed in float64 where ``x`` is float64, else in float32.

    Raises:
        ModelError: if shapes or directions do not fit.
        BackendError: if the backend is not installed or cannot run on ``x``.
    """
    _check_directions(directions)
    _check_shapes(x_BHWD, A_KDN, D_D, num_scans=len(directions), delta=delta_BHWKD, B=B_BHWKN, C=C_BHWKN)
    chosen = choose(backend, x_BHWD)
    operands = (x_BHWD, delta_BHWKD, A_KDN, B_BHWKN, C_BHWKN)
    if chosen == "numba":
        return _scan_in_place(*operands, D_D=D_D, directions=directions).to(x_BHWD.dtype)
    if chosen == "triton":
        from cgm2net.model.scan.fused import Way, scan_fused

        ways = [Way(column=way in ("down", "up"), backward=way in ("left", "up")) for way in directions]
        return scan_fused(*operands, D_D, ways=ways)
    return scan_by_reordering(*operands, D_D=D_D, directions=directions, backend=chosen)


def scan_by_reordering(
    x_BHWD: Tensor,
    delta_BHWKD: Tensor,
    A_KDN: Tensor,
    B_BHWKN: Tensor,
    C_BHWKN: Tensor,
    *,
    D_D: Tensor | None,
    directions: Sequence[Direction] = DIRECTIONS,
    backend: Backend,
) -> Tensor:
    """:func:`scan_2d` by its definition: each direction laid out as a sequence, scanned, laid back, summed."""
    num_skipless = len(directions) - 1
    u_BLKD = torch.stack([_walk(x_BHWD, way) for way in directions], dim=2)
    delta_BLKD, B_BLKN, C_BLKN = (
        torch.stack([_walk(t[:, :, :, k], way) for k, way in enumerate(directions)], dim=2)
        for t in (delta_BHWKD, B_BHWKN, C_BHWKN)
    )
    y = selective_scan(
        u_BLKD.flatten(2).transpose(1, 2),
        delta_BLKD.flatten(2).transpose(1, 2),
        A_KDN.flatten(0, 1),
        B_BLKN.permute(0, 2, 3, 1),
        C_BLKN.permute(0, 2, 3, 1),
        None if D_D is None else torch.cat([D_D, D_D.new_zeros(D_D.shape[0] * num_skipless)]),
        backend=backend,
    )
    y_KBLD = y.transpose(1, 2).unflatten(2, (len(directions), -1)).unbind(2)
    height, width = x_BHWD.shape[1:3]
    back = [_unwalk(y_BLD, way, height=height, width=width) for y_BLD, way in zip(y_KBLD, directions, strict=True)]
    return torch.stack(back).sum(0)


def _scan_in_place(
    x_BHWD: Tensor,
    delta_BHWKD: Tensor,
    A_KDN: Tensor,
    B_BHWKN: Tensor,
    C_BHWKN: Tensor,
    *,
    D_D: Tensor | None,
    directions: Sequence[Direction],
) -> Tensor:
    """The compiled scan, which reads the pixels of every direction where they lie."""
    from cgm2net.model.scan.compiled import Walk, scan_compiled

    height, width = x_BHWD.shape[1:3]
    end = height * width - 1
    walks = {
        "right": Walk(first=0, last=end, stride=1),
        "left": Walk(first=end, last=0, stride=-1),
        "down": Walk(first=0, last=end, stride=width),
        "up": Walk(first=end, last=0, stride=-width),
    }
    x_BLD, delta_BLKD, B_BLKN, C_BLKN = (t.flatten(1, 2) for t in (x_BHWD, delta_BHWKD, B_BHWKN, C_BHWKN))
    y_BLGD = scan_compiled(
        x_BLD[:, :, None], delta_BLKD, A_KDN, B_BLKN, C_BLKN, D_D, walks=[walks[way] for way in directions]
    )
    return y_BLGD.reshape(x_BHWD.shape)


def _walk(t_BHWD: Tensor, way: Direction) -> Tensor:
    """(B, H, W, D) → (B, L, D) in the order in which ``way`` meets the pixels."""
    t_BLD = (t_BHWD if way in ("right", "left") else t_BHWD.transpose(1, 2)).flatten(1, 2)
    return t_BLD if way in ("right", "down") else t_BLD.flip(1)


def _unwalk(t_BLD: Tensor, way: Direction, *, height: int, width: int) -> Tensor:
    """The inverse of :func:`_walk`."""
    forth_BLD = t_BLD if way in ("right", "down") else t_BLD.flip(1)
    if way in ("right", "left"):
        return forth_BLD.reshape(-1, height, width, t_BLD.shape[2])
    return forth_BLD.reshape(-1, width, height, t_BLD.shape[2]).transpose(1, 2)


def _check_directions(directions: Sequence[Direction]) -> None:
    if not directions or len(set(directions)) < len(directions) or not set(directions) <= set(DIRECTIONS):
        raise ModelError(f"scan_2d: directions are {tuple(directions)}, expected some of {DIRECTIONS}, each once")


def _check_shapes(
    x_BHWD: Tensor, A_KDN: Tensor, D_D: Tensor | None, *, num_scans: int, delta: Tensor, B: Tensor, C: Tensor
) -> None:
    if x_BHWD.ndim != 4 or 0 in x_BHWD.shape:
        raise ModelError(
            f"scan_2d: x has shape {tuple(x_BHWD.shape)}, expected (batch, height, width, channels), none of them 0"
        )
    if A_KDN.ndim != 3 or A_KDN.shape[2] == 0:
        raise ModelError(f"scan_2d: A has shape {tuple(A_KDN.shape)}, expected (directions, channels, state)")
    *pixels, channels = x_BHWD.shape
    state = A_KDN.shape[2]
    per_state = (*pixels, num_scans, state)
    wanted = [("delta", delta, (*pixels, num_scans, channels)), ("A", A_KDN, (num_scans, channels, state))]
    wanted += [("B", B, per_state), ("C", C, per_state)]
    wanted += [] if D_D is None else [("D", D_D, (channels,))]
    for name, value, shape in wanted:
        if tuple(value.shape) != shape:
            raise ModelError(
                f"scan_2d: {name} has shape {tuple(value.shape)}, expected {shape} for x of shape "
                f"{tuple(x_BHWD.shape)} and {num_scans} directions"
            )
