"""Map a stage's work over scenes: in processes here, each scene from the cache where it was done before."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cgm2net.errors import SceneError
from cgm2net.files import CACHE_DIR, cached_folder, code_hash, sha256_file, sha256_json

_log = logging.getLogger(__name__)

Facts = dict[str, object]
"""What a stage finds out about one scene; JSON can hold it."""


@dataclass(frozen=True, kw_only=True)
class SceneJob:
    """One scene's work: what it is, what it reads, where its files go."""

    scene_id: str
    "Names the folder below the stage's output."
    parameters: dict[str, object]
    "Everything but file contents that the result depends on; JSON can hold it."
    inputs: dict[str, Path]
    "Role -> local file; their bytes are part of the cache key."


def map_scenes(
    work: Callable[[SceneJob, Path], Facts],
    jobs: Sequence[SceneJob],
    *,
    stage: str,
    out_dir: Path,
    num_workers: int,
    cache_dir: Path = CACHE_DIR,
) -> tuple[list[Facts], int]:
    """Do one scene's work for every job, each into its own folder ``out_dir/SCENE_ID``.

    Args:
        work: a module-level function from a job and an empty folder to facts; it raises :class:`SceneError` to
            refuse the scene.
        jobs: one a scene.
        stage: name shown and put into the cache key.
        out_dir: parent of the scenes' folders.
        num_workers: processes; 1 works in this one.
        cache_dir: the per-scene cache.

    Returns:
        One dict a job in order, with ``scene_id``, ``accepted``, ``reason`` and the facts; and how many came from
        the cache.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    run = partial(_run, work, stage=stage, code=code_hash(), out_dir=out_dir, cache_dir=cache_dir)
    results: dict[str, tuple[Facts, bool]] = {}
    with progress_bar() as progress:
        bar = progress.add_task(stage, total=len(jobs))
        if num_workers == 1 or len(jobs) <= 1:
            for job in jobs:
                results[job.scene_id] = run(job)
                progress.advance(bar)
        else:
            # spawn: forking a process that has started threads (BLAS, numba, a progress bar) can deadlock
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context) as pool:
                futures = {pool.submit(run, job): job.scene_id for job in jobs}
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
                    progress.advance(bar)
    hits = sum(hit for _, hit in results.values())
    _log.info("%s: %d scenes, %d made, %d from the cache", stage, len(jobs), len(jobs) - hits, hits)
    return [results[job.scene_id][0] for job in jobs], hits


def num_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _run(
    work: Callable[[SceneJob, Path], Facts],
    job: SceneJob,
    *,
    stage: str,
    code: str,
    out_dir: Path,
    cache_dir: Path,
) -> tuple[Facts, bool]:
    hashes = {role: sha256_file(path) for role, path in sorted(job.inputs.items())}
    key = sha256_json([stage, code, job.scene_id, job.parameters, hashes])
    facts, hit = cached_folder(key, out_dir / job.scene_id, partial(_verdict, work, job), cache_dir=cache_dir)
    return {"scene_id": job.scene_id, **facts}, hit


def _verdict(work: Callable[[SceneJob, Path], Facts], job: SceneJob, folder: Path) -> Facts:
    try:
        return {"accepted": True, "reason": "", **work(job, folder)}
    except SceneError as error:
        for left in folder.iterdir():
            left.unlink()
        return {"accepted": False, "reason": error.reason}


def progress_bar() -> Progress:
    """Return a progress bar with time left, on standard error."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
