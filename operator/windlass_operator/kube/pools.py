"""WorkerPool resources in Kubernetes."""

from collections.abc import AsyncIterator
from typing import Any

from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.kinds import WORKER_POOLS
from windlass_operator.kube.runner_names import MANAGED_BY_LABEL, label_value
from windlass_operator.resources.names import POOL_LABEL


class KubePools:
    """The adapter behind the service's protocol.

    Args:
        client: The API server.
        namespaces: The listed namespaces; empty for the whole cluster.
    """

    def __init__(self, client: KubeClient, *, namespaces: tuple[str, ...] = ()) -> None:
        self._client = client
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all WorkerPools of the watched namespaces, page by page."""
        for namespace in self._namespaces:
            async for body in self._client.list(WORKER_POOLS, namespace):
                yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the WorkerPool with this name; None only where the API server says that there is none."""
        found = await self._client.get(WORKER_POOLS, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the WorkerPool is gone or is another one of that name."""
        return await self._client.patch_status(WORKER_POOLS, namespace, name, status, uid=uid)

    def selector(self, name: str) -> str:
        """Return what finds the pods of a pool, as text."""
        return pool_selector(name)


def pool_selector(name: str) -> str:
    """Return what finds the pods of a pool, as ``kubectl get pods -l`` takes it."""
    return f"{MANAGED_BY_LABEL}=windlass,{POOL_LABEL}={label_value(name)}"
