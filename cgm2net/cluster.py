"""Scenes mapped over a Dask cluster that is there already: its workers share this machine's files."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgm2net.errors import WorkerError
from cgm2net.files import folder_hash
from cgm2net.job import Facts, SceneJob

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 30
"""How long a scheduler, and a first worker, are waited for."""


def on_cluster(
    run: Callable[[SceneJob], tuple[Facts, bool]], jobs: Sequence[SceneJob], *, stage: str, address: str
) -> Iterator[tuple[str, tuple[Facts, bool]]]:
    """Yield scene id and result of every job, in the order in which they end.

    A job whose worker dies is given to another; what it had finished of other scenes lies in the cache.

    Args:
        run: does one job; module-level, or a partial of such.
        jobs: one a scene.
        stage: for messages.
        address: of the scheduler.

    Raises:
        WorkerError: if the scheduler or its workers are not there, run other sources, or die over one scene again and
            again; or if Dask is not installed.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise WorkerError(f"{stage}: cluster {address} needs Dask: `pip install 'cgm2net[dask]'`") from error
    client = _connected(Client, address, stage=stage)
    try:
        client.register_plugin(_in_this_folder(Path.cwd()), name="cgm2net folder")
        _require_same_sources(client, stage=stage)
        futures = {client.submit(run, job, key=f"{stage}/{job.scene_id}", pure=False): job.scene_id for job in jobs}
        for future in as_completed(list(futures)):  # type: ignore[no-untyped-call]
            yield futures[future], future.result()
    except KilledWorker as error:
        raise WorkerError(
            f"{stage}: {error}; workers died over it (killed, or out of memory); finished scenes are kept, run again"
        ) from error
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _connected(client_type: "type[Client]", address: str, *, stage: str) -> "Client":
    try:
        client = client_type(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkerError(
            f"{stage}: no Dask scheduler answers at {address}: {error}; start one, or empty `cluster` in params.yaml"
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        client.close()  # type: ignore[no-untyped-call]
        raise WorkerError(f"{stage}: the Dask scheduler at {address} has no worker; start some") from error
    return client


def _in_this_folder(folder: Path) -> Any:
    """Return what puts every worker, those that come later too, into the folder that relative paths mean."""
    from distributed import WorkerPlugin

    class InFolder(WorkerPlugin):
        """Changes a worker's folder as it starts."""

        def setup(self, worker: object) -> None:  # noqa: ARG002 - what Dask calls has it
            os.chdir(folder)

    return InFolder()


def _require_same_sources(client: "Client", *, stage: str) -> None:
    """Refuse workers that would compute something else: results are kept under this process's sources."""
    mine = _sources()
    for worker, theirs in client.run(_sources).items():
        if theirs != mine:
            raise WorkerError(f"{stage}: worker {worker} runs other sources of cgm2net; install the same version there")


def _sources() -> str:
    """Return the hash of the sources that this process runs."""
    return folder_hash(Path(__file__).parent)
