"""The flow that compares what came in with what the model was trained on, and tells when they drift apart."""

import json
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from cgm2net.errors import CatalogError
from pipelines.alone import alone
from pipelines.batch import empty, read_rows, run_stage_in, scenes_of
from pipelines.events import DRIFTED, tell
from pipelines.library import run_library
from pipelines.stages import list_stages

WORK = Path(".cache/cgm2net/monitor")
MEASURE = "cloudmask"
"""The last stage that the incoming scenes go through: it knows cloud cover and shift besides what the files hold."""

SHOWN = ("feature", "unit", "reference", "incoming", "psi", "chance", "drifted", "note")


@task(task_run_name="arrived", cache_policy=NO_CACHE)
def arrived(reference: Path, *, root: Path) -> bool:
    """Make a batch of the catalogue's scenes that the reference does not hold; say whether there is any."""
    batch = empty(root / WORK / "batch", root=root)
    arguments = (str(reference / "validate" / "scenes.csv"), "--batch", str(batch))
    run_library("intake", "arrived", *arguments, root=root, log=get_run_logger().info)
    return (batch / "data" / "catalog.csv").is_file()


@task(cache_policy=NO_CACHE)
def measure(stage: str, *, root: Path) -> None:
    """Run one stage's command on the batch; what it makes of a scene waits in the cache for the next training."""
    run_stage_in(root / WORK / "batch", stage, root=root, log=get_run_logger().info)


@task(task_run_name="confidence", cache_policy=NO_CACHE)
def doubt(incoming: Path, reference: Path, out: Path, *, root: Path, model: str) -> str:
    """Measure how sure the champion is of both; give why it could not be, or nothing."""
    run_library(
        "confidence", str(incoming), str(reference), "--out", str(out), "--model", model, root=root,
        log=get_run_logger().info,
    )  # fmt: skip
    return str(json.loads((out / "confidence.json").read_text())["why_not"])


@task(task_run_name="drift", cache_policy=NO_CACHE)
def compare(incoming: Path, reference: Path, out: Path, *, root: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run ``python -m cgm2net drift``; give what it wrote."""
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    run_library(
        "drift", str(incoming), str(reference), "--out", str(out), *given, root=root, log=get_run_logger().info
    )  # fmt: skip
    report: dict[str, Any] = json.loads((out / "drift.json").read_text())
    return report


@flow(name="monitor")
def monitor(
    root: Path = Path(),
    *,
    incoming: Path | None = None,
    reference: Path = Path("artifacts"),
    out: Path = Path("artifacts/drift"),
    model: str = "models:/cgm2net@champion",
    max_psi: float | None = None,
    max_chance: float | None = None,
    min_scenes: int | None = None,
) -> list[str]:
    """Compare the scenes that came in since the last training with those of the training.

    Args:
        root: the folder of ``dvc.yaml``; relative paths are taken from there.
        incoming: a folder like ``artifacts/`` to compare instead; by default the scenes of ``data/catalog.csv`` that
            the reference does not hold go through the data stages, apart from the project's own.
        reference: what the data stages left of the training set.
        out: gets ``drift.html``, ``drift.json`` and ``drift.csv``.
        model: whose confidence is compared; where there is none, that is said, and the rest is compared.
        max_psi: a larger population stability index is drift,
        max_chance: unless more random deals of the same scenes than this share lie as far apart.
        min_scenes: on either side, for a feature to be judged; of these three, what ``python -m cgm2net drift`` takes
            where None.

    Returns:
        The features that drifted, the farthest first; none where nothing came in, or too little to judge.

    Raises:
        CatalogError: if there is no reference.
        CommandError: if a stage or the comparison fails.
    """
    root = root.resolve()
    reference, out = root / reference, root / out
    if not (reference / "validate" / "scenes.csv").is_file():
        raise CatalogError(f"{reference}: no validated scenes there; train first (`python -m pipelines retrain`)")
    limits = {"max-psi": max_psi, "max-chance": max_chance, "min-scenes": min_scenes}
    with alone(root / WORK, log=get_run_logger().info):
        if incoming is None and not _measured(reference, root=root):
            _say("Nothing to compare: no good scene came in since the last training.")
            return []
        batch, sure = root / (incoming or WORK / "batch" / "artifacts"), root / WORK / "confidence"
        why_not = doubt(batch, reference, sure, root=root, model=model)
        options = {**limits, "confidence": None if why_not else sure}
        report = compare(batch, reference, out, root=root, options=options)
    _show(report, out / "drift.html", why_not=why_not)
    _tell(report, root=root)
    return list(report["drifted"])


def _measured(reference: Path, *, root: Path) -> bool:
    """Run the data stages on what came in; say whether a scene is left to compare."""
    if not arrived(reference, root=root):
        return False
    commands = [name for name in list_stages(root) if not name.endswith(".dvc")]
    for stage in commands[: commands.index(MEASURE) + 1]:
        measure.with_options(name=stage, task_run_name=stage)(stage, root=root)
        if stage == "validate":
            rows = read_rows(scenes_of(root / WORK / "batch", stage))
            if not any(row["accepted"] == "True" for row in rows):
                return False
    return True


def _tell(report: dict[str, Any], *, root: Path) -> None:
    if drifted := report["drifted"]:
        psi = {feature["feature"]: feature["psi"] for feature in report["features"] if feature["drifted"]}
        tell(DRIFTED, root=root, ids=drifted, psi=psi, num_incoming=report["num_incoming"])


def _show(report: dict[str, Any], page: Path, *, why_not: str) -> None:
    names = ", ".join(report["drifted"])
    judged = sum(feature["psi"] is not None for feature in report["features"])
    verdict = f"**{names} drifted.**" if names else "Nothing drifted." if judged else "Nothing could be judged."
    _say(
        f"{verdict} {report['num_incoming']} scenes that came in against {report['num_reference']} of the reference,"
        f" {judged} of {len(report['features'])} features judged. What to do stands in `{page}`."
        + (f" The champion's confidence is not compared: {why_not}" if why_not else "")
    )
    ranked = sorted(report["features"], key=lambda f: (not f["drifted"], -(f["psi"] or 0.0)))
    table = [{name: feature[name] for name in SHOWN} for feature in ranked]
    create_table_artifact(table=table, key="monitor-features", description="Features compared, the farthest first")


def _say(text: str) -> None:
    create_markdown_artifact(markdown=text, key="monitor-verdict")
    get_run_logger().info(text)
