"""What the Prefect server does by itself: retrain on drift, and call crashed what gives no more sign of life."""

from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import Posture

from pipelines.events import DRIFTED, TAG
from pipelines.retrain import SKIPPED

RETRAIN = "cgm2net: retrain on drift"
CRASH = "cgm2net: crash silent runs"

SILENT_SECONDS = 50.0
"""A run that has given no sign of life for so long has died [s].

Heartbeats come every 30 s, as often as Prefect allows, and the server looks every 5 s: so it shows within a minute.
"""

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", SKIPPED)


def retrain_on_drift(deployment_id: UUID) -> UUID:
    """Make the automation that runs a deployment when a drift is told, or bring it up to date.

    One that a person has switched off stays off.

    Args:
        deployment_id: of the flow ``retrain``.

    Returns:
        The automation's id, the same each time.
    """
    return _kept(
        Automation(
            name=RETRAIN,
            description="What came in has drifted from the training set; the rule in params.yaml decides on the new"
            " model.",
            trigger=EventTrigger(expect={DRIFTED}, match={"prefect.resource.id": "cgm2net.project.*"}, threshold=1),
            actions=[
                RunDeployment(source="selected", deployment_id=deployment_id, parameters=None, job_variables=None)
            ],
        )
    )


def crash_silent_runs(*, within_seconds: float = SILENT_SECONDS) -> UUID:
    """Make the automation that marks a run as crashed whose process has died with its machine or worker.

    It looks at runs with the tag of :mod:`pipelines.events` alone: others on the same server may send heartbeats less
    often. One that a person has switched off stays off.

    Args:
        within_seconds: silence that means death; 10 or more, and longer than the heartbeats are apart.

    Returns:
        The automation's id, the same each time.
    """
    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{name}" for name in _ENDS)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_seconds),
    )
    died = f"no heartbeat for {within_seconds:g} s: the process, its worker or its machine has died; run it again"
    action = ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=died, force=False)
    return _kept(
        Automation(name=CRASH, description="A run without heartbeats has died.", trigger=trigger, actions=[action])
    )


def _kept(automation: Automation) -> UUID:
    """Make an automation, or bring the one of its name up to date; switched off it stays off."""
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(automation.name)
    if there:
        automation.id, automation.enabled = there[0].id, there[0].enabled
        automation.update()
    else:
        automation.create()
    assert automation.id is not None
    return automation.id
