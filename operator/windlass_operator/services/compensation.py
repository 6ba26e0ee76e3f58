"""What becomes of a run that is being compensated: decisions as changes to write."""

from datetime import timedelta

from windlass import protocol
from windlass_operator.domain import compensation
from windlass_operator.domain.compensation import Ending
from windlass_operator.domain.run_state import RunEvent
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.runs import Change

OUTCOME = "Compensated"
"""Of an attempt that undid what was left."""


def after_success(ending: Ending, attempt: LockedAttempt) -> Change:
    """Return the end of the run: an attempt says that everything is undone.

    If the ledger knows of more, the runner is not believed: what it left is done by another attempt.
    """
    if ending.left:
        left = protocol.Failure(type="CompensationIncomplete", message="The runner left something to be undone.")
        return after_failure(ending, attempt, left)
    return Change(
        event=ending.event,
        reason=ending.reason,
        message=ending.message,
        running_ms=attempt.running_ms,
        attempt=attempt.number,
    )


def after_failure(
    ending: Ending, attempt: LockedAttempt, failure: protocol.Failure, *, retry_after: timedelta | None = None
) -> Change:
    """Return another attempt, or the end of the run with something not undone. The run's own error is kept."""
    decision = compensation.after_failure(ending, failure.failure_class, retry_after=retry_after)
    message = failure.message[:1024]
    if decision.event is not RunEvent.RETRY:
        message = compensation.not_undone(ending, f"{failure.type}: {failure.message}")
    return Change(
        event=decision.event,
        reason=decision.reason,
        message=message,
        delay=decision.delay,
        compensation_failures=1,
        running_ms=attempt.running_ms,
        attempt=attempt.number,
    )


def given_up(ending: Ending, why: str) -> Change:
    """Return the end of a run of which nothing more can be undone, because no pod of it can start."""
    return Change(event=ending.event, reason=compensation.FAILED_REASON, message=compensation.not_undone(ending, why))
