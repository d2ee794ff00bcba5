"""What the flows tell the Prefect server, for automations to act on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect.events import emit_event

ACCEPTED = "cgm2net.data.accepted"
REFUSED = "cgm2net.data.refused"
DRIFTED = "cgm2net.drift.detected"

TAG = "cgm2net"
"""On every run of a flow that a command or deployment starts: these send a heartbeat every 30 s."""

NUM_NAMED = 200
"""An event names so many of what it counts: the server refuses large ones."""


def resource_of(root: Path) -> dict[str, str]:
    """Return the resource that a project's events are about."""
    return {"prefect.resource.id": f"cgm2net.project.{root.name}", "prefect.resource.name": root.name}


def tell(event: str, *, root: Path, ids: Sequence[str], **more: str | int | Mapping[str, str | float]) -> None:
    """Emit an event.

    Args:
        event: one of the names above.
        root: the project that it is about.
        ids: scenes or features; their number goes along as ``count``.
        more: goes into the payload; of a mapping, what belongs to the ids that are named.
    """
    named = list(ids[:NUM_NAMED])
    payload = {
        key: {name: value[name] for name in named if name in value} if isinstance(value, Mapping) else value
        for key, value in more.items()
    }
    emit_event(event, resource=resource_of(root), payload={"count": len(ids), "ids": named, **payload})
