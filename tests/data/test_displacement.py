"""Displacements that are known because the test made them: translations, affine ones, and windows that lie."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from cgm2net.data.displacement import Displacement, fit_affine

SHAPE = (400, 600)


def windows(step: int = 64) -> np.ndarray:
    """Columns and rows of windows' centres over all of the image."""
    cols, rows = np.meshgrid(np.arange(32, SHAPE[1], step), np.arange(32, SHAPE[0], step))
    return np.stack([cols.ravel(), rows.ravel()], axis=-1).astype(float)


def fitted(moves_N2: np.ndarray, places_N2: np.ndarray | None = None) -> Displacement | None:
    places = windows() if places_N2 is None else places_N2
    return fit_affine(places, moves_N2, shape=SHAPE, radius_px=1.5, min_agreeing=6)


def test_displacement_at_a_place_worked_by_hand() -> None:
    bent = Displacement(dx_px=2.0, dy_px=-1.0, centre=(300.0, 200.0), gradient=(0.01, 0.0, 0.0, -0.02))
    # 100 px right of the centre dx grows by 1, 50 px below it dy falls by 1
    assert bent.at(np.array([[300, 200], [400, 250]])).tolist() == [[2.0, -1.0], [3.0, -2.0]]
    assert bent.to_content * (400, 250) == pytest.approx((403.0, 248.0))
    assert not Displacement(dx_px=2.0, dy_px=-1.0).is_affine
    assert Displacement(dx_px=2.0, dy_px=-1.0).to_content == Affine.translation(2.0, -1.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    dx=st.floats(-5, 5), dy=st.floats(-5, 5), gradient=st.lists(st.floats(-0.008, 0.008), min_size=4, max_size=4),
    seed=st.integers(0, 100),
)  # fmt: skip
def test_an_affine_displacement_is_found_beside_windows_that_lie(
    dx: float, dy: float, gradient: list[float], seed: int
) -> None:
    truth = Displacement(dx_px=dx, dy_px=dy, centre=(300.0, 200.0), gradient=tuple(gradient))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    places = windows()
    moves = truth.at(places) + rng.normal(0, 0.15, places.shape)
    liars = rng.permutation(len(places))[: len(places) // 4]
    moves[liars] = rng.uniform(-12, 12, (len(liars), 2))
    found = fitted(moves)
    if np.ptp(truth.at(places), axis=0).max() > 1.5:  # clearly bent
        assert found is not None
        assert np.abs(found.at(places) - truth.at(places)).max() < 0.5


def test_a_translation_is_not_bent_by_noise() -> None:
    for seed in range(50):
        moves = np.array([3.0, -2.0]) + np.random.default_rng(seed).normal(0, 0.6, (len(windows()), 2))
        assert fitted(moves) is None


def test_chance_is_no_agreement_and_few_windows_are_none() -> None:
    for seed in range(20):
        assert fitted(np.random.default_rng(seed).uniform(-12, 12, (len(windows()), 2))) is None
    bent = Displacement(dx_px=0.0, dy_px=0.0, centre=(300.0, 200.0), gradient=(0.01, 0.0, 0.0, 0.0))
    corner = windows()[(windows() < 250).all(axis=1)]  # agree, but say nothing of the rest of the image
    assert fitted(bent.at(corner), corner) is None
    assert fitted(bent.at(windows()[:11]), windows()[:11]) is None


def test_windows_in_a_line_say_nothing_across_it() -> None:
    line = np.column_stack([np.linspace(0, 600, 20), np.full(20, 200.0)])
    assert fitted(np.column_stack([0.01 * line[:, 0], np.zeros(20)]), line) is None
