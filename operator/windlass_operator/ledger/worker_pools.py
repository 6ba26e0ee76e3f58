"""WorkerPools: what their resources say, and the pods that take one run after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.project import Project
from windlass_operator.domain.scaling import PodState, PoolSpec
from windlass_operator.ledger import queues, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.pods import decode_parts
from windlass_operator.ledger.queries import load

_SQL: Final = load("worker_pools")

PoolId = tuple[int, str]
"""Project and name."""


@dataclass(frozen=True, slots=True)
class Template:
    """What a pool gives its pods."""

    slots: int
    resources: dict[str, Any]
    pod_template: dict[str, Any]
    max_age: timedelta
    max_runs: int | None
    hash: str
    in_process: bool = False
    max_runs_per_process: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as the ledger knows it."""

    project_id: int
    project: Project
    name: str
    uid: str | None
    """Of its resource; None where that is gone."""
    generation: int
    spec: PoolSpec
    template: Template
    now: datetime

    @property
    def id(self) -> PoolId:
        """What keys and pods know it by."""
        return self.project_id, self.name


@dataclass(frozen=True, slots=True)
class PoolKey:
    """A pod key of a pool."""

    key: str
    pool: PoolId
    parts: PodParts
    head: bool
    """It is the newest version's of a Task."""
    backoff_until: datetime | None
    reason: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class PoolPodRow:
    """A pod of a pool that has not ended."""

    pool: PoolId
    state: PodState


async def put(
    database: Database,
    project: Project,
    name: str,
    uid: str,
    generation: int,
    *,
    spec: dict[str, Any],
    template: dict[str, Any],
    template_hash: str,
) -> bool:
    """Record what a WorkerPool resource says. Returns whether it was news.

    Args:
        database: The ledger.
        project: Of the pool.
        name: Of the pool.
        uid: Of the resource.
        generation: Of the resource.
        spec: The columns that say how many pods there are.
        template: What its pods are made of.
        template_hash: Of the template.
    """

    async def work(connection: Connection) -> bool:
        project_id = await runs.ensure_project(connection, project.uid, project.namespace)
        parameters = {
            "project_id": project_id,
            "name": name,
            "uid": uid,
            "generation": generation,
            **spec,
            "template": msgspec.json.encode(template).decode(),
            "template_hash": template_hash,
        }
        return await (await connection.execute(_SQL["put_pool"], parameters)).fetchone() is not None

    return await database.transaction(work)


async def drop(database: Database, uid: str) -> bool:
    """Record that a WorkerPool resource is gone: its pods drain. Returns whether it was news."""
    return bool(await database.fetch(_SQL["drop_pool"], {"uid": uid}))


async def with_resource(database: Database) -> list[dict[str, Any]]:
    """Return ``uid``, ``name`` and ``namespace`` of the pools that have a resource."""
    return await database.fetch(_SQL["pools_with_resource"])


async def all_pools(database: Database) -> list[Pool]:
    """Return the pools that are there, and those that still have pods."""
    return [_pool(row) for row in await database.fetch(_SQL["pools"])]


async def note_idle(database: Database) -> None:
    """Record since when the pods of pools hold nothing."""
    await database.fetch(_SQL["note_idle"])


async def live_pods(database: Database) -> list[PoolPodRow]:
    """Return the pods of all pools that have not ended."""
    return [
        PoolPodRow(
            (row["project_id"], row["pool"]),
            PodState(
                row["id"],
                row["pod_key"],
                row["template_hash"] or "",
                row["created_at"],
                open=row["open"],
                ready=row["ready"],
                posted=row["posted"],
                draining=row["draining"],
                idle_since=row["idle_since"],
            ),
        )
        for row in await database.fetch(_SQL["pool_pods"])
    ]


async def keys(database: Database, waiting: Sequence[str]) -> list[PoolKey]:
    """Return the keys of all pools that pods may be started of.

    Args:
        database: The ledger.
        waiting: Keys of runs that wait.
    """
    return [
        PoolKey(
            row["key"],
            (row["project_id"], row["pool"]),
            decode_parts(row["parts"]),
            row["head"],
            row["backoff_until"] if row["failures"] else None,
            row["reason"],
            row["message"],
        )
        for row in await database.fetch(_SQL["pool_keys"], {"waiting": list(waiting)})
    ]


async def starting(database: Database) -> int:
    """Return how many pods of all kinds are on their way and not up yet."""
    return int((await database.fetch(_SQL["starting_now"]))[0]["n"])


async def plan(connection: Connection, pod_id: UUID, pool: Pool, pod_key: str, name: str) -> None:
    """Write the row of a pod that is to be created. A repeat writes nothing."""
    parameters = {
        "id": pod_id,
        "project_id": pool.project_id,
        "pod_key": pod_key,
        "name": name,
        "namespace": pool.project.namespace,
        "slots": pool.template.slots,
        "template_hash": pool.template.hash,
    }
    await connection.execute(_SQL["plan_pool_pod"], parameters)


async def drain(connection: Connection, pod_ids: Sequence[UUID], *, idle_only: bool) -> list[UUID]:
    """Let pods take nothing more, and return those.

    Their rows are locked first, as by a claim: one that was before us is seen here, and one that comes after finds
    the pod draining. A pod whose claim is being answered is left alone.

    Args:
        connection: The transaction.
        pod_ids: The pods.
        idle_only: Leave out those that hold something.
    """
    locked = await (await connection.execute(_SQL["lock_pods"], {"ids": list(pod_ids)})).fetchall()
    ids = [row["id"] for row in locked]
    if ids and idle_only:
        busy = await (await connection.execute(_SQL["busy_pods"], {"ids": ids})).fetchall()
        ids = sorted(set(ids) - {row["id"] for row in busy})
    if ids:
        await connection.execute(_SQL["drain_pods"], {"ids": ids})
    return ids


async def drained(database: Database) -> list[dict[str, Any]]:
    """Return draining pods that hold nothing, and so may be deleted."""
    return await database.fetch(_SQL["drained_pods"])


async def template_of_key(database: Database, pod_key: str) -> tuple[str, Template] | None:
    """Return name and template of the pool of a key, also where the resource is gone; None for a key of no pool."""
    rows = await database.fetch(_SQL["pool_of_key"], {"key": pod_key})
    return (rows[0]["name"], _template(rows[0])) if rows else None


async def queued(database: Database) -> dict[PoolId, int]:
    """Return how many runs wait for a place in each pool."""
    rows = await database.fetch(_SQL["pool_runs"])
    return {(row["project_id"], row["pool"]): row["queued"] for row in rows}


async def held_back(database: Database, limit: int) -> list[UUID]:
    """Return runs with a resource whose pool is not there."""
    return [row["run_id"] for row in await database.fetch(_SQL["held_by_missing_pools"], {"limit": limit})]


async def show_runs(database: Database, run_ids: Sequence[UUID]) -> None:
    """Ask for the statuses of runs to be written although nothing changed in their rows: their pools did."""
    await queues.show_runs(database, run_ids)


async def page(database: Database, project_id: int, *, after: str, limit: int) -> list[dict[str, Any]]:
    """Return the pools of a project by name, and the names that runs wait for in vain."""
    return await database.fetch(_SQL["pools_of_project"], {"project_id": project_id, "after": after, "limit": limit})


def _pool(row: dict[str, Any]) -> Pool:
    spec = PoolSpec(
        min_replicas=row["min_replicas"],
        max_replicas=row["max_replicas"],
        replicas=row["replicas"],
        standby=row["standby"],
        slots=row["slots"],
        scale_down_after=row["scale_down_after"],
        template_hash=row["template_hash"],
        max_age=_template(row).max_age,
        exists=row["resource_uid"] is not None,
    )
    return Pool(
        row["project_id"],
        Project(row["project_uid"], row["namespace"]),
        row["name"],
        row["resource_uid"],
        row["generation"],
        spec,
        _template(row),
        row["now"],
    )


def _template(row: dict[str, Any]) -> Template:
    kept = msgspec.json.decode(row["template"])
    return Template(
        slots=row["slots"],
        resources=kept["resources"],
        pod_template=kept["podTemplate"],
        max_age=timedelta(seconds=kept["maxAgeSeconds"]),
        max_runs=kept["maxRuns"],
        hash=row["template_hash"],
        in_process=kept.get("execution") == "InProcess",
        max_runs_per_process=kept.get("maxRunsPerProcess", 0),
    )
