"""Stage ``register``: a model version, compared with the champion by the rule of ``params.yaml``, and the verdict."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cgm2net import registry
from cgm2net.catalog import read_scenes
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import DataError, MetricError, ModelError
from cgm2net.evaluation.metrics import flatten
from cgm2net.evaluation.page import write_page
from cgm2net.evaluation.page_parts import read_parts
from cgm2net.evaluation.score import score
from cgm2net.files import read_json, sha256_file, sha256_json, write_json
from cgm2net.lineage import lineage_tags
from cgm2net.registry import Version
from cgm2net.settings import EvaluateSettings, RegisterSettings
from cgm2net.tracking import Run, attach
from cgm2net.weights import load

_LOWER_IS_BETTER = ("mae", "rmse", "sam", "ece")
_DECISION = "decision"
_SAME = "these weights are the champion's already"
_ROUNDING = 1e-9  # 0.62 - 0.60 is a little more than 0.02 in binary


class Rescore(Protocol):
    """Judge a model on tiles."""

    def __call__(self, model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Mapping[str, float]:
        """Return flat metrics."""
        ...


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of the rule."""

    metric: str
    champion: float | None
    "None while there is no champion."
    challenger: float
    gain: float | None
    "Positive is better, whichever way the metric runs."
    limit: float
    "The gain must not be less."
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict, as ``decision.json`` holds it; a function of the inputs and of where the champion stood."""

    promoted: bool
    reason: str
    model_name: str
    challenger: int
    "Version."
    champion_before: int | None
    "Version that it was compared with."
    run_id: str
    data_hash: str
    "Of the tiles that both were judged on."
    champion_data_hash: str | None
    "Of the tiles that the champion was first judged on; where it differs, it was judged again."
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class RegisterReport:
    """What was registered."""

    version: int
    promoted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Test:
    """What two models are compared on: tiles, how they are scored, and the metrics that the rule needs."""

    tiles_dir: Path
    data_hash: str
    settings: EvaluateSettings
    wanted: tuple[str, ...]
    rescore: Rescore

    @property
    def tag(self) -> str:
        """Name of the version tag that holds a model's metrics on just this test, scored by just this code."""
        folder = Path(__file__).parent / "evaluation"  # how the page shows metrics does not change them
        code = [sha256_file(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("page")]
        return f"metrics.{sha256_json([self.data_hash, self.settings.model_dump(), code])[:16]}"

    def metrics_of(self, version: Version) -> Mapping[str, float]:
        """Return a version's metrics on this test, as kept with it, or else scored now and then kept with it."""
        kept: dict[str, float] = json.loads(version.tags.get(self.tag, "{}"))
        if not set(self.wanted) <= set(kept):
            with tempfile.TemporaryDirectory() as folder:
                model_dir = Path(folder) / "champion"
                registry.download_version(version, model_dir)
                try:
                    kept = dict(self.rescore(model_dir, self.tiles_dir, settings=self.settings))
                except ModelError as error:  # which temporary folder it lay in helps no one
                    where = f"version {version.number} of {version.name}"
                    raise ModelError(str(error).replace(str(model_dir), where)) from error
            require_metrics(kept, self.wanted, where=f"version {version.number} of {version.name}, judged again")
            registry.tag_version(version, tags={self.tag: json.dumps(kept, sort_keys=True)})
        return kept


def score_model(model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> dict[str, float]:
    """Score a model on the test split.

    Raises:
        ModelError: if it was trained on other bands or classes.
    """
    network, card = load(model_dir)
    test = TileDataset(tiles_dir, split="test")
    for name in ("optical_bands", "sar_bands", "classes"):
        if getattr(card, name) != getattr(test, name):
            raise ModelError(
                f"the champion was trained on {name} {getattr(card, name)}, {tiles_dir} has {getattr(test, name)}: they"
                " cannot be compared; give models of other inputs another name, register.model_name in params.yaml"
            )
    return score(network, test, settings=settings, calibration=card.calibration).metrics()


def register(
    validate_dir: Path,
    tiles_dir: Path,
    model_dir: Path,
    evaluate_dir: Path,
    out_dir: Path,
    *,
    settings: RegisterSettings,
    evaluate_settings: EvaluateSettings,
    rescore: Rescore = score_model,
) -> RegisterReport:
    """Register a model version as challenger, and make it the champion if the rule says so.

    Killed at any point and run again, it makes no second version and gives the same decision. The run in MLflow gets
    the decision, the report and what validation said of the scenes, and a description that leads to them.

    Args:
        validate_dir: folder of the stage ``validate``, for the run's readers; the decision does not depend on it.
        tiles_dir: folder of the stage ``tile``; the challenger was judged on its test split.
        model_dir: folder of the stage ``train``, with ``run.json``.
        evaluate_dir: folder of the stage ``evaluate``.
        out_dir: new folder; gets ``decision.md``, ``report.html`` and, last, ``decision.json``.
        settings: name of the model, and the rule.
        evaluate_settings: how the challenger was judged, for judging the champion in the same way.
        rescore: judges a champion that was judged on other tiles, by other settings or by other code of the metrics.

    Raises:
        CatalogError: if the table of scenes is absent.
        DataError: if ``metrics.json`` lacks a metric of the rule.
        MetricError: if a metric of the rule is not finite.
        ModelError: if the champion cannot be judged on these tiles.
        BackendError: if the MLflow server cannot be reached.
    """
    metrics = flatten(read_json(evaluate_dir / "metrics.json"))
    wanted = tuple(sorted({*settings.min_gain, *settings.max_loss}))
    require_metrics(metrics, wanted, where=str(evaluate_dir / "metrics.json"))
    parts = read_parts(evaluate_dir)  # before anything is registered
    accepted = read_scenes(validate_dir / "scenes.csv")["accepted"]
    data_hash = TileDataset(tiles_dir, split="test").data_hash
    test = _Test(
        tiles_dir=tiles_dir, data_hash=data_hash, settings=evaluate_settings, wanted=wanted, rescore=rescore
    )  # fmt: skip
    with attach(model_dir / "run.json") as run:
        tags = lineage_tags(Path.cwd(), data_hash=data_hash)
        version = registry.register_version(model_dir, name=settings.model_name, run_id=run.run_id, tags=tags)
        version = registry.tag_version(version, tags={test.tag: json.dumps(metrics, sort_keys=True)})
        registry.set_alias(version, alias="challenger", why="registered", who="register")
        decision = _decide(version, metrics, test, settings=settings, run_id=run.run_id)
        _carry_out(decision, version)
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / "decision.md").write_text(as_markdown(decision))
        write_page(
            evaluate_dir, out_dir / "report.html", parts=parts, verdict=asdict(decision),
            champion=_champion_metrics(decision, test),
        )  # fmt: skip
        write_json(out_dir / "decision.json", asdict(decision))
        run.set_tags({"model_version": str(version.number), "promoted": str(decision.promoted).lower()})
        _show(run, decision, out_dir, validate_dir, num_accepted=int(accepted.sum()), num_scenes=len(accepted))
    return RegisterReport(version=version.number, promoted=decision.promoted, reason=decision.reason)


def compare(
    champion: Mapping[str, float] | None, challenger: Mapping[str, float], *, settings: RegisterSettings
) -> tuple[Comparison, ...]:
    """Compare the metrics of the rule, those of ``min_gain`` first; without a champion all pass."""
    limits = [*sorted(settings.min_gain.items()), *((name, -loss) for name, loss in sorted(settings.max_loss.items()))]
    return tuple(
        _compare(name, None if champion is None else champion[name], challenger[name], limit=limit)
        for name, limit in limits
    )


def require_metrics(metrics: Mapping[str, float], wanted: Sequence[str], *, where: str) -> None:
    """Refuse metrics that the rule cannot be applied to.

    Raises:
        DataError: if one is absent.
        MetricError: if one is not finite.
    """
    if absent := [name for name in wanted if name not in metrics]:
        raise DataError(
            f"{where}: lacks {absent}, which register.min_gain or register.max_loss of params.yaml name; there are"
            f" {sorted(metrics)[:20]}; name others, or test on scenes that have clouds and labels"
        )
    if broken := [name for name in wanted if not math.isfinite(metrics[name])]:
        raise MetricError(f"{where}: {broken} are not finite; look for a diverged training")


def as_markdown(decision: Decision) -> str:
    """Return the verdict as a table to read."""
    head = f"**{'Promoted' if decision.promoted else 'Not promoted'}**: {decision.reason}\n"
    facts = (
        f"{decision.model_name} version {decision.challenger} (run {decision.run_id}) against champion version"
        f" {decision.champion_before or 'none'}, on tiles {decision.data_hash}\n"
    )
    rows = [
        f"| {row.metric} | {_number(row.champion)} | {_number(row.challenger)} | {_number(row.gain)} |"
        f" {row.limit:+g} | {'passed' if row.passed else 'failed'} |"
        for row in decision.comparisons
    ]
    table = ["| metric | champion | challenger | gain | least gain | verdict |", "|---|---|---|---|---|---|", *rows]
    return "\n".join([head, facts, *table]) + "\n"


def _compare(metric: str, champion: float | None, challenger: float, *, limit: float) -> Comparison:
    gain = None if champion is None else challenger - champion
    if gain is not None and metric.split("/")[1] in _LOWER_IS_BETTER:
        gain = -gain
    passed = gain is None or gain >= limit - _ROUNDING
    return Comparison(
        metric=metric, champion=champion, challenger=challenger, gain=gain, limit=limit, passed=passed
    )  # fmt: skip


def _decide(
    version: Version, metrics: Mapping[str, float], test: _Test, *, settings: RegisterSettings, run_id: str
) -> Decision:
    request = sha256_json([run_id, version.tags["model_sha256"], test.tag, metrics, settings.model_dump()])
    champion = registry.version_of(settings.model_name, alias="champion")
    kept = json.loads(version.tags.get(_DECISION, "{}"))
    if champion is not None and champion.number == version.number and kept.get("request") == request:
        rows = tuple(Comparison(**row) for row in kept["decision"].pop("comparisons"))
        return Decision(**kept["decision"], comparisons=rows)  # it became the champion by this very request
    same = champion is not None and champion.tags.get("weights_sha256") == version.tags["weights_sha256"]
    comparisons: tuple[Comparison, ...] = ()
    try:
        judged = None if champion is None or same else test.metrics_of(champion)
        comparisons = () if same else compare(judged, metrics, settings=settings)
        reason = _SAME if same else _reason(comparisons)
    except ModelError as error:  # a champion of other inputs: nothing can be said of the two, so it stays
        reason = str(error)
    decision = Decision(
        promoted=bool(comparisons) and all(row.passed for row in comparisons),
        reason=reason,
        model_name=settings.model_name,
        challenger=version.number,
        champion_before=champion.number if champion else None,
        run_id=run_id,
        data_hash=test.data_hash,
        champion_data_hash=champion.tags.get("data_hash") if champion else None,
        comparisons=comparisons,
    )
    # Before the alias moves: where this is interrupted after the move, the repeat finds here what it answers.
    text = json.dumps({"request": request, "decision": asdict(decision)}, sort_keys=True)
    registry.tag_version(version, tags={_DECISION: text}, description=as_markdown(decision))
    return decision


def _reason(comparisons: Sequence[Comparison]) -> str:
    if all(row.champion is None for row in comparisons):
        return "the first version: there is no champion"
    if all(row.passed for row in comparisons):
        return "better than the champion as the rule asks, and nowhere worse than it allows"
    return "; ".join(
        f"{row.metric} {_number(row.challenger)} against {_number(row.champion)}: gain {_number(row.gain)}, the rule"
        f" asks for at least {row.limit:+g}"
        for row in comparisons
        if not row.passed
    )


def _champion_metrics(decision: Decision, test: _Test) -> Mapping[str, float] | None:
    """Return what the champion was compared by; None where nothing was compared."""
    if decision.champion_before is None or not decision.comparisons:
        return None
    champion = registry.version_numbered(decision.model_name, decision.champion_before)
    return None if champion is None else test.metrics_of(champion)


def _carry_out(decision: Decision, version: Version) -> None:
    if decision.promoted:
        facts = {
            "run_id": decision.run_id,
            "data_hash": decision.data_hash,
            "model_sha256": version.tags["model_sha256"],
        }
        shown = {row.metric: row.challenger for row in decision.comparisons}
        registry.set_alias(
            version, alias="champion", why=decision.reason, who="register", facts={**facts, "metrics": shown}
        )


def _show(
    run: Run, decision: Decision, out_dir: Path, validate_dir: Path, *, num_accepted: int, num_scenes: int
) -> None:
    """Give the run the pages of this stage and of ``validate``, and a description that leads to each."""
    run.log_files([out_dir / name for name in ("decision.md", "decision.json", "report.html")], folder="register")
    run.log_files([validate_dir / name for name in ("scenes.csv", "verdicts.json")], folder="validate")
    run.log_folder(validate_dir / "data_docs", folder="validate/data_docs")
    shown = {
        "register/report.html": "metrics, charts, map of regions and the verdict on one page",
        "register/decision.md": "the rule, metric by metric",
        **_pages(validate_dir, f"{num_accepted} of {num_scenes} scenes accepted; the refused ones first, with reasons"),
        "validate/scenes.csv": "the same as a table, with what was measured of every scene",
    }
    page = run.page
    rows = [f"| [{path}]({page}/artifacts/{path}) | {text} |" for path, text in shown.items()]
    head = f"**{'Promoted' if decision.promoted else 'Not promoted'}**: {decision.reason}\n"
    run.describe("\n".join([head, "| file | what it shows |", "|---|---|", *rows]) + "\n")


def _pages(validate_dir: Path, scenes: str) -> dict[str, str]:
    """Return the data docs' pages and what each shows; the index alone where no scene came to be judged."""
    found = sorted(page.relative_to(validate_dir) for page in validate_dir.glob("data_docs/validations/**/*.html"))
    judged = {f"validate/{page.as_posix()}": "every rule for scenes, and what was found" for page in found}
    return {"validate/data_docs/index.html": scenes, **judged}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
