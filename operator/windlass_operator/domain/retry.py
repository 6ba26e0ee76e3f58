"""What the end of an attempt leads to. We only think; the ledger writes the decision by compare-and-set."""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from windlass_operator.domain.run_state import RunEvent

FailureClass = Literal["user", "permanent", "timeout", "infra", "config"]
Jitter = Literal["full", "none"]

INFRA_BUDGET: Final = 10
"""Infrastructure failures (node loss, lost lease, killed pod) that one run may meet before it fails.

Its own budget: losing a node must not use up the attempts that the user set for the code's own failures.
"""

DIVERGENCE: Final = "Divergence"
"""Reason of a failure that no attempt can mend and that is nobody's failed work: the code does not fit history."""

TOTAL_TIMED_OUT: Final = "TotalTimedOut"
"""Reason of a run whose ``totalTimeout`` is over, whatever it did meanwhile."""

_INFRA_DELAY: Final = timedelta(seconds=1)
_INFRA_DELAY_MAX: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast failures of the user's code are tried again. See ``Task.spec.retry``."""

    max_attempts: int = 3
    min_delay: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    max_delay: timedelta = timedelta(seconds=60)
    jitter: Jitter = "full"


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run has been through when an attempt ends, that attempt's failure not yet counted."""

    user_failures: int
    infra_failures: int
    cancelling: bool = False
    running_time_left: timedelta | None = None
    """Of ``spec.timeout``, after the ended attempt; None when the task sets no timeout."""
    overdue: bool = False
    """``totalTimeout`` is over."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state of a run, decided but not yet written."""

    event: RunEvent
    reason: str
    delay: timedelta | None = None
    """Before the next attempt, when ``event`` is RETRY."""
    user_failures: int = 0
    """To add to the run's count."""
    infra_failures: int = 0


def backoff(policy: RetryPolicy, failures: int, draw: float) -> timedelta:
    """Return the delay after the ``failures``-th failure.

    Full jitter: evenly between nothing and the exponential ceiling, so that a thousand runs that failed together do
    not come back together.

    Args:
        policy: The task's retry policy.
        failures: Failures so far, the last one included; at least 1.
        draw: A number of [0, 1), drawn by the caller.
    """
    # In seconds and with a bounded exponent: factor ** 10_000 overflows a float, and its product a timedelta.
    seconds = policy.min_delay.total_seconds() * policy.factor ** min(failures - 1, 64)
    ceiling = timedelta(seconds=min(seconds, policy.max_delay.total_seconds()))
    return ceiling * draw if policy.jitter == "full" else ceiling


def after_failure(
    policy: RetryPolicy,
    tally: Tally,
    failure_class: FailureClass,
    *,
    reason: str,
    retry_after: timedelta | None = None,
    run_timed_out: bool = False,
    draw: float | None = None,
) -> Decision:
    """Decide what a failed attempt leads to.

    Args:
        policy: The task's retry policy.
        tally: Counts before this failure.
        failure_class: ``user`` and ``timeout`` count against ``maxAttempts``, ``infra`` against its own budget,
            ``permanent`` is never retried; a divergence suspends the run.
        reason: What the status shows if the run fails now.
        retry_after: The user's own delay (``RetryAt``) instead of the backoff.
        run_timed_out: The running time over all attempts is used up.
        draw: Jitter in [0, 1); drawn here when absent.
    """
    draw = random.random() if draw is None else draw  # noqa: S311 - jitter, not a secret
    user = 1 if failure_class in ("user", "timeout", "permanent") else 0
    infra = 1 if failure_class == "infra" else 0

    def decide(event: RunEvent, why: str, delay: timedelta | None = None) -> Decision:
        return Decision(event, why, delay, user_failures=user, infra_failures=infra)

    if tally.cancelling:  # first: a person said stop, no budget overrides that
        return Decision(RunEvent.CONFIRM_CANCEL, "Cancelled")  # what had to be killed for it is nobody's failure
    spent = tally.running_time_left is not None and tally.running_time_left <= timedelta(0)
    if tally.overdue:
        return decide(RunEvent.TIME_OUT, TOTAL_TIMED_OUT)
    if run_timed_out or spent:
        return decide(RunEvent.TIME_OUT, "TimedOut")
    if failure_class == "permanent" and reason == DIVERGENCE:  # no attempt is used: other code may go on from here
        return Decision(RunEvent.SUSPEND, DIVERGENCE)
    if failure_class in ("permanent", "config"):
        return decide(RunEvent.FAIL, reason)
    if infra:
        failures = tally.infra_failures + 1
        if failures > INFRA_BUDGET:
            return decide(RunEvent.FAIL, "AttemptsExhausted")
        # The first loss costs no delay: the pod is gone, another one can start at once.
        infra_policy = RetryPolicy(min_delay=_INFRA_DELAY, max_delay=_INFRA_DELAY_MAX)
        delay = timedelta(0) if failures == 1 else backoff(infra_policy, failures - 1, draw)
        return decide(RunEvent.RETRY, "RetryScheduled", delay)
    failures = tally.user_failures + 1
    if failures >= policy.max_attempts:
        return decide(RunEvent.FAIL, "AttemptsExhausted")
    delay = retry_after if retry_after is not None else backoff(policy, failures, draw)
    return decide(RunEvent.RETRY, "RetryScheduled", delay)


def after_release(tally: Tally) -> Decision:
    """Decide what a hand-over (SIGTERM, drain) leads to: the run is queued again and no budget is used."""
    if tally.cancelling:
        return Decision(RunEvent.CONFIRM_CANCEL, "Cancelled")
    return Decision(RunEvent.RETRY, "RetryScheduled", delay=timedelta(0))
