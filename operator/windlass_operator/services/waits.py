"""Durable waits: begin them, end the attempt when nothing else is left, end those whose time has come."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError, UnauthorizedError
from windlass_operator.domain.ids import parse_token
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.domain.waits import Blocked, explain
from windlass_operator.ledger import waits
from windlass_operator.ledger.attempts import LockedAttempt, Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.ledger.waits import Due, Outcome
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.handover import step_from_row

Begin = Callable[[Connection, Writer, protocol.Wait], Awaitable[None]]
"""What a kind of wait does when it begins, in the transaction that begins it. Raises what the code is to be told."""

_BATCH: Final = 500
"""Waits that are ended in one transaction."""
_MOST: Final = 1000
"""Waits in one request."""
_SHOWN: Final = 1


class WaitService:
    """What may happen to durable waits. One instance a process.

    Args:
        database: The ledger.
        attempts: Ends the attempt of a run that only waits.
        changed: Called after each commit that changed a run.
        kinds: What the kinds of waits do when one begins, beyond being written down. A sleep does nothing.
    """

    def __init__(
        self,
        database: Database,
        attempts: AttemptService,
        changed: Callable[[UUID], None] = lambda _: None,
        *,
        kinds: Mapping[str, Begin] | None = None,
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._changed = changed
        self._kinds = dict(kinds or {})
        self.timer_set: Callable[[float], None] = lambda _: None
        """Called after a wait has begun with the seconds in which it is over, as a hint for who rings."""

    async def register(self, token: str, request: protocol.WaitsRequest) -> protocol.WaitsAnswer:
        """Begin waits, and return those that are over. To say it again begins nothing again.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was written.
            InvalidRequestError: A wait has neither an end nor anything to wait for, or a time that is none.
        """
        _check(request)
        writer = await self._attempts.authenticate(token)
        if writer.closed_at is not None:
            raise AttemptClosedError

        async def work(connection: Connection) -> tuple[protocol.WaitsAnswer, bool]:
            begun = await waits.register(connection, writer, request.waits) if request.waits else set()
            for wait in request.waits:
                if wait.key in begun and wait.kind in self._kinds:
                    await self._kinds[wait.kind](connection, writer, wait)
            over = await waits.over(connection, writer.run_id, [*request.keys, *(wait.key for wait in request.waits)])
            return protocol.WaitsAnswer(over=[step_from_row(row) for row in over]), bool(begun)

        answer, news = await self._database.transaction(work)
        if news:
            self._changed(writer.run_id)
            for wait in request.waits:
                if wait.due_in_ms is not None:
                    self.timer_set(wait.due_in_ms / 1000)
        return answer

    async def suspend(self, token: str, request: protocol.SuspendRequest) -> protocol.SuspendAnswer:
        """End an attempt whose code only waits. If a wait is over meanwhile, it goes on instead.

        A repeat is answered as the first was.

        Raises:
            AttemptClosedError: The attempt was closed by somebody else.
            InvalidRequestError: It waits for nothing.
        """
        if not request.waits:
            raise InvalidRequestError("A run that waits for nothing cannot be suspended.", field="waits")
        parsed = parse_token(token)
        if parsed is None:
            raise UnauthorizedError("The token belongs to no attempt.")

        async def decide(connection: Connection, run: LockedRun, attempt: LockedAttempt) -> Change:
            over = await waits.over(connection, run.id, request.waits)
            if over:
                raise _GoOnError([step_from_row(row) for row in over])
            total = await waits.count(connection, run.id)
            if total == 0:
                raise InvalidRequestError("The run has begun none of these waits.", field="waits")
            await waits.group(connection, run.id, request.groups, request.together)
            first = await waits.of_run(connection, run.id, limit=_SHOWN)
            reason, message = explain([Blocked(w.kind, w.due_at, w.target) for w in first], total)
            # Its code would clean up with the next heartbeat; there is nothing left of it but waits.
            event = RunEvent.CONFIRM_CANCEL if run.state is RunState.CANCELLING else RunEvent.WAIT
            if event is RunEvent.CONFIRM_CANCEL:
                reason, message = run.reason or "Cancelled", "The run was cancelled while it waited."
            return Change(
                event=event, reason=reason, message=message, running_ms=attempt.running_ms, attempt=attempt.number
            )

        try:
            await self._attempts.close_after(*parsed, decide)
        except _GoOnError as found:
            return protocol.SuspendAnswer(suspended=False, over=found.over)
        return protocol.SuspendAnswer(suspended=True)

    async def fire_due(self) -> timedelta | None:
        """End the waits whose time has come. Returns when the next one is due, if that is soon."""
        due = await waits.due(self._database, limit=_BATCH)
        if due:
            ended = await self._fire(due)
            metrics.WAITS_DUE.inc(ended)
            if len(due) == _BATCH and ended:
                return timedelta(0)
        seconds = await waits.next_due(self._database)
        return None if seconds is None else timedelta(seconds=max(0.02, seconds))

    async def _fire(self, due: list[Due]) -> int:
        outcomes = [Outcome(run_id=wait.run_id, key=wait.key, failure=_too_late(wait)) for wait in due]

        async def work(connection: Connection) -> list[UUID]:
            # Other replicas have the same timers: what one of them has in hand is left to it.
            return await waits.settle(connection, outcomes, skip_locked=True)

        changed = await self._database.transaction(work)
        for run_id in changed:
            self._changed(run_id)
        return len(changed)


class _GoOnError(Exception):
    """Some of the waits are over."""

    def __init__(self, over: list[protocol.Step]) -> None:
        super().__init__("go on")
        self.over = over


def _too_late(wait: Due) -> protocol.Failure | None:
    if wait.kind == "sleep":
        return None
    message = f"{wait.name} was not over within its timeout."
    return protocol.Failure(type="WaitTimeoutError", message=message, failure_class="timeout", step=wait.key)


def _check(request: protocol.WaitsRequest) -> None:
    asked = request.waits
    if max(len(asked), len(request.keys)) > _MOST:
        raise InvalidRequestError(f"More than {_MOST} waits in one request.", field="waits")
    if len({wait.key for wait in asked}) < len(asked):
        raise InvalidRequestError("Two waits have the same key.", field="waits")
    for wait in asked:
        if wait.kind == "step":
            raise InvalidRequestError(f"Wait {wait.key[:100]!r} has no kind of wait.", field="waits.kind")
        if wait.due_in_ms is None and wait.due_at is None and wait.target is None:
            raise InvalidRequestError(f"Wait {wait.key[:100]!r} would never be over.", field="waits")
        if wait.due_at is not None:
            _check_time(wait)
        if len(bytes(wait.detail)) > protocol.INLINE_LIMIT:
            raise InvalidRequestError(f"The detail of wait {wait.key[:100]!r} is too large.", field="waits.detail")


def _check_time(wait: protocol.Wait) -> None:
    try:
        when = datetime.fromisoformat(wait.due_at or "")
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise InvalidRequestError(
            f"dueAt of wait {wait.key[:100]!r} is no ISO 8601 time with an offset.", field="waits.dueAt"
        )
