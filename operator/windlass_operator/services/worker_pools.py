"""WorkerPool resources: what they ask for becomes known, and what their pods do becomes visible."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass.durations import parse_duration
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.project import Project
from windlass_operator.ledger import worker_pools
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.worker_pools import Pool, PoolId, PoolKey, PoolPodRow
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.resources.conditions import read_conditions
from windlass_operator.resources.worker_pool import PoolCounts, WorkerPoolSpec, status_of

log = structlog.get_logger()

_SHOWN: Final = 1000
"""Runs of which the leader keeps in mind that their status says that their pool is missing: those that start next."""


class WorkerPoolResources(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all WorkerPools."""
        ...

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the WorkerPool with this name; None only where the API server says that there is none."""
        ...

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status."""
        ...

    def selector(self, name: str) -> str:
        """Return what finds the pods of a pool, as text."""
        ...


class Projects(Protocol):
    """Where namespaces are looked up."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...


class WorkerPoolService:
    """The operator's side of WorkerPool resources. How many pods there are is decided in ``pool_scaling``.

    Args:
        database: The ledger.
        projects: Namespaces.
        resources: The WorkerPools.
        changed: Called when other pods are wanted than before.
    """

    def __init__(
        self, database: Database, projects: Projects, resources: WorkerPoolResources, changed: Callable[[], None]
    ) -> None:
        self._database = database
        self._projects = projects
        self._resources = resources
        self._changed = changed
        self._problems: dict[str, tuple[str, str]] = {}
        self._shown: dict[str, tuple[int, Any]] = {}
        self._held: set[UUID] = set()

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a WorkerPool, or of its end. Level-triggered: seeing the same twice changes nothing.

        A spec that cannot be read changes nothing but the status: the one before it holds.
        """
        meta = body.get("metadata") or {}
        uid, name, namespace = str(meta.get("uid")), str(meta.get("name")), str(meta.get("namespace"))
        if deleted:
            if await self._resources.uid(namespace, name) != uid:
                await self._gone(uid)
            return
        found = meta.get("generation")
        generation = found if isinstance(found, int) else 0
        self._shown[uid] = generation, body.get("status")
        try:
            spec = WorkerPoolSpec.from_object(body.get("spec") or {}, at="spec")
        except ResourceInvalidError as error:
            self._problems[uid] = (error.code, error.message)
            log.warning("worker pool cannot be read", namespace=namespace, pool=name, error=error.message)
            return
        self._problems.pop(uid, None)
        template = spec.template()
        news = await worker_pools.put(
            self._database,
            await self._projects.project(namespace),
            name,
            uid,
            generation,
            spec={
                "min_replicas": spec.min_replicas,
                "max_replicas": spec.max_replicas,
                "replicas": spec.replicas,
                "standby": spec.standby,
                "slots": spec.slots,
                "scale_down_after": parse_duration(spec.scale_down_after),
            },
            template=template,
            template_hash=content_hash(template),
        )
        if news:
            self._changed()

    async def _gone(self, uid: str) -> None:
        self._shown.pop(uid, None)
        self._problems.pop(uid, None)
        if await worker_pools.drop(self._database, uid):
            self._changed()

    async def resync(self) -> None:
        """Compare the ledger with the cluster, so that a missed event is made good."""
        listed = set()
        async for body in self._resources.each():
            listed.add(str((body.get("metadata") or {}).get("uid")))
            await self.observe(body)
        for row in await worker_pools.with_resource(self._database):
            if row["uid"] not in listed and await self._resources.uid(row["namespace"], row["name"]) != row["uid"]:
                await self._gone(row["uid"])

    async def show(self, desired: Mapping[PoolId, int]) -> None:
        """Write the statuses that have changed, and ask for those of runs whose pool is missing or is there again.

        Args:
            desired: How many pods each pool should have, as it was last decided.
        """
        pools = [pool for pool in await worker_pools.all_pools(self._database) if pool.uid is not None]
        if pools:
            pods, keys = await worker_pools.live_pods(self._database), await worker_pools.keys(self._database, [])
            queued = await worker_pools.queued(self._database)
            for pool in pools:
                mine = [key for key in keys if key.pool == pool.id]
                counts = _counts(pool, pods, mine, desired.get(pool.id, 0), queued.get(pool.id, 0))
                await self._show(pool, counts, _failing(mine))
        held = set(await worker_pools.held_back(self._database, _SHOWN))
        await worker_pools.show_runs(self._database, sorted(held ^ self._held))
        self._held = held

    async def _show(self, pool: Pool, counts: PoolCounts, failing: tuple[str, str] | None) -> None:
        assert pool.uid is not None, "it has a resource"
        generation, before = self._shown.get(pool.uid, (pool.generation, None))
        invalid = self._problems.get(pool.uid)
        status = status_of(
            counts,
            selector=self._resources.selector(pool.name),
            # What cannot be read is judged too: its generation counts as seen.
            generation=generation if invalid else pool.generation,
            now=pool.now,
            invalid=invalid,
            failing=failing,
            current=read_conditions(before),
        )
        if before == status:
            return
        if await self._resources.show(pool.project.namespace, pool.name, pool.uid, status):
            self._shown[pool.uid] = generation, status
        else:
            await self._gone(pool.uid)


def _counts(pool: Pool, pods: Sequence[PoolPodRow], keys: Sequence[PoolKey], desired: int, queued: int) -> PoolCounts:
    mine = [pod.state for pod in pods if pod.pool == pool.id]
    ready = [pod for pod in mine if pod.ready and not pod.draining]
    return PoolCounts(
        replicas=len(mine),
        ready=len(ready),
        busy=sum(pod.open > 0 for pod in mine),
        idle=sum(pod.open == 0 for pod in ready),
        desired=desired,
        running=sum(pod.open for pod in mine),
        queued=queued,
        fewest=min(desired, pool.spec.min_replicas if pool.spec.replicas is None else pool.spec.replicas),
        tasks=any(key.head for key in keys),
    )


def _failing(keys: Sequence[PoolKey]) -> tuple[str, str] | None:
    """Return why pods of a pool do not start: what its Tasks' newest versions say first."""
    found = sorted((not key.head, key.key, key.reason, key.message or "") for key in keys if key.reason)
    return (found[0][2] or "", found[0][3]) if found else None
