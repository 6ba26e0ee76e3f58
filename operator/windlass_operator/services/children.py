"""Runs that start runs: once for each key, under the fence of the attempt that asks for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from windlass import protocol
from windlass_operator.domain.errors import InvalidRequestError, LedgerUnavailableError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import children
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.children import Parent, Started
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.intake import Lineage
from windlass_operator.services import payloads
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.submission import SubmissionService
from windlass_operator.services.submitted import Accepted, Prepared, Submission

MOST: Final = 1000
"""Runs in one request."""
DEPTH: Final = 20
"""Levels of runs below one that nobody's code has started: a task that triggers itself must come to an end."""
_TRIES: Final = 5


class RunTooDeepError(WindlassError):
    """Runs that start runs that start runs."""

    code, http_status = "RunTooDeep", 422

    def __init__(self) -> None:
        super().__init__(
            f"This run has {DEPTH} runs above it, each started by the one before, and {DEPTH} levels are the most.",
            hint="Does the task trigger itself? Start the run from outside, or flatten the tree.",
        )


class RunEndingError(WindlassError):
    """A run that is being cancelled, or undoes what it did, wants to start another."""

    code, http_status = "RunCancelling", 409

    def __init__(self) -> None:
        super().__init__("The run is coming to its end: it starts nothing new.")


class WaitsForItselfError(WindlassError):
    """An idempotency key stands for a run that waits, directly or not, for this one."""

    code, http_status = "WaitsForItself", 422

    def __init__(self, key: str, run_id: UUID) -> None:
        super().__init__(
            f"Idempotency key {key[:128]!r} stands for run {run_id}, which has led to this run: it would wait for "
            "itself.",
            hint="Use another key, or trigger it without waiting.",
        )


class OtherArgumentsError(WindlassError):
    """A step that has started a run is asked for with other arguments."""

    code, http_status = "Divergence", 409

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Step {key[:200]!r} has started a run with other arguments: the code or its inputs changed since. "
            "Take times, random numbers and answers of other systems from a step."
        )


class _TwiceError(Exception):
    """The same request is under way in another transaction, and was faster."""


class ChildService:
    """Starts runs for runs. One instance a process.

    Args:
        database: The ledger.
        attempts: Knows whose token it is.
        submissions: Accepts runs, by the rules for all.
        changed: Called after each commit that changed a run.
        ended: Called with runs that may have ended before somebody began to wait for them.
        record: Knows the place of a run in its trace.
    """

    def __init__(
        self,
        database: Database,
        attempts: AttemptService,
        submissions: SubmissionService,
        *,
        changed: Callable[[UUID], None] = lambda _: None,
        ended: Callable[[UUID], None] = lambda _: None,
        record: Recorder | None = None,
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._submissions = submissions
        self._changed = changed
        self._ended = ended
        self._record = record or Recorder()

    async def start(self, token: str, wanted: Sequence[tuple[protocol.Child, Submission]]) -> protocol.ChildrenAnswer:
        """Start runs for an attempt's run, in one transaction: all of them or none. A repeat returns the same ones.

        Args:
            token: The attempt's.
            wanted: What is asked for, and the same as a submission.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was started.
            TaskNotFoundError: There is no such Task in the run's namespace.
            PayloadInvalidError: A payload breaks the Task's schema.
            RunTooDeepError, RunEndingError, WaitsForItselfError, OtherArgumentsError: As they say.
        """
        if not 1 <= len(wanted) <= MOST:
            raise InvalidRequestError(
                f"{len(wanted)} runs in one request; 1 to {MOST} may be started.", field="children"
            )
        if len({child.key for child, _ in wanted}) < len(wanted):
            raise InvalidRequestError("Two of the children have the same key.", field="children")
        writer = await self._attempts.authenticate(token)
        project = Project(writer.project_uid, writer.namespace)
        keys = [child.key for child, _ in wanted]
        for _ in range(_TRIES):
            known, trace = await self._before(writer, keys)
            fresh = [(child, submission) for child, submission in wanted if child.key not in known]
            prepared = await self._prepared(project, writer, fresh, trace)
            try:
                found, shared = await self._begin(writer, project, [child for child, _ in wanted], fresh, prepared)
            except _TwiceError:
                continue
            for child, _ in wanted:
                if found[child.key].args_hash != child.args_hash:
                    raise OtherArgumentsError(child.key)
            self._changed(writer.run_id)
            for run_id in shared:  # one that ended before its wait was written has told nobody
                self._ended(run_id)
            return protocol.ChildrenAnswer(run_ids=[str(found[key].run_id) for key in keys])
        raise LedgerUnavailableError("The same runs are being started by another request of this attempt.")

    async def _before(self, writer: Writer, keys: list[str]) -> tuple[dict[str, Started], str | None]:
        """Return what was started before, so that it is not prepared again, and the run's trace."""

        async def work(connection: Connection) -> tuple[dict[str, Started], str | None]:
            known = await children.started(connection, writer.run_id, keys)
            return known, await children.trace_of(connection, writer.run_id)

        return await self._database.transaction(work)

    async def _prepared(
        self, project: Project, writer: Writer, fresh: Sequence[tuple[protocol.Child, Submission]], trace: str | None
    ) -> list[Prepared]:
        if not fresh:
            return []
        place = self._record.place_of(trace, writer.attempt_id)

        def read() -> list[Submission]:
            return [_submission(child, submission, place) for child, submission in fresh]

        size = sum(len(bytes(child.payload)) for child, _ in fresh)
        return await self._submissions.prepare(project, await self._submissions.large.run(read, size=size))

    async def _begin(
        self,
        writer: Writer,
        project: Project,
        wanted: Sequence[protocol.Child],
        fresh: Sequence[tuple[protocol.Child, Submission]],
        prepared: Sequence[Prepared],
    ) -> tuple[dict[str, Started], list[UUID]]:
        """Return the run of each key, and those that were started before and that are waited for from now on."""
        accepted: list[Accepted] = []
        keys = [child.key for child in wanted]

        async def work(connection: Connection) -> tuple[dict[str, Started], list[UUID]]:
            parent = await children.lock_parent(connection, writer)
            found = await children.started(connection, writer.run_id, keys)
            again = _again(wanted, found)
            if len(found) == len(keys) and not again:
                accepted.clear()
                return found, []
            if len(found) != len(keys) - len(fresh):
                raise _TwiceError
            if parent.state is not RunState.RUNNING:
                raise RunEndingError
            if parent.depth >= DEPTH:
                raise RunTooDeepError
            lineage = [_lineage(parent, child) for child, _ in fresh]
            accepted[:] = (
                await self._submissions.insert(connection, parent.project_id, project, prepared, lineage)
                if fresh
                else []
            )
            pairs = [(child, became.run_id) for (child, _), became in zip(fresh, accepted, strict=True)]
            shared = {
                became.run_id: child.idempotency_key or ""
                for (child, _), became in zip(fresh, accepted, strict=True)
                if became.deduplicated and child.awaited
            }
            if shared:
                for run_id in await children.ancestors(connection, writer.run_id, list(shared)):
                    raise WaitsForItselfError(shared[run_id], run_id)
            if not await children.note(connection, parent, [*again, *pairs]):
                raise _TwiceError
            found |= {child.key: Started(run_id, child.args_hash) for child, run_id in pairs}
            return found, [*shared, *(run_id for _, run_id in again)]

        found = await self._database.transaction(work)
        if accepted:
            self._submissions.tell(project, prepared, accepted, source="run")
        return found


def _again(wanted: Sequence[protocol.Child], found: dict[str, Started]) -> list[tuple[protocol.Child, UUID]]:
    """Return the runs that an attempt begins to wait for again, because an earlier one did not wait long enough."""
    again = [(child, found[child.key]) for child in wanted if child.key in found and found[child.key].again]
    for child, before in again:
        if before.args_hash != child.args_hash:
            raise OtherArgumentsError(child.key)
    return [(child, before.run_id) for child, before in again]


def _submission(child: protocol.Child, submission: Submission, place: str | None) -> Submission:
    data = bytes(child.payload) or b"null"
    payload = payloads.parse(data, field=f"{submission.at}payload")
    return replace(submission, payload=payload, size=len(data), traceparent=place)


def _lineage(parent: Parent, child: protocol.Child) -> Lineage:
    return Lineage(parent.run_id, parent.root_id, parent.depth + 1, child.detached)
