"""Task resources: their versions become known, their mistakes visible, and runs that waited for them go on."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from windlass_operator.domain.errors import PayloadInvalidError, TaskInvalidError
from windlass_operator.domain.project import Project
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.resources.conditions import read_conditions, ready_conditions
from windlass_operator.services import payloads
from windlass_operator.services.submission import SubmissionService


class TaskResources(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...

    async def read_task(self, namespace: str, name: str) -> TaskSnapshot | None:
        """Read a Task live."""
        ...

    async def patch_task_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Task's status."""
        ...


class TaskService:
    """Takes note of Tasks."""

    def __init__(self, database: Database, resources: TaskResources, submissions: SubmissionService) -> None:
        self._database = database
        self._resources = resources
        self._submissions = submissions

    async def observe(self, body: Mapping[str, Any]) -> None:
        """Record the Task's version, say in its status whether it can run, and let waiting runs go on."""
        meta = body.get("metadata") or {}
        if meta.get("deletionTimestamp"):
            return
        namespace, name = str(meta.get("namespace")), str(meta.get("name"))
        project = await self._resources.project(namespace)
        version, problem = None, None
        try:
            version = await self._record(project, name)
        except (TaskInvalidError, PayloadInvalidError) as error:
            problem = error
        generation = int(meta.get("generation") or 0)
        conditions = ready_conditions(
            problem=problem.code if problem else None,
            message=problem.message if problem else None,
            generation=generation,
            now=datetime.now(UTC),
            current=read_conditions(body.get("status")),
        )
        status = {
            "observedGeneration": generation,
            "version": version,
            "conditions": [condition.to_object() for condition in conditions],
        }
        if not _same(body.get("status"), status):
            await self._resources.patch_task_status(namespace, name, str(meta.get("uid")), status)
        await self._submissions.task_seen(project, name)

    async def _record(self, project: Project, name: str) -> int | None:
        snapshot = await self._resources.read_task(project.namespace, name)
        if snapshot is None:
            return None
        if snapshot.payload_schema is not None:
            payloads.check_schema(snapshot.payload_schema)
        known = snapshot

        async def work(connection: Connection) -> int:
            project_id = await runs.ensure_project(connection, project.uid, project.namespace)
            return (await runs.ensure_version(connection, project_id, project.uid, name, known)).version

        return await self._database.transaction(work)

    async def look_for_missing(self) -> None:
        """Look for the Tasks that runs wait for: their events may have been missed."""
        for row in await runs.missing_tasks(self._database):
            await self._submissions.task_seen(Project(row["uid"], row["namespace"]), row["task"])


def _same(old: Any, new: dict[str, Any]) -> bool:
    """Whether the status says the same already: a watch event of our own write must not lead to another write."""
    return isinstance(old, dict) and all(
        old.get(key) == new[key] for key in ("observedGeneration", "version", "conditions")
    )
