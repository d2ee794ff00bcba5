"""What the displacements of windows come to: one translation, or an affine displacement where they agree on it.

Places are columns and rows [px]; a displacement says where the content of a place lies relative to it, right and down.
Axes: N windows, K trial models.
"""

from dataclasses import dataclass

import numpy as np
from affine import Affine

MIN_AFFINE_WINDOWS = 12
"""Fewer agreeing windows can be bent to anything."""

MIN_AFFINE_PX = 1.0
"""Least difference that an affine displacement must make across the windows to be worth more than a translation."""

_MAX_GRADIENT = 0.02  # 2 %: more is another image, not a distorted one
_MAX_LEFT_OUT_SHARE = 0.6
_MIN_SPAN = 0.5
_NUM_TRIALS = 300


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """Where the content of every place of an image lies relative to it."""

    dx_px: float
    "At the centre, to the right."
    dy_px: float
    "At the centre, down."
    centre: tuple[float, float] = (0.0, 0.0)
    "Column and row."
    gradient: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    "Growth of dx along columns and along rows, of dy along columns and along rows [px per px]; 0 for a translation."

    @property
    def is_affine(self) -> bool:
        """Whether it is more than a translation."""
        return any(self.gradient)

    def at(self, places_N2: np.ndarray) -> np.ndarray:
        """Return the displacement at these columns and rows, float (N, 2): dx, dy."""
        along, down = np.reshape(self.gradient, (2, 2))
        away = np.asarray(places_N2, float) - self.centre
        return np.stack([self.dx_px + away @ along, self.dy_px + away @ down], axis=-1)

    @property
    def to_content(self) -> Affine:
        """What takes a place (column, row) to where its content lies."""
        a, b, d, e = self.gradient
        col, row = self.centre
        return Affine(1 + a, b, self.dx_px - a * col - b * row, d, 1 + e, self.dy_px - d * col - e * row)


def fit_affine(
    places_N2: np.ndarray, moves_N2: np.ndarray, *, shape: tuple[int, int], radius_px: float, min_agreeing: int
) -> Displacement | None:
    """Fit an affine displacement to windows of which some are wrong (RANSAC, Fischler and Bolles 1981,
    doi:10.1145/358669.358692); None where a translation says as much.

    It is believed when at least :data:`MIN_AFFINE_WINDOWS` windows agree on it from over half of the image either way,
    when it bends by :data:`MIN_AFFINE_PX` or more, and when windows that are left out of the fit are met much better
    than by the mean of the others.

    Args:
        places_N2: columns and rows of the windows' centres.
        moves_N2: what they say, dx and dy.
        shape: height and width of the image.
        radius_px: a window agrees when it is no farther from the fit.
        min_agreeing: fewer are not enough.
    """
    if len(places_N2) < MIN_AFFINE_WINDOWS:
        return None
    centre = (shape[1] / 2, shape[0] / 2)
    design_N3 = np.column_stack([np.ones(len(places_N2)), places_N2 - np.array(centre)])
    agrees = _most_agreed(design_N3, moves_N2, radius_px)
    for _ in range(2):
        if agrees.sum() < max(MIN_AFFINE_WINDOWS, min_agreeing):
            return None
        fit_32 = np.linalg.lstsq(design_N3[agrees], moves_N2[agrees], rcond=None)[0]
        agrees = np.hypot(*(moves_N2 - design_N3 @ fit_32).T) <= radius_px
    span = np.ptp(places_N2[agrees], axis=0) if agrees.any() else np.zeros(2)
    if agrees.sum() < max(MIN_AFFINE_WINDOWS, min_agreeing) or (span < _MIN_SPAN * np.array(shape[::-1])).any():
        return None
    bend = np.ptp(design_N3[agrees] @ fit_32, axis=0).max()
    if bend < MIN_AFFINE_PX or np.abs(fit_32[1:]).max() > _MAX_GRADIENT:
        return None
    if _left_out(design_N3[agrees], moves_N2[agrees]) > _MAX_LEFT_OUT_SHARE * _left_out(
        design_N3[agrees, :1], moves_N2[agrees]
    ):
        return None
    (dx, dy), (dx_col, dy_col), (dx_row, dy_row) = fit_32.tolist()
    return Displacement(dx_px=dx, dy_px=dy, centre=centre, gradient=(dx_col, dx_row, dy_col, dy_row))


def _most_agreed(design_N3: np.ndarray, moves_N2: np.ndarray, radius_px: float) -> np.ndarray:
    """Return bool (N): the windows that agree with the trial, fitted to three of them, which most agree with."""
    draw = np.random.default_rng(0)
    triples = np.stack([draw.choice(len(design_N3), 3, replace=False) for _ in range(_NUM_TRIALS)])
    corners_K33 = design_N3[triples]
    height, width = np.ptp(design_N3[:, 2]), np.ptp(design_N3[:, 1])
    triples = triples[np.abs(np.linalg.det(corners_K33)) > 0.05 * height * width]  # not in a line
    if not len(triples):
        return np.zeros(len(design_N3), bool)
    fits_K32 = np.linalg.solve(design_N3[triples], moves_N2[triples])
    away_KN = np.linalg.norm(moves_N2 - design_N3 @ fits_K32, axis=-1)
    agrees_KN = (away_KN <= radius_px) & (np.abs(fits_K32[:, 1:]).max(axis=(1, 2)) <= 2 * _MAX_GRADIENT)[:, None]
    return np.asarray(agrees_KN[agrees_KN.sum(axis=1).argmax()])


def _left_out(design_NP: np.ndarray, moves_N2: np.ndarray) -> float:
    """Return the root mean square error of each window by a fit to all others [px]."""
    inverse = np.linalg.pinv(design_NP)
    leverage_N = np.einsum("np,pn->n", design_NP, inverse)
    left_N2 = (moves_N2 - design_NP @ (inverse @ moves_N2)) / np.maximum(1 - leverage_N, 1e-6)[:, None]
    return float(np.sqrt((left_N2**2).sum(axis=1).mean()))
