"""WorkerPool resources: what they ask for becomes known, and what their pods do becomes visible."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from windlass.durations import parse_duration
from windlass_operator.domain.ids import content_hash
from windlass_operator.kube.runner_names import pool_selector
from windlass_operator.ledger import worker_pools
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.worker_pools import Pool, PoolId, PoolKey, PoolPodRow
from windlass_operator.resources.conditions import read_conditions
from windlass_operator.resources.names import WORKER_POOL_KIND
from windlass_operator.resources.worker_pool import PoolCounts, WorkerPoolSpec, status_of
from windlass_operator.services.mirror import Mirror, Objects, Projects

_SHOWN: Final = 1000
"""Runs of which the leader keeps in mind that their status says that their pool is missing: those that start next."""


class WorkerPoolService(Mirror):
    """The operator's side of WorkerPool resources. How many pods there are is decided in ``pool_scaling``."""

    kind = WORKER_POOL_KIND

    def __init__(self, database: Database, projects: Projects, objects: Objects, changed: Callable[[], None]) -> None:
        super().__init__(database, projects, objects, changed)
        self._held: set[UUID] = set()

    async def _put(self, namespace: str, name: str, uid: str, generation: int, spec: Mapping[str, Any]) -> bool:
        read = WorkerPoolSpec.from_object(spec, at="spec")
        template = read.template()
        return await worker_pools.put(
            self._database,
            await self._projects.project(namespace),
            name,
            uid,
            generation,
            spec={
                "min_replicas": read.min_replicas,
                "max_replicas": read.max_replicas,
                "replicas": read.replicas,
                "standby": read.standby,
                "slots": read.slots,
                "scale_down_after": parse_duration(read.scale_down_after),
            },
            template=template,
            template_hash=content_hash(template),
        )

    async def _drop(self, uid: str) -> bool:
        return await worker_pools.drop(self._database, uid)

    async def _with_resource(self) -> Sequence[Mapping[str, Any]]:
        return await worker_pools.with_resource(self._database)

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
            selector=pool_selector(pool.name),
            # What cannot be read is judged too: its generation counts as seen.
            generation=generation if invalid else pool.generation,
            now=pool.now,
            invalid=invalid,
            failing=failing,
            current=read_conditions(before),
        )
        if before != status:
            await self._write(pool.project.namespace, pool.name, pool.uid, generation, status)


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
