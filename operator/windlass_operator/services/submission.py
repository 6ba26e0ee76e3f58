"""Accepting runs: one use case behind the REST route and behind the Run resource.

The Task is read live from the Kubernetes API for each submission, and version and run are written in one transaction,
so a Task and a Run applied in one file work in any order and a run never gets a version older than its Task.
"""

from collections import Counter
from collections.abc import Callable, Sequence
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
from windlass_operator.ledger import handles, intake, queues, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.intake import Lineage
from windlass_operator.ledger.runs import Change, LockedRun, Value, Version
from windlass_operator.resources.names import is_object_name
from windlass_operator.services import payloads
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.live_tasks import LiveTasks, ReadTask
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.single_triggers import SingleTriggers
from windlass_operator.services.submitted import Accepted, Prepared, Resource, SomeRefusedError, Submission, new_run


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
        changed: Called after a commit that a Run resource shows, with the run.
        accepted: Called after other commits, with each run that is new.
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
        accepted: Callable[[UUID], None] = lambda _: None,
        record: Recorder | None = None,
    ) -> None:
        self._database = database
        self._read_task = LiveTasks(read_task)
        self._singles = SingleTriggers(database, self.insert)
        self._blobs = blobs
        self.large = payloads.LargeValues()
        self._release_namespace = release_namespace
        self._changed = changed
        self._accepted = accepted
        self._record = record or Recorder()

    async def trigger(self, project: Project, wanted: Submission, *, shown: bool = True) -> Accepted:
        """Accept a run from the REST API or refuse it at once.

        A caller whose idempotency key stands for a run that has not failed gets that run, whatever its payload is.

        Args:
            project: Of the run.
            wanted: What is to be run.
            shown: Whether the answer shows the new run's row.

        Raises:
            TaskNotFoundError: The Task does not exist.
            TaskInvalidError: The Task cannot be run as it is written.
            PayloadInvalidError: The payload breaks the Task's schema.
            PayloadTooLargeError: The payload is over the limit.
            BlobStoreUnavailableError: A large payload cannot be stored now; nothing was accepted.
            QueueFullError: As many runs wait as the queue allows.
        """
        [prepared] = await self.prepare(project, [wanted])
        written, became = await self._singles(project, replace(prepared, shown=shown))
        self.tell(project, [written], [became], source="rest")
        return became

    async def trigger_all(self, project: Project, wanted: Sequence[Submission]) -> list[Accepted]:
        """Accept runs in one transaction, all of them or none. Errors and keys are those of :meth:`trigger`.

        Of several with the same key of the same task the first one is run, and is the answer to the others.
        """
        prepared = await self.prepare(project, wanted)

        async def work(connection: Connection) -> list[Accepted]:
            project_id = await runs.ensure_project(connection, project.uid, project.namespace)
            return await self.insert(connection, project_id, project, prepared)

        accepted = await self._database.transaction(work)
        self.tell(project, prepared, accepted, source="rest")
        return accepted

    async def prepare(self, project: Project, wanted: Sequence[Submission]) -> list[Prepared]:
        """Hold submissions to every rule that needs no transaction, and bring large payloads to the store.

        Raises:
            WindlassError: As :meth:`trigger`. What was stored is swept later.
        """
        began = datetime.now(UTC)
        self._refuse_release_namespace(project)
        snapshots: dict[str, TaskSnapshot] = {}
        for one in wanted:
            if one.task not in snapshots:
                known = is_object_name(one.task)
                snapshot = await self._read_task(project.namespace, one.task) if known else None
                if snapshot is None:
                    raise TaskNotFoundError(one.task, project.namespace, field=f"{one.at}task")
                snapshots[one.task] = snapshot

        def check() -> list[bytes]:
            return [_checked(one, snapshots[one.task]) for one in wanted]

        texts = await self.large.run(check, size=sum(one.size for one in wanted))
        # They rise in the order of the request: the queue and lists go by the id where the time is the same.
        ids = [new_id() for _ in wanted]
        prepared = []
        for one, run_id, text in zip(wanted, ids, texts, strict=True):
            staged = await self._blobs.stage(project.uid, run_id, text) if len(text) > INLINE_LIMIT else None
            payload = Value(sha256=staged.ref.sha256, size=staged.ref.size) if staged else Value(text=text.decode())
            traceparent, place = self._record.start_trace(one.traceparent)
            kept = one if traceparent == one.traceparent else replace(one, traceparent=traceparent)
            snapshot = snapshots[one.task]
            prepared.append(Prepared(kept, run_id, snapshot, payload, staged, began, one.traceparent, place))
        return prepared

    async def insert(
        self,
        connection: Connection,
        project_id: int,
        project: Project,
        prepared: Sequence[Prepared],
        lineage: Sequence[Lineage] | None = None,
        *,
        refused: dict[UUID, WindlassError] | None = None,
    ) -> list[Accepted]:
        """Write prepared submissions in the caller's transaction.

        Args:
            connection: The transaction.
            project_id: The project's id in the ledger.
            project: The same project.
            prepared: What :meth:`prepare` returned.
            lineage: Which run starts each of them; None if none does.
            refused: Takes the errors of those that cannot be accepted, by their runs; then the transaction has to be
                given up. None: the first error is raised.

        Raises:
            TaskNotFoundError: There is no such version of the Task.
            QueueFullError: More of them would wait than a queue allows.
            SomeRefusedError: ``refused`` is not empty any more.
        """
        errors: dict[UUID, WindlassError] = {} if refused is None else refused
        holders = await _holders(connection, project_id, prepared)
        versions: dict[tuple[str, int | None], Version] = {}
        of: dict[UUID, Version] = {}
        accepted, new = [], []
        for index, one in enumerate(prepared):
            holder = one.run_id if one.key is None else holders[one.key]
            accepted.append(Accepted(holder, deduplicated=holder != one.run_id))
            if holder != one.run_id:
                continue
            name = (one.wanted.task, one.wanted.version)
            if name not in versions:
                try:
                    versions[name] = await self._existing(connection, project_id, project, one)
                except TaskNotFoundError as error:
                    errors[one.run_id] = error
                    continue
            version = of[one.run_id] = versions[name]
            line = lineage[index] if lineage else None
            new.append(new_run(one.run_id, one.wanted, version, one.payload, lineage=line))
        errors |= await queues.without_room(connection, [(of[run.id].queue_id, run.id) for run in new])
        if errors:
            if refused is None:
                raise next(iter(errors.values()))
            raise SomeRefusedError
        # A run that is there already is ours: this ran before, and only the word of its commit was lost.
        made = await intake.insert(connection, project_id, new) if new else set()
        for again in of.keys() - made:
            connection.may_start(of[again].pod_key, 0)  # nor has anybody been told of it
        for one in prepared:
            if one.staged is not None and one.run_id in made:
                await self._blobs.record(connection, one.run_id, one.staged)
        return accepted

    async def _existing(self, connection: Connection, project_id: int, project: Project, one: Prepared) -> Version:
        version = await self._version(connection, project_id, project, one.wanted, one.snapshot)
        if version is None:
            missing = f"{one.wanted.task} version {one.wanted.version}"
            raise TaskNotFoundError(missing, project.namespace, field=f"{one.wanted.at}version")
        return version

    def tell(
        self, project: Project, prepared: Sequence[Prepared], accepted: Sequence[Accepted], *, source: str
    ) -> None:
        """Record and announce what :meth:`insert` has written, after the commit."""
        made = [one for one, became in zip(prepared, accepted, strict=True) if not became.deduplicated]
        for task, number in Counter(one.wanted.task for one in made).items():
            self._record.counted(project.namespace, task, number, source=source)
        for one in made:
            if one.place is not None:
                self._record.submitted(
                    one.run_id,
                    project.namespace,
                    one.wanted.task,
                    source=source,
                    began=one.began,
                    asked=one.asked,
                    place=one.place,
                )
            self._accepted(one.run_id)

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
            ends = refused
            if snapshot is not None and refused is None:
                version = await self._version(connection, project_id, project, wanted, snapshot)
                why = ends = await self._full(connection, version, run_id)
                if version is None:
                    why = TaskNotFoundError(f"{wanted.task} version {wanted.version}", project.namespace)
            run = new_run(run_id, wanted, version, Value(text=text), resource=resource, why=why)
            if not await intake.insert(connection, project_id, [run]):
                return None
            if ends is not None:
                locked = await runs.lock(connection, run_id)
                assert locked is not None, "the run was inserted above"
                change = Change(event=RunEvent.FAIL, reason=ends.code, message=ends.message)
                await runs.apply(connection, locked, change)
                failed.append((locked, ends.code))
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

    @staticmethod
    async def _full(connection: Connection, version: Version | None, run_id: UUID) -> WindlassError | None:
        full = await queues.without_room(connection, [] if version is None else [(version.queue_id, run_id)])
        return full.get(run_id)

    async def _holder(self, connection: Connection, project_id: int, wanted: Submission, run_id: UUID) -> UUID | None:
        """Take the key for a new run, or return the run that has it."""
        if wanted.idempotency_key is None:
            return None
        key = (wanted.task, wanted.idempotency_key)
        return (await handles.take_keys(connection, project_id, {key: run_id})).get(key)

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


async def _holders(connection: Connection, project_id: int, prepared: Sequence[Prepared]) -> dict[handles.Key, UUID]:
    """Take the keys of submissions, the first of several with the same one, and return which run has each."""
    first: dict[handles.Key, UUID] = {}
    for one in prepared:
        if one.key is not None:
            first.setdefault(one.key, one.run_id)
    return first | await handles.take_keys(connection, project_id, first)


def _checked(wanted: Submission, snapshot: TaskSnapshot) -> bytes:
    data = payloads.encoded(wanted.payload, limit=BODY_LIMIT)
    payloads.check(wanted.payload, snapshot.payload_schema, field=f"{wanted.at}payload")
    return data
