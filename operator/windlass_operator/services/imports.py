"""Run resources: seen, imported, cancelled, gone. Level-triggered: seeing the same object twice changes nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from windlass_operator import metrics
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.ledger import projection, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.runs import RunService
from windlass_operator.services.submission import Resource, Submission, SubmissionService

log = structlog.get_logger()

_MASS_ABSENCE: Final = 0.5
"""Share of missing resources from which we believe in a fault of ours and cancel nothing."""
_MASS_MINIMUM: Final = 20
_SETTLED: Final = timedelta(seconds=30)
"""Age from which a resource must be in a list."""


class RunReader(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def project(self, namespace: str) -> Project:
        """Return the project of a namespace."""
        ...

    async def run_uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the Run with this name; None only where the API server says that there is none."""
        ...

    async def list_runs(self) -> list[dict[str, Any]]:
        """Return all Run resources of the watched namespaces."""
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
            project = await self._reader.project(namespace)
            resource = Resource(uid, name, asked.spec_hash)
            known = await self._submissions.import_resource(project, asked.submission, resource)
        generation = meta.get("generation")
        if isinstance(generation, int) and generation > 1:
            await runs.see_generation(self._database, uid, generation, asked.spec_hash)
        if asked.cancel and known is not None:
            await self._runs.cancel(known, reason="Cancelled", message="spec.cancel is true.")

    async def _mend_status(self, body: Mapping[str, Any], run_id: UUID) -> None:
        """Write a status again that names no run or another one: somebody else wrote it, or took it off.

        Only the id is looked at. What else may differ is most often behind by a moment, and about to be written.
        """
        if body.get("status") and _claimed_run_id(body) != run_id:
            await projection.again(self._database, run_id)

    async def _known(self, uid: str) -> UUID | None:
        async def work(connection: Connection) -> UUID | None:
            return await runs.by_resource(connection, uid)

        return await self._database.transaction(work)

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
        listed = await self._reader.list_runs()
        uids = set()
        for body in listed:
            uids.add(str((body.get("metadata") or {}).get("uid")))
            try:
                await self.observe(body)
            except LedgerUnavailableError:
                raise
            except Exception as error:  # one junk object must not keep the others from being looked at
                log.warning(
                    "run not imported", uid=str((body.get("metadata") or {}).get("uid")), error=str(error)[:300]
                )
            await asyncio.sleep(0)
        missing = [row for row in believed if row["resource_uid"] not in uids]
        if len(missing) >= _MASS_MINIMUM and len(missing) > _MASS_ABSENCE * len(believed):
            log.error("most Run resources seem to be gone; nothing is cancelled", missing=len(missing))
            return
        for row in missing:
            await self._gone(row["resource_uid"], row["resource_name"], row["namespace"])


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
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None
