"""Stage ``register``: a model version, compared with the champion by the rule of ``params.yaml``, and the verdict."""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from cgm2net import registry
from cgm2net.catalog import read_scenes
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import ModelError
from cgm2net.evaluation.metrics import flatten
from cgm2net.evaluation.page import write_page
from cgm2net.evaluation.page_parts import read_parts
from cgm2net.evaluation.report import tile_table
from cgm2net.evaluation.score import score
from cgm2net.files import read_json, sha256_file, sha256_json, write_json
from cgm2net.gate import Comparison, Judged, as_table, compare, gain_chances, reason_of, require_metrics
from cgm2net.lineage import lineage_tags
from cgm2net.registry import Version
from cgm2net.settings import EvaluateSettings, RegisterSettings
from cgm2net.tracking import Run, attach
from cgm2net.weights import load

_DECISION = "decision"
_SAME = "these weights are the champion's already"


class Rescore(Protocol):
    """Judge a model on tiles."""

    def __call__(self, model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Judged:
        """Return flat metrics, and the sums of every tile."""
        ...


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
    optical_bands: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def tag(self) -> str:
        """Name of the version tag that holds a model's metrics on just this test, scored by just this code."""
        folder = Path(__file__).parent / "evaluation"  # how the page shows metrics does not change them
        code = [sha256_file(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("page")]
        return f"metrics.{sha256_json([self.data_hash, self.settings.model_dump(), code])[:16]}"

    def judged(self, version: Version) -> Judged:
        """Return what a version reached on this test, as kept with it, or else scored now and then kept with it."""
        metrics: dict[str, float] = json.loads(version.tags.get(self.tag, "{}"))
        tiles = registry.kept_table(version, name=self.tag)
        if tiles is not None and set(self.wanted) <= set(metrics):
            return Judged(metrics=metrics, tiles=tiles)
        with tempfile.TemporaryDirectory() as folder:
            model_dir = Path(folder) / "champion"
            registry.download_version(version, model_dir)
            try:
                judged = self.rescore(model_dir, self.tiles_dir, settings=self.settings)
            except ModelError as error:  # which temporary folder it lay in helps no one
                where = f"version {version.number} of {version.name}"
                raise ModelError(str(error).replace(str(model_dir), where)) from error
        require_metrics(judged.metrics, self.wanted, where=f"version {version.number} of {version.name}, judged again")
        self.keep(version, judged)
        return judged

    def keep(self, version: Version, judged: Judged) -> Version:
        """Keep what a version reached on this test with it."""
        sums = [str(name) for name in judged.tiles if re.match(r"sum/(?!copy/)", str(name))]
        registry.keep_table(version, judged.tiles[["tile_id", "region", *sums]], name=self.tag)
        return registry.tag_version(version, tags={self.tag: json.dumps(dict(judged.metrics), sort_keys=True)})


def score_model(model_dir: Path, tiles_dir: Path, *, settings: EvaluateSettings) -> Judged:
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
    scores = score(network, test, settings=settings, calibration=card.calibration)
    return Judged(metrics=scores.metrics(), tiles=tile_table(scores, majority=None))


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
    judged = Judged(metrics=metrics, tiles=pd.read_parquet(evaluate_dir / "tiles.parquet"))
    tiles = TileDataset(tiles_dir, split="test")
    test = _Test(
        tiles_dir=tiles_dir, data_hash=tiles.data_hash, settings=evaluate_settings, wanted=wanted, rescore=rescore,
        optical_bands=tiles.optical_bands, classes=tiles.classes,
    )  # fmt: skip
    with attach(model_dir / "run.json") as run:
        tags = lineage_tags(Path.cwd(), data_hash=tiles.data_hash)
        version = registry.register_version(model_dir, name=settings.model_name, run_id=run.run_id, tags=tags)
        version = test.keep(version, judged)
        registry.set_alias(version, alias="challenger", why="registered", who="register")
        decision = _decide(version, judged, test, settings=settings, run_id=run.run_id)
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


def as_markdown(decision: Decision) -> str:
    """Return the verdict as a table to read."""
    head = f"**{'Promoted' if decision.promoted else 'Not promoted'}**: {decision.reason}\n"
    facts = (
        f"{decision.model_name} version {decision.challenger} (run {decision.run_id}) against champion version"
        f" {decision.champion_before or 'none'}, on tiles {decision.data_hash}\n"
    )
    return "\n".join([head, facts, *as_table(decision.comparisons)]) + "\n"


def _decide(version: Version, challenger: Judged, test: _Test, *, settings: RegisterSettings, run_id: str) -> Decision:
    facts = [run_id, version.tags["model_sha256"], test.tag, challenger.metrics, settings.model_dump()]
    request = sha256_json(facts)
    champion = registry.version_of(settings.model_name, alias="champion")
    kept = json.loads(version.tags.get(_DECISION, "{}"))
    if champion is not None and champion.number == version.number and kept.get("request") == request:
        rows = tuple(Comparison(**row) for row in kept["decision"].pop("comparisons"))
        return Decision(**kept["decision"], comparisons=rows)  # it became the champion by this very request
    same = champion is not None and champion.tags.get("weights_sha256") == version.tags["weights_sha256"]
    comparisons: tuple[Comparison, ...] = ()
    try:
        comparisons = () if same else _comparisons(champion, challenger, test, settings=settings)
        reason = _SAME if same else reason_of(comparisons, min_chance=settings.min_chance)
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


def _comparisons(
    champion: Version | None, challenger: Judged, test: _Test, *, settings: RegisterSettings
) -> tuple[Comparison, ...]:
    if champion is None:
        return compare(None, challenger.metrics, settings=settings)
    judged = test.judged(champion)
    chances = gain_chances(
        judged, challenger, settings=settings, optical_bands=test.optical_bands, classes=test.classes
    )
    return compare(judged.metrics, challenger.metrics, settings=settings, chances=chances)


def _champion_metrics(decision: Decision, test: _Test) -> Mapping[str, float] | None:
    """Return what the champion was compared by; None where nothing was compared."""
    if decision.champion_before is None or not decision.comparisons:
        return None
    champion = registry.version_numbered(decision.model_name, decision.champion_before)
    return None if champion is None else test.judged(champion).metrics


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
