"""All wiring: which service gets which storage. One class for each kind of process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from windlass_operator import __version__, metrics
from windlass_operator.blobs.store import BlobMissingError, BlobStore
from windlass_operator.config import Config
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.pods import PodSeen
from windlass_operator.kube.reading import see_pod
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.handles import forget_keys
from windlass_operator.ledger.intake import when_of
from windlass_operator.ledger.projection import take_epoch
from windlass_operator.ledger.wakeups import Wakeups
from windlass_operator.resources.names import TRACEPARENT_ANNOTATION
from windlass_operator.resources.run import RunSpec
from windlass_operator.services.approval_resources import ApprovalResourceService
from windlass_operator.services.approvals import ApprovalService
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.children import ChildService
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.endings import EndingService
from windlass_operator.services.events import EventService
from windlass_operator.services.gauges import GaugeService
from windlass_operator.services.imports import Asked, ImportService
from windlass_operator.services.loops import Loop, each
from windlass_operator.services.namespaces import NamespaceService
from windlass_operator.services.platform import Platform
from windlass_operator.services.pods import PodService
from windlass_operator.services.pool_scaling import PoolScaler
from windlass_operator.services.progress import ProgressService
from windlass_operator.services.projection import ProjectionService
from windlass_operator.services.protection import PodMarker, ProtectionService
from windlass_operator.services.queues import QueueService
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.resumption import ResumeService
from windlass_operator.services.runs import Changes, RunService
from windlass_operator.services.steps import StepService
from windlass_operator.services.submission import SubmissionService
from windlass_operator.services.submitted import Submission
from windlass_operator.services.tasks import TaskService
from windlass_operator.services.tokens import TokenService
from windlass_operator.services.waits import Begin, WaitService
from windlass_operator.services.worker_pools import WorkerPoolService

if TYPE_CHECKING:
    from windlass_operator.otlp import Exporter

log = structlog.get_logger()

_APART: Final = timedelta(milliseconds=50)
"""From one look for pods to start, or statuses to write, to the next: each asks the ledger about everything."""
_APART_RARE: Final = timedelta(milliseconds=200)
"""The same for pods to protect and pools to scale: nearly no change of a run is about that."""
_SEEN_BY_WATCH: Final = metrics.RUNS_OBSERVED.labels("watch")


class Context:
    """What every process has: ledger, platform, blobs, wake-ups and the services on them.

    Args:
        config: Of the installation.
        platform: Where resources and pods are.
        service: Name of this process in traces.
        now: The ledger's time where a test moves it; None: the database's own clock.

    Attributes:
        show: Called when a run has changed, here or elsewhere. The leader of this process, if there is one, sets it.
        plan: The same when runs may start for which no runner waits in this process.
    """

    def __init__(
        self,
        config: Config,
        platform: Platform,
        service: str = "windlass",
        *,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.config = config
        self.platform = platform
        self.database = Database(config.postgres_uri, size=config.pool_size, now=now)
        self.cluster = platform.cluster
        self.changes = Changes()
        self.wakeups = Wakeups(config.postgres_uri, self._woken, self._start)
        self.changes.listen(self.wakeups.changed)
        self.show: Callable[[], None] = _nobody
        self.plan: Callable[[], None] = _nobody
        self.changes.listen(lambda _: self.show())
        self.store = _store(config, self.database)
        self.blobs = BlobService(self.database, self.store)
        self.exporter = _exporter(config, service)
        record = Recorder(self.exporter.send if self.exporter else None, ratio=config.trace_ratio)
        self.attempts = AttemptService(self.database, self.changes, record, begun=self.changes.begun)
        self.desk = ClaimDesk(self.attempts.claims)
        self.attempts.take_next = self.desk.next
        self.database.on_startable(self._startable)
        self.protection = ProtectionService(self.database, self.cluster, self.changes)
        self.steps = StepService(self.database, self.changes, protection=self.protection)
        self.events = EventService(self.database, self.attempts, self.changes, keep=config.event_retention)
        self.tokens = TokenService(
            self.database,
            self.attempts,
            self.changes,
            public_url=config.public_url or config.api_url,
            keep=config.event_retention,
        )
        self.approvals = ApprovalService(self.database, self.changes)
        kinds: dict[str, Begin] = {
            "approval": self.approvals.begin,
            "event": self.events.begin,
            "token": self.tokens.begin,
        }
        self.waits = WaitService(self.database, self.attempts, self.changes, kinds=kinds)
        self.runs = RunService(self.database, self.changes, record)
        self.progress = ProgressService(self.database, self.changes, record)
        self.resumption = ResumeService(self.database, self.cluster.read_task, self.blobs, changed=self.changes)
        self.submissions = SubmissionService(
            self.database,
            self.cluster.read_task,
            self.blobs,
            release_namespace=config.release_namespace,
            changed=self.changes,
            accepted=self.changes.accepted,
            record=record,
        )
        self.endings = EndingService(self.database, self.runs, self.changes)
        record.listen(self.endings.ended)
        self.children = ChildService(
            self.database,
            self.attempts,
            self.submissions,
            changed=self.changes,
            ended=self.endings.ended,
            record=record,
        )

    def _woken(self, run_id: UUID | None) -> None:
        if run_id is not None:
            self.changes.wake(run_id)
        self.show()

    def _startable(self, keys: Mapping[str, int]) -> None:
        if left := self.desk.wake(keys):  # what a runner that waits here will take concerns nobody else
            self.wakeups.startable(left)
            self.plan()

    def _start(self, keys: Mapping[str, int] | None) -> None:
        self.desk.look(keys)
        self.plan()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the pool and the wake-ups open for the duration of the block."""
        await self.database.open()
        task = asyncio.create_task(self.wakeups.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.desk.close()
            await self.database.close()
            await self.platform.close()
            if self.exporter is not None:
                await asyncio.to_thread(self.exporter.close)  # blocks while the receiver takes the last spans

    def follow_endings(self) -> Loop:
        """Return the loop of every process that does what follows from the ends of runs."""
        loop = Loop("endings", self.endings.follow, every=timedelta(seconds=1))
        self.endings.wake = loop.wake
        return loop

    async def sweep_blobs(self) -> None:
        """Delete large values of runs that were never accepted."""
        swept = await self.blobs.sweep()
        if swept:
            log.info("orphaned values deleted", runs=swept)


class Operator:
    """The leader's services and loops.

    Args:
        context: Of the process.
        epoch: Of this leader, which fences what predecessors write to the ledger.
        platform: Takes what a leader writes while it leads, and nothing afterwards; None: the context's, where nobody
            else ever leads.
    """

    def __init__(self, context: Context, epoch: int, platform: Platform | None = None) -> None:
        self._context = context
        platform = platform or context.platform
        database, cluster, changes = context.database, platform.cluster, context.changes
        credentials = CredentialService(database, cluster)
        self._pods = PodService(
            database,
            cluster,
            context.attempts,
            credentials,
            epoch=epoch,
            max_starting=context.config.max_starting_pods,
            changed=changes,
        )
        self._projection = ProjectionService(database, cluster)
        self._imports = ImportService(database, cluster, context.submissions, context.runs, read_run)
        self._namespaces = NamespaceService(
            database, cluster, context.runs, release_namespace=context.config.release_namespace
        )
        self._tasks = TaskService(database, cluster, context.submissions, changed=self._wake)
        self._approvals = ApprovalResourceService(
            database,
            platform.approvals,
            context.approvals,
            ttl=context.config.approval_ttl,
        )
        self._queues = QueueService(database, cluster, context.platform.queues, changed=self._wake)
        self._pools = WorkerPoolService(database, cluster, platform.pools, changed=self._wake)
        self._scaler = PoolScaler(
            database,
            cluster,
            self._pods.create,
            credentials,
            epoch=epoch,
            max_starting=context.config.max_starting_pods,
        )
        self._marker = PodMarker(database, cluster, epoch=epoch)
        self._gauges = GaugeService(database)
        self._pod_loop = Loop("pod planning", self._pods.start_due, every=timedelta(seconds=1), apart=_APART)
        self._pool_loop = Loop("pool scaling", self._scaler.scale, every=timedelta(seconds=1), apart=_APART_RARE)
        self._projection_loop = Loop("projection", self._project, every=timedelta(seconds=1), apart=_APART)
        self._protection_loop = Loop("protection", self._marker.mark, every=timedelta(seconds=5), apart=_APART_RARE)
        self._loops = [
            self._pod_loop,
            self._pool_loop,
            self._projection_loop,
            self._protection_loop,
            Loop("approvals", self._approvals.make_and_show, every=timedelta(seconds=1)),
            Loop("queues", self._show_queues, every=timedelta(seconds=1)),
            Loop("pools", self._show_pools, every=timedelta(seconds=1)),
            Loop("reaper", self._reap, every=timedelta(seconds=2)),
            context.follow_endings(),
            Loop("endings left undone", context.endings.sweep, every=timedelta(seconds=3)),
            Loop("housekeeping", self._keep_house, every=timedelta(seconds=5)),
            Loop("resync", self._resync, every=timedelta(seconds=30)),
            Loop("gauges", self._count, every=timedelta(seconds=10)),
        ]
        context.show, context.plan = self._show, self._plan

    @classmethod
    async def lead(cls, context: Context, platform: Platform | None = None) -> "Operator":
        """Take the lead in the ledger and return the operator that holds it."""
        epoch = await take_epoch(context.database, context.config.pod_name)
        log.info("leading", epoch=epoch)
        return cls(context, epoch, platform)

    def _show(self) -> None:
        self._projection_loop.wake()
        self._protection_loop.wake()

    def _plan(self) -> None:
        self._pod_loop.wake()
        self._pool_loop.wake()

    def _wake(self) -> None:
        self._show()
        self._plan()

    async def run(self) -> None:
        """Run all loops until cancelled, or until another operator leads."""
        try:
            async with asyncio.TaskGroup() as group:
                for loop in self._loops:
                    group.create_task(loop.run())
        finally:
            self._gauges.forget()

    async def run_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Run was seen, or its deletion."""
        try:
            await self._imports.observe(body, deleted=deleted)
        finally:
            _SEEN_BY_WATCH.inc()

    def shows_nothing_new(self, uid: str, generation: int, run_id: str | None) -> bool:
        """Whether a Run that was not deleted says nothing that was not acted upon."""
        return self._imports.shows_nothing_new(uid, generation, run_id)

    async def task_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Task was seen, or its deletion."""
        await self._tasks.observe(body, deleted=deleted)

    async def approval_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """An Approval was seen, or its deletion."""
        await self._approvals.observe(body, deleted=deleted)

    async def queue_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Queue was seen, or its deletion."""
        await self._queues.observe(body, deleted=deleted)

    async def worker_pool_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A WorkerPool was seen, or its deletion."""
        await self._pools.observe(body, deleted=deleted)

    async def pod_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A runner pod was seen, or its deletion."""
        await self.observe_pod(see_pod(body, deleted=deleted))

    async def observe_pod(self, seen: PodSeen) -> None:
        """Take note of what a look at a runner pod showed."""
        await self._pods.observe(seen)
        if seen.ended:
            self._plan()  # its place is free

    async def _project(self) -> timedelta | None:
        return timedelta(0) if await self._projection.project_due() else None

    async def _show_queues(self) -> None:
        await self._queues.show()

    async def _show_pools(self) -> None:
        await self._pools.show(self._scaler.desired)

    async def _count(self) -> None:
        await self._gauges.look()

    async def _reap(self) -> None:
        await self._context.attempts.reap()

    async def _keep_house(self) -> None:
        await each(
            self._pods.resume_plans,
            self._pods.delete_due,
            self._context.runs.fail_held,
            self._context.runs.expire_due,
            self._context.progress.end_overdue,
            self._projection.remove_expired,
            self._marker.tidy,
            lambda: forget_keys(self._context.database),
            self._tasks.look_for_missing,
            self._approvals.keep_house,
        )

    async def _resync(self) -> None:
        # First: the Run resources that went with a namespace must not look like a fault of ours.
        await self._namespaces.end_runs()
        await each(
            self._imports.resync,
            self._tasks.resync,
            self._pods.resync,
            self._approvals.resync,
            self._queues.resync,
            self._pools.resync,
        )


def _nobody() -> None:
    """Nobody leads in this process."""


def _store(config: Config, database: Database) -> BlobStore:
    if config.s3 is None:
        return LedgerBlobs(database, BlobMissingError)
    from windlass_operator.blobs.s3 import S3BlobStore  # late: its client takes long to import

    return S3BlobStore(config.s3)


def _exporter(config: Config, service: str) -> "Exporter | None":
    """Return what sends spans, where an OTLP endpoint is configured; elsewhere OpenTelemetry is not even imported."""
    if not config.traces:
        return None
    from windlass_operator.otlp import Exporter

    return Exporter(__version__, service)


def read_run(body: Mapping[str, Any]) -> Asked:
    """Return what a Run resource asks for."""
    spec = RunSpec.from_object(body.get("spec"), at="spec")
    wanted = Submission(
        task=spec.task_ref.name,
        version=spec.task_ref.version,
        payload=spec.payload,
        tags=tuple(spec.tags),
        traceparent=spec.traceparent or _annotated(body),
        idempotency_key=spec.idempotency_key,
        when=when_of(spec.delay, spec.start_at, spec.queue_ttl),
    )
    return Asked(wanted, _spec_hash(spec), spec.cancel)


def _spec_hash(spec: RunSpec) -> str:
    try:
        return content_hash(spec.asked_for())
    except (ValueError, RecursionError):
        # A payload that submission will refuse, in words; here it must only not stand in the way.
        rest = spec.model_copy(update={"payload": None})
        return content_hash({**rest.asked_for(), "payload": "not acceptable"})


def _annotated(body: Mapping[str, Any]) -> str | None:
    """Return what stands in the annotation for a trace; people and tools write annotations, so it may be anything."""
    annotations = (body.get("metadata") or {}).get("annotations")
    value = annotations.get(TRACEPARENT_ANNOTATION) if isinstance(annotations, Mapping) else None
    return value if isinstance(value, str) else None
