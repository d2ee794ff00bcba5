"""``python -m pipelines COMMAND``: the flows at the command line."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # As often as Prefect allows: a run that is silent for longer than pipelines.automations.SILENT_SECONDS has died.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Without a server Prefect starts a temporary one, which takes 12 to 23 s on a small machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}

_root = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="Folder of dvc.yaml; here by default.",
)
_push = click.option("--push", "push_to", metavar="REMOTE", help="Store the results on this DVC remote.")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _sources(command: _Command) -> _Command:
    """Add the options that say where scenes come from."""
    for option in (
        click.option("--commit", "commit_data", is_flag=True, help="Commit data.dvc to Git."),
        click.option("--folder-options", "options", metavar="ARGS", default="", help="How its files are read."),
        click.option("--stac", metavar="ARGS", help="Options of `python -m cgm2net catalog stac`, in quotes."),
        click.option("--catalog", metavar="URI", help="A catalogue's path or URL."),
        click.option("--folder", metavar="DIR", help="Watched folder: DIR/SCENE_ID/{optical,sar,…}.tif."),
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Run and schedule the pipeline of dvc.yaml with Prefect."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # Prefect reads them when it is imported: hence the late imports below


@main.command()
@_root
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage even if nothing changed; repeatable.")
@_push
@click.option("--if-busy", type=click.Choice(["wait", "skip"]), default="wait", show_default=True,
              help="What to do while another run works on the project.")  # fmt: skip
def retrain(root: Path, **options: Any) -> None:
    """Bring every stage up to date, now."""
    from pipelines import retrain as flows

    _run(flows.retrain, root, **options)


@main.command()
@_root
@click.option("--catalog", type=click.Path(path_type=Path), default=Path("data/catalog.csv"), show_default=True)
@click.option("--model", default="models:/cgm2net@champion", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("maps"), show_default=True)
def predict(root: Path, **options: Any) -> None:
    """Map every scene of the catalogue that has no map by this model, now."""
    from pipelines import predict as flows

    _run(flows.predict, root, **options)


@main.command()
@_root
@_sources
@click.option("--again", is_flag=True, help="Judge scenes in quarantine too, though their files are the same.")
@_push
def ingest(root: Path, **options: Any) -> None:
    """Judge what a source has new, now; good scenes join data/, the others data/quarantine.csv."""
    from pipelines import ingest as flows

    _require_source(options)
    _run(flows.ingest, root, **_placed(options))


@main.command()
@_root
@click.option("--incoming", type=click.Path(path_type=Path), help="A folder like artifacts/, instead of what came in.")
@click.option("--reference", type=click.Path(path_type=Path), default=Path("artifacts"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("artifacts/drift"), show_default=True)
@click.option("--model", default="models:/cgm2net@champion", show_default=True, help="Whose confidence is compared.")
@click.option("--max-psi", type=float, help="Population stability index above which it is drift,")
@click.option("--max-chance", type=float, help="unless as large by chance more often than this.")
@click.option("--min-scenes", type=int, help="On either side, for a feature to be judged; as `cgm2net drift -h` says.")
def monitor(root: Path, **options: Any) -> None:
    """Compare what came in since the last training with the training set, now."""
    from pipelines import monitor as flows

    _run(flows.monitor, root, **options)


_why = click.option("--why", required=True, help="The reason, for the record.")
_who = click.option("--who", help="Recorded as the one who decided; the user's name by default.")
_model = click.option("--name", default="cgm2net", show_default=True, help="Of the registered model.")


@main.command()
@click.argument("version", type=int)
@_root
@_why
@_who
@_model
@click.option("--force", is_flag=True, help="Also if the two were never judged on the same test.")
def promote(root: Path, **options: Any) -> None:
    """Make VERSION the champion, now; taken back if it cannot be loaded."""
    from pipelines import promote as flows

    _run(flows.promote, root, **options)


@main.command()
@_root
@_why
@_who
@_model
def rollback(root: Path, **options: Any) -> None:
    """Move the champion back to where it stood before its last move, now."""
    from pipelines import promote as flows

    _run(flows.rollback, root, **options)


@main.command()
def automate() -> None:
    """Let the server mark runs as crashed whose worker has died; once a server. `serve` does it by itself."""
    from pipelines.automations import crash_silent_runs

    _require_server()
    crash_silent_runs()


@main.command()
@_root
@click.option("--cron", required=True, metavar="CRON", help='When, as "minute hour day month weekday".')
@click.option("--timezone", default="UTC", show_default=True, help="IANA time zone of the schedules.")
@click.option("--predict-cron", metavar="CRON", help="When to map what was ingested; not at all by default.")
@click.option("--ingest-cron", metavar="CRON", help="When to take in what a source has new; needs a source.")
@_sources
@click.option("--monitor-cron", metavar="CRON", help="When to compare what came in with the training set.")
@_push
def serve(
    root: Path, *, cron: str, timezone: str, push_to: str | None, predict_cron: str | None, ingest_cron: str | None,
    monitor_cron: str | None, **source: Any,
) -> None:  # fmt: skip
    """Run the flows on a schedule, from this process, until it is stopped; one run of each at a time.

    When the flow monitor finds drift, retrain runs at once.
    """
    crons = {"cron": cron, "predict-cron": predict_cron, "ingest-cron": ingest_cron, "monitor-cron": monitor_cron}
    for option, given in crons.items():
        if given:
            _require_schedule(given, timezone, option=option)
    if ingest_cron or any(source.values()):
        _require_source(source, cron=ingest_cron or "")
    _require_server()
    from pipelines.schedule import Schedule, run

    schedule = Schedule(
        timezone=timezone, retrain=cron, ingest=ingest_cron, monitor=monitor_cron, predict=predict_cron,
        ingest_parameters=_placed(source),
    )  # fmt: skip
    run(schedule, root=root.resolve(), push_to=push_to)


def _run(flow: Callable[..., Any], root: Path, **parameters: Any) -> None:
    """Run a flow here; end with 1 and its message unless it completes."""
    from prefect import tags

    from pipelines.events import TAG

    with tags(TAG):
        state = flow(root.resolve(), **parameters, return_state=True)
    if not state.is_completed():
        raise click.ClickException(state.message or f"the flow run ended as {state.name}")
    if state.name != "Completed":
        click.echo(f"{state.name}: {state.message}")


def _require_server() -> None:
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise click.ClickException(
            "this needs a Prefect server: run `prefect server start`, then name it in PREFECT_API_URL"
        )


def _require_source(options: dict[str, Any], *, cron: str = "now") -> None:
    """Refuse anything but one source, before Prefect is started."""
    given = [f"--{name}" for name in ("folder", "catalog", "stac") if options[name] is not None]
    if len(given) != 1:
        raise click.UsageError(f"got {' and '.join(given) or 'no source'}; give one of --folder, --catalog, --stac")
    if options["options"] and given != ["--folder"]:
        raise click.UsageError(f"--folder-options say how files of --folder are read, not of {given[0]}")
    if not cron:
        raise click.UsageError(f"{given[0]} says what to take in, and --ingest-cron when; give both")


def _placed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with paths as seen from here, not from the project's folder."""
    placed = dict(options)
    if placed["folder"]:
        placed["folder"] = str(Path(placed["folder"]).resolve())
    if placed["catalog"] and "://" not in placed["catalog"]:
        placed["catalog"] = str(Path(placed["catalog"]).resolve())
    return placed


def _require_schedule(cron: str, timezone: str, *, option: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        problem = error.errors()[0]
        wrong = option if problem["loc"][0] == "cron" else "timezone"
        example = "'Europe/Berlin' or 'UTC'" if wrong == "timezone" else "'0 3 * * 1' is Mondays at 3:00"
        raise click.BadParameter(f"{problem['msg']}; example: {example}", param_hint=f"--{wrong}") from error


if __name__ == "__main__":
    main(prog_name="python -m pipelines")
