r"""The recurrence in plain torch: a sequential reference and a vectorised form.

.. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t, \qquad y_t = \sum_n C_{t,n} h_{t,n}

Axes: B batch, L sequence, K independent scans (groups or directions), D channels, N state.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16
"""Steps taken one after another by :func:`scan_chunked`; also the number of nodes that it adds to an exported graph."""

TRACED_LEVELS = 20
"""Doublings of the carry over chunks in a traced graph, whose length is open: enough for CHUNK * 2**20 steps, a map of
4096 x 4096 pixels."""


def scan_reference(x_BLKD: Tensor, delta_BLKD: Tensor, A_KDN: Tensor, B_BLKN: Tensor, C_BLKN: Tensor) -> Tensor:
    """The definition: one step after another.

    Args:
        x_BLKD: input.
        delta_BLKD: step sizes, positive or zero.
        A_KDN: decay rates, negative.
        B_BLKN: what is written into the state.
        C_BLKN: what is read from it.

    Returns:
        y_BLKD.
    """
    state_BKDN = torch.zeros_like(A_KDN).expand(x_BLKD.shape[0], *A_KDN.shape)
    y_LBKD = []
    for x_BKD, delta_BKD, B_BKN, C_BKN in zip(
        x_BLKD.unbind(1), delta_BLKD.unbind(1), B_BLKN.unbind(1), C_BLKN.unbind(1), strict=True
    ):
        decay_BKDN = torch.exp(delta_BKD[..., None] * A_KDN)
        state_BKDN = decay_BKDN * state_BKDN + (delta_BKD * x_BKD)[..., None] * B_BKN[..., None, :]
        y_LBKD.append((state_BKDN * C_BKN[..., None, :]).sum(-1))
    return torch.stack(y_LBKD, dim=1)


def scan_chunked(x_BLKD: Tensor, delta_BLKD: Tensor, A_KDN: Tensor, B_BLKN: Tensor, C_BLKN: Tensor) -> Tensor:
    """The same in :data:`CHUNK` steps, each over all chunks of the sequence at once.

    A first walk from zero gives each chunk's end state, a doubling scan carries these over the chunks, a second walk
    starts from what was carried in. Only decays are multiplied and no exponential is divided by another, so nothing
    overflows however long the sequence (A negative).

    Args and returns as :func:`scan_reference`.
    """
    length = x_BLKD.shape[1]
    delta_BMTKD, write_BMTKD = _cut(delta_BLKD), _cut(delta_BLKD * x_BLKD)
    B_TBMKN, C_TBMKN = _cut(B_BLKN).unbind(2), _cut(C_BLKN).unbind(2)

    decays = [torch.exp(delta_BMKD[..., None] * A_KDN) for delta_BMKD in delta_BMTKD.unbind(2)]
    writes = [w_BMKD[..., None] * B[..., None, :] for w_BMKD, B in zip(write_BMTKD.unbind(2), B_TBMKN, strict=True)]
    state_BMKDN = writes[0]
    for decay_BMKDN, write_BMKDN in zip(decays[1:], writes[1:], strict=True):
        state_BMKDN = torch.addcmul(write_BMKDN, decay_BMKDN, state_BMKDN)
    state_BMKDN = _carry_in(torch.exp(delta_BMTKD.sum(2)[..., None] * A_KDN), state_BMKDN)
    y_TBMKD = []
    for decay_BMKDN, write_BMKDN, C_BMKN in zip(decays, writes, C_TBMKN, strict=True):
        state_BMKDN = torch.addcmul(write_BMKDN, decay_BMKDN, state_BMKDN)
        y_TBMKD.append((state_BMKDN @ C_BMKN[..., None])[..., 0])
    y_BLKD = torch.stack(y_TBMKD, dim=2).flatten(1, 2)
    if _is_fixed(length):
        return y_BLKD[:, :length]
    return y_BLKD.index_select(1, torch.arange(length, device=y_BLKD.device))


def _is_fixed(size: object) -> bool:
    """Whether a size is a number, and not the symbol of an open one in a traced graph."""
    return isinstance(size, int)


def _cut(t_BLKD: Tensor) -> Tensor:
    """(B, L, K, D) → (B, chunks, CHUNK, K, D), zero past the end: a Δ of 0 passes the state on unchanged.

    Where the length is a symbol, there are always two chunks or more and a gather stands for pad and reshape: of these
    torch.export would have to prove how the number of chunks relates to the length, and it cannot. A gather's backward
    is slow, so it is not used elsewhere.
    """
    length = t_BLKD.shape[1]
    if _is_fixed(length):
        padded_BLKD = F.pad(t_BLKD, (0, 0, 0, 0, 0, -length % CHUNK))
        return padded_BLKD.reshape(t_BLKD.shape[0], -1, CHUNK, *t_BLKD.shape[2:])
    starts_M1 = torch.arange(length // CHUNK + 2, device=t_BLKD.device)[:, None] * CHUNK
    step_MT = starts_M1 + torch.arange(CHUNK, device=t_BLKD.device)
    cut_BMTKD: Tensor = t_BLKD[:, step_MT.clamp(max=length - 1)] * (step_MT < length)[..., None, None]
    return cut_BMTKD


def _carry_in(decay_BMKDN: Tensor, end_BMKDN: Tensor) -> Tensor:
    """State at the start of each chunk, from each chunk's total decay and its end state when started from zero."""
    chunks = end_BMKDN.shape[1]
    levels = (chunks - 1).bit_length() if _is_fixed(chunks) else TRACED_LEVELS
    for level in range(levels):
        earlier_BMKDN = _delay(end_BMKDN, 1 << level, fill=0.0)
        end_BMKDN = torch.addcmul(end_BMKDN, decay_BMKDN, earlier_BMKDN)
        decay_BMKDN = decay_BMKDN * _delay(decay_BMKDN, 1 << level, fill=1.0)
    return _delay(end_BMKDN, 1, fill=0.0)


def _delay(x_BMKDN: Tensor, steps: int, *, fill: float) -> Tensor:
    return F.pad(x_BMKDN, (0, 0, 0, 0, 0, 0, steps, 0), value=fill)[:, : x_BMKDN.shape[1]]
