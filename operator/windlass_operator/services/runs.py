"""Reading and cancelling runs: one use case behind REST and resources."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from uuid import UUID

from windlass.durations import format_duration
from windlass_operator.domain.compensation import FAILED_REASON
from windlass_operator.domain.errors import RunNotFoundError
from windlass_operator.domain.ids import as_id
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.ledger import attempts, children, handles, logs, projection, queues, run_lists, runs, steps
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.run_lists import Order, RunFilter
from windlass_operator.ledger.runs import Change, LockedRun
from windlass_operator.services import compensation
from windlass_operator.services.cursors import from_cursor, to_cursor
from windlass_operator.services.recorder import Recorder

_ENDING: Final = frozenset({RunState.CANCELLING, RunState.COMPENSATING})
"""States that a cancellation changes nothing of: the run will not succeed, and is on its way to its end."""

_EXPIRED: Final = "QueueTTLExpired"
_EXPIRED_AT_ONCE: Final = 200


class RunService:
    """Reads and cancels runs of a project; never looks beyond it.

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

    async def get(self, project: Project, run: str) -> dict[str, Any]:
        """Return a run's row by its id, or by the name of its resource (the newest of that name).

        Raises:
            RunNotFoundError: The project has no such run.
        """
        row = await runs.project_by_uid(self._database, project.uid)
        if row is None:
            raise RunNotFoundError(run, project.namespace)
        known = as_id(run)
        if known is not None:
            ids = [known]
        else:  # Postgres text has no NUL, and no name has one
            ids = [] if "\0" in run else await runs.newest_of_name(self._database, row["id"], run)
        found = await runs.get_many(self._database, ids) if ids else []
        if not found or found[0]["project_id"] != row["id"]:
            raise RunNotFoundError(run, project.namespace)
        return found[0]

    async def list_page(
        self, project: Project, wanted: RunFilter, *, order: Order, cursor: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of runs and the cursor of the next one.

        Pages go on after the last run that was shown, not after a number of runs: a run that is created meanwhile
        moves none of the others to another page.

        Raises:
            InvalidRequestError: The cursor is not one of a list in this order.
            ListTooSlowError: It takes longer than a list may.
        """
        after = from_cursor(cursor, order) if cursor else None
        row = await runs.project_by_uid(self._database, project.uid)
        if row is None:
            return [], None
        found = await run_lists.page(self._database, row["id"], wanted, order=order, after=after, limit=limit + 1)
        ids = [run_id for run_id, _ in found[:limit]]
        rows = {row["id"]: row for row in await runs.get_many(self._database, ids)} if ids else {}
        more = to_cursor(order, found[limit - 1][1]) if len(found) > limit else None
        return [rows[run_id] for run_id in ids if run_id in rows], more

    async def cancel(self, run_id: UUID, *, reason: str, message: str) -> RunState | None:
        """Cancel a run; one that is final, or on its way to an end, stays as it is.

        Returns:
            The state afterwards, None if the run is unknown.
        """
        touched: list[LockedRun] = []

        async def work(connection: Connection) -> RunState | None:
            touched.clear()
            run = await runs.lock(connection, run_id)
            if run is None or run.state.final or run.state in _ENDING:
                return run.state if run else None
            touched.append(run)
            return await _cancel(connection, run, reason, message)

        state = await self._database.transaction(work)
        for run in touched:
            self._cancelled(run, state, reason)
        return state

    def _cancelled(self, run: LockedRun, state: RunState | None, reason: str) -> None:
        if state is not None:
            self._ended(run, state, reason=reason, failure_class=None)
            if not state.final:
                self._record.ending(run.id, state)
        self._changed(run.id)

    async def resource_gone(self, run_id: UUID, resource_uid: str) -> None:
        """A Run resource was deleted, and not by us: its run is cancelled, unless another resource shows it too.

        In one transaction, under the run's lock: a resource that asks for the run meanwhile either keeps it from being
        cancelled, or finds it cancelled.
        """
        reason = "ResourceDeleted"
        touched: list[LockedRun] = []

        async def work(connection: Connection) -> RunState | None:
            touched.clear()
            run = await runs.lock(connection, run_id)
            if run is None or await handles.detach(connection, resource_uid) or run.resource_uid != resource_uid:
                return None
            if await handles.inherit(connection, run_id, resource_uid):
                return None
            if run.state.final:
                await projection.forget_resource(connection, run_id, resource_uid)
                return None
            if run.state in _ENDING:
                return None
            touched.append(run)
            return await _cancel(connection, run, reason, "Its Run resource was deleted.")

        state = await self._database.transaction(work)
        for run in touched:
            self._cancelled(run, state, reason)
        self._changed(run_id)

    async def fail_held(self) -> int:
        """Fail runs that a config problem has held for longer than their ``startTimeout``. Returns how many.

        One that is being compensated ends as it would have, with ``CompensationFailed`` and what was not undone.

        A run whose pods have no problem any more is not held: its reason is taken back.
        """
        failed = 0
        held = await runs.held(self._database)
        await self._free([row["id"] for row in held if row["settled"]])
        for row in held:
            if row["settled"]:
                continue
            limit = runs.start_timeout(row)
            if row["held_for"] <= limit:
                continue
            run_id, reason = row["id"], row["reason"]
            message = f"{row['message'] or reason} This lasted for longer than startTimeout ({format_duration(limit)})."

            async def work(
                connection: Connection, run_id: UUID = run_id, reason: str = reason, message: str = message
            ) -> tuple[LockedRun, RunState] | None:
                run = await runs.lock(connection, run_id)
                if run is None or run.reason != reason:
                    return None
                if run.ending is not None and not run.ending.claimed:
                    change = compensation.given_up(run.ending, message)
                elif run.state is RunState.QUEUED:
                    change = Change(event=RunEvent.FAIL, reason=reason, message=message, failure_class="config")
                else:
                    return None
                return run, await runs.apply(connection, run, change)

            found = await self._database.transaction(work)
            if found is None:
                continue
            failed += 1
            self._ended(*found, reason=reason, failure_class="config")
            self._changed(run_id)
        return failed

    async def expire_due(self) -> int:
        """End runs that did not begin within their ``queueTTL``. Returns how many."""
        expired = 0
        for run_id in await queues.overdue(self._database, _EXPIRED_AT_ONCE):

            async def work(connection: Connection, run_id: UUID = run_id) -> tuple[LockedRun, RunState] | None:
                run = await runs.lock(connection, run_id)
                if run is None or run.state is not RunState.QUEUED or run.attempts:
                    return None
                message = "No attempt had begun within queueTTL."
                change = Change(event=RunEvent.EXPIRE, reason=_EXPIRED, message=message)
                return run, await runs.apply(connection, run, change)

            found = await self._database.transaction(work)
            if found is not None:
                expired += 1
                self._ended(*found, reason=_EXPIRED, failure_class=None)
                self._changed(run_id)
        return expired

    def _ended(self, run: LockedRun, state: RunState, *, reason: str, failure_class: str | None) -> None:
        """Tell of a run that may have ended; one that was being compensated ended for what began that."""
        if not state.final:
            return
        if run.ending is not None:
            reason, failure_class = FAILED_REASON, run.ending.failure_class
        self._record.run_ended(run, state, reason=reason, failure_class=failure_class)

    async def end(self, run_id: UUID, *, reason: str, message: str) -> None:
        """Cancel a run whose pods cannot start any more: what would have to be undone stays as it is, and is named."""
        if await self.cancel(run_id, reason=reason, message=message) is not RunState.COMPENSATING:
            return

        async def work(connection: Connection) -> tuple[LockedRun, RunState] | None:
            run = await runs.lock(connection, run_id)
            if run is None or run.ending is None or run.ending.claimed:
                return None  # an attempt is open: it ends with its pod, and we are called again
            return run, await runs.apply(connection, run, compensation.given_up(run.ending, message))

        found = await self._database.transaction(work)
        if found is not None:
            self._ended(*found, reason=reason, failure_class=None)
            self._changed(run_id)

    async def _free(self, run_ids: list[UUID]) -> None:
        async def work(connection: Connection) -> list[UUID]:
            return await runs.set_reason(connection, run_ids, None, None)

        for run_id in await self._database.transaction(work) if run_ids else ():
            self._changed(run_id)

    async def steps(self, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Return steps in the order in which they were first saved."""
        return await steps.list_of_run(self._database, run_id, after=after, limit=limit)

    async def tree(self, run_id: UUID, *, limit: int) -> list[dict[str, Any]]:
        """Return a run and those that it has led to, parents before their children."""
        return await children.tree(self._database, run_id, limit=limit)

    async def attempts(self, run_id: UUID) -> list[dict[str, Any]]:
        """Return all attempts in order, each with its ``failure`` decoded and with what became of its pod."""
        rows = await attempts.list_of_run(self._database, run_id)
        return [{**row, "failure": steps.decode_error(row["failure"])} for row in rows]

    async def events(self, run_id: UUID, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Return events in order."""
        return await runs.events(self._database, run_id, after=after, limit=limit)

    async def logs(self, run_id: UUID, *, after: tuple[int, int], limit: int) -> list[dict[str, Any]]:
        """Return log lines of all attempts in order."""
        return await logs.list_of_run(self._database, run_id, after=after, limit=limit)


async def _cancel(connection: Connection, run: LockedRun, reason: str, message: str) -> RunState:
    return await runs.apply(connection, run, Change(event=RunEvent.CANCEL, reason=reason, message=message))


_LATEST: Final = 10_000
"""Changes that are remembered for who begins to wait. Between the acceptance of a run and that there are a few."""


class Changes:
    """Wake-ups within one process: who waits for a run is woken when it changed. A hint, never the only way."""

    def __init__(self) -> None:
        self._following: dict[UUID, set[Follower]] = {}
        self._latest: dict[UUID, None] = {}
        self._listeners: list[Callable[[UUID], None]] = []
        self._watchers: list[Callable[[UUID], None]] = []

    def listen(self, listener: Callable[[UUID], None]) -> None:
        """Call ``listener`` with every changed run of this process, but not with new ones that no resource shows."""
        self._listeners.append(listener)

    def watch(self, watcher: Callable[[UUID], None]) -> None:
        """Call ``watcher`` with every new or changed run of this process."""
        self._watchers.append(watcher)

    def __call__(self, run_id: UUID) -> None:
        """Wake those who wait for this run."""
        self.wake(run_id)
        self.begun(run_id)

    def begun(self, run_id: UUID) -> None:
        """The run has begun: tell the listeners, and nobody who waits for its end."""
        for listener in self._listeners:
            listener(run_id)
        self.accepted(run_id)

    def accepted(self, run_id: UUID) -> None:
        """The run is there, and no resource shows it: nobody can wait for it yet, and nothing has to be written."""
        for watcher in self._watchers:
            watcher(run_id)

    def wake(self, run_id: UUID) -> None:
        """Wake those who wait, without telling the listeners: the news came from outside."""
        self._latest.pop(run_id, None)
        self._latest[run_id] = None
        if len(self._latest) > _LATEST:
            del self._latest[next(iter(self._latest))]
        for follower in self._following.get(run_id, ()):
            follower.wake()

    @contextmanager
    def follow(self, run_id: UUID) -> "Iterator[Follower]":
        """Be told of the changes of a run for the duration of the block, and of one that was told just before it."""
        follower = Follower()
        if run_id in self._latest:
            follower.wake()
        self._following.setdefault(run_id, set()).add(follower)
        try:
            yield follower
        finally:
            following = self._following[run_id]
            following.discard(follower)
            if not following:
                del self._following[run_id]


class Follower:
    """Waits for a run to change. Made by :meth:`Changes.follow`."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """The run may have changed."""
        self._woken.set()

    def clear(self) -> None:
        """Forget what was told: whoever calls this looks next."""
        self._woken.clear()

    async def wait(self, seconds: float) -> bool:
        """Return when the run may have changed since :meth:`clear`, or after ``seconds``: whether anything was told."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        return self._woken.is_set()
