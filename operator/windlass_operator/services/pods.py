"""Pods: planned from the backlog, observed, ended, deleted. The operator's leader runs this, nobody else."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
import structlog

from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain import memory
from windlass_operator.domain.backlog import key_backoff, pods_to_drain, pods_to_start, standby_to_start
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.ids import new_id
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodPlan, PodSeen
from windlass_operator.domain.project import Project
from windlass_operator.ledger import attempts, pods, projection, protection, runs, worker_pools
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.pods import KeyBacklog, PodRow
from windlass_operator.ledger.projection import LeadershipLostError
from windlass_operator.resources.reasons import Reason
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.credentials import CredentialService
from windlass_operator.services.pool_pods import pool_pod, with_template

log = structlog.get_logger()

_KEEP_SUCCEEDED: Final = timedelta(seconds=60)
_KEEP_FAILED: Final = timedelta(hours=1)
_IDLE: Final = timedelta(seconds=60)
_PROOF: Final = timedelta(seconds=30)
"""For how long a standby pod must have waited until its key counts as one whose pods work."""
_NOTHING_TO_CLAIM: Final = 5
_NOBODYS_FAULT: Final = frozenset({0, _NOTHING_TO_CLAIM})
"""Exit codes of a runner that was asked to stop, or found nothing to claim."""
_POSTS: Final = 8
"""Pods that are being posted at once."""
_STALE_PLAN: Final = timedelta(seconds=5)
_HISTORY: Final = 3.0
"""Seconds in which the cluster tells what became of a pod; its run waits for that."""
_SETTLED: Final = timedelta(seconds=30)
"""Age from which a pod must be in a list: younger ones may be missing from a list that was read before their POST."""


class Cluster(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def create_pod(self, plan: PodPlan, parts: PodParts) -> str:
        """Create the pod, or find the one that an earlier call with this plan created; return its UID."""
        ...

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """Delete a pod; one that is gone is fine."""
        ...

    async def see_pod(self, namespace: str, name: str) -> PodSeen | None:
        """Look at one pod, whatever its labels are; None only where the API server says that there is none."""
        ...

    async def is_gone(self, project: Project) -> bool:
        """Return whether a project's namespace is absent, is being deleted, or has a successor of its name."""
        ...

    async def list_pods(self) -> list[PodSeen]:
        """Return all pods that are ours."""
        ...

    async def pod_history(self, namespace: str, name: str, uid: str, *, exists: bool) -> dict[str, Any]:
        """Return ``events`` and ``lines``, the last of each that there are of a pod."""
        ...


class PodService:
    """Keeps as many pods as the backlog asks for, and learns from them why runs do not start.

    Args:
        database: The ledger.
        cluster: Kubernetes.
        attempts_service: Closes attempts whose pod is gone.
        credentials: Makes the Secret that pods read.
        epoch: Of this leader; a successor's fences our plans.
        max_starting: Most pods on their way at once.
        changed: Called with runs whose reason changed.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        attempts_service: AttemptService,
        credentials: CredentialService,
        *,
        epoch: int,
        max_starting: int,
        changed: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._attempts = attempts_service
        self._credentials = credentials
        self._posts = asyncio.Semaphore(_POSTS)
        self._epoch = epoch
        self._max_starting = max_starting
        self._changed = changed

    async def start_due(self) -> timedelta | None:
        """Start the pods that the backlog asks for. Trouble of one key never holds the others back.

        Returns:
            After what time to look again at the latest, because a retry or a backoff is due then; None for nothing in
            sight.
        """
        upcoming: list[timedelta] = []
        for key in await pods.backlog(self._database):
            times = (key.next_at, key.facts.backoff_until)
            upcoming += [t - key.now for t in times if t is not None and t > key.now]
            try:
                if any(self._wanted(key, 0)):
                    await self._start(key)
                if surplus := pods_to_drain(key.facts):
                    await self._drain(key, surplus)
            except (LeadershipLostError, LedgerUnavailableError):
                raise
            except WindlassError as error:
                log.warning("no pods for key", pod_key=key.key, namespace=key.namespace, error=error.message)
                await self._note_problem(key.key, error.code, error.message)
        return min(upcoming, default=None)

    def _wanted(self, key: KeyBacklog, everywhere: int) -> tuple[int, int]:
        """Return how many pods to start for runs, and how many to keep ready."""
        facts, limit, now = key.facts, self._max_starting, key.now
        count = pods_to_start(facts, starting_everywhere=everywhere, limit=limit, now=now)
        ahead = standby_to_start(facts, starting_everywhere=everywhere + count, limit=limit, now=now)
        return count, 0 if count and facts.backoff_until is not None else ahead

    async def _start(self, key: KeyBacklog) -> None:
        if await self._cluster.is_gone(Project(key.project_uid, key.namespace)):
            return  # its runs are about to be cancelled; a successor's pods must never do them
        await self._credentials.ensure(key.project_uid, key.project_id, key.namespace)
        plans = await self._plan(key)
        await asyncio.gather(*(self.create(pod_id, plan, key.parts) for plan, pod_id in plans))

    async def _plan(self, key: KeyBacklog) -> list[tuple[PodPlan, UUID]]:
        """Write the rows of new pods. The names come from the rows' ids, so a repeated POST finds its pod."""
        plans: list[tuple[PodPlan, UUID]] = []

        async def work(connection: Connection) -> list[tuple[PodPlan, UUID]]:
            await projection.check_epoch(connection, self._epoch)
            if not plans:  # decided once: rows whose commit nobody heard of would otherwise get twins
                count, ahead = self._wanted(key, await pods.starting(connection))
                for n in range(count + ahead):
                    pod_id = new_id()
                    name = _pod_name(key.task, pod_id)
                    plans.append((PodPlan(name, key.namespace, key.key, key.task, ahead=n >= count), pod_id))
            for plan, pod_id in plans:
                await pods.plan(connection, pod_id, key.project_id, plan)
            return plans

        return await self._database.transaction(work)

    async def _drain(self, key: KeyBacklog, count: int) -> None:
        """Delete standby pods that are too many, once the ledger lets them take nothing any more."""

        async def work(connection: Connection) -> list[dict[str, Any]]:
            await projection.check_epoch(connection, self._epoch)
            return await pods.drain_standby(connection, key.key, count)

        rows = await self._database.transaction(work)
        if rows:
            log.info("standby pods drained", pod_key=key.key, namespace=key.namespace, pods=len(rows))
        await self._delete(rows)

    async def create(self, pod_id: UUID, plan: PodPlan, parts: PodParts) -> None:
        """Create the pod of a row that is written. What goes wrong is recorded, or the row is taken up again."""
        try:
            async with self._posts:
                uid = await self._cluster.create_pod(plan, parts)
        except WindlassError as error:
            if error.retryable:
                log.warning("pod not created yet", pod=plan.name, error=error.message)
                return  # the row stays planned and is taken up again
            await self._refused(pod_id, plan, error)
            return
        await pods.created(self._database, pod_id, uid)
        metrics.PODS_CREATED.inc()
        log.info("pod created", pod=plan.name, namespace=plan.namespace, pod_key=plan.pod_key)

    async def _refused(self, pod_id: UUID, plan: PodPlan, error: WindlassError) -> None:
        """Kubernetes refused the pod (quota, policy, bad template): the reason of all runs that wait for such pods."""
        metrics.PODS_REFUSED.labels(error.code).inc()
        log.warning("pod refused", pod=plan.name, namespace=plan.namespace, error=error.message)
        await self._end(pod_id, plan.pod_key, reason=error.code, message=error.message, claimed=False)
        await pods.gone(self._database, pod_id)

    async def resume_plans(self) -> None:
        """Create pods whose row was written and whose POST may not have happened."""
        for row in await pods.planned(self._database, _STALE_PLAN):
            task = row["name"].rsplit("-", 1)[0]
            plan = PodPlan(row["name"], row["namespace"], row["pod_key"], task, ahead=row["ahead"])
            parts = pods.decode_parts(row["parts"])
            pool = await worker_pools.template_of_key(self._database, row["pod_key"])
            if pool is not None:
                plan = replace(plan, pool=pool_pod(*pool))
                parts = with_template(parts, pool[1])
            await self.create(row["id"], plan, parts)

    async def observe(self, seen: PodSeen) -> None:
        """Take note of a pod. Level-triggered: seeing the same twice changes nothing."""
        row = await pods.by_uid(self._database, seen.uid)
        if row is None:
            return  # not ours, or its UID is being recorded right now: the next look finds it
        if seen.marked is not None and row.protection == (None if seen.marked else protection.PROTECTED):
            await protection.doubt(self._database, row.id, row.protection)  # somebody has changed it, or we did by half
        if not seen.exists:
            await self._ended(row, seen)
            await pods.gone(self._database, row.id)
        elif seen.ended:
            await self._ended(row, seen)
        elif not row.claim_id:
            await self._note_problem(row.pod_key, None if seen.started else seen.reason, seen.message)

    async def _ended(self, row: PodRow, seen: PodSeen) -> None:
        """A pod has ended: whatever it still held is lost, and a pod that never claimed holds its key back."""
        if row.ended:
            return
        reason = seen.reason or ("PodDeleted" if not seen.exists else "PodEnded")
        message = seen.message or ("The pod was deleted." if not seen.exists else "The pod ended.")
        last_state = await self._last_state(seen)
        if not row.served and last_state and (lines := last_state.get("lines")):
            message = f"{message} Its last line: {lines[-1][:300]}"  # why a runner could not even begin
        # Before, since once the end of the pod is recorded nobody looks for what it held, and after, since until then
        # a claim that was on its way may have been answered.
        await self._lose_open(row, seen, reason, message)
        await self._end(
            row.id,
            row.pod_key,
            reason=reason,
            message=message,
            claimed=row.served or seen.exit_code in _nobodys_fault(row) or not seen.exists,
            node=seen.node,
            last_state=last_state,
            keep=_KEEP_SUCCEEDED if seen.exit_code in _NOBODYS_FAULT else _KEEP_FAILED,
        )
        await self._lose_open(row, seen, reason, message)

    async def _lose_open(self, row: PodRow, seen: PodSeen, reason: str, message: str) -> None:
        for attempt_id, used in await attempts.memory_of_open(self._database, row.id):
            lost, said, kind = _charged(reason, message, used, seen.memory_limit)
            await self._attempts.lose(attempt_id, reason=lost, message=f"Pod {row.name}: {said}", failure_class=kind)

    async def _last_state(self, seen: PodSeen) -> dict[str, Any] | None:
        """Return what explains the end of a pod, asked for before its end is recorded: after that nobody asks again.

        A crash in between repeats both. What the cluster does not tell within moments is left out.
        """
        if seen.succeeded:
            return seen.last_state
        try:
            async with asyncio.timeout(_HISTORY):
                history = await self._cluster.pod_history(seen.namespace, seen.name, seen.uid, exists=seen.exists)
        except (TimeoutError, WindlassError) as error:
            log.info("pod's history not read", pod=seen.name, namespace=seen.namespace, error=str(error))
            return seen.last_state
        return {**(seen.last_state or {}), **history}

    async def _end(
        self,
        pod_id: UUID,
        key: str,
        *,
        reason: str,
        message: str,
        claimed: bool,
        node: str | None = None,
        last_state: dict[str, Any] | None = None,
        keep: timedelta = _KEEP_FAILED,
    ) -> None:
        async def work(connection: Connection) -> list[UUID]:
            state = None if last_state is None else msgspec.json.encode(last_state).decode()
            ended = await pods.end(
                connection, pod_id, reason=reason, message=message, node=node, last_state=state, keep=keep
            )
            if ended is None or claimed:
                return []
            failures = await pods.key_failures(connection, key) + 1
            wait = key_backoff(failures)
            await pods.key_failed(connection, key, backoff=wait, reason=reason, message=message)
            return await runs.set_reason(connection, await pods.queued_runs(connection, key), reason, message)

        for run_id in await self._database.transaction(work):
            self._changed(run_id)

    async def _note_problem(self, key: str, reason: str | None, message: str | None) -> None:
        """Show why a key's pods do not start as the reason of its runs; take it back when they do."""

        async def work(connection: Connection) -> list[UUID]:
            news = await pods.key_problem(connection, key, reason, message)
            if reason is None and not news:
                return []
            return await runs.set_reason(connection, await pods.queued_runs(connection, key), reason, message)

        for run_id in await self._database.transaction(work):
            self._changed(run_id)

    async def delete_due(self) -> None:
        """Delete pods whose time to be looked at is over, and pods on their way that nothing waits for."""
        await pods.drain_idle_starting(self._database, _IDLE)
        await pods.recovered(self._database, _PROOF)
        await self._delete(await pods.to_delete(self._database))

    async def _delete(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["uid"] is not None:
                await self._cluster.delete_pod(row["namespace"], row["name"], row["uid"])
            await pods.gone(self._database, row["id"])

    async def resync(self) -> None:
        """Compare the ledger with the cluster, so that a missed event is made good.

        A pod that the list does not show counts as gone only after a GET: its labels, by which it is listed, may have
        been taken off.
        """
        believed = await pods.believed_alive(self._database, _SETTLED)
        listed = {seen.uid: seen for seen in await self._cluster.list_pods()}
        for seen in listed.values():
            await self.observe(seen)
        for row in believed:
            if row["uid"] not in listed:
                found = await self._cluster.see_pod(row["namespace"], row["name"])
                if found is not None and found.uid == row["uid"]:
                    await self.observe(found)
                    continue
                await self.observe(
                    PodSeen(
                        row["name"],
                        row["namespace"],
                        row["uid"],
                        exists=False,
                        ended=True,
                        succeeded=False,
                        started=False,
                    )
                )


def _nobodys_fault(row: PodRow) -> frozenset[int]:
    """Return the exit codes that are no failure of a pod that took nothing.

    A standby pod that found nothing does not know that it should wait: its runner is too old for that, and the next one
    will be too.
    """
    return _NOBODYS_FAULT - {_NOTHING_TO_CLAIM} if row.ahead else _NOBODYS_FAULT


def _charged(reason: str, message: str, used: int | None, limit: int | None) -> tuple[str, str, protocol.FailureClass]:
    """Return reason, message and class of an attempt that was lost with its pod."""
    if reason != Reason.OUT_OF_MEMORY:
        return reason, message, "infra"
    kind = memory.who_answers(used, limit)
    return (
        Reason.OUT_OF_MEMORY.value if kind == "user" else Reason.NODE_OUT_OF_MEMORY.value,
        f"{message} {memory.describe(used, limit)}".strip(),
        kind,
    )


def _pod_name(task: str, pod_id: UUID) -> str:
    """Return a pod's name: the task's, for people, and the last digits of the row's id (the random ones)."""
    readable = re.sub(r"[^a-z0-9-]+", "-", task.lower())[:40].strip("-") or "task"
    return f"{readable}-{pod_id.hex[-12:]}"
