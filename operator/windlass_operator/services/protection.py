"""Steps whose pod must not be removed while they run: noted by the API, carried to the pods by the operator's leader.

The ledger says which pods are to carry the annotations and which may do so; whatever stopped halfway is put right by
the next look.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.errors import AttemptClosedError, WindlassError
from windlass_operator.ledger import projection, protection, worker_pools
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.protection import PodToMark
from windlass_operator.services.pool_pods import with_template

log = structlog.get_logger()

LINGER: Final = timedelta(seconds=2)
"""For how long the annotations stay after a step: one that follows at once finds them there."""
_AGAIN: Final = timedelta(seconds=1)
"""To the next look while any pod carries annotations."""
_CALLS: Final = 8
"""Pods that are changed at once."""


class Pods(Protocol):
    """What this needs of the place where pods are."""

    @property
    def disrupts_pods(self) -> bool:
        """Whether there is anything that removes pods which run. Where not, annotations would tell nobody."""
        ...

    async def mark_pod(self, namespace: str, name: str, uid: str, template: dict[str, Any], *, protected: bool) -> bool:
        """Put on a pod the annotations that keep it, or take them off; False if it is gone.

        Args:
            namespace: Of the pod.
            name: Of the pod.
            uid: Of the pod.
            template: What its Task or pool says of annotations: that is restored.
            protected: Which of the two.
        """
        ...


class ProtectionService:
    """Knows which steps are protected. One instance a process.

    Args:
        database: The ledger.
        pods: Where pods are.
        changed: Called with the run of a step that began or ended.
    """

    def __init__(self, database: Database, pods: Pods, changed: Callable[[UUID], None] = lambda _: None) -> None:
        self._database = database
        self._pods = pods
        self._changed = changed

    async def note(self, attempt_id: UUID, token_hash: bytes, steps: Sequence[protocol.Step]) -> None:
        """Write which protected steps begin and which end.

        Raises:
            AttemptClosedError: The attempt is no longer open; nothing was written.
        """
        running: dict[str, bool] = {}
        for step in steps:
            if step.protect:
                running[step.key] = step.state == "running" and running.get(step.key, True)
        if not running:
            return
        run_id = await protection.note(self._database, attempt_id, token_hash, running)
        if run_id is None:
            raise AttemptClosedError
        self._changed(run_id)

    async def of(self, attempt_id: UUID) -> protocol.Protection:
        """Say whether the pod of an attempt carries the annotations."""
        if not self._pods.disrupts_pods:
            return protocol.Protection(on_pod=True)
        return protocol.Protection(on_pod=await protection.is_on_pod(self._database, attempt_id) is not False)


class PodMarker:
    """Puts annotations on pods and takes them off. The operator's leader runs this, nobody else.

    Args:
        database: The ledger.
        pods: Where pods are.
        epoch: Of this leader; a successor's fences us.
    """

    def __init__(self, database: Database, pods: Pods, *, epoch: int) -> None:
        self._database = database
        self._pods = pods
        self._epoch = epoch

    async def mark(self) -> timedelta | None:
        """Change what is to be changed.

        Returns:
            After what time to look again at the latest; None for the usual one.
        """
        if not self._pods.disrupts_pods:
            return None
        seen = await protection.look(self._database, LINGER)
        if seen.to_change:
            limit = asyncio.Semaphore(_CALLS)
            await asyncio.gather(*(self._change(pod, limit) for pod in await self._begin(seen.to_change)))
        return _AGAIN if seen.pods else None

    async def _begin(self, ids: list[UUID]) -> list[PodToMark]:
        async def work(connection: Connection) -> list[PodToMark]:
            await projection.check_epoch(connection, self._epoch)
            return await protection.begin(connection, ids, LINGER)

        return await self._database.transaction(work)

    async def _change(self, pod: PodToMark, limit: asyncio.Semaphore) -> None:
        """Change one pod. What goes wrong is tried again with the next look, and holds no other pod up."""
        try:
            parts = pod.parts
            pool = await worker_pools.template_of_key(self._database, pod.pod_key)
            if pool is not None:
                parts = with_template(parts, pool[1])
            template = dict(parts.pod_template)
            async with limit:
                there = await self._pods.mark_pod(pod.namespace, pod.name, pod.uid, template, protected=pod.wanted)
        except WindlassError as error:
            metrics.PROTECTION_FAILURES.inc()
            log.warning("pod not marked", pod=pod.name, namespace=pod.namespace, error=error.message)
            return

        async def work(connection: Connection) -> None:
            # A predecessor that comes late must not vouch for what its successor is changing.
            await projection.check_epoch(connection, self._epoch)
            await protection.done(connection, pod.id, wanted=pod.wanted and there)

        await self._database.transaction(work)
        log.info("pod protected" if pod.wanted else "pod released", pod=pod.name, namespace=pod.namespace)

    async def tidy(self) -> None:
        """Forget what counts for nothing any more."""
        await protection.tidy(self._database, LINGER)
