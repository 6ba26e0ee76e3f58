"""A control plane without Kubernetes: the real services on a real ledger, and builders for what tests need."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from tests.support.approvals import FakeApprovals
from tests.support.objects import FakeObjects
from windlass import protocol
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.context import read_run
from windlass_operator.domain.ids import new_id, token_hash
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.domain.project import Project
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.kube.errors import KubeNotFoundError
from windlass_operator.kube.run_head import see_run
from windlass_operator.ledger import runs
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.projection import take_epoch
from windlass_operator.services.approval_resources import ApprovalResourceService
from windlass_operator.services.approvals import ApprovalService
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.children import ChildService
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.endings import EndingService
from windlass_operator.services.events import EventService
from windlass_operator.services.imports import ImportService
from windlass_operator.services.namespaces import NamespaceService
from windlass_operator.services.pods import PodService
from windlass_operator.services.progress import ProgressService
from windlass_operator.services.projection import ProjectionService
from windlass_operator.services.protection import PodMarker, ProtectionService
from windlass_operator.services.queues import QueueService
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.resumption import ResumeService
from windlass_operator.services.runs import RunService
from windlass_operator.services.steps import StepService
from windlass_operator.services.submission import SubmissionService
from windlass_operator.services.submitted import Resource, Submission
from windlass_operator.services.tasks import TaskService
from windlass_operator.services.tokens import TokenService
from windlass_operator.services.waits import WaitService

_LOOK_EVERY = timedelta(milliseconds=20)
"""Much oftener than in earnest: some tests move time, or rows, of which nobody is told."""

SHOP = Project(uid="uid-of-shop", namespace="shop")


def a_task(**changes: Any) -> TaskSnapshot:
    """Return a snapshot that needs nothing: three attempts, no jitter."""
    parts = PodParts(image="runner:test", preload=None, source_hash="0" * 16)
    base = TaskSnapshot(entrypoint="order:process", source="x = 1", pod=parts, retry=RetryPolicy(jitter="none"))
    return replace(base, **changes)


@dataclass
class FakeCluster:
    """Kubernetes as far as the services need it. Remembers what was asked of it."""

    tasks: dict[tuple[str, str], TaskSnapshot] = field(default_factory=dict)
    task_objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """Task resources, as a list shows them."""
    pods: dict[str, PodSeen] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted_runs: list[str] = field(default_factory=list)
    credentials: dict[str, str] = field(default_factory=dict)
    refuse: Exception | None = None
    """Raised where a pod is created."""
    refuse_status: dict[str, Exception] = field(default_factory=dict)
    """Raised where the status of the Run with this name is written."""
    broken_task: Exception | None = None
    """Raised where a Task is read."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run resources by UID, as a list shows them."""
    rejected: dict[str, tuple[str, str]] = field(default_factory=dict)
    history: dict[str, Any] | Exception = field(default_factory=lambda: {"events": [], "lines": []})
    """What is told of a pod that ended; an exception is raised."""
    task_statuses: list[dict[str, Any]] = field(default_factory=list)
    namespaces: dict[str, str] = field(default_factory=lambda: {SHOP.namespace: SHOP.uid, "windlass-system": "ours"})
    """UIDs of the namespaces that are there and stay."""
    plans: list[PodPlan] = field(default_factory=list)
    """Of the pods that were created."""
    disrupts_pods: bool = True
    refuse_mark: Exception | None = None
    """Raised where a pod's annotations are changed."""
    marks: list[tuple[str, bool]] = field(default_factory=list)
    """Names of the pods whose annotations were put on or taken off, in this order."""
    unlabelled: dict[str, PodSeen] = field(default_factory=dict)
    """Pods by UID that no list shows."""

    async def project(self, namespace: str) -> Project:
        if namespace not in self.namespaces:
            raise KubeNotFoundError(f"There is no namespace {namespace!r}.")
        return Project(self.namespaces[namespace], namespace)

    async def is_gone(self, project: Project) -> bool:
        return self.namespaces.get(project.namespace) != project.uid

    async def run_uid(self, namespace: str, name: str) -> str | None:
        return next((uid for uid, body in self.runs.items() if body["metadata"]["name"] == name), None)

    async def each_run(self) -> AsyncIterator[RunSeen]:
        for body in list(self.runs.values()):
            try:
                text = json.dumps(body).encode()
            except (ValueError, RecursionError):  # no JSON of Python's, but what a resource may hold
                meta, status = body["metadata"], body["status"]
                whole: partial[dict[str, Any]] = partial(dict, body)
                yield RunSeen(meta["uid"], meta["generation"], status.get("runId"), deleting=False, body=whole)
                continue
            yield see_run(text)

    async def reject_run(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        self.rejected[name] = (reason, message)
        if uid in self.runs:
            self.runs[uid]["status"] = {**self.runs[uid]["status"], "reason": reason, "message": message}

    async def each_task(self) -> AsyncIterator[dict[str, Any]]:
        for body in list(self.task_objects.values()):
            yield body

    async def task_uid(self, namespace: str, name: str) -> str | None:
        found = self.task_objects.get((namespace, name))
        return None if found is None else str(found["metadata"]["uid"])

    async def patch_task_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        if (namespace, name) not in self.tasks and self.broken_task is None:
            return False
        self.task_statuses.append(status)
        return True

    async def read_task(self, namespace: str, name: str) -> TaskSnapshot | None:
        if self.broken_task is not None:
            raise self.broken_task
        return self.tasks.get((namespace, name))

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        if self.refuse is not None:
            raise self.refuse
        for seen in self.pods.values():
            if seen.name == plan.name:
                return seen.uid
        self.plans.append(plan)
        uid = f"pod-uid-{uuid4()}"
        self.pods[uid] = PodSeen(
            plan.name, plan.namespace, uid, exists=True, ended=False, succeeded=False, started=False
        )
        return uid

    async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
        there = [*self.pods.values(), *self.unlabelled.values()]
        return next((seen for seen in there if (seen.namespace, seen.name) == (namespace, name)), None)

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        self.pods.pop(uid, None)

    async def mark_pod(self, namespace: str, name: str, uid: str, template: dict[str, Any], *, protected: bool) -> bool:
        if self.refuse_mark is not None:
            raise self.refuse_mark
        if uid not in self.pods:
            return False
        self.marks.append((name, protected))
        self.pods[uid] = replace(self.pods[uid], marked=protected)
        return True

    async def list_pods(self) -> list[PodSeen]:
        return list(self.pods.values())

    async def patch_run_status(self, namespace: str, name: str, uid: str, status: dict[str, Any]) -> bool:
        if name in self.refuse_status:
            raise self.refuse_status[name]
        if uid not in self.runs:
            return False
        self.runs[uid]["status"] = status
        self.statuses[name] = status
        return True

    async def pod_history(self, namespace: str, name: str, uid: str, *, exists: bool) -> dict[str, Any]:
        if isinstance(self.history, Exception):
            raise self.history
        return {"events": self.history["events"], "lines": self.history["lines"] if exists else []}

    async def delete_run(self, namespace: str, name: str, uid: str) -> bool:
        self.deleted_runs.append(name)
        return self.runs.pop(uid, None) is not None

    async def ensure_credential(self, namespace: str, fresh: str) -> str:
        return self.credentials.setdefault(namespace, fresh)


class World:
    """The services of operator and API in one process."""

    def __init__(self, database: Database, record: Recorder | None = None, cluster: FakeCluster | None = None) -> None:
        self.database = database
        self.cluster = cluster or FakeCluster()
        record = record or Recorder()
        self.attempts = AttemptService(database, record=record)
        self.desk = ClaimDesk(self.attempts.claims, every=_LOOK_EVERY)
        self.attempts.take_next = self.desk.next
        database.on_startable(self.desk.wake)
        self.protection = ProtectionService(database, self.cluster)
        self.steps = StepService(database, protection=self.protection, progress_every=0)
        self.events = EventService(database, self.attempts)
        self.tokens = TokenService(database, self.attempts, public_url="http://windlass.example")
        self.approvals = ApprovalService(database)
        self.waits = WaitService(
            database,
            self.attempts,
            kinds={"approval": self.approvals.begin, "event": self.events.begin, "token": self.tokens.begin},
        )
        self.approval_objects = FakeApprovals()
        self.approval_resources = ApprovalResourceService(
            database, self.approval_objects, self.approvals, ttl=timedelta(hours=1)
        )
        self.runs = RunService(database, record=record)
        self.progress = ProgressService(database, record=record)
        self.blobs = BlobService(database, LedgerBlobs(database, BlobMissingError))
        self.resumption = ResumeService(database, self.cluster.read_task, self.blobs)
        self.submissions = SubmissionService(
            database, self.cluster.read_task, self.blobs, release_namespace="windlass-system", record=record
        )
        self.endings = EndingService(database, self.runs)
        record.listen(self.endings.ended)
        self.children = ChildService(database, self.attempts, self.submissions, ended=self.endings.ended, record=record)
        self.projection = ProjectionService(database, self.cluster)
        self.imports = ImportService(database, self.cluster, self.submissions, self.runs, read_run)
        self.namespaces = NamespaceService(database, self.cluster, self.runs, release_namespace="windlass-system")
        self.queue_objects = FakeObjects()
        self.queues = QueueService(database, self.cluster, self.queue_objects, changed=lambda: None)
        self.tasks = TaskService(database, self.cluster, self.submissions)
        self.pods: PodService
        self.marker: PodMarker

    async def start(self) -> "World":
        """Take the lead."""
        epoch = await take_epoch(self.database, "test")
        self.pods = self.pod_service(epoch)
        self.marker = PodMarker(self.database, self.cluster, epoch=epoch)
        await self.attempts.serve_heartbeats()
        return self

    def pod_service(self, epoch: int) -> PodService:
        """Return the pod service of a leader with this epoch."""
        credentials = CredentialService(self.database, self.cluster)
        return PodService(self.database, self.cluster, self.attempts, credentials, epoch=epoch, max_starting=100)

    async def submit(self, task: TaskSnapshot | None = None, *, name: str = "order", payload: Any = None) -> UUID:
        """Accept a run through the API."""
        self.cluster.tasks[(SHOP.namespace, name)] = task or a_task()
        return (await self.submissions.trigger(SHOP, Submission(task=name, payload=payload))).run_id

    async def know(self, name: str) -> None:
        """Let the ledger know the version of a Task, as it does after its first run."""
        task = self.cluster.tasks[SHOP.namespace, name]

        async def work(connection: Connection) -> None:
            project_id = await runs.ensure_project(connection, SHOP.uid, SHOP.namespace)
            await runs.ensure_version(connection, project_id, SHOP.uid, name, task)

        await self.database.transaction(work)

    async def apply_task(self, task: TaskSnapshot | None = None, *, name: str = "order", seen: bool = True) -> None:
        """Apply a Task resource, and let the operator see it."""
        where = (SHOP.namespace, name)
        self.cluster.tasks[where] = task or a_task()
        old = self.cluster.task_objects.get(where)
        generation = old["metadata"]["generation"] + 1 if old else 1
        uid = old["metadata"]["uid"] if old else f"uid-of-task-{name}-{uuid4()}"
        meta = {"name": name, "namespace": SHOP.namespace, "uid": uid, "generation": generation}
        body = self.cluster.task_objects[where] = {"metadata": meta, "spec": {}, "status": {}}
        if seen:
            await self.tasks.observe(body)

    async def delete_task(self, name: str = "order", *, seen: bool = True) -> None:
        """Delete a Task resource, and let the operator see it."""
        del self.cluster.tasks[SHOP.namespace, name]
        body = self.cluster.task_objects.pop((SHOP.namespace, name))
        if seen:
            await self.tasks.observe(body, deleted=True)

    async def apply_run(
        self, *, task: str = "order", name: str = "order-1", uid: str | None = None, payload: Any = None
    ) -> UUID | None:
        """Accept a run as a Run resource asks for it."""
        resource = Resource(uid=uid or f"uid-of-{name}", name=name, spec_hash="hash")
        self.cluster.runs[resource.uid] = {"metadata": {"name": name, "namespace": SHOP.namespace, "uid": resource.uid}}
        return await self.submissions.import_resource(SHOP, Submission(task=task, payload=payload), resource)

    def create_run(self, name: str = "order-1", *, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        """Create a Run resource in the cluster, unseen by anybody, and return it."""
        uid = f"uid-of-{name}"
        meta = {"name": name, "namespace": SHOP.namespace, "uid": uid, "generation": 1}
        body = {"metadata": meta, "spec": {"taskRef": {"name": "order"}, **spec}, "status": status or {}}
        self.cluster.runs[uid] = body
        return body

    async def put_queue(self, name: str = "order", **spec: Any) -> None:
        """Apply a Queue resource, and let the operator see it."""
        await self.queues.observe(self.queue_objects.apply(SHOP.namespace, name, spec))

    async def claim(self, *, claim_id: str = "claim-1") -> list[protocol.ClaimedAttempt]:
        """Start the pods that are due and claim with the newest one."""
        await self.pods.start_due()
        seen = list(self.cluster.pods.values())[-1]
        return await self.attempts.claim(self.identity(seen), claim_id, 1)

    async def reusable_pod(
        self, task: TaskSnapshot | None = None, *, slots: int = 1, name: str = "order"
    ) -> PodIdentity:
        """Return a pod of a pool, as it is before its first claim: it takes one run after the other of a Task.

        The pool itself is left out: what a claim sees of it are the columns of the pod's row.
        """
        snapshot = task or a_task()
        self.cluster.tasks[(SHOP.namespace, name)] = snapshot
        secret = self.cluster.credentials.setdefault(SHOP.namespace, "wlr_test")
        pod_id = new_id()

        async def work(connection: Connection) -> None:
            project_id = await runs.ensure_project(connection, SHOP.uid, SHOP.namespace)
            version = await runs.ensure_version(connection, project_id, SHOP.uid, name, snapshot)
            await connection.execute(
                "INSERT INTO pod (id, project_id, pod_key, name, namespace, state, uid, ahead, reuse, slots)"
                " VALUES (%s, %s, %s, %s, %s, 'Created', %s, true, true, %s)",
                (pod_id, project_id, version.pod_key, f"pool-{pod_id.hex[-12:]}", SHOP.namespace, str(pod_id), slots),
            )
            await connection.execute(
                "UPDATE project SET credential_hash = %s WHERE id = %s", (token_hash(secret), project_id)
            )

        await self.database.transaction(work)
        return PodIdentity(str(pod_id), f"pool-{pod_id.hex[-12:]}", secret=secret)

    def identity(self, seen: PodSeen) -> PodIdentity:
        """Return what a runner in this pod shows."""
        return PodIdentity(seen.uid, seen.name, secret=self.cluster.credentials[seen.namespace])

    async def get(self, run_id: UUID) -> dict[str, Any]:
        """Return a run's row."""
        return await self.runs.get(SHOP, str(run_id))


def a_step(key: str, *, result: str = "1", state: protocol.StepState = "succeeded", **more: Any) -> protocol.Step:
    """Return a step that took 5 ms."""
    import msgspec

    value = msgspec.Raw(result.encode()) if state == "succeeded" else protocol.ABSENT
    return protocol.Step(key=key, name=key, args_hash="a", state=state, result=value, age_ms=5, duration_ms=5, **more)


def a_failure(kind: protocol.FailureClass = "user") -> protocol.FailRequest:
    """Return a failed attempt's report."""
    return protocol.FailRequest(failure=protocol.Failure(type="ValueError", message="boom", failure_class=kind))


SECOND = timedelta(seconds=1)
