"""Queue resources: their limits become known to the claims, and how full a queue is becomes visible."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass_operator.domain.gates import Gate, gates_of_queue
from windlass_operator.domain.project import Project
from windlass_operator.ledger import queues
from windlass_operator.ledger.database import Database
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.resources.conditions import read_conditions
from windlass_operator.resources.queue import QueueSpec, status_of

log = structlog.get_logger()

_SHOWN: Final = 1000
"""Runs of which the leader keeps in mind that their status says what holds them back: those that start next."""
Problem = tuple[str, str]


class QueueResources(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all Queues."""
        ...

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Queue with this name; None only where the API server says that there is none."""
        ...

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status."""
        ...


class Projects(Protocol):
    """Where namespaces are looked up."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...


class QueueService:
    """The operator's side of queues. Limits are taken by the claim, in the ledger; nothing here decides.

    Args:
        database: The ledger.
        projects: Namespaces.
        resources: The Queues.
        changed: Called when other runs may start than before.
    """

    def __init__(
        self, database: Database, projects: Projects, resources: QueueResources, changed: Callable[[], None]
    ) -> None:
        self._database = database
        self._projects = projects
        self._resources = resources
        self._changed = changed
        self._problems: dict[str, Problem] = {}
        self._shown: dict[str, Any] = {}
        self._held: dict[UUID, Gate] = {}

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a Queue, or of its end. Level-triggered: seeing the same twice changes nothing.

        A spec that cannot be read changes nothing but the status: the limits before it hold.
        """
        meta = body.get("metadata") or {}
        uid, name, namespace = str(meta.get("uid")), str(meta.get("name")), str(meta.get("namespace"))
        if deleted:
            if await self._resources.uid(namespace, name) != uid:
                await self._gone(uid)
            return
        self._shown[uid] = body.get("status")
        try:
            spec = QueueSpec.from_object(body.get("spec") or {}, at="spec")
        except ResourceInvalidError as error:
            self._problems[uid] = (error.code, error.message)
            log.warning("queue cannot be read", namespace=namespace, queue=name, error=error.message)
            return
        self._problems.pop(uid, None)
        generation = meta.get("generation")
        put = queues.Limits(
            name=name,
            uid=uid,
            generation=generation if isinstance(generation, int) else 0,
            concurrency=spec.concurrency,
            paused=spec.paused,
            max_length=spec.max_length,
        )
        project = await self._projects.project(namespace)
        if await queues.put(self._database, project, put):
            self._changed()

    async def _gone(self, uid: str) -> None:
        self._shown.pop(uid, None)
        self._problems.pop(uid, None)
        if await queues.drop(self._database, uid):
            self._changed()

    async def resync(self) -> None:
        """Compare the ledger with the cluster, so that a missed event is made good."""
        listed = set()
        async for body in self._resources.each():
            listed.add(str((body.get("metadata") or {}).get("uid")))
            await self.observe(body)
        for row in await queues.with_resource(self._database):
            if row["uid"] not in listed and await self._resources.uid(row["namespace"], row["name"]) != row["uid"]:
                await self._gone(row["uid"])

    async def show(self) -> None:
        """Write the statuses that have changed, and ask for those of runs that a queue holds back or lets go."""
        for row in await queues.fullness(self._database):
            await self._show(row)
        held = await queues.held_back(self._database, _SHOWN)
        facts = await queues.facts(self._database, {queue_id for _, queue_id in held})
        now = {run_id: found[0] for run_id, queue_id in held if (found := gates_of_queue(facts[queue_id]))}
        stale = [run_id for run_id, gate in now.items() if _differs(gate, self._held.get(run_id))]
        await queues.show_runs(self._database, [*stale, *(self._held.keys() - now.keys())])
        self._held = now

    async def _show(self, row: Mapping[str, Any]) -> None:
        before = self._shown.get(row["uid"])
        conditions = read_conditions(before)
        status = status_of(
            running=row["running"],
            queued=row["queued"],
            delayed=row["delayed"],
            oldest=row["oldest"],
            generation=row["generation"],
            now=row["now"],
            problem=self._problems.get(row["uid"]),
            current=conditions,
        )
        if isinstance(before, dict) and all(_same(before.get(key), value) for key, value in status.items()):
            return
        if await self._resources.show(row["namespace"], row["name"], row["uid"], status):
            self._shown[row["uid"]] = status
        else:
            await self._gone(row["uid"])


def _differs(gate: Gate, before: Gate | None) -> bool:
    """Whether a run's status must be written. The message counts too, but for the number of those under way."""
    return before is None or before.reason != gate.reason


def _same(shown: Any, wanted: Any) -> bool:
    if isinstance(shown, str) and isinstance(wanted, str) and shown != wanted:
        try:
            return datetime.fromisoformat(shown) == datetime.fromisoformat(wanted)
        except ValueError:
            return False
    return bool(shown == wanted)
