"""Task resources: their versions become known, their mistakes visible, and runs that waited for them go on."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from windlass_operator.domain.errors import (
    LedgerUnavailableError,
    PayloadInvalidError,
    TaskInvalidError,
    WindlassError,
)
from windlass_operator.domain.project import Project
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import heads, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.resources.conditions import read_conditions, ready_conditions
from windlass_operator.services import payloads
from windlass_operator.services.submission import SubmissionService

log = structlog.get_logger()


class TaskResources(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...

    async def read_task(self, namespace: str, name: str) -> TaskSnapshot | None:
        """Read a Task live."""
        ...

    def each_task(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all Tasks of the watched namespaces."""
        ...

    async def task_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Task with this name; None only where the API server says that there is none."""
        ...

    async def patch_task_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Task's status."""
        ...


class TaskService:
    """Takes note of Tasks.

    Args:
        database: The ledger.
        resources: The Tasks.
        submissions: Lets runs go on that waited for a Task.
        changed: Called when other pods are to be kept ready than before.
    """

    def __init__(
        self,
        database: Database,
        resources: TaskResources,
        submissions: SubmissionService,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._resources = resources
        self._submissions = submissions
        self._changed = changed

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Record the Task's version, say in its status whether it can run, and let waiting runs go on."""
        meta = body.get("metadata") or {}
        namespace, name, uid = str(meta.get("namespace")), str(meta.get("name")), str(meta.get("uid"))
        if deleted:
            await self._gone(namespace, name, uid)
            return
        if meta.get("deletionTimestamp"):
            return
        project = await self._resources.project(namespace)
        version, problem = None, None
        generation = _generation(meta)
        try:
            version = await self._record(project, name, uid, generation)
        except (TaskInvalidError, PayloadInvalidError) as error:
            problem = error  # what it said before stays its head: the pods of that are of use when this is mended
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
            await self._resources.patch_task_status(namespace, name, uid, status)
        await self._submissions.task_seen(project, name)

    async def _record(self, project: Project, name: str, uid: str, generation: int) -> int | None:
        snapshot = await self._resources.read_task(project.namespace, name)
        if snapshot is None:
            return None
        if snapshot.payload_schema is not None:
            payloads.check_schema(snapshot.payload_schema)
        known = snapshot

        async def work(connection: Connection) -> tuple[int, bool]:
            project_id = await runs.ensure_project(connection, project.uid, project.namespace)
            version = await runs.ensure_version(connection, project_id, project.uid, name, known)
            news = await heads.put(
                connection,
                project_id,
                name,
                uid=uid,
                generation=generation,
                version=version,
                standby=known.standby,
            )
            return version.version, news

        version, news = await self._database.transaction(work)
        if news:
            self._changed()
        return version

    async def _gone(self, namespace: str, name: str, uid: str) -> None:
        """A deletion was seen. Only a GET is proof: an event may belong to another watch, or be old."""
        if await self._resources.task_uid(namespace, name) != uid and await heads.drop(self._database, uid):
            self._changed()

    async def resync(self) -> None:
        """Compare the ledger with the cluster, so that a missed event is made good."""
        known = {head.uid: head for head in await heads.known(self._database)}
        listed = set()
        async for body in self._resources.each_task():
            meta = body.get("metadata") or {}
            uid = str(meta.get("uid"))
            listed.add(uid)
            if uid in known and known[uid].generation == _generation(meta):
                continue
            try:
                await self.observe(body)
            except LedgerUnavailableError:
                raise
            except WindlassError as error:
                log.warning("task not observed", task=str(meta.get("name")), error=error.message)
        for uid in known.keys() - listed:
            try:
                await self._gone(known[uid].namespace, known[uid].task, uid)
            except LedgerUnavailableError:
                raise
            except WindlassError as error:  # such as a namespace that we no longer may look into
                log.warning("task not looked for", task=known[uid].task, error=error.message)

    async def look_for_missing(self) -> None:
        """Look for the Tasks that runs wait for: their events may have been missed."""
        for row in await runs.missing_tasks(self._database):
            await self._submissions.task_seen(Project(row["uid"], row["namespace"]), row["task"])


def _generation(meta: Mapping[str, Any]) -> int:
    found = meta.get("generation")
    return found if isinstance(found, int) else 0


def _same(old: Any, new: dict[str, Any]) -> bool:
    """Whether the status says the same already: a watch event of our own write must not lead to another write."""
    return isinstance(old, dict) and all(
        old.get(key) == new[key] for key in ("observedGeneration", "version", "conditions")
    )
