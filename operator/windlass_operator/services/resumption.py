"""Going on with runs that are suspended: a person says that the code fits history again."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from windlass_operator.domain.errors import RunNotFoundError, TaskNotFoundError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_state import RunEvent, RunState
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.runs import Change, LockedRun, Version
from windlass_operator.services import payloads
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.live_tasks import ReadTask
from windlass_operator.services.payloads import LargeValues


class NotSuspendedError(WindlassError):
    """Only a suspended run is resumed: any other goes on by itself, or has ended."""

    code, http_status = "RunNotSuspended", 409

    def __init__(self, run_id: UUID, state: RunState) -> None:
        super().__init__(f"Run {run_id} is {state.value}. Only a run that is Suspended can be resumed.")


class ResumeService:
    """Resumes suspended runs.

    Args:
        database: The ledger.
        read_task: Reads Tasks live.
        blobs: Has large payloads.
        changed: Called after a commit that changed a run.
    """

    def __init__(
        self,
        database: Database,
        read_task: ReadTask,
        blobs: BlobService,
        *,
        changed: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._read_task = read_task
        self._blobs = blobs
        self._large = LargeValues()
        self._changed = changed

    async def resume(self, project: Project, run_id: UUID, task: str, version: int | None = None) -> None:
        """Queue a suspended run again, with its finished steps.

        Args:
            project: Where it is.
            run_id: The run.
            task: Its Task.
            version: Go on with this version of the Task; by default with what the Task is now.

        Raises:
            NotSuspendedError: There is nothing to resume.
            TaskNotFoundError: The Task is gone, or has no such version.
            TaskInvalidError: The Task cannot be run as it is written.
            PayloadInvalidError: The run's payload breaks the schema of that version.
        """
        snapshot = None if version is not None else await self._read_task(project.namespace, task)
        payload = await self._payload(project, run_id)

        async def work(connection: Connection) -> None:
            run = await runs.lock(connection, run_id)
            if run is None:
                raise RunNotFoundError(str(run_id), project.namespace)
            if run.state is not RunState.SUSPENDED:
                raise NotSuspendedError(run_id, run.state)
            chosen: Version | None
            if version is not None:
                chosen = await runs.version_by_number(connection, run.project_id, task, version)
            elif snapshot is not None:
                chosen = await runs.ensure_version(connection, run.project_id, project.uid, task, snapshot)
            else:
                chosen = None
            if chosen is None:
                name = task if version is None else f"{task} version {version}"
                raise TaskNotFoundError(name, project.namespace, field="task" if version is None else "version")
            await self._check(payload, chosen.snapshot)
            await _go_on(connection, run, chosen)

        await self._database.transaction(work)
        self._changed(run_id)

    async def _payload(self, project: Project, run_id: UUID) -> bytes:
        """Return a run's payload, which never changes: read before the run is locked."""
        async with self._database.connection() as connection:
            payload = await runs.payload_of(connection, run_id)
        if payload.sha256 is not None:
            return await self._blobs.get(project.uid, run_id, payload.sha256)
        return (payload.text or "null").encode()

    async def _check(self, payload: bytes, snapshot: TaskSnapshot) -> None:
        schema = snapshot.payload_schema
        if schema is not None:
            await self._large.run(
                lambda: payloads.check(payloads.parse(payload), schema, field="payload"), size=len(payload)
            )


async def _go_on(connection: Connection, run: LockedRun, version: Version) -> None:
    await runs.use_version(connection, run.id, version)
    message = f"Resumed with version {version.version} of the Task."
    await runs.apply(connection, run, Change(event=RunEvent.RESUME, message=message, delay=timedelta(0)))
