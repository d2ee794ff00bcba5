"""``python -m cgm2net compare``: networks trained and judged on the same tiles, budget and seeds."""

import logging
import multiprocessing
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from cgm2net import tracking
from cgm2net.comparison import tables
from cgm2net.comparison.cost import Cost, measure
from cgm2net.comparison.downstream import downstream_table
from cgm2net.comparison.runs import EXPERIMENT, Job, read, sources, work
from cgm2net.comparison.statistics import NUM_DRAWS, Result, summarise
from cgm2net.comparison.suites import REFERENCE, SUITES, Budget, Suite, Variant
from cgm2net.compute import progress_bar
from cgm2net.data.dataset import TileDataset
from cgm2net.errors import SettingsError
from cgm2net.files import CACHE_DIR, read_json, sha256_json, write_aside, write_json
from cgm2net.lineage import git_facts, lineage_tags
from cgm2net.settings import EvaluateSettings, Settings, TrainSettings

_log = logging.getLogger(__name__)

_WORDS = {"steps": "the same number of steps", "time": "the same time of training"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison to carry out."""

    suite: Suite
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    tiles_dir: Path
    settings: TrainSettings
    "What every variant starts from."
    evaluate_settings: EvaluateSettings
    out_dir: Path
    num_jobs: int = 1
    "Trainings at once."
    only: tuple[str, ...] = ()
    "Names of variants; all of the suite by default. The one that others are compared with is always there."
    cache_dir: Path = CACHE_DIR

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The chosen variants.

        Raises:
            SettingsError: if one is not of the suite.
        """
        names = [variant.name for variant in SUITES[self.suite]]
        if unknown := sorted(set(self.only) - set(names)):
            raise SettingsError(
                f"--only {', '.join(unknown)}: not in the suite {self.suite}, which has {', '.join(names)}"
            )
        chosen = {REFERENCE, *(self.only or names)}
        return tuple(variant for variant in SUITES[self.suite] if variant.name in chosen)


def compare(plan: Plan) -> str:
    """Train, judge, and write ``SUITE.md``, ``SUITE.csv`` and ``SUITE.png``.

    What was trained and judged before, of the same code, settings, seed and tiles, is read; so an interrupted
    comparison goes on.

    Returns:
        The Markdown.

    Raises:
        SettingsError: if a variant is unknown.
        DataError: if there are no tiles.
        MetricError: if a training diverges; the others are kept.
        BackendError: if the MLflow server cannot be reached.
    """
    variants = plan.variants
    tiles = TileDataset(plan.tiles_dir, split="test")
    bands = len(tiles.optical_bands), len(tiles.sar_bands), len(tiles.classes)
    costs = _costs(plan, variants, bands)
    facts = {"data_hash": tiles.data_hash, "settings": plan.settings.model_dump()}
    record = plan.cache_dir / "compare" / f"parent-{sha256_json(facts)[:16]}.json"
    tags = lineage_tags(Path.cwd(), data_hash=tiles.data_hash)
    name = f"compare-{tiles.data_hash[:8]}-{plan.settings.steps}steps"
    with tracking.run(record, experiment=EXPERIMENT, name=name, params=plan.settings.model_dump(), tags=tags) as run:
        jobs = _jobs(plan, variants, costs, data_hash=tiles.data_hash, parent_run_id=run.run_id)
        _carry_out(list(jobs.values()), num_jobs=plan.num_jobs)
        results = {budget: _results(plan, variants, jobs, budget) for budget in plan.budgets}
        text = _write(plan, results, costs, num_tiles=len(tiles), data_hash=tiles.data_hash)
        if plan.suite == "baselines":
            text += _downstream(plan, variants, jobs)
        with write_aside(plan.out_dir / f"{plan.suite}.md") as aside:
            aside.write_text(text)
        run.log_files(sorted(plan.out_dir.glob(f"{plan.suite}*.*")), folder=plan.suite)
    return text


def steps_for(variant: Variant, budget: Budget, costs: Mapping[str, Cost], settings: TrainSettings) -> int:
    """Return the steps that a budget pays for: those of the settings, or as many as take the reference's time.

    Rounded to ``log_every_steps``; at least one more than the warm-up.
    """
    if budget == "steps":
        return settings.steps
    cost = costs.get(variant.name, costs[REFERENCE])
    paid = settings.steps * costs[REFERENCE].seconds_a_step / cost.seconds_a_step
    every = settings.log_every_steps
    least = (settings.warmup_steps // every + 1) * every
    return max(least, round(paid / every) * every)


def _jobs(
    plan: Plan, variants: Sequence[Variant], costs: Mapping[str, Cost], *, data_hash: str, parent_run_id: str
) -> dict[tuple[Budget, str, int], Job]:
    jobs: dict[tuple[Budget, str, int], Job] = {}
    for budget in plan.budgets:
        for seed in plan.seeds:  # seeds outside: an interrupted comparison has whole ones
            for variant in variants:
                steps = steps_for(variant, budget, costs, plan.settings)
                settings = variant.settings(plan.settings.model_copy(update={"steps": steps}))
                jobs[budget, variant.name, seed] = Job(
                    variant=variant, seed=seed, budget=budget, settings=settings, tiles_dir=plan.tiles_dir,
                    data_hash=data_hash, evaluate_settings=plan.evaluate_settings, parent_run_id=parent_run_id,
                    cache_dir=plan.cache_dir,
                )  # fmt: skip
    return jobs


def _carry_out(jobs: Sequence[Job], *, num_jobs: int) -> None:
    """Do what is not done, each training once, several at a time."""
    waiting: dict[Path, list[Job]] = {}
    for job in jobs:
        if not job.done:
            waiting.setdefault(job.folder, []).append(job)
    count = sum(len(group) for group in waiting.values())
    _log.info("compare: %d runs, %d done before, %d trainings to do", len(jobs), len(jobs) - count, len(waiting))
    if not waiting:
        return
    # spawn: forking a process that has started threads can deadlock
    pool = ProcessPoolExecutor(num_jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        with progress_bar() as progress:
            bar = progress.add_task("compare", total=len(waiting))
            futures = {pool.submit(_work_all, group): group[0] for group in waiting.values()}
            for future in as_completed(futures):
                job = futures[future]
                future.result()
                _log.info("compare: %s, seed %d, %d steps: done", job.variant.name, job.seed, job.settings.steps)
                progress.advance(bar)
    finally:
        pool.shutdown(cancel_futures=True)


def _work_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        work(job)


def _begin_worker() -> None:
    """Keep the trainings' own bars to themselves, and end with the process that asked for them, however it ends."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _costs(plan: Plan, variants: Sequence[Variant], bands: tuple[int, int, int]) -> dict[str, Cost]:
    """Measure every variant that is trained, one after another before any training; kept for this machine and code."""
    trained = [variant for variant in variants if variant.spoiling == "none"]
    found: dict[str, Cost] = {}
    with progress_bar() as progress:
        bar = progress.add_task("measure costs", total=len(trained))
        for variant in trained:
            settings = variant.settings(plan.settings)
            about = [
                sources(f"cgm2net.comparison.cost@{settings.architecture}"),
                settings.model_dump(),
                bands,
                _machine(),
            ]
            kept = plan.cache_dir / "compare" / f"cost-{sha256_json(about)[:24]}.json"
            if not kept.is_file():
                write_json(kept, asdict(measure(settings, bands=bands)))
            found[variant.name] = Cost(**read_json(kept))  # type: ignore[arg-type]
            progress.advance(bar)
    return found


def _results(
    plan: Plan, variants: Sequence[Variant], jobs: Mapping[tuple[Budget, str, int], Job], budget: Budget
) -> list[Result]:
    results = []
    for variant in variants:
        mine = [jobs[budget, variant.name, seed] for seed in plan.seeds]
        results.append(summarise(variant, [read(job) for job in mine], steps=mine[0].settings.steps))
    return results


def _write(
    plan: Plan, results: Mapping[Budget, list[Result]], costs: Mapping[str, Cost], *, num_tiles: int, data_hash: str
) -> str:
    code = git_facts(Path.cwd())
    lines = [
        f"# {plan.suite.capitalize()}\n",
        f"`python -m cgm2net compare --suite {plan.suite} --seeds {len(plan.seeds)}`,"
        f" {datetime.now(UTC):%Y-%m-%d}, {_machine()}, {plan.num_jobs} trainings at once of"
        f" {plan.settings.num_threads} threads; commit {code['git_commit'][:12]}"
        f"{' with changes' if code['git_dirty'] == 'true' else ''}, tiles {data_hash[:12]}.\n",
        f"{num_tiles} test tiles of regions that no network saw; seeds {', '.join(map(str, plan.seeds))}; mean ±"
        " standard deviation between seeds. Bold: the best, and whatever the paired bootstrap over tiles"
        f" ({NUM_DRAWS} draws, 95 %) does not tell from it. Intervals in brackets are of the same bootstrap, seeds"
        " averaged: they say how far the tiles carry, the deviations how far the seeds do.\n",
    ]
    for budget, found in results.items():
        lines.append(f"## {_WORDS[budget].capitalize()}\n")
        lines += [tables.quality_table(found, group) for group in ("cloudy", "clear", "all")]
        lines.append(tables.difference_table(found))
        bins = plan.evaluate_settings.cover_bins
        lines += [tables.by_cover_table(found, bins, metric) for metric in ("cloudy/psnr", "cloudy/miou")]
        suffix = "" if budget == "steps" else f"-{budget}"
        with write_aside(plan.out_dir / f"{plan.suite}{suffix}.csv") as aside:
            tables.runs_table(found).to_csv(aside, index=False, float_format="%.6g", lineterminator="\n")
        tables.draw(found, costs, plan.out_dir / f"{plan.suite}{suffix}.png")
        lines.append(f"![Both tasks under cloud, and what they cost]({plan.suite}{suffix}.png)\n")
    lines += ["## Cost\n", tables.cost_table(next(iter(results.values())), costs)]
    return "\n".join(lines)


def _downstream(plan: Plan, variants: Sequence[Variant], jobs: Mapping[tuple[Budget, str, int], Job]) -> str:
    budget = plan.budgets[0]
    restorers = [
        (variant.title, [jobs[budget, variant.name, seed] for seed in plan.seeds])
        for variant in variants
        if variant.restores
    ]
    rows = downstream_table(restorers, plan.settings)
    head = (
        "\n## What restored images are worth\n\nmIoU of a frozen segmenter, trained on clear optical images without SAR"
        f" (U-Net, {plan.settings.steps} steps), by what it is shown; networks trained for {_WORDS[budget]}.\n"
    )
    table = ["| shown | all | clear | cloudy |", "| --- | --- | --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join([head, *table]) + "\n"


def _machine() -> str:
    """Return the processor, or the CUDA device."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0]}" if names else platform.machine()


def compare_by_settings(
    settings: Settings, *, suite: Suite, seeds: int, budgets: Sequence[Budget], only: Sequence[str], num_jobs: int,
    num_threads: int | None, steps: int | None, tiles: Path, out: Path,
) -> str:  # fmt: skip
    """Compare by what params.yaml says and the command line changes.

    Raises:
        SettingsError: if a number is out of range.
    """
    if seeds < 1 or num_jobs < 1:
        raise SettingsError(f"--seeds {seeds} and --jobs {num_jobs} must be at least 1")
    asked = {"num_threads": num_threads, "steps": steps}
    changes = {name: value for name, value in asked.items() if value is not None}
    try:
        base = TrainSettings.model_validate(settings.train.model_dump() | changes)
    except ValidationError as error:
        raise SettingsError(f"{changes}: {error.errors()[0]['msg']}") from error
    return compare(
        Plan(
            suite=suite, seeds=tuple(range(settings.seed, settings.seed + seeds)), budgets=tuple(budgets),
            tiles_dir=tiles, settings=base, evaluate_settings=settings.evaluate,
            out_dir=out, num_jobs=num_jobs, only=tuple(only),
        )
    )  # fmt: skip
