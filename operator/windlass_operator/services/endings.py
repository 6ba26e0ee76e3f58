"""What follows from the end of a run for others: who waits for it goes on, and what it has started may have to end.

Neither is part of the transaction that ends the run: a parent and its child are never locked together. The process that
committed the end does what follows at once; the operator looks for what was left undone.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from windlass import protocol
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import children, waits
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Value
from windlass_operator.ledger.steps import decode_error
from windlass_operator.ledger.waits import Outcome
from windlass_operator.resources.reasons import Reason
from windlass_operator.services.runs import RunService

log = structlog.get_logger()

_SETTLED: Final = 200
"""Waits that are ended in one transaction; each may carry a result of 64 KiB."""
_CANCELLED: Final = 500
_TOGETHER: Final = 0.005
"""Seconds in which runs may end that are told of in one transaction: a parent may have hundreds of children."""
_MESSAGE: Final = 1024
_CHILDREN_GO_ON: Final = (RunState.SUCCEEDED, RunState.FAILED)


class EndingService:
    """Tells runs of each other's end. One instance a process.

    Args:
        database: The ledger.
        runs: Cancels children.
        changed: Called after each commit that changed a run.
    """

    def __init__(self, database: Database, runs: RunService, changed: Callable[[UUID], None] = lambda _: None) -> None:
        self._database = database
        self._runs = runs
        self._changed = changed
        self._told: set[UUID] = set()
        self._stopped: set[UUID] = set()
        """Those of them whose children may have to end as well."""
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something to do for :meth:`follow`."""

    def ended(self, run_id: UUID, state: RunState | None = None) -> None:
        """A run has ended, or is to end: in this state, if that is known. A hint: nothing depends on it."""
        self._told.add(run_id)
        if state not in _CHILDREN_GO_ON:
            self._stopped.add(run_id)
        self.wake()

    async def follow(self) -> timedelta | None:
        """Do what follows from the ends of which this process was told. Says if there is more to do."""
        if not self._told:
            return None
        await asyncio.sleep(_TOGETHER)
        told, self._told = self._told, set()
        stopped, self._stopped = self._stopped, set()
        more = True
        try:
            settle_more = await self._settle(list(told))
            cascade_more = bool(stopped) and await self._cascade(list(stopped))
            more = settle_more or cascade_more
        finally:
            if more:
                self._told |= told
                self._stopped |= stopped
        return timedelta(0) if self._told else None

    async def sweep(self) -> timedelta | None:
        """Do the same for ends that nobody was told of: a process may die between a commit and what follows from it."""
        more = await self._settle(None)
        more = await self._cascade(None) or more
        return timedelta(0) if more else None

    async def _settle(self, targets: Sequence[UUID] | None) -> bool:
        """End waits for runs that have ended; returns whether there may be more."""
        rows = await children.ended(self._database, targets, limit=_SETTLED)
        if not rows:
            return False
        outcomes = [_outcome(row) for row in rows]

        async def work(connection: Connection) -> list[UUID]:
            return await waits.settle(connection, outcomes)

        for run_id in await self._database.transaction(work):
            self._changed(run_id)
        return len(rows) == _SETTLED

    async def _cascade(self, parents: Sequence[UUID] | None) -> bool:
        """Cancel what was started by runs that were cancelled themselves; returns whether there may be more."""
        found = await children.orphans(self._database, parents, limit=_CANCELLED)
        message = "The run that started it was cancelled or ran out of time."
        done = 0
        for run_id in found:
            try:
                await self._runs.cancel(run_id, reason=Reason.PARENT_CANCELLED.value, message=message)
                done += 1
            except LedgerUnavailableError:
                raise
            except Exception:  # one that cannot be cancelled must not keep the others running
                log.exception("child not cancelled", run=str(run_id))
        return done == _CANCELLED


def _outcome(row: dict[str, Any]) -> Outcome:
    """Return what the end of a child is for the step that waits for it."""
    run_id, key, state = row["run_id"], row["key"], row["state"]
    if state == RunState.SUCCEEDED.value:
        if row["result_sha256"]:
            value = Value(sha256=row["result_sha256"], size=row["result_size"])
        else:
            value = Value(text=row["result"] or "null")
        return Outcome(run_id=run_id, key=key, result=value)
    last = decode_error(row["error"])
    why = last.type if last else row["reason"] or state
    text = (row["message"] if state == RunState.CANCELLED.value else None) or (last.message if last else row["message"])
    said = (text or "no message")[:_MESSAGE]
    failed = protocol.FailedRun(
        run_id=str(row["id"]), state=state, type=why, message=said, failure_class=last.failure_class if last else None
    )
    message = f"Run {row['id']} of task {row['task']!r} is {state}: {why}: {said}"
    return Outcome(
        run_id=run_id, key=key, failure=protocol.Failure(type="RunFailedError", message=message, step=key, run=failed)
    )
