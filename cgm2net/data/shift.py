"""How far a SAR image lies from an optical image of the same ground: measured in windows, believed when they agree.

Per window, the gradient magnitude of both images is matched by masked normalised cross-correlation (Padfield 2012,
doi:10.1109/TIP.2011.2181402): an optical template without clouds is moved over a larger piece of SAR. Edges are where
the two sensors agree; their values are not comparable. The windows' correlation surfaces are added up, the sum's peak
is the consensus, and every window votes for or against it; where more of them agree on an affine displacement, that is
the consensus. Mutual information (Viola and Wells 1997,
doi:10.1023/A:1007958904918), which knows nothing of edges, then has to prefer the move.

Sign: ``dx_px``, ``dy_px`` say where the SAR content lies relative to the optical content, right and down; moving the
SAR image by (-dx, -dy) puts it in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from affine import Affine
from scipy import fft, ndimage

from cgm2net.data.displacement import Displacement, fit_affine
from cgm2net.data.information import objection
from cgm2net.data.pair import ArrayPair, Cut, ImagePair, Place, UsableShares
from cgm2net.settings import CoregisterSettings

Status = Literal["moved", "aligned", "unsure"]

MIN_AGREEING = 6
"""Fewer agreeing windows can be chance; a wrong move of a nearly overcast real scene had five."""

VOTE_RADIUS_PX = 1.5
"""A window agrees when its own peak is no farther than this from the consensus."""

_SEARCH_MARGIN_PX = 4  # beyond the largest believed shift, so that a larger one is seen as one
_OPTICAL_SIGMA_PX = 1.0
_SAR_SIGMA_PX = 1.5  # despeckles: the derivative of a Gaussian over dB values
_EDGE_PX = 3  # gradients this near to masked pixels see their fill
_NUM_DRAWS = 200
_OVERLAP = 3  # windows that hold about the ground of one
_CONFIDENCE = 0.9
_MI_FROM_PX = 1.5  # mutual information is taken at whole pixels: it cannot judge smaller moves


@dataclass(frozen=True, kw_only=True)
class WindowShift:
    """What one window says."""

    row: int
    "Of the window's centre [px]."
    col: int
    "Of the window's centre [px]."
    dx_px: float
    dy_px: float
    correlation: float
    "Of the gradient magnitudes at the window's own peak, -1 to 1."
    usable_share: float
    "Of the window's optical pixels."
    agrees: bool
    "Within :data:`VOTE_RADIUS_PX` of the consensus."


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Where the SAR content lies relative to the optical content, and whether that is to be believed."""

    displacement: Displacement
    "Of SAR content; NaN where no window was usable."
    rmse_px: float
    "Root mean square distance of the agreeing windows from the consensus; NaN where none agrees."
    error_px: float
    "With other windows of this ground the consensus would lie no farther than this, 9 of 10 times; NaN where no window"
    " was usable."
    agreement: float
    "Share of measured windows that agree, 0-1."
    num_windows: int
    "Measured."
    status: Status
    "``moved``: to be corrected; ``aligned``: too small to correct; ``unsure``: leave in place."
    reason: str
    "Why unsure; empty otherwise."
    windows: tuple[WindowShift, ...]

    @property
    def dx_px(self) -> float:
        """To the right, at the image's centre where it is not the same everywhere."""
        return self.displacement.dx_px

    @property
    def dy_px(self) -> float:
        """Down."""
        return self.displacement.dy_px

    @property
    def to_content(self) -> Affine:
        """What takes a place (column, row) to where its content is to be fetched from; changes nothing unless moved."""
        return self.displacement.to_content if self.status == "moved" else Affine.identity()


def measure_shift(
    optical_CHW: np.ndarray, sar_CHW: np.ndarray, *, usable_HW: np.ndarray, settings: CoregisterSettings
) -> Shift:
    """Measure the shift of a SAR image against an optical image on the same grid.

    Args:
        optical_CHW: reflectance in any unit and dtype; all bands are used.
        sar_CHW: backscatter [dB], float, NaN where there is none; all bands are used.
        usable_HW: bool, True where the optical image shows the ground: measured, no cloud, no shadow.
        settings: size of the windows, and when a shift is believed.
    """
    shares = UsableShares((usable_HW.shape[0], usable_HW.shape[1]), window_px=settings.window_px)
    shares.add(usable_HW & np.isfinite(sar_CHW).all(axis=0), row=0, col=0)
    return measure_in_windows(ArrayPair(optical_CHW, sar_CHW, usable_HW), shares.places(), settings=settings)


def measure_in_windows(pair: ImagePair, places: Sequence[Place], *, settings: CoregisterSettings) -> Shift:
    """Measure the shift of a SAR image against an optical image, both read in these windows only.

    Args:
        pair: the images.
        places: by :class:`cgm2net.data.pair.UsableShares`, of pixels usable in both images.
        settings: as for :func:`measure_shift`.
    """
    size = settings.window_px
    if len(places) < MIN_AGREEING:
        return _unmeasured(len(places), size)
    radius = int(np.ceil(settings.max_shift_px)) + _SEARCH_MARGIN_PX
    surfaces_NYX = np.stack([p.usable_share * _surface(pair, p, size=size, radius=radius) for p in places])
    move, windows = _consensus(pair.shape, places, surfaces_NYX, settings=settings)
    moves_N2 = move.at(np.array([(w.col, w.row) for w in windows]))
    away_N2 = np.array([(w.dx_px, w.dy_px) for w in windows]) - moves_N2
    agrees_N = np.array([window.agrees for window in windows])
    num_agreeing = int(agrees_N.sum())
    rmse = float(np.sqrt((away_N2[agrees_N] ** 2).sum(axis=1).mean())) if num_agreeing else float("nan")
    error = _error_of_bend(away_N2[agrees_N]) if move.is_affine else _error_of_peak(surfaces_NYX, move)
    needed = _needed(len(windows), settings.min_agreement)
    largest = float(np.hypot(*moves_N2.T).max())
    reason = ""
    if num_agreeing < needed:
        reason = f"{num_agreeing} of {len(windows)} windows agree, {needed} are needed"
    elif np.abs(moves_N2).max() > settings.max_shift_px:
        reason = (
            f"measured ({move.dx_px:.1f}, {move.dy_px:.1f}) px, beyond the {settings.max_shift_px:g} px that are"
            " believed"
        )
    elif rmse > settings.max_rmse_px:
        reason = f"agreeing windows scatter by {rmse:.2f} px, at most {settings.max_rmse_px:g} px are allowed"
    elif error > settings.max_error_px:
        reason = f"known to {error:.2f} px only, {settings.max_error_px:g} px are wanted"
    elif largest >= max(_MI_FROM_PX, settings.min_shift_px):
        reason = objection(pair, places, moves_N2, size=size)
    status: Status = "unsure" if reason else "aligned" if largest < settings.min_shift_px else "moved"
    return Shift(
        displacement=move, rmse_px=rmse, error_px=error, agreement=num_agreeing / len(windows),
        num_windows=len(windows), status=status, reason=reason, windows=windows,
    )  # fmt: skip


def _needed(num_windows: int, min_agreement: float) -> int:
    return max(MIN_AGREEING, int(np.ceil(min_agreement * num_windows)))


def _consensus(
    shape: tuple[int, int], places: Sequence[Place], surfaces_NYX: np.ndarray, *, settings: CoregisterSettings
) -> tuple[Displacement, tuple[WindowShift, ...]]:
    """Return what most windows say, and each window's vote; the surfaces are weighted by the windows' usable share."""
    size = settings.window_px
    dx, dy, _ = _peak(surfaces_NYX.sum(axis=0))
    peaks_N3 = np.array([_peak(surface) for surface in surfaces_NYX])
    peaks_N3[:, 2] /= [place.usable_share for place in places]
    centres_N2 = np.array([(place.left + size // 2, place.top + size // 2) for place in places])
    move = Displacement(dx_px=dx, dy_px=dy)
    num_agreeing = int((_away(move, centres_N2, peaks_N3) <= VOTE_RADIUS_PX).sum())
    bent = fit_affine(
        centres_N2, peaks_N3[:, :2], shape=shape, radius_px=VOTE_RADIUS_PX,
        min_agreeing=max(num_agreeing, _needed(len(places), settings.min_agreement)),
    )  # fmt: skip
    move = bent or move
    agrees_N = _away(move, centres_N2, peaks_N3) <= VOTE_RADIUS_PX
    windows = tuple(
        WindowShift(
            row=place.top + size // 2, col=place.left + size // 2, dx_px=float(x), dy_px=float(y),
            correlation=float(height), usable_share=place.usable_share, agrees=bool(agrees),
        )
        for place, (x, y, height), agrees in zip(places, peaks_N3, agrees_N, strict=True)
    )  # fmt: skip
    return move, windows


def _error_of_peak(surfaces_NYX: np.ndarray, move: Displacement) -> float:
    """Return how far the consensus of other windows of this ground would lie [px]: 9 of 10 times not farther.

    Windows are drawn anew with replacement (bootstrap, Efron 1979, doi:10.1214/aos/1176344552), a third of them: they
    overlap by half, so that about three hold the ground of one.
    """
    flat_NP = surfaces_NYX.reshape(len(surfaces_NYX), -1)
    sums_KYX = (_draws(len(flat_NP)) @ flat_NP).reshape(_NUM_DRAWS, *surfaces_NYX.shape[1:])
    peaks_K3 = np.array([_peak(surface) for surface in sums_KYX])
    return float(np.quantile(np.hypot(peaks_K3[:, 0] - move.dx_px, peaks_K3[:, 1] - move.dy_px), _CONFIDENCE))


def _error_of_bend(away_N2: np.ndarray) -> float:
    """The same of an affine consensus, from what agreeing windows are away from it [px]."""
    means_K2 = _draws(len(away_N2)) @ away_N2 / -(-len(away_N2) // _OVERLAP)
    return float(np.quantile(np.hypot(*means_K2.T), _CONFIDENCE))


def _draws(num: int) -> np.ndarray:
    """Return how often each of ``num`` windows is drawn, float (draws, num)."""
    chances = np.full(num, 1 / num)
    return np.random.default_rng(0).multinomial(-(-num // _OVERLAP), chances, size=_NUM_DRAWS).astype(np.float64)


def _away(move: Displacement, centres_N2: np.ndarray, peaks_N3: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(*(peaks_N3[:, :2] - move.at(centres_N2)).T))


def _unmeasured(num_windows: int, size: int) -> Shift:
    nan = float("nan")
    reason = f"{num_windows} windows of {size} px show enough clear ground, {MIN_AGREEING} are needed"
    return Shift(displacement=Displacement(dx_px=nan, dy_px=nan), rmse_px=nan, error_px=nan, agreement=0.0,
                 num_windows=num_windows, status="unsure", reason=reason, windows=())  # fmt: skip


def _surface(pair: ImagePair, place: Place, *, size: int, radius: int) -> np.ndarray:
    """Return a window's correlation at every whole shift, float (2·radius + 1, 2·radius + 1), rows dy, columns dx."""
    cut = Cut(pair.shape, place.top, place.left, size=size, margin=_EDGE_PX)
    wide = Cut(pair.shape, place.top, place.left, size=size, margin=_EDGE_PX + radius)
    echo_CHW = wide.of(pair.sar, np.nan)
    template, weight = _edges(cut.of(pair.optical, 0), cut.of(pair.usable, False), _OPTICAL_SIGMA_PX)
    # A soft rim: a strong edge that enters or leaves at the border should not decide.
    rim = np.sqrt(np.minimum(1.0, 2 * np.hanning(size + 2)[1:-1]))
    search, search_weight = _edges(echo_CHW, np.isfinite(echo_CHW).all(axis=0), _SAR_SIGMA_PX)
    return _correlate(template, weight * np.outer(rim, rim), search, search_weight)


def _edges(image_CHW: np.ndarray, usable_HW: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log gradient magnitude, all bands together, and its weight; both without the margin of the cut.

    Bands count alike whatever their unit; the logarithm keeps bright single scatterers (roofs, ships) from deciding.
    """
    inner = (slice(_EDGE_PX, -_EDGE_PX),) * 2
    weight = usable_HW[inner]
    if not usable_HW.all():
        weight = ndimage.binary_erosion(usable_HW, iterations=_EDGE_PX)[inner]
    if not weight.any():
        return np.zeros(weight.shape), np.zeros(weight.shape)
    level_C11 = image_CHW[:, usable_HW].mean(axis=1, dtype=np.float64)[:, None, None]
    filled = np.where(usable_HW, image_CHW, level_C11).astype(np.float32)
    smooth = ndimage.gaussian_filter(filled, sigma, axes=(1, 2))
    right, down = (np.roll(smooth, -1, axis) - np.roll(smooth, 1, axis) for axis in (2, 1))
    rise = np.hypot(right, down)[:, *inner]
    edges = (rise / np.maximum(rise[:, weight].mean(axis=1), 1e-12)[:, None, None]).sum(axis=0, dtype=np.float64)
    edges = np.log(edges + 0.1 * float(edges[weight].mean()) + 1e-12)
    edges -= edges[weight].mean()
    return np.where(weight, edges, 0.0), weight.astype(np.float64)


def _correlate(a: np.ndarray, a_weight: np.ndarray, b: np.ndarray, b_weight: np.ndarray) -> np.ndarray:
    """Return the weighted correlation coefficient of ``a`` with every piece of ``b`` of its size.

    Shifts at which less than half of the best overlap remains get 0: too few pixels to speak for or against them.
    """
    reach = b.shape[0] - a.shape[0] + 1
    shape = (fft.next_fast_len(b.shape[0], real=True),) * 2
    wa, fa, fa2 = fft.rfft2(np.stack([a_weight, a_weight * a, a_weight * a**2]), shape)
    wb, fb, fb2 = fft.rfft2(np.stack([b_weight, b_weight * b, b_weight * b**2]), shape)
    pairs = np.stack([wb * wa.conj(), wb * fa.conj(), wb * fa2.conj(), fb * wa.conj(), fb2 * wa.conj(), fb * fa.conj()])
    n, sum_a, sum_a2, sum_b, sum_b2, sum_ab = fft.irfft2(pairs, shape)[:, :reach, :reach]
    enough = n > 0.5 * max(float(n.max()), 1e-6)
    n = np.where(enough, n, 1.0)
    spread = (sum_a2 / n - (sum_a / n) ** 2) * (sum_b2 / n - (sum_b / n) ** 2)
    floor = 1e-6 * max(float(spread[enough].max(initial=0.0)), 1e-12)
    return np.where(enough, (sum_ab / n - sum_a * sum_b / n**2) / np.sqrt(np.maximum(spread, floor)), 0.0)


def _peak(surface: np.ndarray) -> tuple[float, float, float]:
    """Return dx, dy [px] and height of the highest point, to a fraction of a pixel by a quadratic fitted to 3 x 3."""
    radius = surface.shape[0] // 2
    row, col = (int(i) for i in np.unravel_index(np.argmax(surface), surface.shape))
    dx, dy, height = float(col - radius), float(row - radius), float(surface[row, col])
    if not (0 < row < 2 * radius and 0 < col < 2 * radius):
        return dx, dy, height
    near = surface[row - 1 : row + 2, col - 1 : col + 2]
    gx, gy = (near[:, 2] - near[:, 0]).sum() / 6, (near[2] - near[0]).sum() / 6
    xx, yy = (near[:, 2] + near[:, 0] - 2 * near[:, 1]).sum() / 3, (near[2] + near[0] - 2 * near[1]).sum() / 3
    xy = (near[2, 2] + near[0, 0] - near[0, 2] - near[2, 0]) / 4
    determinant = xx * yy - xy**2
    if determinant <= 0:
        return dx, dy, height
    sub_x, sub_y = (xy * gy - yy * gx) / determinant, (xy * gx - xx * gy) / determinant
    return dx + float(np.clip(sub_x, -1, 1)), dy + float(np.clip(sub_y, -1, 1)), height
