"""Pods of WorkerPools: as many as their runs need, started and drained. Run by the leader only."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import structlog

from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.ids import new_id
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan
from windlass_operator.domain.project import Project
from windlass_operator.domain.scaling import KeyState, Scaling, scale
from windlass_operator.ledger import pods, projection, worker_pools
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.pool_backlog import Backlog, read_backlog
from windlass_operator.ledger.projection import LeadershipLostError
from windlass_operator.ledger.worker_pools import Pool, PoolId, PoolKey
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.pool_pods import pool_pod, with_template

log = structlog.get_logger()

Create = Callable[[UUID, PodPlan, PodParts], Awaitable[None]]
"""Creates the pod of a row; see :meth:`~windlass_operator.services.pods.PodService.create`."""


class Cluster(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete a pod; one that is gone is fine."""
        ...

    async def is_gone(self, project: Project) -> bool:
        """Return whether a project's namespace is absent, is being deleted, or has a successor of its name."""
        ...


class PoolScaler:
    """Keeps as many pods as pools need.

    Args:
        database: The ledger.
        cluster: Kubernetes.
        create: Creates a pod whose row is written.
        credentials: Makes the Secret of a namespace.
        epoch: Of this leader; a successor's fences our plans.
        max_starting: Most pods of all kinds on their way at once.

    Attributes:
        desired: How many pods each pool should have, as it was last decided.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        create: Create,
        credentials: CredentialService,
        *,
        epoch: int,
        max_starting: int,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._create = create
        self._credentials = credentials
        self._epoch = epoch
        self._max_starting = max_starting
        self.desired: dict[PoolId, int] = {}

    async def scale(self) -> timedelta | None:
        """Start and drain what pools need. Trouble of one pool never holds the others back.

        Returns:
            After what time to look again at the latest, because a retry or a backoff is due then; None for nothing in
            sight.
        """
        pools = await worker_pools.all_pools(self._database)
        if not pools:
            self.desired = {}
            return None
        await worker_pools.note_idle(self._database)
        backlog = await read_backlog(self._database)
        keys = await worker_pools.keys(self._database, list(backlog.ready))
        live = await worker_pools.live_pods(self._database)
        room = self._max_starting - await worker_pools.starting(self._database)
        desired: dict[PoolId, int] = {}
        for pool in pools:
            mine = [key for key in keys if key.pool == pool.id]
            states = [_state(key, backlog) for key in mine]
            found = scale(
                pool.spec,
                states,
                [pod.state for pod in live if pod.pool == pool.id],
                starting_limit=max(0, room),
                now=pool.now,
            )
            desired[pool.id] = found.desired
            room -= sum(found.start.values())
            try:
                await self._apply(pool, mine, found)
            except (LeadershipLostError, LedgerUnavailableError):
                raise
            except WindlassError as error:
                log.warning("pool not scaled", namespace=pool.project.namespace, pool=pool.name, error=error.message)
        self.desired = desired
        await self._delete_drained()
        return backlog.next_in

    async def _apply(self, pool: Pool, keys: Sequence[PoolKey], found: Scaling) -> None:
        """Write what was decided, then create the pods. The names come from rows: a repeated POST finds its pod."""
        if not (found.start or found.drain or found.drain_idle):
            return
        parts = {key.key: key.parts for key in keys}
        plans: list[tuple[UUID, PodPlan, PodParts]] = []
        if found.start and not await self._cluster.is_gone(pool.project):
            await self._credentials.ensure(pool.project.uid, pool.project_id, pool.project.namespace)
            for key, count in found.start.items():
                plans += [_plan(new_id(), pool, key, parts[key]) for _ in range(count)]

        async def work(connection: Connection) -> int:
            await projection.check_epoch(connection, self._epoch)
            for pod_id, plan, _ in plans:
                await worker_pools.plan(connection, pod_id, pool, plan.pod_key, plan.name)
            idle = await worker_pools.drain(connection, found.drain_idle, idle_only=True)
            return len(idle) + len(await worker_pools.drain(connection, found.drain, idle_only=False))

        drained = await self._database.transaction(work)
        await asyncio.gather(*(self._create(*planned) for planned in plans))
        if plans or drained:
            log.info(
                "pool scaled",
                namespace=pool.project.namespace,
                pool=pool.name,
                desired=found.desired,
                started=len(plans),
                drained=drained,
            )

    async def _delete_drained(self) -> None:
        """Delete pods that drain and hold nothing: no claim of theirs takes anything any more."""
        for row in await worker_pools.drained(self._database):
            await self._cluster.delete_pod(row["namespace"], row["name"], row["uid"])
            await pods.gone(self._database, row["id"])


def _state(key: PoolKey, backlog: Backlog) -> KeyState:
    return KeyState(
        key.key,
        ready=backlog.ready.get(key.key, 0),
        oldest=backlog.oldest.get(key.key),
        head=key.head,
        backoff_until=key.backoff_until,
    )


def _plan(pod_id: UUID, pool: Pool, key: str, parts: PodParts) -> tuple[UUID, PodPlan, PodParts]:
    name = f"{re.sub(r'[^a-z0-9-]+', '-', pool.name.lower())[:40].strip('-') or 'pool'}-{pod_id.hex[-12:]}"
    plan = PodPlan(name, pool.project.namespace, key, "", ahead=True, pool=pool_pod(pool.name, pool.template))
    return pod_id, plan, with_template(parts, pool.template)
