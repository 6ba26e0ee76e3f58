"""How many pods a pod key needs now. Pure: the planner writes what comes out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from windlass_operator.domain.retry import RetryPolicy, backoff

_BACKOFF: Final = RetryPolicy(min_delay=timedelta(seconds=1), max_delay=timedelta(minutes=1), jitter="none")


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of a pod key.

    Attributes:
        ready: Runs that may start now (:func:`~windlass_operator.domain.gates.admitted`).
        starting: Pods on their way that have not claimed yet.
        backoff_until: Pods of this key failed; none is started before.
    """

    ready: int
    starting: int
    backoff_until: datetime | None = None


def pods_to_start(facts: KeyFacts, *, starting_everywhere: int, limit: int, now: datetime) -> int:
    """Return how many pods of a key to start.

    One pod for each run that may start and has none on its way. A key whose pods fail gets one try after each backoff,
    not one for each run.

    Args:
        facts: What is known of the key.
        starting_everywhere: Pods on their way over all keys.
        limit: Most pods that may be on their way at once.
        now: The ledger's time.
    """
    if facts.backoff_until is not None:
        if facts.backoff_until > now or facts.starting > 0:
            return 0
        return min(1, facts.ready, max(0, limit - starting_everywhere))
    return max(0, min(facts.ready - facts.starting, limit - starting_everywhere))


def key_backoff(failures: int) -> timedelta:
    """Return how long a key is held back after its ``failures``-th pod in a row that ended without claiming."""
    return backoff(_BACKOFF, failures, 1.0)
