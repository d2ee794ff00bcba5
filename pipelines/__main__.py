"""``python -m pipelines COMMAND``: the flows at the command line."""

import os
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
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


@click.group()
def main() -> None:
    """Run and schedule the pipeline of dvc.yaml with Prefect."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # Prefect reads them when it is imported: hence the late imports below


@main.command()
@_root
@click.option("--force", metavar="STAGE", multiple=True, help="Run this stage even if nothing changed; repeatable.")
@_push
def retrain(root: Path, force: tuple[str, ...], push_to: str | None) -> None:
    """Bring every stage up to date, now."""
    from pipelines import retrain as flows

    state = flows.retrain(root.resolve(), force, push_to, return_state=True)
    if not state.is_completed():
        raise click.ClickException(state.message or f"the flow run ended as {state.name}")


@main.command()
@_root
@click.option("--catalog", type=click.Path(path_type=Path), default=Path("data/catalog.csv"), show_default=True)
@click.option("--model", default="models:/cgm2net@champion", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("maps"), show_default=True)
def predict(root: Path, catalog: Path, model: str, out: Path) -> None:
    """Map every scene of the catalogue that has no map by this model, now."""
    from pipelines import predict as flows

    state = flows.predict(root.resolve(), catalog, model, out, return_state=True)
    if not state.is_completed():
        raise click.ClickException(state.message or f"the flow run ended as {state.name}")


@main.command()
@_root
@click.option("--cron", required=True, metavar="CRON", help='When, as "minute hour day month weekday".')
@click.option("--timezone", default="UTC", show_default=True, help="IANA time zone of the schedule.")
@click.option("--predict-cron", metavar="CRON", help="When to map what was ingested; not at all by default.")
@_push
def serve(root: Path, cron: str, timezone: str, predict_cron: str | None, push_to: str | None) -> None:
    """Run the flows on a schedule, from this process, until it is stopped; one run of each at a time."""
    from prefect import serve as serve_all
    from prefect.schedules import Cron
    from prefect.settings import PREFECT_API_URL
    from prefect.types.entrypoint import EntrypointType

    from pipelines import predict, retrain

    _require_schedule(cron, timezone, option="cron")
    if predict_cron:
        _require_schedule(predict_cron, timezone, option="predict-cron")
    if not PREFECT_API_URL.value():
        raise click.ClickException(
            "a schedule needs a Prefect server: run `prefect server start`, then name it in PREFECT_API_URL"
        )
    module = EntrypointType.MODULE_PATH
    here = str(root.resolve())
    deployments: list[Any] = [
        retrain.retrain.to_deployment(
            "retrain", schedule=Cron(cron, timezone=timezone), parameters={"root": here, "push_to": push_to},
            concurrency_limit=1, entrypoint_type=module,
        )
    ]  # fmt: skip
    if predict_cron:
        deployments.append(
            predict.predict.to_deployment(
                "predict", schedule=Cron(predict_cron, timezone=timezone), parameters={"root": here},
                concurrency_limit=1, entrypoint_type=module,
            )
        )  # fmt: skip
    serve_all(*deployments)


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
