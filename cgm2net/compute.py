"""Map a stage's work over scenes: in processes here or on a Dask cluster, each from the cache if done before."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cgm2net.cluster import on_cluster
from cgm2net.errors import SceneError, WorkerError
from cgm2net.files import CACHE_DIR, cached_folder, code_hash, sha256_file, sha256_json
from cgm2net.job import Facts, SceneJob

__all__ = ["Facts", "SceneJob", "map_scenes", "progress_bar"]

_log = logging.getLogger(__name__)


def map_scenes(
    work: Callable[[SceneJob, Path], Facts],
    jobs: Sequence[SceneJob],
    *,
    stage: str,
    out_dir: Path,
    num_workers: int,
    cluster: str = "",
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
        cluster: address of a Dask scheduler (``tcp://HOST:8786``) whose workers do it instead. They need this
            library in the same version, and this folder under the same path.
        cache_dir: the per-scene cache.

    Returns:
        One dict a job in order, with ``scene_id``, ``accepted``, ``reason`` and the facts; and how many came from
        the cache. Refusals are not cached: what a scene was refused for may lie outside its key.

    Raises:
        WorkerError: if a process dies; names the stage and the scenes that were being worked on. Or if a cluster
            cannot be reached, has no worker, or loses one scene's worker again and again.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    run = partial(_run, work, stage=stage, code=code_hash(), out_dir=out_dir, cache_dir=cache_dir)
    if cluster:
        done = on_cluster(run, jobs, stage=stage, address=cluster)
    elif num_workers == 1 or len(jobs) <= 1:
        done = ((job.scene_id, run(job)) for job in jobs)
    else:
        done = _in_processes(run, jobs, stage=stage, num_workers=min(num_workers, len(jobs)))
    results: dict[str, tuple[Facts, bool]] = {}
    with progress_bar() as progress:
        bar = progress.add_task(stage, total=len(jobs))
        for scene_id, result in done:
            results[scene_id] = result
            progress.advance(bar)
    hits = sum(hit for _, hit in results.values())
    _log.info("%s: %d scenes, %d made, %d from the cache", stage, len(jobs), len(jobs) - hits, hits)
    return [results[job.scene_id][0] for job in jobs], hits


def _in_processes(
    run: Callable[[SceneJob], tuple[Facts, bool]], jobs: Sequence[SceneJob], *, stage: str, num_workers: int
) -> Iterator[tuple[str, tuple[Facts, bool]]]:
    # spawn: forking a process that has started threads (BLAS, numba, a progress bar) can deadlock
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
    futures = {}
    try:
        for job in jobs:
            futures[pool.submit(run, job)] = job.scene_id
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        # Scenes are begun in order, so those under way were the first of the unfinished.
        unfinished = [scene_id for future, scene_id in futures.items() if future.exception()]
        raise WorkerError(
            f"{stage}: a process died (killed, or out of memory) at scene {' or '.join(unfinished[:num_workers])};"
            f" finished scenes are kept; lower {stage}.num_workers and run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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
    verdict: Facts = {"scene_id": job.scene_id, "accepted": True, "reason": ""}
    try:
        facts, hit = cached_folder(key, out_dir / job.scene_id, partial(work, job), cache_dir=cache_dir)
    except SceneError as error:
        return {**verdict, "accepted": False, "reason": error.reason}, False
    except Exception as error:
        error.add_note(f"stage {stage}, scene {job.scene_id}")
        raise
    return {**verdict, **facts}, hit


def progress_bar() -> Progress:
    """Return a progress bar with time left, on standard error."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
