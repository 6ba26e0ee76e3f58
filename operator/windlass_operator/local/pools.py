"""WorkerPool resources in memory."""

from collections.abc import AsyncIterator
from typing import Any

from windlass_operator.kube.pools import pool_selector
from windlass_operator.local.resources import LocalResources
from windlass_operator.resources.names import WORKER_POOL_KIND


class LocalPools:
    """The WorkerPools of a local plane."""

    def __init__(self, resources: LocalResources) -> None:
        self._resources = resources

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all WorkerPools."""
        for body in self._resources.all(WORKER_POOL_KIND):
            yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the WorkerPool with this name, or None."""
        found = self._resources.get(WORKER_POOL_KIND, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the WorkerPool is gone or is another one of that name."""
        return self._resources.set_status(WORKER_POOL_KIND, namespace, name, uid, status)

    def selector(self, name: str) -> str:
        """Return what would find the pods of a pool in a cluster."""
        return pool_selector(name)
