"""How a run goes on that will not succeed and is being undone. We only think; the ledger writes the decision."""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from windlass_operator.domain.retry import Decision, FailureClass, RetryPolicy, backoff
from windlass_operator.domain.run_state import RunEvent, RunState

COMPENSATION_BUDGET: Final = 10
"""Attempts to compensate that may fail, for whatever reason, before the run ends with something not undone.

Its own budget, whatever the task's retry: that one is used up perhaps, and that is why we are here.
"""

FAILED_REASON: Final = "CompensationFailed"
_DELAYS: Final = RetryPolicy(min_delay=timedelta(seconds=1), max_delay=timedelta(seconds=30))
_NAMED: Final = 5
"""Steps that a message names before it only counts them."""

_EVENTS: Final = {
    RunState.FAILED: RunEvent.FAIL,
    RunState.TIMED_OUT: RunEvent.TIME_OUT,
    RunState.CANCELLED: RunEvent.CONFIRM_CANCEL,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run that is being compensated ends with, and how far it is."""

    state: RunState
    reason: str | None
    message: str | None
    failure_class: str | None
    """Who had to answer for the end; None where nobody had, as for a cancellation."""
    failures: int
    """Attempts to compensate that have failed."""
    claimed: bool
    """An attempt that compensates is open."""
    not_undone: tuple[str, ...]
    """Keys of the steps that are left, newest first; the first of them, if there are many."""
    left: int
    """How many are left in all."""

    @property
    def event(self) -> RunEvent:
        """What ends the run."""
        return _EVENTS[self.state]


def after_failure(
    ending: Ending,
    failure_class: FailureClass,
    *,
    retry_after: timedelta | None = None,
    draw: float | None = None,
) -> Decision:
    """Decide what a failed attempt to compensate leads to: another one, or the end with something not undone.

    Args:
        ending: Before this failure.
        failure_class: ``permanent`` is not tried again: the function is missing, or said that it is of no use.
        retry_after: The user's own delay (``RetryAt``) instead of the backoff.
        draw: Jitter in [0, 1); drawn here when absent.
    """
    failures = ending.failures + 1
    if failure_class == "permanent" or failures >= COMPENSATION_BUDGET:
        return Decision(ending.event, FAILED_REASON)
    draw = random.random() if draw is None else draw  # noqa: S311 - jitter, not a secret
    if failure_class == "infra" and failures == 1:
        delay = timedelta(0)  # as for every run: the pod is gone, another one can start at once
    else:
        delay = retry_after if retry_after is not None else backoff(_DELAYS, failures, draw)
    return Decision(RunEvent.RETRY, "RetryScheduled", delay)


def not_undone(ending: Ending, why: str) -> str:
    """Return the message of a run that ends with something not undone: which steps, why, and how it ended.

    Args:
        ending: With what is left.
        why: What kept the last attempt from it.
    """
    steps = ", ".join(repr(key[:200]) for key in ending.not_undone[:_NAMED]) or "nothing"
    more = f" and {ending.left - _NAMED} more" if ending.left > _NAMED else ""
    end = ending.reason or ending.state.value
    said = f": {ending.message}" if ending.message and ending.message != end else ""
    return f"Not undone: {steps}{more}. {why[:400].rstrip('.')}. The run ended for {end}{said}"[:1024]
