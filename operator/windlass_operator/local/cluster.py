"""What the services need of Kubernetes, done by this process: resources in memory, runner processes for pods."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.kube import manifests
from windlass_operator.kube.manifests import RunnerSettings
from windlass_operator.local.pods import LocalPods
from windlass_operator.local.resources import LocalResources, snapshot_of
from windlass_operator.resources.names import QUEUE_KIND, RUN_KIND, TASK_KIND, WORKER_POOL_KIND


class LocalCluster:
    """The same protocols that ``kube.cluster`` implements.

    Every namespace exists, and is the same project each time: there is nobody who could delete one.

    Args:
        resources: Tasks and Runs.
        pods: Runner processes.

    Attributes:
        api_url: What runners call; set before the first of them starts.
    """

    def __init__(self, resources: LocalResources, pods: LocalPods) -> None:
        self.api_url = ""
        self._resources = resources
        self._pods = pods
        self._credentials: dict[str, str] = {}

    @property
    def disrupts_pods(self) -> bool:
        """Nobody removes a runner process but its run's own end."""
        return False

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        return _project(namespace)

    async def is_gone(self, project: Project) -> bool:
        """Return whether this is not the project of its namespace."""
        return project != await self.project(project.namespace)

    async def read_task(self, namespace: str, name: str) -> TaskSnapshot | None:
        """Read a Task.

        One that names a Queue which is not there has a queue of its own: in a cluster it would wait for the Queue, and
        here most people have none. The same goes for one that names a WorkerPool which is not there: its runs have
        runners of their own.
        """
        found = self._resources.get(TASK_KIND, namespace, name)
        if found is None:
            return None
        snapshot = snapshot_of(found)
        if snapshot.queue is not None and self._resources.get(QUEUE_KIND, namespace, snapshot.queue) is None:
            snapshot = replace(snapshot, queue=None)
        pool = snapshot.pod.pool
        if pool is not None and self._resources.get(WORKER_POOL_KIND, namespace, pool) is None:
            snapshot = replace(snapshot, pod=replace(snapshot.pod, pool=None, isolation="Pod"))
        return snapshot

    async def each_task(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all Tasks."""
        for body in self._resources.all(TASK_KIND):
            yield body

    async def task_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Task with this name, or None."""
        found = self._resources.get(TASK_KIND, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def patch_task_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Task's status; False when the Task is gone."""
        return self._resources.set_status(TASK_KIND, namespace, name, uid, status)

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        """Start the runner of a plan, or find the one that an earlier call started; return its UID.

        What a pod is made of is held to the same rules as in a cluster, although little of it has a meaning here.
        """
        body = manifests.runner_pod(manifests.named(plan), parts, RunnerSettings(self.api_url, ahead="secret"))
        env = body["spec"]["containers"][0]["env"]
        return await self._pods.create(plan, env, self._credentials[plan.namespace])

    async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
        """Look at one pod."""
        return self._pods.see(namespace, name)

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Stop a runner and forget it; one that is gone is fine."""
        self._pods.delete(uid)

    async def mark_pod(self, namespace: str, name: str, uid: str, template: dict[str, Any], *, protected: bool) -> bool:
        """Do nothing: nobody would read it."""
        seen = self._pods.see(namespace, name)
        return seen is not None and seen.uid == uid

    async def list_pods(self) -> list[PodSeen]:
        """Return all pods."""
        return self._pods.all()

    async def pod_history(self, namespace: str, name: str, uid: str, *, exists: bool) -> dict[str, Any]:
        """Return the last lines that a runner printed. There are no events."""
        return {"events": [], "lines": self._pods.last_lines(uid) if exists else []}

    async def each_run(self) -> AsyncIterator[RunSeen]:
        """Yield all Run resources."""
        for body in self._resources.all(RUN_KIND):
            meta = body["metadata"]
            run_id = body["status"].get("runId")
            yield RunSeen(meta["uid"], meta["generation"], run_id, False, lambda body=body: body)  # type: ignore[misc]  # the loop's value, kept

    async def run_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Run with this name, or None."""
        found = self._resources.get(RUN_KIND, namespace, name)
        return None if found is None else str(found["metadata"]["uid"])

    async def patch_run_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        """Write a Run's status; False when the Run is gone."""
        return self._resources.set_status(RUN_KIND, namespace, name, uid, status)

    async def reject_run(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Write a status that says why this Run is not imported."""
        found = self._resources.get(RUN_KIND, namespace, name)
        if found is not None:
            status = {**found["status"], "reason": reason, "message": message}
            self._resources.set_status(RUN_KIND, namespace, name, uid, status)

    async def delete_run(self, namespace: str, name: str, uid: str) -> bool:
        """Delete a Run resource; False if it was gone."""
        return self._resources.delete(RUN_KIND, namespace, name, uid) is not None

    async def ensure_credential(self, namespace: str, fresh: str) -> str:
        """Return the runner credential of a namespace: new with each start of this process."""
        return self._credentials.setdefault(namespace, fresh)


@lru_cache(maxsize=1000)
def _project(namespace: str) -> Project:
    return Project(uid=str(uuid5(NAMESPACE_URL, namespace)), namespace=namespace)
