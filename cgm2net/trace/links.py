"""What is known of a run and a model version only after their stages have ended: ``dvc.lock``, and the flow run."""

from pathlib import Path

from cgm2net import registry
from cgm2net.errors import DataError
from cgm2net.files import read_json, sha256_file
from cgm2net.trace.store import FLOW_RUN_TAG, LOCK_TAG, find_run
from cgm2net.tracking import attach

_URL_TAG = "prefect_flow_run_url"

_DECISION = Path("artifacts/register/decision.json")
_RUN = Path("artifacts/train/run.json")


def link(root: Path, *, flow_run_id: str, url: str = "") -> str:
    """Tag run and model version of the last decision with the hash of ``dvc.lock`` and with the flow run.

    The run keeps the first flow run that it was linked to, which trained it. The version is linked anew when
    ``dvc.lock`` has changed, for then it was decided on anew. So a flow run that found everything up to date leaves
    no mark, and one that goes on after an interruption leaves the mark that was missing.

    Args:
        root: the project's root.
        flow_run_id: Prefect's.
        url: its page, without credentials; none if empty.

    Returns:
        What was linked.

    Raises:
        DataError: if nothing has been registered here, or the version is not in the store.
        BackendError: if the server cannot be asked or does not take it.
    """
    for path in (_DECISION, _RUN, Path("dvc.lock")):
        if not (root / path).is_file():
            raise DataError(f"{root / path}: not there, so nothing has been registered; run `dvc repro` first")
    decision = read_json(root / _DECISION)
    name, number = str(decision["model_name"]), int(str(decision["challenger"]))
    version = registry.version_numbered(name, number)
    if version is None:
        raise DataError(f"version {number} of {name}: not in this store; MLFLOW_TRACKING_URI says where to look")
    tags = {LOCK_TAG: sha256_file(root / "dvc.lock"), FLOW_RUN_TAG: flow_run_id, **({_URL_TAG: url} if url else {})}
    done = []
    with attach(root / _RUN) as run:
        known = find_run(run.run_id)
        if known is None or FLOW_RUN_TAG not in known.flow:
            run.set_tags(tags)
            done.append(f"run {run.run_id}")
    if version.tags.get(LOCK_TAG) != tags[LOCK_TAG]:
        registry.tag_version(version, tags=tags)
        done.append(f"version {number} of {name}")
    return f"flow run {flow_run_id}: linked to {' and '.join(done) or 'nothing, for all was linked before'}"
