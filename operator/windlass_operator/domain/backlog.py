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
        starting: Pods that were started for runs and have not claimed yet.
        backoff_until: Pods of this key failed; none is started before.
        standby: Pods to keep ready beyond what runs need: the sum over the Tasks of this key.
        ahead: Standby pods that have taken no run yet, those that are starting and those that wait.
        waiting: Those of ``ahead`` that are up and wait for a run.
        kept: Its Tasks have moved on to another key, whose standby pods do not wait yet: until then the ones here stay.
    """

    ready: int
    starting: int
    backoff_until: datetime | None = None
    standby: int = 0
    ahead: int = 0
    waiting: int = 0
    kept: bool = False

    @property
    def spare(self) -> int:
        """Standby pods that no run needs now."""
        return max(0, self.ahead - max(0, self.ready - self.starting))

    @property
    def on_their_way(self) -> int:
        """Pods that are not known to work yet."""
        return self.starting + self.ahead - self.waiting


def pods_to_start(facts: KeyFacts, *, starting_everywhere: int, limit: int, now: datetime) -> int:
    """Return how many pods of a key to start for its runs.

    One pod for each run that may start and has none on its way or waiting. A key whose pods fail gets one try after
    each backoff, not one for each run.

    Args:
        facts: What is known of the key.
        starting_everywhere: Pods on their way over all keys.
        limit: Most pods that may be on their way at once.
        now: The ledger's time.
    """
    return _started(facts, facts.ready - facts.starting - facts.ahead, limit - starting_everywhere, now)


def standby_to_start(facts: KeyFacts, *, starting_everywhere: int, limit: int, now: datetime) -> int:
    """Return how many standby pods of a key to start, besides those that :func:`pods_to_start` says.

    They get one half of the limit: ones that cannot start must not keep runs of other keys from starting.

    Args:
        facts: What is known of the key.
        starting_everywhere: Pods on their way over all keys, those that are started for runs now included.
        limit: Most pods that may be on their way at once.
        now: The ledger's time.
    """
    return _started(facts, facts.standby - facts.spare, max(1, limit // 2) - starting_everywhere, now)


def pods_to_drain(facts: KeyFacts) -> int:
    """Return how many standby pods of a key are too many: its Tasks want fewer, are gone, or have moved on."""
    return 0 if facts.kept else max(0, facts.spare - facts.standby)


def _started(facts: KeyFacts, needed: int, room: int, now: datetime) -> int:
    if facts.backoff_until is not None:
        needed = 0 if facts.backoff_until > now or facts.on_their_way > 0 else min(1, needed)
    return max(0, min(needed, room))


def key_backoff(failures: int) -> timedelta:
    """Return how long a key is held back after its ``failures``-th pod in a row that ended without claiming."""
    return backoff(_BACKOFF, failures, 1.0)
