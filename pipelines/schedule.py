"""The flows as deployments that one process serves, with the automations that they need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Flow, serve
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from pipelines.automations import crash_silent_runs, retrain_on_drift
from pipelines.events import TAG
from pipelines.ingest import ingest
from pipelines.monitor import monitor
from pipelines.predict import predict
from pipelines.retrain import retrain


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When each flow runs; None: not at all."""

    timezone: str
    """IANA name."""
    retrain: str
    """Minute, hour, day, month, weekday, as all of them."""
    ingest: str | None = None
    monitor: str | None = None
    predict: str | None = None
    ingest_parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the flow, its source among them."""


def run(schedule: Schedule, *, root: Path, push_to: str | None) -> None:
    """Serve the flows until the process is stopped; one run of each at a time, drift starts a training.

    A run of whose process nothing is heard any more is marked as crashed.

    Args:
        schedule: when.
        root: the folder of ``dvc.yaml``.
        push_to: DVC remote for results and data; nowhere if None.
    """
    first = _deployment(retrain, schedule.retrain, schedule, root=root, push_to=push_to)
    others: list[tuple[Flow[..., Any], str | None, dict[str, Any]]] = [
        (predict, schedule.predict, {}),
        (ingest, schedule.ingest, {**schedule.ingest_parameters, "push_to": push_to}),
        (monitor, schedule.monitor, {}),
    ]
    deployments = [
        _deployment(flow, cron, schedule, root=root, **parameters) for flow, cron, parameters in others if cron
    ]
    retrain_on_drift(first.apply())
    crash_silent_runs()
    serve(first, *deployments)


def _deployment(flow: Flow[..., Any], cron: str, schedule: Schedule, *, root: Path, **parameters: Any) -> Any:
    return flow.to_deployment(
        flow.name,
        schedule=Cron(cron, timezone=schedule.timezone),
        parameters={"root": str(root), **parameters},
        concurrency_limit=1,
        tags=[TAG],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
