"""Queues: what waits in them, what is open, and how many a claim may take."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.errors import QueueFullError
from windlass_operator.domain.gates import QueueFacts
from windlass_operator.domain.project import Project
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("queues")
_OTHERS: Final = 200
"""Runs that other claims of the key may be taking at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a Queue resource says."""

    name: str
    uid: str
    generation: int
    concurrency: int | None
    paused: bool
    max_length: int | None


async def of_key(connection: Connection, pod_key: str, n: int) -> list[dict[str, Any]]:
    """Return the queues in which runs of a pod key wait, and how many are due in each, up to ``n``.

    :func:`admit` needs the rows.
    """
    return await (await connection.execute(_SQL["queues_of_key"], {"pod_key": pod_key, "n": n})).fetchall()


async def admit(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return among how many runs a claim may choose in each of its key's queues, where there are any.

    In one without a limit among some more than it asks for: others may be taking the first ones.

    A queue with a limit stays locked until the transaction ends, so that two claims never take the same slot. One that
    is full as it is seen without the lock is left alone: what frees a slot also wakes the claims.

    Args:
        connection: The transaction.
        rows: Of :func:`of_key`.
    """
    due = {row["id"]: row["due"] for row in rows if row["due"]}
    seen = {row["id"]: _facts(row, row["running"]) for row in rows if row["id"] in due}
    limited = [queue_id for queue_id, facts in seen.items() if facts.concurrency is not None and facts.free()]
    if limited:
        locked = await (await connection.execute(_SQL["lock_queues"], {"ids": limited})).fetchall()
        counted = await (await connection.execute(_SQL["open_attempts"], {"ids": limited})).fetchall()
        running = {row["queue_id"]: row["running"] for row in counted}
        seen |= {row["id"]: _facts(row, running.get(row["id"], 0)) for row in locked}
    free = {queue_id: facts.free() for queue_id, facts in seen.items()}
    return {i: due[i] + _OTHERS if slots is None else min(due[i], slots) for i, slots in free.items() if slots != 0}


async def facts(database: Database, ids: Collection[int]) -> dict[int, QueueFacts]:
    """Return what is known of queues by their ids."""
    rows = await database.fetch(_SQL["backlog_queues"], {"ids": list(ids)})
    return {row["id"]: _facts(row, row["running"]) for row in rows}


async def without_room(connection: Connection, new: Sequence[tuple[int, UUID]]) -> dict[UUID, QueueFullError]:
    """Return which of some new runs find no room in their queues; others who add wait until the transaction ends.

    In their order: the first ones find what room there is. A run that is there already needs none: it was accepted
    before, and only the word of the commit was lost.

    Args:
        connection: The transaction.
        new: Queue and id of each run that is to be added.
    """
    if not new:
        return {}
    ids = sorted({queue_id for queue_id, _ in new})
    bounded = await (await connection.execute(_SQL["room"], {"ids": ids})).fetchall()
    if not bounded:
        return {}
    counted = await connection.execute(_SQL["lengths"], {"ids": [row["id"] for row in bounded]})
    lengths = {row["queue_id"]: row["n"] for row in await counted.fetchall()}
    there = await runs.which_exist(connection, [run_id for _, run_id in new])
    limits = {row["id"]: row for row in bounded}
    left = {row["id"]: row["max_length"] - lengths.get(row["id"], 0) for row in bounded}
    full = {}
    for queue_id, run_id in new:
        if queue_id not in left or run_id in there:
            continue
        left[queue_id] -= 1
        if left[queue_id] < 0:
            full[run_id] = QueueFullError(limits[queue_id]["name"], limits[queue_id]["max_length"])
    return full


async def put(database: Database, project: Project, limits: Limits) -> bool:
    """Record what a Queue resource says. Returns whether it was news."""

    async def work(connection: Connection) -> bool:
        project_id = await runs.ensure_project(connection, project.uid, project.namespace)
        parameters = {
            "project_id": project_id,
            "name": limits.name,
            "uid": limits.uid,
            "generation": limits.generation,
            "concurrency": limits.concurrency,
            "paused": limits.paused,
            "max_length": limits.max_length,
        }
        row = await (await connection.execute(_SQL["put_queue"], parameters)).fetchone()
        await _wake(connection, row)
        return row is not None

    return await database.transaction(work)


async def drop(database: Database, uid: str) -> bool:
    """Record that a Queue resource is gone: its limits go with it. Returns whether it was news."""

    async def work(connection: Connection) -> bool:
        row = await (await connection.execute(_SQL["drop_queue"], {"uid": uid})).fetchone()
        await _wake(connection, row)
        return row is not None

    return await database.transaction(work)


async def _wake(connection: Connection, queue: Mapping[str, Any] | None) -> None:
    """Let those look who wait for runs of a queue whose limits have changed."""
    if queue is not None:
        rows = await (await connection.execute(_SQL["keys_of_queue"], {"queue_id": queue["id"]})).fetchall()
        for row in rows:
            connection.may_start(row["pod_key"], row["n"])


async def with_resource(database: Database) -> list[dict[str, Any]]:
    """Return ``uid``, ``name`` and ``namespace`` of the queues that have a resource."""
    return await database.fetch(_SQL["queues_with_resource"])


async def fullness(database: Database) -> list[dict[str, Any]]:
    """Return what the statuses of all Queue resources show."""
    return await database.fetch(_SQL["fullness"])


async def held_back(database: Database, limit: int) -> list[tuple[UUID, int]]:
    """Return runs with a resource, in queues that have limits, with their queues: those that start next."""
    rows = await database.fetch(_SQL["held_back"], {"limit": limit})
    return [(row["run_id"], row["queue_id"]) for row in rows]


async def show_runs(database: Database, run_ids: Collection[UUID]) -> None:
    """Ask for the statuses of runs to be written although nothing changed in their rows: their queues did."""
    if run_ids:

        async def work(connection: Connection) -> None:
            await runs.want_projection(connection, sorted(run_ids))

        await database.transaction(work)


async def page(database: Database, project_id: int, *, after: str, limit: int) -> list[dict[str, Any]]:
    """Return the queues of a project by name, with how full they are."""
    return await database.fetch(_SQL["list_queues"], {"project_id": project_id, "after": after, "limit": limit})


async def ahead(database: Database, run_id: UUID) -> int | None:
    """Return how many runs of its queue go before a queued run."""
    rows = await database.fetch(_SQL["position"], {"run_id": run_id})
    return rows[0]["ahead"] if rows else None


async def overdue(database: Database, limit: int) -> list[UUID]:
    """Return runs that did not begin within their ``queueTTL``."""
    return [row["run_id"] for row in await database.fetch(_SQL["overdue"], {"limit": limit})]


def _facts(row: Mapping[str, Any], running: int) -> QueueFacts:
    return QueueFacts(row["name"], running, row["concurrency"], paused=row["paused"], missing=row["missing"])
