"""The flows as deployments that one process serves, and the automation that retrains on drift."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, serve
from prefect.automations import Automation, EventTrigger
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from pipelines.events import DRIFTED
from pipelines.ingest import ingest
from pipelines.monitor import monitor
from pipelines.predict import predict
from pipelines.retrain import retrain

AUTOMATION = "cgm2net: retrain on drift"


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
    serve(first, *deployments)


def retrain_on_drift(deployment_id: UUID) -> UUID:
    """Make the automation that runs a deployment when a drift is told, or bring it up to date.

    One that a person has switched off stays off.

    Args:
        deployment_id: of the flow ``retrain``.

    Returns:
        The automation's id, the same each time.
    """
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(AUTOMATION)
    automation = Automation(
        name=AUTOMATION,
        description="What came in has drifted from the training set; the rule in params.yaml decides on the new model.",
        enabled=there[0].enabled if there else True,
        trigger=EventTrigger(expect={DRIFTED}, match={"prefect.resource.id": "cgm2net.project.*"}, threshold=1),
        actions=[RunDeployment(source="selected", deployment_id=deployment_id, parameters=None, job_variables=None)],
    )
    if there:
        automation.id = there[0].id
        automation.update()
    else:
        automation.create()
    assert automation.id is not None
    return automation.id


def _deployment(flow: Flow[..., Any], cron: str, schedule: Schedule, *, root: Path, **parameters: Any) -> Any:
    return flow.to_deployment(
        flow.name,
        schedule=Cron(cron, timezone=schedule.timezone),
        parameters={"root": str(root), **parameters},
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
