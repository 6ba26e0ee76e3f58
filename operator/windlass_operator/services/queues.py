"""Queue resources: their limits become known to the claims, and how full a queue is becomes visible."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.gates import Gate, gates_of_queue
from windlass_operator.ledger import queues
from windlass_operator.ledger.database import Database
from windlass_operator.resources.conditions import read_conditions
from windlass_operator.resources.names import QUEUE_KIND
from windlass_operator.resources.queue import QueueSpec, status_of
from windlass_operator.services.mirror import Mirror, Objects, Projects

_SHOWN: Final = 1000
"""Runs of which the leader keeps in mind that their status says what holds them back: those that start next."""


class QueueService(Mirror):
    """The operator's side of queues. Limits are taken by the claim, in the ledger; nothing here decides."""

    kind = QUEUE_KIND

    def __init__(self, database: Database, projects: Projects, objects: Objects, changed: Callable[[], None]) -> None:
        super().__init__(database, projects, objects, changed)
        self._held: dict[UUID, Gate] = {}

    async def _put(self, namespace: str, name: str, uid: str, generation: int, spec: Mapping[str, Any]) -> bool:
        read = QueueSpec.from_object(spec, at="spec")
        limits = queues.Limits(
            name=name,
            uid=uid,
            generation=generation,
            concurrency=read.concurrency,
            paused=read.paused,
            max_length=read.max_length,
        )
        return await queues.put(self._database, await self._projects.project(namespace), limits)

    async def _drop(self, uid: str) -> bool:
        return await queues.drop(self._database, uid)

    async def _with_resource(self) -> Sequence[Mapping[str, Any]]:
        return await queues.with_resource(self._database)

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
        generation, before = self._shown.get(row["uid"], (row["generation"], None))
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
        await self._write(row["namespace"], row["name"], row["uid"], generation, status)


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
