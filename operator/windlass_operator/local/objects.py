"""The objects of one kind in memory."""

from collections.abc import AsyncIterator
from typing import Any

from windlass_operator.local.resources import LocalResources


class LocalObjects:
    """Those of a local plane.

    Args:
        resources: All of its objects.
        kind: Which of them, as in a manifest.
    """

    def __init__(self, resources: LocalResources, kind: str) -> None:
        self._resources = resources
        self._kind = kind

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all objects."""
        for body in self._resources.all(self._kind):
            yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the object with this name, or None."""
        found = self._resources.get(self._kind, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a status; False when the object is gone or is another one of that name."""
        return self._resources.set_status(self._kind, namespace, name, uid, status)
