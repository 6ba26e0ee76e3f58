"""The objects of one kind in memory."""

from collections.abc import AsyncIterator
from typing import Any


class FakeObjects:
    """Kubernetes as far as a service needs it that keeps a copy of Queues, or of WorkerPools."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str], dict[str, Any]] = {}
        self.written = 0
        """Statuses that were written."""

    def apply(self, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Create or change an object, as kubectl does, and return it."""
        before = self.bodies.get((namespace, name))
        generation = before["metadata"]["generation"] + 1 if before else 1
        meta = {"namespace": namespace, "name": name, "uid": f"uid-of-{name}", "generation": generation}
        body = {"metadata": meta, "spec": spec, "status": before["status"] if before else {}}
        self.bodies[namespace, name] = body
        return body

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        for body in list(self.bodies.values()):
            yield body

    async def uid(self, namespace: str, name: str) -> str | None:
        body = self.bodies.get((namespace, name))
        return None if body is None else str(body["metadata"]["uid"])

    async def show(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        body = self.bodies.get((namespace, name))
        if body is None or body["metadata"]["uid"] != uid:
            return False
        body["status"] = status
        self.written += 1
        return True
