"""The end of an attempt: one transaction closes it, decides what becomes of its run, and writes that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, UnauthorizedError
from windlass_operator.domain.retry import Decision, Tally, after_release
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger import attempts, runs, steps
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.services import compensation
from windlass_operator.services.handover import ms
from windlass_operator.services.recorder import Ended, Recorder

_OUTCOMES: Final = {
    RunEvent.SUCCEED: "Succeeded",
    RunEvent.RETRY: "Failed",
    RunEvent.FAIL: "Failed",
    RunEvent.TIME_OUT: "TimedOut",
    RunEvent.CONFIRM_CANCEL: "Cancelled",
    RunEvent.WAIT: "Waiting",
    RunEvent.SUSPEND: "Suspended",
}
_STEPS_IN_TRACE: Final = 2000
"""Spans of one attempt's steps at most: a trace is read by people."""


Decide = Callable[[Connection, LockedRun, LockedAttempt], Awaitable[Change]]
"""What the end of an attempt leads to, decided when run and attempt are locked."""


@dataclass(frozen=True, slots=True)
class Closed:
    """An attempt that has ended."""

    answer: protocol.Outcome
    attempt: LockedAttempt
    repeated: bool
    """It had ended before, by the same call: the answer is the first one's."""


class Closing:
    """Closes attempts. One instance a process.

    Args:
        database: The ledger.
        changed: Called after each commit that changed a run.
        record: Counts, logs and traces what happened.
    """

    def __init__(self, database: Database, changed: Callable[[UUID], None], record: Recorder) -> None:
        self._database = database
        self._changed = changed
        self._record = record

    async def close(
        self,
        attempt_id: UUID,
        hashed: bytes | None,
        decide: Decide,
        outcome: str | None = None,
        failure: protocol.Failure | None = None,
    ) -> Closed:
        """Close an attempt and write what that leads to, in one transaction. A repeat is answered as the first was.

        Args:
            attempt_id: The attempt.
            hashed: Of its token; None where somebody else than its runner closes it.
            decide: Says what becomes of the run.
            outcome: How the attempt ended; None: as what becomes of the run says.
            failure: What ended it.

        Raises:
            UnauthorizedError: The token belongs to no attempt.
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        failure_text = None if failure is None else msgspec.json.encode(failure).decode()
        ended: list[Ended] = []

        async def work(connection: Connection) -> Closed:
            ended.clear()
            attempt = await attempts.lock(connection, attempt_id, hashed)
            if attempt is None:
                raise UnauthorizedError("The token belongs to no attempt.")
            if attempt.closed:
                # Only what the runner itself was told is repeated: a reaped attempt has no answer.
                if attempt.answer and hashed is not None:
                    return Closed(msgspec.json.decode(attempt.answer, type=protocol.Outcome), attempt, repeated=True)
                raise AttemptClosedError
            run = await runs.lock(connection, attempt.run_id)
            assert run is not None, "an attempt has a run"
            change = await decide(connection, run, attempt)
            state = await runs.apply(connection, run, change)
            end = Ended(run, attempt, change, state, outcome or _outcome(run, change), failure)
            if self._record.wants_spans(run.traceparent):
                # Read before the attempt closes: what was under way is forgotten then.
                end.steps = await steps.of_attempt(connection, run.id, attempt.number, limit=_STEPS_IN_TRACE)
                end.pod_name = await attempts.pod_name(connection, attempt)
            answer = protocol.Outcome(state=state.value, retry_in_ms=None if change.delay is None else ms(change.delay))
            await attempts.close(
                connection,
                attempt,
                outcome=end.outcome,
                failure=failure_text,
                answer="" if hashed is None else msgspec.json.encode(answer).decode(),
            )
            ended.append(end)
            return Closed(answer, attempt, repeated=False)

        try:
            closed = await self._database.transaction(work)
        except AttemptClosedError:
            if hashed is not None:
                self._record.refused("end")
            raise
        for end in ended:
            self._record.attempt_ended(end)
            self._changed(end.run.id)
        return closed


def at_once(change: Callable[[LockedRun, LockedAttempt], Change]) -> Decide:
    """Return a decision that needs no more than the two rows."""

    async def decide(_: Connection, run: LockedRun, attempt: LockedAttempt) -> Change:
        return change(run, attempt)

    return decide


def handed_back(reason: str) -> tuple[Callable[[LockedRun, LockedAttempt], Change], str, protocol.Failure]:
    """Return what closing an attempt for a pod that must stop comes to: decision, outcome, failure."""
    failure = protocol.Failure(type=reason, message="The pod had to stop.", failure_class="infra")

    def change(run: LockedRun, attempt: LockedAttempt) -> Change:
        return change_of(after_release(tally(run, attempt)), attempt, failure, keep_error=False)

    return change, "Released", failure


def _outcome(run: LockedRun, change: Change) -> str:
    """Return how an attempt ended that this change follows from."""
    if run.ending is None:
        return _OUTCOMES[change.event]
    return "Failed" if change.compensation_failures else compensation.OUTCOME


def tally(run: LockedRun, attempt: LockedAttempt) -> Tally:
    """Return what the retry rules need of a run whose attempt ends."""
    left = None
    if run.snapshot is not None and run.snapshot.timeout is not None:
        left = run.snapshot.timeout + timedelta(milliseconds=run.timeout_added_ms - run.running_ms - attempt.running_ms)
    return Tally(
        user_failures=run.user_failures,
        infra_failures=run.infra_failures,
        cancelling=run.state is RunState.CANCELLING,
        running_time_left=left,
        overdue=run.overdue,
    )


def change_of(
    decision: Decision, attempt: LockedAttempt, failure: protocol.Failure, *, keep_error: bool = True
) -> Change:
    """Return what a decision of the retry rules writes."""
    return Change(
        event=decision.event,
        reason=decision.reason,
        message=failure.message[:1024],
        delay=decision.delay,
        user_failures=decision.user_failures,
        infra_failures=decision.infra_failures,
        running_ms=attempt.running_ms,
        failure_class=failure.failure_class,
        error=msgspec.json.encode(failure).decode() if keep_error else None,
        attempt=attempt.number,
    )
