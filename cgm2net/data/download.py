"""Stage ``download``: every URI of the catalogue becomes a checked local file."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cgm2net.catalog import FILE_ROLES, merge_results, read_catalog, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.fetch import PERMANENT, fetch, file_suffix, identity
from cgm2net.data.reading import split
from cgm2net.data.rewriting import rewrite
from cgm2net.errors import ChecksumError, RasterError, SceneError
from cgm2net.files import sha256_file
from cgm2net.settings import DownloadSettings

_NUM_ASKERS = 16


@dataclass(frozen=True, kw_only=True)
class DownloadReport:
    """Counts of one run."""

    found: int
    fetched: int
    refused: int
    from_cache: int


def download(catalog: Path, out_dir: Path, *, settings: DownloadSettings) -> DownloadReport:
    """Fetch the files of every scene; rewrite those whose URI says how they are read (:mod:`cgm2net.data.reading`).

    Args:
        catalog: table of scenes with URIs; relative ones are resolved against its folder.
        out_dir: new folder; gets ``SCENE_ID/ROLE.tif`` and ``scenes.csv``, the table last.
        settings: processes and tries.

    Returns:
        Counts; fetched + refused = found. A scene with a missing file, a wrong checksum, or a file that its
        instructions do not fit is refused, as a row.

    Raises:
        CatalogError: if the catalogue cannot be used, or an instruction is unknown.
        FetchError: at a fault of the network or the store that outlasts the tries. Scenes done are kept.
    """
    table = read_catalog(catalog)
    rows = table.to_dict("records")
    with ThreadPoolExecutor(_NUM_ASKERS) as pool:
        prepared = list(pool.map(partial(_prepare, settings=settings), rows))
    jobs = [job for job in prepared if isinstance(job, SceneJob)]
    missing = [facts for facts in prepared if not isinstance(facts, SceneJob)]
    results, hits = map_scenes(
        partial(_fetch_scene, max_attempts=settings.max_attempts, wait_seconds=settings.retry_wait_seconds),
        jobs,
        stage="download",
        out_dir=out_dir,
        num_workers=settings.num_workers,
        cluster=settings.cluster,
    )
    found = [*missing, *(_with_paths(facts, out_dir) for facts in results)]
    scenes = merge_results(table, found)
    write_scenes(scenes, out_dir / "scenes.csv")
    return DownloadReport(
        found=len(scenes), fetched=int(scenes["accepted"].sum()), refused=int((~scenes["accepted"]).sum()),
        from_cache=hits,
    )  # fmt: skip


def _prepare(row: dict[str, str], *, settings: DownloadSettings) -> SceneJob | Facts:
    """One scene's job, or its refusal where a URI leads nowhere."""
    files = {}
    for role in FILE_ROLES:
        uri, sha256 = row[role], row[f"{role}_sha256"]
        if uri:
            plain, reading = split(uri)
            reading.require_role(role, uri)
            try:
                version = sha256 or identity(
                    plain, max_attempts=settings.max_attempts, wait_seconds=settings.retry_wait_seconds
                )
                files[role] = {"uri": uri, "sha256": sha256, "version": version}
            except PERMANENT as error:
                no_files = dict.fromkeys(FILE_ROLES, "")
                reason = _why(role, plain, error)
                return {"scene_id": row["scene_id"], "accepted": False, "reason": reason, **no_files}
    return SceneJob(scene_id=row["scene_id"], parameters={"files": files}, inputs={})


def _fetch_scene(job: SceneJob, folder: Path, *, max_attempts: int, wait_seconds: float) -> Facts:
    facts: Facts = {}
    files = job.parameters["files"]
    assert isinstance(files, dict)
    for role, file in files.items():  # optical first: others may be laid over it
        uri, reading = split(file["uri"])
        name = f"{role}{file_suffix(uri)}"
        as_it_is = not reading.given and not name.endswith(".npy")
        stored = folder / (name if as_it_is else f"stored_{name}")
        optical = folder / str(facts.get("optical"))
        try:
            digest = fetch(uri, stored, sha256=file["sha256"], max_attempts=max_attempts, wait_seconds=wait_seconds)
            if not as_it_is:
                name = f"{role}.tif"
                rewrite(stored, folder / name, role=role, reading=reading, optical=optical, name=uri)
                stored.unlink()
                digest = sha256_file(folder / name)
        except PERMANENT as error:
            raise SceneError(job.scene_id, _why(role, uri, error)) from error
        except ChecksumError as error:
            raise SceneError(job.scene_id, str(error)) from error
        except RasterError as error:
            raise SceneError(job.scene_id, f"{role} {error}") from error
        facts |= {role: name, f"{role}_sha256": digest}
    return facts


def _why(role: str, uri: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{role} is not at {uri}"
    return f"{role} cannot be had from {uri}: {error}"


def _with_paths(facts: Facts, out_dir: Path) -> Facts:
    folder = out_dir.resolve() / str(facts["scene_id"])
    paths = {role: str(folder / str(facts[role])) if facts.get(role) else "" for role in FILE_ROLES}
    return {**facts, **paths}
