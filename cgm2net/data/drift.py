"""How far a batch of scenes has moved away from the scenes that a model was trained on, feature by feature.

A feature of a batch is the mixture of what its scenes hold. The population stability index compares the shares in the
bins that the reference's quantiles cut,

.. math:: PSI = \\sum_b (q_b - p_b) \\ln (q_b / p_b),

with p of the reference and q of the incoming batch; above 0.25 a shift counts as large by convention (Siddiqi 2006,
Credit Risk Scorecards, doi:10.1002/9781119201731). Few scenes differ by chance, and by more than that: so it is also
counted how often scenes dealt out anew would lie as far apart (largest distance between the distribution functions,
Kolmogorov-Smirnov; half the sum of differences for classes).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cgm2net.data.batch_features import CLASS_MIX, Batch, Feature, Kind, read_batch
from cgm2net.errors import DataError
from cgm2net.files import write_json

MAX_PSI, MAX_CHANCE, MIN_SCENES = 0.25, 0.01, 6
"""Limits of :func:`measure_drift` where none are given."""

NUM_BINS = 10
SCENES_A_BIN = 5
"""Numbers that a scene has one of are put into fewer bins, so that each holds so many scenes of the reference."""

NUM_DEALS = 999
"""How often scenes are dealt out anew; decides how small a chance can be seen."""

_FLOOR = 1e-3  # an empty bin's share: its logarithm must stay finite
_NUM_LOOKS = 200  # values at which distribution functions are compared

Rows = np.ndarray
"""float (N, B): of each scene the share in every bin, or its distribution function at every look."""


@dataclass(frozen=True, kw_only=True)
class FeatureDrift:
    """One feature, compared."""

    feature: str
    "Its name, such as `optical B02`."
    kind: Kind
    "What it is a feature of."
    unit: str
    "Of the next two."
    reference: float | None
    "Median of the reference; of the class mix the share of the class that moved most."
    incoming: float | None
    "The same of the incoming batch."
    psi: float | None
    "Population stability index; None where it was not judged."
    distance: float | None
    "Between the distribution functions, 0-1; of the class mix half the sum of the differences in share."
    chance: float | None
    "Share of deals at random that lie as far apart."
    drifted: bool
    "Whether psi is above its limit and chance below its own."
    note: str
    "Which class moved most, or why the feature was not judged."


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """A batch compared with a reference."""

    num_reference: int
    num_incoming: int
    "Accepted scenes."
    num_refused: int
    "Of the incoming batch, by validation or later; not looked at."
    max_psi: float
    max_chance: float
    min_scenes: int
    features: tuple[FeatureDrift, ...]
    "Of both batches together."

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features that drifted, the farthest first."""
        found = sorted((f for f in self.features if f.drifted), key=lambda f: (-(f.psi or 0.0), f.feature))
        return tuple(feature.feature for feature in found)

    @property
    def num_judged(self) -> int:
        """Features of which enough scenes were there."""
        return sum(feature.psi is not None for feature in self.features)

    def __str__(self) -> str:
        names = f": {', '.join(self.drifted)}" if self.drifted else ""
        return (
            f"{len(self.drifted)} of {self.num_judged} features drifted{names}; {len(self.features) - self.num_judged}"
            f" not judged; {self.num_incoming} incoming scenes against {self.num_reference}"
        )


def read_both(incoming: Path, reference: Path, *, confidence: Path | None) -> tuple[Batch, Batch]:
    """Read the incoming batch and the reference; arguments and errors as of :func:`measure_drift`."""
    sure = [confidence / f"{side}.json" if confidence else None for side in ("incoming", "reference")]
    if absent := [path for path in sure if path and not path.is_file()]:
        raise DataError(f"{absent[0]}: not there; confidence.json beside it says why, or run `confidence` first")
    return read_batch(incoming, confidence=sure[0]), read_batch(reference, confidence=sure[1])


def measure_drift(
    incoming: Path,
    reference: Path,
    *,
    confidence: Path | None = None,
    max_psi: float = MAX_PSI,
    max_chance: float = MAX_CHANCE,
    min_scenes: int = MIN_SCENES,
) -> DriftReport:
    """Compare a batch with a reference.

    Args:
        incoming: outputs of the data stages, see :func:`cgm2net.data.batch_features.read_batch`.
        reference: the same of the training set.
        confidence: folder of :func:`cgm2net.predict.confidence.measure_confidence` on these two; without it, how sure
            the model is is not compared.
        max_psi: a larger index is drift,
        max_chance: unless more deals at random than this share lie as far apart.
        min_scenes: that must have a feature on either side for it to be judged.

    Raises:
        CatalogError: if a folder holds no scene table.
        DataError: if a batch has no accepted scene, or both share no feature.
    """
    new, old = read_both(incoming, reference, confidence=confidence)
    compared = [
        _compare(name, old.features.get(name), new.features.get(name), min_scenes=min_scenes)
        for name in dict.fromkeys((*old.features, *new.features))
    ]
    if old.class_shares or new.class_shares:
        compared.append(_compare_classes(old, new, min_scenes=min_scenes))
    if not compared:
        raise DataError(f"{incoming} and {reference}: nothing to compare; run the stage validate on both")
    judged = tuple(_judge(found, max_psi=max_psi, max_chance=max_chance) for found in compared)
    return DriftReport(
        num_reference=old.num_scenes, num_incoming=new.num_scenes, num_refused=new.num_refused,
        max_psi=max_psi, max_chance=max_chance, min_scenes=min_scenes, features=judged,
    )  # fmt: skip


def write_drift(report: DriftReport, out_dir: Path) -> None:
    """Write ``drift.json`` and ``drift.csv``, one row a feature, into a folder."""
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(feature), "drifted": "yes" if feature.drifted else "no"} for feature in report.features]
    for row in rows:
        if row["psi"] is None:
            row["drifted"] = ""
    pd.DataFrame(rows).to_csv(out_dir / "drift.csv", index=False, lineterminator="\n", float_format="%.6g")
    write_json(out_dir / "drift.json", {**asdict(report), "drifted": list(report.drifted)})


def stability_index(reference_B: np.ndarray, incoming_B: np.ndarray) -> float:
    """Return the population stability index of two sets of shares; empty bins count a thousandth."""
    p, q = np.maximum(reference_B, _FLOOR), np.maximum(incoming_B, _FLOOR)
    return float(((q - p) * np.log(q / p)).sum())


def _compare(name: str, old: Feature | None, new: Feature | None, *, min_scenes: int) -> FeatureDrift:
    known = old or new
    assert known is not None
    sizes = [0 if feature is None else len(feature.values_NK) for feature in (old, new)]
    medians = [None if feature is None else float(np.median(feature.values_NK)) for feature in (old, new)]
    found = FeatureDrift(
        feature=name, kind=known.kind, unit=known.unit, reference=medians[0], incoming=medians[1],
        psi=None, distance=None, chance=None, drifted=False, note=_too_few(*sizes, min_scenes=min_scenes),
    )  # fmt: skip
    if old is None or new is None or found.note:
        return found
    edges = _edges(old.values_NK)
    shares = [_shares(feature.values_NK, edges) for feature in (old, new)]
    looks = np.quantile(np.concatenate([old.values_NK.ravel(), new.values_NK.ravel()]), np.linspace(0, 1, _NUM_LOOKS))
    below = [(feature.values_NK[:, :, None] <= looks).mean(axis=1) for feature in (old, new)]
    return _measured(found, shares, below, _largest)


def _compare_classes(old: Batch, new: Batch, *, min_scenes: int) -> FeatureDrift:
    sizes = len(old.class_shares), len(new.class_shares)
    note = _too_few(*sizes, min_scenes=min_scenes)
    found = FeatureDrift(
        feature=CLASS_MIX, kind="classes", unit="share", reference=None, incoming=None, psi=None, distance=None,
        chance=None, drifted=False, note=note,
    )  # fmt: skip
    if note:
        return found
    codes = sorted({code for batch in (old, new) for scene in batch.class_shares for code in scene})
    rows = [np.array([[scene.get(code, 0.0) for code in codes] for scene in b.class_shares]) for b in (old, new)]
    before, after = (part.mean(axis=0) for part in rows)
    most = int(np.argmax(np.abs(after - before)))
    note = f"class {codes[most]} moved most" if after[most] != before[most] else ""
    found = replace(found, reference=float(before[most]), incoming=float(after[most]), note=note)
    return _measured(found, rows, rows, _half_sum)


def _too_few(num_old: int, num_new: int, *, min_scenes: int) -> str:
    counts = {"reference": num_old, "incoming": num_new}
    few = [f"{count} {side} scenes have it" for side, count in counts.items() if count < min_scenes]
    return f"not judged: {' and '.join(few)}, wanted {min_scenes}" if few else ""


def _measured(
    found: FeatureDrift, shares: Sequence[Rows], compared: Sequence[Rows], distance: Callable[[np.ndarray], np.ndarray]
) -> FeatureDrift:
    """Fill in the numbers.

    Args:
        found: what is known already.
        shares: of reference and incoming, for the index.
        compared: of both, for the distance.
        distance: of differences (M, B), M numbers.
    """
    psi = stability_index(shares[0].mean(axis=0), shares[1].mean(axis=0))
    apart = float(distance((compared[1].mean(axis=0) - compared[0].mean(axis=0))[None])[0])
    chance = _chance(compared[0], compared[1], apart, distance)
    return replace(found, psi=round(psi, 6), distance=round(apart, 6), chance=round(chance, 6))


def _chance(old: Rows, new: Rows, apart: float, distance: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return how often two sets of these sizes, dealt from both together, lie as far apart; the real deal counts."""
    rows = np.concatenate([old, new])
    generator = np.random.default_rng(0)
    deals = np.argsort(generator.random((NUM_DEALS, len(rows))), axis=1) < len(new)
    weights = np.where(deals, 1 / len(new), -1 / len(old))
    # A shade less than what was found: sums in another order differ in their last bits.
    return float((1 + (distance(weights @ rows) >= apart - 1e-9).sum()) / (1 + NUM_DEALS))


def _largest(differences_MB: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(differences_MB).max(axis=1))


def _half_sum(differences_MB: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(differences_MB).sum(axis=1) / 2)


def _edges(values_NK: np.ndarray) -> np.ndarray:
    """Return the inner edges of the bins: quantiles of the reference, each once."""
    num_scenes, num_values = values_NK.shape
    num_bins = NUM_BINS if num_values > 1 else int(np.clip(num_scenes // SCENES_A_BIN, 2, NUM_BINS))
    return np.unique(np.quantile(values_NK, np.linspace(0, 1, num_bins + 1)[1:-1]))


def _shares(values_NK: np.ndarray, edges: np.ndarray) -> Rows:
    bins_NK = np.searchsorted(edges, values_NK, side="left")
    counts_NB = np.stack([np.bincount(row, minlength=len(edges) + 1) for row in bins_NK])
    return np.asarray(counts_NB / values_NK.shape[1])


def _judge(found: FeatureDrift, *, max_psi: float, max_chance: float) -> FeatureDrift:
    if found.psi is None or found.chance is None:
        return found
    return replace(found, drifted=found.psi > max_psi and found.chance <= max_chance)
