"""The ends that a trace can begin at: a model version, a run, a flow run, a map, a hash of several kinds, a commit."""

import re
from collections.abc import Callable
from pathlib import Path

from cgm2net import registry
from cgm2net.errors import DataError
from cgm2net.trace import history, store
from cgm2net.trace.findings import Findings
from cgm2net.trace.maps import read_map
from cgm2net.trace.records import Kind, Map, Output, Run

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")
_DVC_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
_FLOW_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATA = "data"
_TRAIN = "train"
_WANTED = (
    "models:/NAME/VERSION, models:/NAME@ALIAS, a run id, a flow run's id, a product of `predict` or its folder, a hash"
    " of data/ or of a stage's output in dvc.lock, a data hash, a model's hash, the hash of a dvc.lock, or a git commit"
)


def begin(found: Findings, what: str) -> Kind:
    """Find what ``what`` names; return what kind of thing it is.

    Raises:
        DataError: if nothing is known of it; says what was looked through.
    """
    if what.startswith("models:"):
        return _from_model(found, what)
    path = Path(what)
    if path.suffix in (".tif", ".json") or path.is_dir():
        return _from_map(found, read_map(path))
    ends: list[tuple[Kind, Callable[[Findings, str], None]]] = [
        ("run", _from_run), ("flow run", _from_flow_run), ("DVC hash", _from_dvc_hash), ("data hash", _from_data_hash),
        ("model hash", _from_model_hash), ("lock hash", _from_lock_hash), ("commit", _from_commit),
    ]  # fmt: skip
    for kind, look in ends:
        look(found, what)
        if not found.is_empty:
            return kind
    missing = "".join(f"; {gap.link}: {gap.why}" for gap in found.gaps)
    raise DataError(f"{what}: nothing known of it here{missing}; wanted {_WANTED}")


def _from_model(found: Findings, uri: str) -> Kind:
    parts = _MODEL.fullmatch(uri)
    if parts is None:
        raise DataError(f"{uri}: not a model; wanted models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = parts["name"], parts["alias"], parts["number"]
    if alias:
        version = found.ask(lambda: registry.version_of(name, alias=alias), otherwise=None)
    else:
        version = found.ask(registry.version_numbered, name, int(number), otherwise=None)
    if version is None:
        missing = "".join(f"; {gap.link}: {gap.why}" for gap in found.gaps)
        raise DataError(f"{uri}: no such version is registered{missing}; MLFLOW_TRACKING_URI says where to look")
    found.add_versions([store.describe(version)])
    return "model version"


def _from_map(found: Findings, one: Map) -> Kind:
    found.add_map(one)
    if one.run_id:
        found.add_run(one.run_id, named_by=f"map {one.folder}")
    if not one.version.isdigit():
        found.gap(f"model of map {one.folder}", "it came from a folder, not from the registry; its hash is in the map")
        return "map"
    version = found.ask(registry.version_numbered, one.model, int(one.version), otherwise=None)
    label = f"version {one.version} of {one.model}, named by map {one.folder}"
    if version is None:
        found.gap(label, "not in this store; MLFLOW_TRACKING_URI says where to look")
    elif version.tags.get("model_sha256") != one.model_sha256:
        found.gap(label, "the version here has another hash: the map was made with another store's")
    else:
        found.add_versions([store.describe(version)])
    return "map"


def _from_run(found: Findings, what: str) -> None:
    if _DVC_HASH.fullmatch(what) and not what.endswith(".dir"):
        run = found.ask(store.find_run, what, otherwise=None)
        found.add_runs([run] if run else [])


def _from_dvc_hash(found: Findings, what: str) -> None:
    if not _DVC_HASH.fullmatch(what):
        return
    pinned = {md5 for _, md5 in found.pins} | {history.pinned_here(found.root)}
    for md5 in (what, f"{what}.dir"):
        runs: list[Run] = found.ask(store.runs_tagged, "data_version", md5, otherwise=[])
        found.add_runs(runs)
        if md5 in pinned or runs:
            found.add_data(md5)
            found.keys.add(md5)
    for lock in history.locks(found.root, what):
        _follow_lock(found, lock, lock.chain(what), hit=what)


def _from_flow_run(found: Findings, what: str) -> None:
    if _FLOW_RUN.fullmatch(what):
        _from_tag(found, store.FLOW_RUN_TAG, what)


def _from_lock_hash(found: Findings, what: str) -> None:
    if _SHA256.fullmatch(what):
        _from_tag(found, store.LOCK_TAG, what)


def _from_data_hash(found: Findings, what: str) -> None:
    if _SHA256.fullmatch(what):
        _from_tag(found, "data_hash", what)
        found.keys.add(what)


def _from_tag(found: Findings, tag: str, value: str) -> None:
    found.add_runs(found.ask(store.runs_tagged, tag, value, otherwise=[]))
    found.add_versions(found.ask(store.versions_where, f"tags.{tag} = '{value}'", otherwise=[]))


def _from_model_hash(found: Findings, what: str) -> None:
    if _SHA256.fullmatch(what):
        for tag in ("model_sha256", "weights_sha256"):
            found.add_versions(found.ask(store.versions_where, f"tags.{tag} = '{what}'", otherwise=[]))


def _from_commit(found: Findings, what: str) -> None:
    commit = history.find_commit(found.root, what)
    if commit is None:
        return
    found.add_commit(commit)
    found.keys.add(commit.sha)
    found.add_data(history.pinned_at(found.root, commit))
    lock = history.lock_at(found.root, commit)
    made = {(path, md5) for _, path, md5 in lock.outs()}
    _follow_lock(found, lock, made.union(*(lock.chain(md5) for _, md5 in made)), hit="")
    found.add_runs(found.ask(store.runs_tagged, "git_commit", commit.sha, otherwise=[]))


def _follow_lock(found: Findings, lock: history.Lock, chain: set[history.Made], *, hit: str) -> None:
    """Keep the outputs of this hash (all, if it is empty), the data below them, and the run that trained on them."""
    where = f"dvc.lock of commit {lock.commit.sha[:12]}" if lock.commit else "dvc.lock of the work tree"
    for path, md5 in chain:
        if path == _DATA:
            found.add_data(md5)
    for stage, path, md5 in lock.outs():
        if not hit or history.same_hash(md5, hit):
            commits = (lock.commit,) if lock.commit else ()
            found.add_output(Output(stage=stage, path=path, md5=md5, commits=commits, here=lock.commit is None))
        if stage == _TRAIN and (path, md5) in chain:
            if record := history.cached_json(found.root, md5, "run.json"):
                found.add_run(str(record["run_id"]), named_by=f"{path} in {where}")
            else:
                found.gap(f"run of {path} {md5} in {where}", "not in DVC's cache here; `dvc fetch` may bring it")
