"""Approval resources in Kubernetes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from windlass_operator.domain.approvals import Approval, ApprovalNameTakenError
from windlass_operator.kube.errors import AlreadyExistsError, KubeConflictError, KubeInvalidError
from windlass_operator.kube.kinds import APPROVALS
from windlass_operator.kube.runner_names import MANAGED_BY_LABEL
from windlass_operator.resources import names
from windlass_operator.resources.approval import spec_of, status_of, status_of_stranger

if TYPE_CHECKING:
    from windlass_operator.kube.client import KubeClient


class KubeApprovals:
    """The adapter behind the service's protocol.

    Args:
        client: The API server.
        namespaces: The listed namespaces; empty for the whole cluster.
    """

    def __init__(self, client: "KubeClient", *, namespaces: tuple[str, ...] = ()) -> None:
        self._client = client
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)

    async def create(self, approval: Approval) -> str:
        """Make the resource, or find the one that an earlier call made; return its UID.

        Raises:
            ApprovalNameTakenError: Something else has the name.
        """
        try:
            made = await self._client.create(APPROVALS, approval.namespace, manifest(approval))
        except AlreadyExistsError:
            found = await self._client.get(APPROVALS, approval.namespace, approval.name)
            if found is None:
                raise KubeConflictError(f"Approval {approval.namespace}/{approval.name} came and went.") from None
            if not _is_of(found, approval):
                raise ApprovalNameTakenError(approval.name, approval.namespace) from None
            made = found
        return str(made["metadata"]["uid"])

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the resource with this name; None only where the API server says that there is none."""
        found = await self._client.get(APPROVALS, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all resources of the watched namespaces, page by page."""
        for namespace in self._namespaces:
            async for body in self._client.list(APPROVALS, namespace):
                yield body

    async def write_decision(self, approval: Approval) -> bool:
        """Write a decision that came through the API into the spec; False if somebody wrote another one there."""
        spec = {"decision": approval.state.value, "by": approval.by}
        if approval.comment is not None:
            spec["comment"] = approval.comment
        body = {"metadata": {"uid": approval.uid}, "spec": spec}
        try:
            return await self._client.patch(APPROVALS, approval.namespace, approval.name, body) is not None
        except (KubeInvalidError, KubeConflictError):
            return False  # a decision is final; what the spec has is read, and shown as ignored

    async def show(self, approval: Approval) -> bool:
        """Write the status; False when the resource is gone or is another one of that name."""
        status, uid = status_of(approval), str(approval.uid)
        return await self._client.patch_status(APPROVALS, approval.namespace, approval.name, status, uid=uid)

    async def disown(self, namespace: str, name: str, uid: str, generation: int) -> None:
        """Say in the status that no run waits for this one."""
        status = status_of_stranger(generation, datetime.now(UTC))
        await self._client.patch_status(APPROVALS, namespace, name, status, uid=uid)

    async def delete(self, namespace: str, name: str, uid: str) -> bool:
        """Delete the resource; False if it was gone."""
        return await self._client.delete(APPROVALS, namespace, name, uid=uid)


def manifest(approval: Approval) -> dict[str, Any]:
    """Return the resource to make. It belongs to the Run resource, if the run has one, and goes with it."""
    metadata: dict[str, Any] = {
        "name": approval.name,
        "labels": {
            MANAGED_BY_LABEL: "windlass",
            names.TASK_LABEL: approval.task[:63].rstrip("-._"),
            names.RUN_ID_LABEL: str(approval.run_id),
        },
    }
    if approval.run_name is not None and approval.run_uid is not None:
        owner = {"apiVersion": names.API_VERSION, "kind": names.RUN_KIND}
        metadata["ownerReferences"] = [{**owner, "name": approval.run_name, "uid": approval.run_uid}]
    return {"metadata": metadata, "spec": spec_of(approval)}


def _is_of(found: dict[str, Any], approval: Approval) -> bool:
    spec = found.get("spec")
    wanted = (str(approval.run_id), approval.key, approval.question)
    return isinstance(spec, dict) and (spec.get("runId"), spec.get("step"), spec.get("question")) == wanted
