"""What keeps a queued run from starting. Pure, and the one place for it.

The claim, the planner of pods, the status and ``explain`` all ask here. A limit that joins later (rates, keys,
breakers) is one more gate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# Members of resources.reasons, which the domain does not import.
PAUSED: Final = "Paused"
CONCURRENCY_LIMIT: Final = "ConcurrencyLimit"
QUEUE_NOT_FOUND: Final = "QueueNotFound"
POOL_NOT_FOUND: Final = "PoolNotFound"
DELAYED: Final = "Delayed"
RETRY_SCHEDULED: Final = "RetryScheduled"


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What is known of a queue.

    Attributes:
        name: Of the Queue resource, or of the Task that has no other.
        running: Open attempts; only counted where ``concurrency`` is set.
        concurrency: Attempts that may be open at once; None for any number.
        missing: A Task names it and there is no such Queue, so nobody knows its limits.
    """

    name: str
    running: int = 0
    concurrency: int | None = None
    paused: bool = False
    missing: bool = False

    def free(self) -> int | None:
        """Return how many runs it lets start now; None for any number."""
        if self.paused or self.missing:
            return 0
        return None if self.concurrency is None else max(0, self.concurrency - self.running)


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing that a run waits for."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a queued run.

    Attributes:
        available_at: It is not claimed before: a delay, or the pause before a retry.
        attempts: How many it has had.
        queue: Its queue; None while its Task is missing.
        held: What its pods or its Task keep it from starting for, if anything does.
        missing_pool: Name of the WorkerPool whose pods are to run it, where there is no such pool.
    """

    available_at: datetime
    attempts: int = 0
    queue: QueueFacts | None = None
    held: Gate | None = None
    missing_pool: str | None = None


def gates(facts: RunFacts, now: datetime) -> list[Gate]:
    """Return everything that a queued run waits for, the most lasting first. Empty: the next free runner takes it."""
    found = [] if facts.held is None else [facts.held]
    if facts.missing_pool is not None:
        found.append(gate_of_missing_pool(facts.missing_pool))
    if facts.queue is not None:
        found += gates_of_queue(facts.queue)
    if facts.available_at > now:
        at = facts.available_at.astimezone(UTC).isoformat(timespec="seconds")
        if facts.attempts:
            found.append(Gate(RETRY_SCHEDULED, f"The next attempt starts at {at}."))
        else:
            found.append(Gate(DELAYED, f"It was asked to start at {at}."))
    return found


def may_start(facts: RunFacts, now: datetime) -> bool:
    """Whether a queued run may be claimed."""
    return not gates(facts, now)


def gate_of_missing_pool(name: str) -> Gate:
    """Return why nothing starts in the pods of a pool that is not there."""
    return Gate(
        POOL_NOT_FOUND, f"There is no WorkerPool {name!r}, which the Task names. Create it, or change the Task's pool."
    )


def gates_of_queue(queue: QueueFacts) -> list[Gate]:
    """Return why a queue lets nothing start; empty if it does."""
    found = []
    if queue.missing:
        message = f"There is no Queue {queue.name!r}, which the Task names. Create it, or take queue out of the Task."
        found.append(Gate(QUEUE_NOT_FOUND, message))
    if queue.paused:
        message = f"Queue {queue.name!r} is paused. Set its spec.paused to false to let its runs start."
        found.append(Gate(PAUSED, message))
    if queue.concurrency is not None and queue.running >= queue.concurrency:
        message = f"Queue {queue.name!r} runs {queue.running} of at most {queue.concurrency} at once."
        found.append(Gate(CONCURRENCY_LIMIT, message))
    return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """Runs of one pod key that wait in one queue and are due."""

    pod_key: str
    queue_id: int
    ready: int
    oldest: datetime
    """Rank of the first of them."""


def admitted(waiting: Sequence[Waiting], queues: Mapping[int, QueueFacts]) -> dict[str, int]:
    """Return how many runs of each pod key may start now, as the queues let them.

    A queue's free slots go to the keys whose runs have waited longest; no slot is counted twice.
    """
    left = {queue_id: facts.free() for queue_id, facts in queues.items()}
    found: dict[str, int] = {}
    for part in sorted((p for p in waiting if p.ready), key=lambda p: p.oldest):
        free = left.get(part.queue_id)
        taken = part.ready if free is None else min(part.ready, free)
        if free is not None:
            left[part.queue_id] = free - taken
        found[part.pod_key] = found.get(part.pod_key, 0) + taken
    return found
