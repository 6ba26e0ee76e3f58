"""Run resources: seen, imported, cancelled, gone. Level-triggered: seeing the same object twice changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass_operator import metrics
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.ids import as_id
from windlass_operator.domain.project import Project
from windlass_operator.domain.run_seen import RunSeen
from windlass_operator.ledger import projection, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.batch import Batch
from windlass_operator.services.runs import RunService
from windlass_operator.services.settled import Settled
from windlass_operator.services.submission import SubmissionService
from windlass_operator.services.submitted import Resource, Submission

log = structlog.get_logger()

_MASS_ABSENCE: Final = 0.5
"""Share of missing resources from which we believe in a fault of ours and cancel nothing."""
_MASS_MINIMUM: Final = 20
_SETTLED: Final = timedelta(seconds=30)
"""Age from which a resource must be in a list."""
_IMPORTS: Final = 6
"""Imports at once, fewer than the ledger has connections: a thousand new Runs must not keep statuses and pods waiting,
nor wait themselves until the pool gives up on them."""
_LOOKS: Final = 100
"""Resources that a resync looks at together: their runs are found by one statement."""
_SEEN_BY_RESYNC: Final = metrics.RUNS_OBSERVED.labels("resync")


class RunReader(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...

    async def run_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Run with this name; None only where the API server says that there is none."""
        ...

    def each_run(self) -> AsyncIterator[RunSeen]:
        """Yield all Run resources of the watched namespaces."""
        ...

    async def reject_run(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Write a status that says why this Run is not imported."""
        ...


class ImportService:
    """Turns Run resources into runs.

    Args:
        database: The ledger.
        reader: Kubernetes.
        submissions: Accepts runs.
        runs_service: Cancels runs.
        parse: Reads a Run resource.
    """

    def __init__(
        self,
        database: Database,
        reader: RunReader,
        submissions: SubmissionService,
        runs_service: RunService,
        parse: "ParseRun",
    ) -> None:
        self._database = database
        self._reader = reader
        self._submissions = submissions
        self._runs = runs_service
        self._parse = parse
        self._refused: dict[str, str] = {}
        self._settled = Settled()
        self._known: Batch[str, UUID | None] = Batch(self._look_up)
        self._importing = asyncio.Semaphore(_IMPORTS)

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a Run resource.

        Raises:
            LedgerUnavailableError: Postgres is away; the resource waits and is looked at again by the resync.
        """
        try:
            await self._observe(body, deleted=deleted)
        except WindlassError as error:
            metrics.IMPORT_ERRORS.labels(error.code).inc()
            raise
        except Exception:
            metrics.IMPORT_ERRORS.labels("InternalError").inc()
            raise

    async def _observe(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        meta = body.get("metadata") or {}
        uid, name, namespace = str(meta.get("uid")), str(meta.get("name")), str(meta.get("namespace"))
        if deleted or meta.get("deletionTimestamp"):
            await self._gone(uid, name, namespace)
            return
        try:
            asked = self._parse(body)
        except WindlassError as error:
            await self._reject(namespace, name, uid, error.code, error.message)
            return
        known = await self._known(uid)
        if known is not None:
            await self._mend_status(body, known)
        else:
            claimed = _claimed_run_id(body)
            if claimed is not None and not await self._ledger_has(claimed):
                message = (
                    f"The status names run {claimed}, which the ledger does not know: it is an older copy, "
                    "or the status was copied from another resource. Running again could repeat work that was done. "
                    "To run it nevertheless, delete and re-create the Run."
                )
                await self._reject(namespace, name, uid, "LedgerRegressed", message)
                return
            async with self._importing:
                project = await self._reader.project(namespace)
                resource = Resource(uid, name, asked.spec_hash)
                known = await self._submissions.import_resource(project, asked.submission, resource)
        generation = meta.get("generation")
        if isinstance(generation, int) and generation > 1:
            await runs.see_generation(self._database, uid, generation, asked.spec_hash)
        if known is None:
            return  # imported by somebody else at the same moment
        if asked.cancel:
            await self._runs.cancel(known, reason="Cancelled", message="spec.cancel is true.")
        self._settled.note(uid, generation, known)

    def shows_nothing_new(self, uid: str, generation: int, run_id: str | None) -> bool:
        """Whether a resource that was not deleted says nothing that was not acted upon.

        So it is with our own statuses when they come back as events: the same spec, and the right run in the status.
        """
        known = self._settled.run_of(uid, generation)
        return known is not None and run_id == str(known)

    async def _mend_status(self, body: Mapping[str, Any], run_id: UUID) -> None:
        """Write a status again that names no run or another one: somebody else wrote it, or took it off.

        Only the id is looked at. What else may differ is most often behind by a moment, and about to be written.
        """
        if body.get("status") and _claimed_run_id(body) != run_id:
            await projection.again(self._database, run_id)

    async def _look_up(self, uids: list[str]) -> list[UUID | None]:
        """Find the runs of resources. Many are asked for together, by a resync and when the operator starts."""
        found = await runs.by_resources(self._database, uids)
        return [found.get(uid) for uid in uids]

    async def _ledger_has(self, run_id: UUID) -> bool:
        async def work(connection: Connection) -> bool:
            return await runs.known(connection, run_id)

        return await self._database.transaction(work)

    async def _reject(self, namespace: str, name: str, uid: str, reason: str, message: str) -> None:
        """Say why a Run is not imported, once for each reason."""
        if self._refused.get(uid) == reason:
            return
        metrics.IMPORT_ERRORS.labels(reason).inc()
        # Without the message, which may quote what the Run asks for: its status has it.
        log.warning("run not imported", namespace=namespace, name=name, reason=reason)
        await self._reader.reject_run(namespace, name, uid, reason, message)
        self._refused[uid] = reason

    async def _gone(self, uid: str, name: str, namespace: str) -> None:
        """A deletion was seen. Only a GET is proof: an event may belong to another watch, or be old."""
        self._refused.pop(uid, None)
        self._settled.forget(uid)
        run_id = await self._known(uid)
        if run_id is None or await self._reader.run_uid(namespace, name) == uid:
            return
        await self._runs.resource_gone(run_id, uid)

    async def resync(self) -> None:
        """Look at everything again, so that a missed event is made good.

        Resources that vanished unseen are cancelled only after a GET answers that each is absent; when most of them
        seem to be gone at once, nothing is cancelled and the log says so.
        """
        # Asked before the list: what is created between the two is in neither, and is seen by the next resync.
        believed = await projection.unfinished_resources(self._database, _SETTLED)
        missing = {row["resource_uid"]: row for row in believed}
        seen: set[str] = set()
        together: list[RunSeen] = []
        async for run in self._reader.each_run():  # never all of them in memory
            seen.add(run.uid)
            missing.pop(run.uid, None)
            together.append(run)
            if len(together) == _LOOKS:
                await self._look_at(together)
                together = []
        await self._look_at(together)
        self._settled.keep(seen)
        if len(missing) >= _MASS_MINIMUM and len(missing) > _MASS_ABSENCE * len(believed):
            log.error("most Run resources seem to be gone; nothing is cancelled", missing=len(missing))
            return
        for row in missing.values():
            await self._gone(row["resource_uid"], row["resource_name"], row["namespace"])

    async def _observe_seen(self, run: RunSeen) -> None:
        await self.observe(run.body())  # read here: one that cannot be is the problem of this run alone

    async def _look_at(self, seen: Sequence[RunSeen]) -> None:
        """Observe resources together. One junk object does not keep the others from being looked at.

        Raises:
            LedgerUnavailableError: Postgres is away; the next resync looks again.
        """
        _SEEN_BY_RESYNC.inc(len(seen))
        news = await self._with_news(seen)
        found = await asyncio.gather(*(self._observe_seen(run) for run in news), return_exceptions=True)
        for run, error in zip(news, found, strict=True):
            if isinstance(error, LedgerUnavailableError) or (error and not isinstance(error, Exception)):
                raise error
            if error is not None:
                log.warning("run not imported", uid=run.uid, error=str(error)[:300])

    async def _with_news(self, seen: Sequence[RunSeen]) -> list[RunSeen]:
        """Return those that must be looked at as a whole.

        What is remembered is not taken for granted here: the ledger may be an older copy than it was.
        """
        old = [run for run in seen if not run.deleting and self.shows_nothing_new(run.uid, run.generation, run.run_id)]
        found = await runs.by_resources(self._database, [run.uid for run in old]) if old else {}
        settled = {run.uid for run in old if str(found.get(run.uid)) == run.run_id}
        return [run for run in seen if run.uid not in settled]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a Run resource asks for."""

    submission: Submission
    spec_hash: str
    """Of what was asked for: the same for two resources that ask for the same run."""
    cancel: bool


class ParseRun(Protocol):
    """Reads a Run resource."""

    def __call__(self, body: Mapping[str, Any]) -> Asked:
        """Return what it asks for.

        Raises:
            WindlassError: The resource cannot be read; the error names the field.
        """
        ...


def _claimed_run_id(body: Mapping[str, Any]) -> UUID | None:
    status = body.get("status")
    text = status.get("runId") if isinstance(status, dict) else None
    return as_id(text) if isinstance(text, str) else None
