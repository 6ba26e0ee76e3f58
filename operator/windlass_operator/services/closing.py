"""The end of attempts: one transaction closes them, decides what becomes of their runs, and writes that."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
import structlog

from windlass import protocol
from windlass_operator.domain.errors import (
    AttemptClosedError,
    LedgerUnavailableError,
    UnauthorizedError,
    WindlassError,
)
from windlass_operator.domain.retry import Decision, Tally, after_release
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger import attempts, runs, steps
from windlass_operator.ledger.attempts import LockedAttempt
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.services import compensation
from windlass_operator.services.batch import Batch
from windlass_operator.services.handover import ms
from windlass_operator.services.recorder import Ended, Recorder

log = structlog.get_logger()

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
_TOGETHER: Final = 200
"""Calls that are answered together at most."""
_AT_ONCE: Final = 500
"""Attempts that are closed in one transaction; each may have a result of 64 KiB."""


Decide = Callable[[Connection, LockedRun, LockedAttempt], Awaitable[Change]]
"""What the end of an attempt leads to, decided when run and attempt are locked."""


@dataclass(frozen=True, slots=True)
class End:
    """The wish to close an attempt."""

    attempt_id: UUID
    hashed: bytes | None
    """Of its token; None where somebody else than its runner closes it."""
    decide: Decide
    """Says what becomes of the run."""
    outcome: str | None = None
    """How the attempt ended; None: as what becomes of the run says."""
    failure: protocol.Failure | None = None
    """What ended it."""


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
        self._batch: Batch[Sequence[End], list[Closed | Exception]] = Batch(self._flush, limit=_TOGETHER)

    async def close(self, end: End) -> Closed:
        """Close an attempt and write what that leads to, in one transaction. A repeat is answered as the first was.

        Raises:
            UnauthorizedError: The token belongs to no attempt.
            AttemptClosedError: The attempt is closed, and not by this call.
        """
        return or_raise((await self._close([end]))[0])

    async def close_together(self, ends: Sequence[End]) -> list[Closed | Exception]:
        """Close attempts whose runners have ended them, and answer each; one that is refused keeps no other.

        Those that come while others are being written share the next transaction.

        Raises:
            LedgerUnavailableError: The ledger does not answer. Some may have been closed; to repeat is harmless.
        """
        return await self._batch(ends)

    async def _flush(self, groups: list[Sequence[End]]) -> list[list[Closed | Exception]]:
        """Close what has come together, each attempt once in a transaction: who repeats an end is answered after it."""
        waiting = [(g, n, end) for g, group in enumerate(groups) for n, end in enumerate(group)]
        answers: dict[tuple[int, int], Closed | Exception] = {}
        while waiting:
            now: dict[UUID, tuple[int, int, End]] = {}
            later = []
            for one in waiting:
                if one[2].attempt_id in now or len(now) == _AT_ONCE:
                    later.append(one)
                else:
                    now[one[2].attempt_id] = one
            closed = await self._close_apart([end for _, _, end in now.values()])
            answers |= {(g, n): answer for (g, n, _), answer in zip(now.values(), closed, strict=True)}
            waiting = later
        return [[answers[g, n] for n in range(len(group))] for g, group in enumerate(groups)]

    async def _close_apart(self, ends: Sequence[End]) -> Sequence[Closed | Exception]:
        """Close attempts in one transaction, or, where one of them fails it, each in its own."""
        try:
            return await self._close(ends)
        except LedgerUnavailableError:
            raise
        except Exception as error:
            if len(ends) == 1:
                return [error]
            log.info("attempts are closed one by one", number=len(ends), error=str(error)[:200])
        return [(await self._close_apart([end]))[0] for end in ends]

    async def _close(self, ends: Sequence[End]) -> Sequence[Closed | WindlassError]:
        """Close attempts, and write what that leads to, in one transaction."""
        ended: list[Ended] = []

        async def work(connection: Connection) -> list[Closed | WindlassError]:
            ended.clear()
            locked = await attempts.lock_all(connection, [(end.attempt_id, end.hashed) for end in ends])
            answers = [_answer(end, locked.get(end.attempt_id)) for end in ends]
            wanted = [(locked[end.attempt_id], end) for end, a in zip(ends, answers, strict=True) if a is None]
            closed = iter(await self._write(connection, wanted, ended) if wanted else [])
            return [answer if answer is not None else next(closed) for answer in answers]

        answers = await self._database.transaction(work)
        for end, answer in zip(ends, answers, strict=True):
            if isinstance(answer, AttemptClosedError) and end.hashed is not None:
                self._record.refused("end")
        for done in ended:
            self._record.attempt_ended(done)
            self._changed(done.run.id)
        return answers

    async def _write(
        self, connection: Connection, wanted: Sequence[tuple[LockedAttempt, End]], ended: list[Ended]
    ) -> list[Closed]:
        """Write what the ends of locked, open attempts lead to."""
        locked = await runs.lock_all(connection, [attempt.run_id for attempt, _ in wanted])
        decided = []
        for attempt, end in wanted:
            run = locked[attempt.run_id]
            decided.append((run, await end.decide(connection, run, attempt)))
        states = await runs.apply_all(connection, decided)
        closed, closes = [], []
        for (attempt, end), (run, change), state in zip(wanted, decided, states, strict=True):
            done = Ended(run, attempt, change, state, end.outcome or _outcome(run, change), end.failure)
            if self._record.wants_spans(run.traceparent):
                # Read before the attempt closes: what was under way is forgotten then.
                done.steps = await steps.of_attempt(connection, run.id, attempt.number, limit=_STEPS_IN_TRACE)
                done.pod_name = await attempts.pod_name(connection, attempt)
            ended.append(done)
            answer = protocol.Outcome(state=state.value, retry_in_ms=None if change.delay is None else ms(change.delay))
            closed.append(Closed(answer, attempt, repeated=False))
            failure = None if end.failure is None else msgspec.json.encode(end.failure).decode()
            kept = "" if end.hashed is None else msgspec.json.encode(answer).decode()
            closes.append(attempts.Close(attempt.id, done.outcome, failure, kept))
        await attempts.close_all(connection, closes)
        return closed


def _answer(end: End, attempt: LockedAttempt | None) -> Closed | WindlassError | None:
    """Return what an end is answered without anything being written; None: the attempt is open."""
    if attempt is None:
        return UnauthorizedError("The token belongs to no attempt.")
    if not attempt.closed:
        return None
    # Only what the runner itself was told is repeated: a reaped attempt has no answer.
    if attempt.answer and end.hashed is not None:
        return Closed(msgspec.json.decode(attempt.answer, type=protocol.Outcome), attempt, repeated=True)
    return AttemptClosedError()


def or_raise(answer: Closed | Exception) -> Closed:
    """Return what closing an attempt led to.

    Raises:
        Exception: It was refused.
    """
    if isinstance(answer, Exception):
        raise answer
    return answer


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
