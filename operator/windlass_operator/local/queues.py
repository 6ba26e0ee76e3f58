"""Queue resources in memory."""

from collections.abc import AsyncIterator
from typing import Any

from windlass_operator.local.resources import LocalResources
from windlass_operator.resources.names import QUEUE_KIND


class LocalQueues:
    """The Queues of a local plane."""

    def __init__(self, resources: LocalResources) -> None:
        self._resources = resources

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all Queues."""
        for body in self._resources.all(QUEUE_KIND):
            yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Queue with this name, or None."""
        found = self._resources.get(QUEUE_KIND, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the Queue is gone or is another one of that name."""
        return self._resources.set_status(QUEUE_KIND, namespace, name, uid, status)
