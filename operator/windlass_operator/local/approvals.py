"""Approval resources in memory. Decisions come through the API; what a resource would show is kept for completeness."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from windlass_operator.domain.approvals import Approval
from windlass_operator.kube.approvals import manifest
from windlass_operator.resources.approval import status_of, status_of_stranger


class LocalApprovals:
    """Resources by UID. A plane that starts again knows none: the service makes those again that are still needed."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Any]] = {}

    async def create(self, approval: Approval) -> str:
        """Make the resource, or find the one that an earlier call made; return its UID."""
        found = self._named(approval.namespace, approval.name)
        if found is not None:  # only the service makes any, and the ledger gives each its name
            return str(found["metadata"]["uid"])
        made = manifest(approval)
        uid = str(uuid4())
        metadata = {**made["metadata"], "namespace": approval.namespace, "uid": uid, "generation": 1}
        self._objects[uid] = {"metadata": metadata, "spec": made["spec"]}
        return uid

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the resource with this name, or None."""
        found = self._named(namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all resources."""
        for body in list(self._objects.values()):
            yield body

    async def write_decision(self, approval: Approval) -> bool:
        """Write a decision that came through the API into the spec; False if there is another one."""
        body = self._objects.get(str(approval.uid))
        if body is None or "decision" in body["spec"]:
            return False
        body["spec"] |= {"decision": approval.state.value, "by": approval.by}
        if approval.comment is not None:
            body["spec"]["comment"] = approval.comment
        body["metadata"]["generation"] += 1
        return True

    async def show(self, approval: Approval) -> bool:
        """Write the status; False when the resource is gone."""
        body = self._objects.get(str(approval.uid))
        if body is None:
            return False
        body["status"] = status_of(approval)
        return True

    async def disown(self, namespace: str, name: str, uid: str, generation: int) -> None:
        """Say in the status that no run waits for this one."""
        if uid in self._objects:
            self._objects[uid]["status"] = status_of_stranger(generation, datetime.now(UTC))

    async def delete(self, namespace: str, name: str, uid: str) -> bool:
        """Delete the resource; False if it was gone."""
        return self._objects.pop(uid, None) is not None

    def _named(self, namespace: str, name: str) -> dict[str, Any] | None:
        for body in self._objects.values():
            if (body["metadata"]["namespace"], body["metadata"]["name"]) == (namespace, name):
                return body
        return None
