"""An installation of which ``doctor --verify-ledger`` can look at everything: ledger, pods, Run resources, objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from tests.support.clock import Clock
from tests.support.world import SHOP, World, a_task
from windlass import protocol
from windlass_operator.blobs.memory import MemoryBlobStore
from windlass_operator.blobs.store import BlobKey
from windlass_operator.ledger.database import Database
from windlass_operator.services import outside
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.invariants import Report, Violation
from windlass_operator.services.outside import Look
from windlass_operator.services.outside_cluster import PodLook, RunLook
from windlass_operator.services.outside_objects import ObjectLook

NOW = timedelta(0)


@dataclass
class Installation:
    """A control plane, a cluster and a store, with runs in them.

    Attributes:
        world: The services.
        store: Of large values.
        runs: Ids, by the names of the Run resources.
        pods: UIDs of the pods, by the same names.
    """

    world: World
    store: MemoryBlobStore
    runs: dict[str, UUID]
    pods: dict[str, str]

    def looks(self) -> list[Look]:
        """Return every look; nothing is too young for it."""
        database, cluster = self.world.database, self.world.cluster
        return [
            PodLook(database, cluster, settled=NOW),
            RunLook(database, cluster, settled=NOW),
            ObjectLook(database, self.store),
        ]

    async def found(self, looks: Sequence[Look] | None = None, *, pauses: Sequence[float] = (0, 0)) -> list[Violation]:
        """Return what is found."""
        return (await self.report(looks, pauses=pauses)).violations

    async def report(self, looks: Sequence[Look] | None = None, *, pauses: Sequence[float] = (0, 0)) -> Report:
        """Return what is found, and what was not looked at."""
        report = Report()
        await outside.examine(looks or self.looks(), report, pauses=pauses)
        return report

    async def start(self, name: str) -> protocol.ClaimedAttempt:
        """Create a Run, and let a pod claim it."""
        await self.world.imports.observe(self.world.create_run(name))
        (attempt,) = await self.world.claim(claim_id=name)
        self.runs[name] = UUID(attempt.run_id)
        self.pods[name] = list(self.world.cluster.pods)[-1]
        return attempt

    async def fetch(self, statement: Any, **parameters: Any) -> None:
        """Break the ledger by hand."""
        await self.world.database.fetch(statement, parameters)

    def show(self, name: str, **changes: Any) -> None:
        """Write something into a Run's status."""
        run = self.world.cluster.runs[f"uid-of-{name}"]
        run["status"] = {**run["status"], **changes}

    def delete_pod(self, name: str) -> None:
        """Delete a run's pod, unseen by anybody."""
        del self.world.cluster.pods[self.pods[name]]

    def delete_run(self, name: str) -> None:
        """Delete a Run, unseen by anybody."""
        del self.world.cluster.runs[f"uid-of-{name}"]

    async def put_object(self, *, age: timedelta, project: str = SHOP.uid) -> None:
        """Store an object of a run that nobody knows."""
        millis = round((Clock().now() - age).timestamp() * 1000)
        run_id = UUID(int=millis << 80 | uuid4().int >> 48)
        await self.store.put(BlobKey.of(project, run_id, b"x"), b"x")


async def install(database: Database) -> Installation:
    """Runs with and without a resource, in several states, with pods and a large value."""
    world = await World(database).start()
    store = MemoryBlobStore(limit=1 << 20)
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    there = Installation(world, store, {}, {})
    done = await there.start("done")
    writer = await world.attempts.authenticate(done.token)
    key = BlobKey.of(SHOP.uid, writer.run_id, b"large")
    await BlobService(database, store).put(writer, key.sha256, b"large")
    await world.attempts.complete(done.token, protocol.CompleteRequest())
    world.cluster.pods[there.pods["done"]] = ended = replace(
        world.cluster.pods[there.pods["done"]], ended=True, succeeded=True, exit_code=0
    )
    await world.pods.observe(ended)
    await there.start("running")
    await world.submit(name="nobody")
    await world.imports.observe(world.create_run("keyed", idempotencyKey="7"))
    await world.imports.observe(world.create_run("twin", idempotencyKey="7"))
    rows = await database.fetch("SELECT id FROM run WHERE resource_name = 'keyed'")
    there.runs["keyed"] = rows[0]["id"]
    while await world.projection.project_due():
        pass
    return there
