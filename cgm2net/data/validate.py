"""Stage ``validate``: facts of every scene, judged by one Great Expectations checkpoint; verdicts with reasons."""

import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cgm2net.catalog import FILE_ROLES, merge_results, read_scenes, write_scenes
from cgm2net.compute import Facts, SceneJob, map_scenes
from cgm2net.data.expectations import RULES, SUITE, build_suite, explain, source_lacks
from cgm2net.data.facts import scene_facts
from cgm2net.errors import DataError
from cgm2net.files import write_json
from cgm2net.settings import ValidateSettings

if TYPE_CHECKING:
    from great_expectations.data_context.store.store import DataDocsSiteConfigTypedDict

_RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ValidateReport:
    """What validation came to."""

    num_scenes: int
    num_accepted: int
    num_refused: int
    "Here; scenes refused by an earlier stage are the rest."
    num_cached: int
    "Scenes whose files were read in an earlier run."


def validate(scenes: Path, out_dir: Path, *, settings: ValidateSettings) -> ValidateReport:
    """Say of every scene whether it can be used, and if not, why.

    Args:
        scenes: scene table of ``download``.
        out_dir: new folder; gets ``data_docs/`` (start at ``index.html``), ``verdicts.json`` (reasons one by one, and
            what each file holds) and, last, ``scenes.csv`` with the judged facts.
        settings: limits, and how many scenes must pass.

    Raises:
        DataError: if fewer scenes pass than ``min_accepted``, after everything is written; counts the reasons.
    """
    table = read_scenes(scenes)
    incoming = table[table["accepted"]]
    rows = [{str(name): value for name, value in row.items()} for row in incoming.to_dict("records")]
    jobs = [_job(row) for row in rows]
    found, num_cached = map_scenes(
        scene_facts, jobs, stage="validate", out_dir=out_dir, num_workers=settings.num_workers, cluster=settings.cluster
    )
    for row, facts in zip(rows, found, strict=True):
        facts["source_lacks"] = source_lacks(row, facts["optical_bands"])
    files = {str(facts["scene_id"]): facts.pop("files") for facts in found}
    failed = _judge(found, settings, docs_dir=out_dir / "data_docs") if found else {}
    reasons = {str(facts["scene_id"]): _reasons(facts, failed, settings) for facts in found}
    for facts in found:
        told = reasons[str(facts["scene_id"])]
        facts |= {"accepted": not told, "reason": "; ".join(told)}
    judged = merge_results(table, found) if found else table
    verdicts = {
        row.scene_id: {
            "accepted": bool(row.accepted),
            "reasons": reasons.get(str(row.scene_id), [row.reason]),
            "files": files.get(str(row.scene_id), {}),
        }
        for row in judged.itertuples()
    }
    _write_index(out_dir / "data_docs", judged)
    write_json(out_dir / "verdicts.json", verdicts)
    write_scenes(judged, out_dir / "scenes.csv")
    num_accepted = int(judged["accepted"].sum())
    if num_accepted < settings.min_accepted:
        counts = Counter({"refused by an earlier stage": len(table) - len(incoming)})
        counts.update(column for told in failed.values() for column in told)
        raise DataError(_too_few(num_accepted, len(table), counts, settings, out_dir))
    return ValidateReport(
        num_scenes=len(table),
        num_accepted=num_accepted,
        num_refused=len(incoming) - num_accepted,
        num_cached=num_cached,
    )


def _job(row: dict[str, object]) -> SceneJob:
    paths = {role: Path(str(row[role])) for role in FILE_ROLES if row[role]}
    return SceneJob(
        scene_id=str(row["scene_id"]),
        parameters={
            "roles": list(paths),
            "acquired_optical": row["acquired_optical"],
            "acquired_sar": row["acquired_sar"],
        },
        inputs={role: path for role, path in paths.items() if path.is_file()},
    )


def _reasons(facts: Facts, failed: dict[str, list[str]], settings: ValidateSettings) -> list[str]:
    columns = failed.get(str(facts["scene_id"]), [])
    return [explain(rule, facts, settings) for rule in RULES if rule.column in columns]


def _judge(found: Sequence[Facts], settings: ValidateSettings, *, docs_dir: Path) -> dict[str, list[str]]:
    """Run the checkpoint over the facts and write the data docs.

    Returns:
        Scene id -> the judged columns in which it fails, for scenes that fail.

    Raises:
        DataError: if an expectation could not be evaluated: no verdict is no pass.
    """
    # Sends usage over the network otherwise; read when the package is imported.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # at INFO it tells of its own bookkeeping
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    facts = pd.DataFrame(list(found), columns=["scene_id", *(rule.column for rule in RULES)])
    with tempfile.TemporaryDirectory() as project:
        context = gx.get_context(mode="file", project_root_dir=project)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        context.update_data_docs_site("local_site", _docs_site(docs_dir.resolve()))
        asset = context.data_sources.add_or_update_pandas(SUITE).add_dataframe_asset(SUITE)
        definition = gx.ValidationDefinition(
            name=SUITE,
            data=asset.add_batch_definition_whole_dataframe(SUITE),
            suite=context.suites.add_or_update(build_suite(settings)),
        )
        checkpoint = gx.Checkpoint(
            name=SUITE,
            validation_definitions=[context.validation_definitions.add_or_update(definition)],
            actions=[UpdateDataDocsAction(name="data docs")],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["scene_id"]},
        )
        result = context.checkpoints.add_or_update(checkpoint).run(
            batch_parameters={"dataframe": facts},
            run_id=RunIdentifier(run_name="validate", run_time=_RUN_TIME),
        )
    _settle_docs(docs_dir)
    failed: dict[str, list[str]] = {}
    for validation in result.run_results.values():
        for outcome in validation.results:
            assert outcome.expectation_config is not None
            column = outcome.expectation_config.kwargs["column"]
            if outcome.exception_info.get("raised_exception", True):
                raise DataError(f"the rule on {column} could not be evaluated: {outcome.exception_info}")
            for row in outcome.result["unexpected_index_list"]:
                failed.setdefault(row["scene_id"], []).append(column)
    return failed


def _docs_site(folder: Path) -> "DataDocsSiteConfigTypedDict":
    return {  # type: ignore[typeddict-unknown-key]  # the site builder takes one key more than its type names
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _settle_docs(folder: Path) -> None:
    """Make equal scenes give equal pages, keep the pages from reporting who reads them, and drop what they do not show.

    Great Expectations writes times and random ids into its pages and asks its maker's server for a logo with both; it
    puts pictures of a tutorial beside them, which weigh more than all the rest.
    """
    pages = sorted(folder.rglob("*.html"))
    shown = "".join(page.read_text() for page in pages)
    for picture in folder.glob("static/images/*"):
        if picture.name not in shown:
            picture.unlink()
    for page in pages:
        text = re.sub(r'(https://great-expectations-web-assets[^"?]*)\?[^"]*', r"\1", page.read_text())
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0", text)
        text = re.sub(r"\b(?!2000)\d{8}T\d{6}\.\d{6}Z", "not recorded", text)
        page.write_text(text.replace("2000-01-01T00:00:00Z", "not recorded, so that equal scenes give equal pages"))


def _write_index(folder: Path, judged: pd.DataFrame) -> None:
    """Write the first page: every scene with its reason, refused ones first, and the way to the checkpoint's page.

    It replaces the index of Great Expectations, which lists runs, here always one, by scripts from the network.
    """
    folder.mkdir(exist_ok=True)
    rows = judged.sort_values(["accepted", "scene_id"])[["scene_id", "accepted", "reason"]]
    links = [page.relative_to(folder).as_posix() for page in folder.glob("validations/**/*.html")]
    (folder / "index.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Verdicts on the scenes</title>'
        "<style>body{font:15px sans-serif;margin:2em;max-width:70em}td,th{text-align:left;vertical-align:top;"
        "padding:.3em 1em .3em 0;border-bottom:1px solid #ddd}</style>"
        f"<h1>{int(rows['accepted'].sum())} of {len(rows)} scenes are accepted</h1>"
        + "".join(f'<p><a href="{link}">What is expected of a scene, and what was found</a></p>' for link in links)
        + rows.replace({"accepted": {True: "yes", False: "no"}}).to_html(index=False, border=0, justify="left")
        + "</html>\n"
    )


def _too_few(num_accepted: int, num_scenes: int, counts: Counter[str], settings: ValidateSettings, out: Path) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common() if count)
    return (
        f"{num_accepted} of {num_scenes} scenes are accepted, validate.min_accepted wants {settings.min_accepted};"
        f" refusals: {reasons or 'none'}; read {out / 'scenes.csv'} (column reason) or {out / 'data_docs/index.html'},"
        " mend the scenes, add others, or lower validate.min_accepted"
    )
