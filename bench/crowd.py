"""Many Run resources and their runs, as an operator finds them after a restart: imported, and shown in their status."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg

from tests.support.world import a_task
from windlass_operator.context import read_run
from windlass_operator.domain.ids import new_id
from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.kinds import NAMESPACES, RUNS
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.projection import status_of

T = TypeVar("T")
NAMESPACE: Final = "shop"
_AT_ONCE: Final = 24
_COLUMNS: Final = (
    "id, project_id, task, task_version_id, state, reason, message, payload, result, attempts, held_since, created_at, "
    "started_at, finished_at, resource_uid, resource_name, resource_hash"
)
_MISSING: Final = "There is no Task 'later' in namespace 'shop'. The run waits for it."


@dataclass(frozen=True, slots=True)
class Member:
    """One Run resource."""

    run_id: UUID
    name: str
    queued: bool
    """Waits for a Task that is missing; the others have succeeded."""


def _manifest(number: int, *, queued: bool) -> dict[str, Any]:
    lines = [{"sku": f"SKU-{number:06}-{n}", "quantity": n + 1} for n in range(3)]
    return {
        "metadata": {"name": f"order-{number:06}", "labels": {"team": "checkout"}},
        "spec": {
            "taskRef": {"name": "later" if queued else "order"},
            "payload": {"orderId": number, "customer": f"customer-{number % 977}", "lines": lines},
        },
    }


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do ``work`` for all items, some at once."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(worker())


async def gather(client: KubeClient, database: Database, uri: str, count: int) -> tuple[list[Member], float]:
    """Make ``count`` Run resources, every second one queued, with their runs in the ledger and their statuses.

    Returns:
        Them, and how many statuses a second the API server took, with nothing else to do.
    """
    made: list[dict[str, Any]] = []

    async def create(number: int) -> None:
        body = _manifest(number, queued=number % 2 == 1)
        made.append(await client.create(RUNS, NAMESPACE, body))

    await each(range(count), create)
    members = await _fill_ledger(client, database, uri, made)
    ids = [member.run_id for member in members]
    rows: list[dict[str, Any]] = []
    for start in range(0, count, 500):
        rows += await runs.get_many(database, ids[start : start + 500])

    async def show(row: dict[str, Any]) -> None:
        status = status_of(row)
        await client.patch_status(RUNS, NAMESPACE, row["resource_name"], status, uid=row["resource_uid"])

    began = time.monotonic()
    await each(rows, show)
    return members, count / (time.monotonic() - began)


async def _fill_ledger(client: KubeClient, database: Database, uri: str, bodies: list[dict[str, Any]]) -> list[Member]:
    namespace = await client.get(NAMESPACES, None, NAMESPACE)
    assert namespace is not None, "it was made"
    project_uid = namespace["metadata"]["uid"]

    async def prepare(connection: Connection) -> tuple[int, int]:
        project = await runs.ensure_project(connection, project_uid, NAMESPACE)
        return project, (await runs.ensure_version(connection, project, project_uid, "order", a_task())).id

    project, version = await database.transaction(prepare)
    members = []
    with psycopg.connect(uri, options="-c search_path=windlass") as connection:
        row = connection.execute("SELECT ledger_now()").fetchone()
        assert row is not None, "a SELECT of a value has a row"
        now = row[0]
        with connection.cursor().copy(f"COPY run ({_COLUMNS}) FROM STDIN") as copy:
            for body in bodies:
                meta, spec = body["metadata"], body["spec"]
                queued, run_id = spec["taskRef"]["name"] == "later", new_id()
                members.append(Member(run_id, meta["name"], queued))
                hashed, payload = read_run(body).spec_hash, json.dumps(spec["payload"])
                resource = (meta["uid"], meta["name"], hashed)
                if queued:
                    state: tuple[Any, ...] = (
                        "Queued",
                        "TaskNotFound",
                        _MISSING,
                        payload,
                        None,
                        0,
                        now,
                        now,
                        None,
                        None,
                    )
                    copy.write_row((run_id, project, "later", None, *state, *resource))
                else:
                    result = json.dumps({"shipped": True, "parcel": meta["name"], "weight": 1.25})
                    state = ("Succeeded", None, None, payload, result, 1, None, now, now, now)
                    copy.write_row((run_id, project, "order", version, *state, *resource))
        connection.execute("ANALYZE")
    return members
