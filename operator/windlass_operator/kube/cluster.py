"""Kubernetes as the services see it: projects, Tasks, Runs, pods and the runner's Secret."""

import base64
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from windlass_operator.domain.identity import TokenIdentity
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.kube import manifests
from windlass_operator.kube.client import KubeClient, as_object, secret_text
from windlass_operator.kube.errors import (
    AlreadyExistsError,
    ForbiddenByPolicyError,
    KubeConflictError,
    KubeInvalidError,
    KubeNotFoundError,
)
from windlass_operator.kube.kinds import CORE_EVENTS, NAMESPACES, PODS, RUNS, SECRETS, TASKS, Kind
from windlass_operator.kube.protection import annotations
from windlass_operator.kube.reading import read_event, read_task, see_pod
from windlass_operator.kube.run_head import see_run
from windlass_operator.kube.runner_names import CREDENTIAL_KEY, CREDENTIAL_SECRET, MANAGED_BY_LABEL, RUNNER_CONTAINER

log = structlog.get_logger()

_REMEMBER_PROJECT: Final = 10.0
_REMEMBER_TASKS: Final = 200
"""Tasks whose last answer is kept beside what it was read into: to read one takes longer than to ask for it."""
_EVENTS: Final = 10
_LINES: Final = 100
_LONGEST_LINE: Final = 1_000
_MANAGED: Final = f"{MANAGED_BY_LABEL}=windlass"


class KubeCluster:
    """The adapter behind the services' protocols.

    Args:
        client: The API server.
        settings: How runner pods are made.
        default_image: Image of Tasks that name none.
        namespaces: The listed namespaces; empty for the whole cluster.
    """

    def __init__(
        self,
        client: KubeClient,
        settings: manifests.RunnerSettings,
        *,
        default_image: str,
        namespaces: tuple[str, ...] = (),
    ) -> None:
        self._client = client
        self._settings = settings
        self._default_image = default_image
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._projects: dict[str, tuple[float, Project]] = {}
        self._tasks: dict[tuple[str, str], tuple[bytes, TaskSnapshot]] = {}

    def through(self, client: KubeClient) -> "KubeCluster":
        """Return the same cluster as another client reaches it."""
        listed = tuple(name for name in self._namespaces if name is not None)
        return KubeCluster(client, self._settings, default_image=self._default_image, namespaces=listed)

    @property
    def disrupts_pods(self) -> bool:
        """Nodes are drained and consolidated."""
        return True

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace, by its UID as it was a few seconds ago at most.

        Raises:
            KubeNotFoundError: There is no such namespace.
        """
        known = self._projects.get(namespace)
        if known and known[0] > time.monotonic():
            return known[1]
        found = await self._client.get(NAMESPACES, None, namespace)
        if found is None:
            self._projects.pop(namespace, None)
            raise KubeNotFoundError(f"There is no namespace {namespace[:253]!r}.")
        project = Project(uid=found["metadata"]["uid"], namespace=namespace)
        self._projects[namespace] = (time.monotonic() + _REMEMBER_PROJECT, project)
        return project

    async def is_gone(self, project: Project) -> bool:
        """Return whether a project's namespace is absent, is being deleted, or has a successor of its name.

        A namespace that was there a few seconds ago is still there. False where this installation may not know: one
        that is no longer listed is none of its business, and the permission to look at one goes with it.
        """
        if None not in self._namespaces and project.namespace not in self._namespaces:
            return False
        known = self._projects.get(project.namespace)
        if known and known[0] > time.monotonic() and known[1] == project:
            return False
        try:
            found = await self._client.get(NAMESPACES, None, project.namespace)
        except ForbiddenByPolicyError:
            return False
        gone = found is None or found["metadata"]["uid"] != project.uid or "deletionTimestamp" in found["metadata"]
        self._projects.pop(project.namespace, None)
        if not gone:
            self._projects[project.namespace] = (time.monotonic() + _REMEMBER_PROJECT, project)
        return gone

    async def read_task(self, namespace: str, name: str) -> TaskSnapshot | None:
        """Read a Task live.

        Raises:
            TaskInvalidError: It cannot be run as it is written.
        """
        body = await self._client.get_raw(TASKS, namespace, name)
        if body is None:
            return None
        known = self._tasks.get((namespace, name))
        if known is not None and known[0] == body:  # the same words mean the same
            return known[1]
        snapshot = read_task(as_object(body), self._default_image)
        self._tasks[namespace, name] = (body, snapshot)
        if len(self._tasks) > _REMEMBER_TASKS:
            del self._tasks[next(iter(self._tasks))]
        return snapshot

    async def each_task(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all Tasks of the watched namespaces, page by page."""
        async for body in self._each(TASKS):
            yield body

    async def task_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Task with this name; None only where the API server says that there is none."""
        found = await self._client.get(TASKS, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        """Create the pod of a plan, or find the one that an earlier call created; return its UID."""
        body = manifests.runner_pod(manifests.named(plan), parts, self._settings)
        try:
            made = await self._client.create(PODS, plan.namespace, body)
        except AlreadyExistsError:
            found = await self._client.get(PODS, plan.namespace, plan.name)
            if found is None:
                raise KubeConflictError(f"Pod {plan.namespace}/{plan.name} came and went.") from None
            made = found
        return str(made["metadata"]["uid"])

    async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
        """Look at one pod, whatever its labels are; None only where the API server says that there is none."""
        found = await self._client.get(PODS, namespace, name)
        return None if found is None else see_pod(found)

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete a pod; one that is gone is fine."""
        await self._client.delete(PODS, namespace, name, uid=uid)

    async def mark_pod(self, namespace: str, name: str, uid: str, template: dict[str, Any], *, protected: bool) -> bool:
        """Put on a pod the annotations that keep it, or take them off; False if it is gone."""
        body = {"metadata": {"uid": uid, "annotations": annotations(template, protected=protected)}}
        try:
            return await self._client.patch(PODS, namespace, name, body) is not None
        except (KubeConflictError, KubeInvalidError):
            # The UID in the patch is a precondition, whose failure has no words of its own.
            found = await self._client.get(PODS, namespace, name)
            if found is not None and found["metadata"]["uid"] == uid:
                raise
            return False

    async def list_pods(self) -> list[PodSeen]:
        """Return all pods that are ours."""
        return [see_pod(body) async for body in self._each(PODS, label_selector=_MANAGED)]

    async def pod_history(self, namespace: str, name: str, uid: str, *, exists: bool) -> dict[str, Any]:
        """Return what the cluster still tells of a pod that ended badly.

        Returns:
            ``events``: the last of them, oldest first; ``lines``: the last lines of the runner's log, whose values of
            Secrets the runner has taken out.

        Raises:
            KubeUnavailableError: The API server does not answer.
        """
        found = self._client.list(CORE_EVENTS, namespace, field_selector=f"involvedObject.uid={uid}")
        events = sorted([read_event(body) async for body in found], key=lambda event: event["at"])
        log = await self._client.pod_log(namespace, name, container=RUNNER_CONTAINER, tail=_LINES) if exists else ""
        return {"events": events[-_EVENTS:], "lines": [line[:_LONGEST_LINE] for line in log.splitlines()]}

    async def each_run(self) -> AsyncIterator[RunSeen]:
        """Yield all Run resources of the watched namespaces, page by page."""
        for namespace in self._namespaces:
            async for text in self._client.scan(RUNS, namespace):
                yield see_run(text)

    async def run_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Run with this name; None only where the API server says that there is none."""
        found = await self._client.get(RUNS, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def patch_run_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Run's status; False when the Run is gone."""
        return await self._client.patch_status(RUNS, namespace, name, status, uid=uid)

    async def reject_run(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Write a status that says why this Run is not imported, keeping what the status said before."""
        found = await self._client.get(RUNS, namespace, name)
        if found is None:
            return
        before = found.get("status")
        status = dict(before) if isinstance(before, dict) else {}
        status |= {"reason": reason, "message": message[:1024]}
        await self._client.patch_status(RUNS, namespace, name, status, uid=uid)

    async def patch_task_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Task's status; False when the Task is gone."""
        return await self._client.patch_status(TASKS, namespace, name, status, uid=uid)

    async def delete_run(self, namespace: str, name: str, uid: str) -> bool:
        """Delete a Run resource; False if it was gone."""
        return await self._client.delete(RUNS, namespace, name, uid=uid)

    async def ensure_credential(self, namespace: str, fresh: str) -> str:
        """Return the runner credential of a namespace; make its Secret with ``fresh`` if there is none."""
        found = await self._client.get(SECRETS, namespace, CREDENTIAL_SECRET)
        if found is None:
            body = {
                "metadata": {"name": CREDENTIAL_SECRET, "labels": {MANAGED_BY_LABEL: "windlass"}},
                "type": "Opaque",
                "data": {CREDENTIAL_KEY: base64.b64encode(fresh.encode()).decode()},
            }
            try:
                found = await self._client.create(SECRETS, namespace, body)
            except AlreadyExistsError:
                found = await self._client.get(SECRETS, namespace, CREDENTIAL_SECRET)
        text = secret_text(found or {}, CREDENTIAL_KEY)
        if not text:
            # Somebody emptied it: a Secret without a credential would hold every pod back for ever.
            await self._client.delete(SECRETS, namespace, CREDENTIAL_SECRET, uid=None)
            raise KubeConflictError(f"Secret {namespace}/{CREDENTIAL_SECRET} held no credential and is made again.")
        return text

    async def token_review(self, token: str, audiences: list[str]) -> TokenIdentity | None:
        """Ask whose token this is."""
        return await self._client.token_review(token, audiences)

    async def allowed(
        self, who: TokenIdentity, verb: str, resource: str, subresource: str, namespace: str, name: str
    ) -> bool:
        """Ask whether somebody may do something with one of our resources."""
        return await self._client.access_review(
            user=who.username,
            groups=who.groups,
            uid=who.uid,
            extra=who.extra,
            verb=verb,
            resource=resource,
            subresource=subresource,
            namespace=namespace,
            name=name,
        )

    async def _each(self, kind: Kind, *, label_selector: str | None = None) -> AsyncIterator[dict[str, Any]]:
        for namespace in self._namespaces:
            async for body in self._client.list(kind, namespace, label_selector=label_selector):
                yield body
