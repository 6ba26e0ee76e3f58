"""WorkerPool resources in memory, and what tests say of pools and their pods."""

from dataclasses import replace
from typing import Any

from tests.support.objects import FakeObjects
from tests.support.world import SHOP, World, a_task
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger.database import Database
from windlass_operator.services.claims import Answer, Ask, PodIdentity
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.pool_scaling import PoolScaler
from windlass_operator.services.worker_pools import WorkerPoolService


def a_pooled_task(pool: str = "fast", **pod: Any) -> TaskSnapshot:
    """Return a snapshot whose runs go into the pods of a pool."""
    base = a_task()
    return replace(base, pod=replace(base.pod, source_hash=None, isolation="Pool", pool=pool, **pod))


class PoolWorld:
    """The pools of a world: their resources, and their scaling."""

    def __init__(self, world: World, epoch: int, max_starting: int = 100) -> None:
        self.world = world
        self.objects = FakeObjects()
        self._sessions: dict[str, str | None] = {}
        self.service = WorkerPoolService(world.database, world.cluster, self.objects, changed=lambda: None)
        self.scaler = PoolScaler(
            world.database,
            world.cluster,
            world.pods.create,
            CredentialService(world.database, world.cluster),
            epoch=epoch,
            max_starting=max_starting,
        )

    async def put(self, name: str = "fast", **spec: Any) -> None:
        """Apply a WorkerPool, and let the operator see it."""
        await self.service.observe(self.objects.apply(SHOP.namespace, name, spec))

    async def delete(self, name: str = "fast") -> None:
        """Delete a WorkerPool, and let the operator see it."""
        await self.service.observe(self.objects.bodies.pop((SHOP.namespace, name)), deleted=True)

    async def status(self, name: str = "fast") -> dict[str, Any]:
        """Return the status of a WorkerPool, as it is written now."""
        await self.service.show(self.scaler.desired)
        found: dict[str, Any] = self.objects.bodies[SHOP.namespace, name]["status"]
        return found

    async def scale(self) -> int:
        """Scale once; return how many pods of pools are there and do not drain."""
        await self.scaler.scale()
        return len([row for row in await self.pods() if not row["draining"]])

    async def claim(self, pod: dict[str, Any], claim_id: str, slots: int = 1) -> Answer:
        """Return what a pod is answered that asks for work, the first time with its credential."""
        uid = pod["uid"]
        session = self._sessions.get(uid)
        secret = None if session else self.world.cluster.credentials[SHOP.namespace]
        shown = PodIdentity(uid, pod["name"], secret=secret, session=session)
        pod_id, key = await self.world.attempts.claims.find(shown)
        (answer,) = await self.world.attempts.claims.take(key, [Ask(pod_id, claim_id, slots, shown)])
        if answer.error is not None:
            raise answer.error
        self._sessions[uid] = answer.session or session
        return answer

    async def come_up(self) -> None:
        """Let the runners of all pods that have not asked for work ask for it, once."""
        for pod in await self.pods():
            if pod["claim_id"] is None:
                await self.claim(pod, "first", pod["slots"])

    async def pods(self) -> list[dict[str, Any]]:
        """Return the rows of the pods of pools that have not gone."""
        return await self.world.database.fetch(
            "SELECT * FROM pod WHERE reuse AND deleted_at IS NULL AND ended_at IS NULL ORDER BY id"
        )


async def name_head(database: Database, task: str = "order") -> None:
    """Record that the newest version of a Task is what the Task says now."""
    await database.fetch(
        "INSERT INTO task_head (project_id, task, resource_uid, generation, task_version_id)"
        " SELECT DISTINCT ON (task) project_id, task, task, 1, id FROM task_version WHERE task = %(task)s"
        " ORDER BY task, version DESC"
        " ON CONFLICT (project_id, task) DO UPDATE SET task_version_id = excluded.task_version_id",
        {"task": task},
    )
