"""The objects of one kind in Kubernetes, as far as a service needs them that keeps the ledger's copy of them."""

from collections.abc import AsyncIterator
from typing import Any

from windlass_operator.kube.client import KubeClient
from windlass_operator.kube.kinds import Kind


class KubeObjects:
    """The adapter behind the service's protocol.

    Args:
        client: The API server.
        kind: Which objects.
        namespaces: The listed namespaces; empty for the whole cluster.
    """

    def __init__(self, client: KubeClient, kind: Kind, *, namespaces: tuple[str, ...] = ()) -> None:
        self._client = client
        self._kind = kind
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all objects of the watched namespaces, page by page."""
        for namespace in self._namespaces:
            async for body in self._client.list(self._kind, namespace):
                yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the object with this name; None only where the API server says that there is none."""
        found = await self._client.get(self._kind, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the object is gone or is another one of that name."""
        return await self._client.patch_status(self._kind, namespace, name, status, uid=uid)
