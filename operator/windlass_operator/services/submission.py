"""Accepting runs: one use case behind the REST route and behind the Run resource.

The Task is read live from the Kubernetes API for each submission, and version and run are written in one transaction,
so a Task and a Run applied in one file work in any order and a run never gets a version older than its Task.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from windlass.protocol import BODY_LIMIT, INLINE_LIMIT
from windlass_operator.domain.errors import (
    NamespaceForbiddenError,
    PayloadInvalidError,
    PayloadTooLargeError,
    TaskInvalidError,
    TaskNotFoundError,
    WindlassError,
)
from windlass_operator.domain.ids import new_id
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import handles, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun, NewRun, Value, Version
from windlass_operator.services import payloads
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.recorder import Recorder

ReadTask = Callable[[str, str], Awaitable[TaskSnapshot | None]]
"""Reads a Task (namespace, name) live; None if there is none. Raises TaskInvalidError for one that cannot be run."""


@dataclass(frozen=True, slots=True)
class Resource:
    """The Run resource that asks for a run."""

    uid: str
    name: str
    spec_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a caller asks for."""

    task: str
    payload: Any = None
    """A JSON value. REST: as ``payloads.parse`` returned it; a resource: as it comes, to be held to the same rules."""
    size: int = 0
    """About the bytes of the payload, if it may be large."""
    version: int | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    idempotency_key: str | None = None
    """Of this and all callers who mean the same run: the first one's is run."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a submission."""

    run_id: UUID
    deduplicated: bool = False
    """The run is an earlier one with the same idempotency key."""


@dataclass(frozen=True, slots=True)
class _Earlier:
    run_id: UUID | None
    """The run that the resource shows now; None if it showed it before."""


class SubmissionService:
    """Accepts runs.

    Args:
        database: The ledger.
        read_task: Reads Tasks live.
        blobs: Keeps payloads that are too large for a row.
        release_namespace: Tasks in it are refused: their pods could mount the control plane's credentials.
        changed: Called after a commit, with the run.
        record: Counts, logs and traces what happened.
    """

    def __init__(
        self,
        database: Database,
        read_task: ReadTask,
        blobs: BlobService,
        *,
        release_namespace: str,
        changed: Callable[[UUID], None] = lambda _: None,
        record: Recorder | None = None,
    ) -> None:
        self._database = database
        self._read_task = read_task
        self._blobs = blobs
        self.large = payloads.LargeValues()
        self._release_namespace = release_namespace
        self._changed = changed
        self._record = record or Recorder()

    async def trigger(self, project: Project, wanted: Submission) -> Accepted:
        """Accept a run from the REST API or refuse it at once.

        A caller whose idempotency key stands for a run that has not failed gets that run, whatever its payload is.

        Raises:
            TaskNotFoundError: The Task does not exist.
            TaskInvalidError: The Task cannot be run as it is written.
            PayloadInvalidError: The payload breaks the Task's schema.
            PayloadTooLargeError: The payload is over the limit.
            BlobStoreUnavailableError: A large payload cannot be stored now; nothing was accepted.
        """
        began, asked = datetime.now(UTC), wanted.traceparent
        self._refuse_release_namespace(project)
        snapshot = await self._read_task(project.namespace, wanted.task)
        if snapshot is None:
            raise TaskNotFoundError(wanted.task, project.namespace, field="task")
        schema = snapshot.payload_schema

        def accept() -> bytes:
            data = payloads.encoded(wanted.payload, limit=BODY_LIMIT)
            payloads.check(wanted.payload, schema, field="payload")
            return data

        data = await self.large.run(accept, size=wanted.size)
        run_id = new_id()
        staged = await self._blobs.stage(project.uid, run_id, data) if len(data) > INLINE_LIMIT else None
        payload = Value(sha256=staged.ref.sha256, size=staged.ref.size) if staged else Value(text=data.decode())
        traceparent, place = self._record.start_trace(asked)
        wanted = replace(wanted, traceparent=traceparent)

        async def work(connection: Connection) -> Accepted:
            project_id = await runs.ensure_project(connection, project.uid, project.namespace)
            holder = await self._holder(connection, project_id, wanted, run_id)
            if holder is not None:  # ours, if this ran before and only the word of its commit was lost
                return Accepted(holder, deduplicated=holder != run_id)
            version = await self._version(connection, project_id, project, wanted, snapshot)
            if version is None:
                raise TaskNotFoundError(f"{wanted.task} version {wanted.version}", project.namespace, field="version")
            await runs.insert(connection, _new_run(run_id, project_id, wanted, version, payload))
            if staged is not None:
                await self._blobs.record(connection, run_id, staged)
            return Accepted(run_id)

        accepted = await self._database.transaction(work)
        if not accepted.deduplicated:
            self._record.accepted(
                run_id, project.namespace, wanted.task, source="rest", began=began, asked=asked, place=place
            )
        self._changed(accepted.run_id)
        return accepted

    async def import_resource(self, project: Project, wanted: Submission, resource: Resource) -> UUID | None:
        """Accept the run of a Run resource, idempotently on the resource's UID. Bad input ends it, visibly.

        Returns:
            The id of the run that the resource shows now, or None when it showed one already.
        """
        snapshot: TaskSnapshot | None = None
        refused: WindlassError | None = None
        text: str | None = None
        try:
            self._refuse_release_namespace(project)
            text = payloads.as_text(wanted.payload, field="spec.payload")
            snapshot = await self._read_task(project.namespace, wanted.task)
            if snapshot is not None:
                payloads.check(wanted.payload, snapshot.payload_schema)
        except (PayloadInvalidError, PayloadTooLargeError, NamespaceForbiddenError) as error:
            refused = error
        except TaskInvalidError as error:
            # Held, not refused: the Task can be corrected, as a missing one can be created.
            return await self._insert(project, wanted, resource, None, text, held=error)
        if refused is None and snapshot is None:
            held = TaskNotFoundError(wanted.task, project.namespace)
            return await self._insert(project, wanted, resource, None, text, held=held)
        return await self._insert(project, wanted, resource, snapshot, text, refused=refused)

    async def _insert(
        self,
        project: Project,
        wanted: Submission,
        resource: Resource,
        snapshot: TaskSnapshot | None,
        text: str | None,
        *,
        held: WindlassError | None = None,
        refused: WindlassError | None = None,
    ) -> UUID | None:
        run_id = new_id()
        began, asked = datetime.now(UTC), wanted.traceparent
        traceparent, place = self._record.start_trace(asked)
        wanted = replace(wanted, traceparent=traceparent)
        failed: list[tuple[LockedRun, str]] = []

        async def work(connection: Connection) -> UUID | None:
            failed.clear()
            project_id = await runs.ensure_project(connection, project.uid, project.namespace)
            if await runs.by_resource(connection, resource.uid) is not None:
                return None
            earlier = await self._earlier(connection, project_id, wanted, resource, None if refused else run_id)
            if earlier is not None:
                return earlier.run_id
            why, version = held or refused, None
            if snapshot is not None and refused is None:
                version = await self._version(connection, project_id, project, wanted, snapshot)
                if version is None:
                    why = TaskNotFoundError(f"{wanted.task} version {wanted.version}", project.namespace)
            run = _new_run(run_id, project_id, wanted, version, Value(text=text), resource=resource, why=why)
            if not await runs.insert(connection, run):
                return None
            if refused is not None:
                locked = await runs.lock(connection, run_id)
                assert locked is not None, "the run was inserted above"
                change = Change(event=RunEvent.FAIL, reason=refused.code, message=refused.message)
                await runs.apply(connection, locked, change)
                failed.append((locked, refused.code))
            return run_id

        made = await self._database.transaction(work)
        if made == run_id:
            self._record.accepted(
                run_id, project.namespace, wanted.task, source="resource", began=began, asked=asked, place=place
            )
        self._record_failed(failed)
        if made is not None:
            self._changed(made)
        return made

    async def _holder(self, connection: Connection, project_id: int, wanted: Submission, run_id: UUID) -> UUID | None:
        """Take the key for a new run, or return the run that has it."""
        if wanted.idempotency_key is None:
            return None
        return await handles.take_key(connection, project_id, wanted.task, wanted.idempotency_key, run_id)

    async def _earlier(
        self, connection: Connection, project_id: int, wanted: Submission, resource: Resource, run_id: UUID | None
    ) -> "_Earlier | None":
        """Give a resource the run that it asked for before: by its name and spec, or by its key.

        None: there is none; the key, if it has one, is taken for ``run_id`` (None: for a run that ends at once).
        """
        twin = await runs.bind_finished_twin(connection, project_id, resource.name, resource.spec_hash, resource.uid)
        if twin is not None:
            return _Earlier(twin)
        while run_id is not None:
            holder = await self._holder(connection, project_id, wanted, run_id)
            if holder is None:
                return None
            run = await runs.lock(connection, holder)
            if await runs.by_resource(connection, resource.uid) is not None:
                return _Earlier(None)  # key or handle were taken for this very resource, while we waited
            if run is not None and run.state.final and run.state is not RunState.SUCCEEDED:
                continue  # it ended while we waited, such as with its own resource: its key is free now
            await handles.attach(
                connection, holder, resource_uid=resource.uid, name=resource.name, spec_hash=resource.spec_hash
            )
            return _Earlier(holder)
        return None

    def _record_failed(self, failed: list[tuple[LockedRun, str]]) -> None:
        """Runs that ended before they could start: their input is at fault, and stays so."""
        for run, reason in failed:
            self._record.run_ended(run, RunState.FAILED, reason=reason, failure_class="permanent")

    async def task_seen(self, project: Project, task: str) -> int:
        """A Task appeared or changed: give it to the runs that wait for it. Returns how many went on."""
        row = await runs.project_by_uid(self._database, project.uid)
        if row is None:
            return 0
        waiting = await runs.waiting_for_task(self._database, row["id"], task)
        if not waiting:
            return 0
        try:
            snapshot = await self._read_task(project.namespace, task)
        except TaskInvalidError as error:
            await self._hold([w["id"] for w in waiting], error)
            return 0
        if snapshot is None:
            return 0
        bound = 0
        for wait in waiting:
            if await self._bind(project, int(row["id"]), task, snapshot, wait):
                bound += 1
                self._changed(wait["id"])
        return bound

    async def _hold(self, run_ids: list[UUID], error: WindlassError) -> None:
        async def work(connection: Connection) -> None:
            await runs.set_reason(connection, run_ids, error.code, error.message)

        await self._database.transaction(work)

    async def _bind(
        self, project: Project, project_id: int, task: str, snapshot: TaskSnapshot, wait: dict[str, Any]
    ) -> bool:
        """Give a waiting run its version, or end it if its payload breaks the schema that is known only now."""
        wanted = Submission(task=task, version=wait["wanted_version"])
        value = None if wait["payload"] is None else payloads.parse(wait["payload"].encode())

        failed: list[tuple[LockedRun, str]] = []

        async def work(connection: Connection) -> bool:
            failed.clear()
            locked = await runs.lock(connection, wait["id"])
            if locked is None or locked.state is not RunState.QUEUED or locked.version_id is not None:
                return False  # another look at the Task came first: the run goes on with what it got
            version = await self._version(connection, project_id, project, wanted, snapshot)
            if version is None:
                return False
            try:
                payloads.check(value, snapshot.payload_schema)
            except PayloadInvalidError as error:
                change = Change(event=RunEvent.FAIL, reason=error.code, message=error.message)
                await runs.apply(connection, locked, change)
                failed.append((locked, error.code))
                return True
            return await runs.bind_version(connection, wait["id"], version)

        bound = await self._database.transaction(work)
        self._record_failed(failed)
        return bound

    async def _version(
        self, connection: Connection, project_id: int, project: Project, wanted: Submission, snapshot: TaskSnapshot
    ) -> Version | None:
        current = await runs.ensure_version(connection, project_id, project.uid, wanted.task, snapshot)
        if wanted.version is None or wanted.version == current.version:
            return current
        return await runs.version_by_number(connection, project_id, wanted.task, wanted.version)

    def _refuse_release_namespace(self, project: Project) -> None:
        if project.namespace == self._release_namespace:
            raise NamespaceForbiddenError(project.namespace)


def _new_run(
    run_id: UUID,
    project_id: int,
    wanted: Submission,
    version: Version | None,
    payload: Value,
    *,
    resource: Resource | None = None,
    why: WindlassError | None = None,
) -> NewRun:
    return NewRun(
        id=run_id,
        project_id=project_id,
        task=wanted.task,
        version=version,
        wanted_version=wanted.version,
        payload=payload,
        tags=wanted.tags,
        traceparent=wanted.traceparent,
        idempotency_key=wanted.idempotency_key,
        reason=why.code if why else None,
        message=why.message if why else None,
        resource_uid=resource.uid if resource else None,
        resource_name=resource.name if resource else None,
        resource_hash=resource.spec_hash if resource else None,
    )
