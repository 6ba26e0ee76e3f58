"""What running code says of itself beside its steps: one saved state, more time; and the end of ``totalTimeout``."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

from windlass import protocol
from windlass.durations import format_duration
from windlass_operator.domain.errors import AttemptClosedError, UnauthorizedError
from windlass_operator.domain.ids import parse_token
from windlass_operator.domain.retry import TOTAL_TIMED_OUT
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger import progress, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun, Value
from windlass_operator.services import payloads
from windlass_operator.services.recorder import Recorder

_WITHOUT_ATTEMPT: Final = (RunState.QUEUED, RunState.WAITING, RunState.SUSPENDED)


class ProgressService:
    """Checkpoints of long loops, and time limits. One instance a process.

    Args:
        database: The ledger.
        changed: Called after a commit that changed a run.
        record: Counts, logs and traces what happened.
    """

    def __init__(
        self, database: Database, changed: Callable[[UUID], None] = lambda _: None, record: Recorder | None = None
    ) -> None:
        self._database = database
        self._changed = changed
        self._record = record or Recorder()

    async def checkpoint(self, token: str, request: protocol.CheckpointRequest) -> None:
        """Save the state of a run in place of the one before; it is durable when this returns.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was written.
            PayloadInvalidError: Not every reader could read the state.
            PayloadTooLargeError: It belongs into a blob.
        """
        attempt_id, hashed = _parsed(token)
        state = bytes(request.state)
        if state:
            payloads.check_value(state, field="state")
        ref = request.state_ref
        value = Value(text=state.decode() or None, sha256=ref.sha256 if ref else None, size=ref.size if ref else None)
        if not await progress.save_checkpoint(self._database, attempt_id, hashed, request.n, value):
            Recorder.refused("checkpoint")
            raise AttemptClosedError

    async def extend_timeout(self, token: str, request: protocol.ExtendRequest) -> None:
        """Add running time to the limits of an attempt and its run.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was written.
        """
        if not await progress.extend_timeout(self._database, *_parsed(token), request.added_ms):
            Recorder.refused("extend")
            raise AttemptClosedError

    async def end_overdue(self) -> int:
        """End runs without an attempt whose ``totalTimeout`` is over. Those with one are ended by their runner."""
        ended = 0
        for run_id in await progress.overdue(self._database):

            async def work(connection: Connection, run_id: UUID = run_id) -> tuple[LockedRun, RunState] | None:
                run = await runs.lock(connection, run_id)
                if run is None or run.state not in _WITHOUT_ATTEMPT or not run.overdue:
                    return None
                limit = run.snapshot.total_timeout if run.snapshot else None
                message = f"The run had not ended within totalTimeout{_in_brackets(limit)}, waits included."
                change = Change(
                    event=RunEvent.TIME_OUT, reason=TOTAL_TIMED_OUT, message=message, failure_class="timeout"
                )
                return run, await runs.apply(connection, run, change)

            found = await self._database.transaction(work)
            if found is not None:
                ended += 1
                if found[1].final:  # or it is being compensated first
                    self._record.run_ended(*found, reason=TOTAL_TIMED_OUT, failure_class="timeout")
                self._changed(run_id)
        return ended


def _in_brackets(limit: timedelta | None) -> str:
    return "" if limit is None else f" ({format_duration(limit)})"


def _parsed(token: str) -> tuple[UUID, bytes]:
    parsed = parse_token(token)
    if parsed is None:
        raise UnauthorizedError("The token belongs to no attempt.")
    return parsed
