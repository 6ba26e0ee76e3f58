"""The Queue resource: the limits that runs of one or several Tasks keep together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from windlass_operator.resources.base import KubeModel
from windlass_operator.resources.conditions import Condition, ready_conditions


class QueueSpec(KubeModel):
    """What the queue allows. Every field may be changed at any time, and holds at once."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many runs may be under way at once, over all Tasks of the queue. A run that waits (sleep, wait_for_event,
    child runs …) is not under way, and gives its place to another. Exact, whatever crashes. Lowered, it ends nothing:
    no run starts until fewer are under way. Default: any number."""
    paused: bool = False
    """Set to true and no run of the queue starts; those under way go on to their end."""
    max_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many runs may wait in the queue. One more is refused with QueueFull: through the API with 429, as a Run
    resource by its status. Retries and runs that wake from a wait are never refused. Default: any number."""


class QueueStatus(KubeModel):
    """How full the queue is. Written by the operator only, at most once a second."""

    running: int | None = Field(None, ge=0)
    """Runs under way."""
    queued: int | None = Field(None, ge=0)
    """Runs that could start if the queue let them, or if there were a pod."""
    delayed: int | None = Field(None, ge=0)
    """Runs that start later: a delay, or the pause before a retry."""
    oldest: AwareDatetime | None = None
    """Since when the first of the queued runs waits."""
    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Ready: the spec holds. Stalled: it cannot be read, and the one before holds."""


def status_of(
    *,
    running: int,
    queued: int,
    delayed: int,
    oldest: datetime | None,
    generation: int,
    now: datetime,
    problem: tuple[str, str] | None = None,
    current: Sequence[Condition] = (),
) -> dict[str, Any]:
    """Return the status of a Queue. Absent values are null.

    Args:
        running: Open attempts.
        queued: Runs that are due.
        delayed: Runs that are not.
        oldest: When the first of the queued was due.
        generation: ``metadata.generation`` that was acted on.
        now: When this is decided, aware.
        problem: Reason and message, if the spec cannot be read.
        current: The conditions that the resource shows now.
    """
    conditions = ready_conditions(
        problem=problem[0] if problem else None,
        message=problem[1] if problem else None,
        generation=generation,
        now=now,
        current=current,
    )
    counts = QueueStatus(
        running=running,
        queued=queued,
        delayed=delayed,
        oldest=None if oldest is None else oldest.replace(microsecond=0),
        observed_generation=generation,
        conditions=conditions,
    )
    return {"oldest": None, **counts.to_object()}
