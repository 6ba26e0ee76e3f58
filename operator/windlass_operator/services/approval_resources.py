"""Approval resources: made for what runs ask, shown, read for decisions, removed. Level-triggered, as for Runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

import structlog

from windlass_operator.domain.approvals import Approval, ApprovalNameTakenError, ApprovalOverError, ApprovalState
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError
from windlass_operator.ledger import approvals
from windlass_operator.ledger.database import Database
from windlass_operator.resources.approval import Decided
from windlass_operator.services.approvals import ApprovalService, Verdict
from windlass_operator.services.loops import each

log = structlog.get_logger()

T = TypeVar("T")
_BATCH: Final = 100
_AT_ONCE: Final = 8
"""Calls to the API server under way at once; its other connections stay free for pods and statuses."""
_TRY_AGAIN: Final = timedelta(seconds=20)
"""After which a resource that was refused is tried again: a quota, a namespace that is being deleted."""
_SETTLED: Final = timedelta(seconds=30)
"""Age from which a resource must be in a list."""
_UNVERIFIED: Final = "unknown"


class ApprovalObjects(Protocol):
    """What this service needs of Kubernetes. Implemented in ``kube``."""

    async def create(self, approval: Approval) -> str:
        """Make the resource, or find the one that an earlier call made; return its UID.

        Raises:
            ApprovalNameTakenError: Something else has the name.
        """
        ...

    async def uid(self, namespace: str, name: str) -> str | None:
        """Return the UID of the resource with this name; None only where the API server says that there is none."""
        ...

    def each(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all resources of the watched namespaces."""
        ...

    async def write_decision(self, approval: Approval) -> bool:
        """Write a decision that came through the API into the spec; False if somebody wrote another one there."""
        ...

    async def show(self, approval: Approval) -> bool:
        """Write the status; False when the resource is gone or is another one of that name."""
        ...

    async def disown(self, namespace: str, name: str, uid: str, generation: int) -> None:
        """Say in the status that no run waits for this one."""
        ...

    async def delete(self, namespace: str, name: str, uid: str) -> bool:
        """Delete the resource; False if it was gone."""
        ...


class ApprovalResourceService:
    """The operator's side of approvals.

    Args:
        database: The ledger.
        objects: Kubernetes.
        service: Takes decisions.
        ttl: How long a resource stays after its run's end.
    """

    def __init__(
        self, database: Database, objects: ApprovalObjects, service: ApprovalService, *, ttl: timedelta
    ) -> None:
        self._database = database
        self._objects = objects
        self._service = service
        self._ttl = ttl

    async def make_and_show(self) -> timedelta | None:
        """Make resources that are missing and write statuses that are behind. Returns zero if there is more to do."""
        missing = await approvals.to_create(self._database, _BATCH)
        await self._all(missing, self._make)
        behind = await approvals.to_show(self._database, _BATCH)
        await self._all(behind, self._show)
        return timedelta(0) if _BATCH in (len(missing), len(behind)) else None

    async def keep_house(self) -> None:
        """Record what is over, and remove what nobody needs any more."""
        await each(lambda: approvals.close_over(self._database), self._remove)

    async def _make(self, found: Approval) -> None:
        try:
            uid = await self._objects.create(found)
        except ApprovalNameTakenError as error:
            log.warning("approval gets another name", error=error.message)
            await approvals.rename(self._database, found)
            return
        await approvals.created(self._database, found, uid)

    async def _show(self, found: Approval) -> None:
        uid = found.uid
        assert uid is not None, "only what has a resource is shown"
        written = found.spec_decided
        if found.through == "api" and not written:
            # So that nobody can decide in the resource what is decided.
            written = await self._objects.write_decision(found)
        if await self._objects.show(found):
            await approvals.shown(self._database, found, spec_decided=written)
        else:
            await approvals.gone(self._database, uid)

    async def _remove(self) -> None:
        async def remove(row: Mapping[str, Any]) -> None:
            await self._objects.delete(row["namespace"], row["name"], row["uid"])
            await approvals.gone(self._database, row["uid"])

        await self._gather(await approvals.to_remove(self._database, self._ttl, _BATCH), remove)

    async def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a resource, and of what was decided in it.

        Raises:
            ResourceInvalidError: What stands in its spec cannot be read.
            LedgerUnavailableError: Postgres is away; the resync looks again.
        """
        meta = body.get("metadata") or {}
        uid, name, namespace = str(meta.get("uid")), str(meta.get("name")), str(meta.get("namespace"))
        found = (await approvals.by_uids(self._database, [uid])).get(uid)
        if found is None:
            if deleted or meta.get("deletionTimestamp"):
                return
            if await approvals.is_being_made(self._database, namespace, name):
                return  # ours, in all likelihood: the next look knows
            # Its UID may have been written down between the two looks.
            found = (await approvals.by_uids(self._database, [uid])).get(uid)
        if found is None:
            await self._disown(body, uid, name, namespace)
            return
        if deleted or meta.get("deletionTimestamp"):
            # Only a GET is proof: an event may be old.
            if await self._objects.uid(namespace, name) != uid:
                await approvals.gone(self._database, uid)
            return
        await self._read(body, found, uid)

    async def _read(self, body: Mapping[str, Any], found: Approval, uid: str) -> None:
        asked = Decided.from_object(body.get("spec") or {}, at="spec")
        ignored = False
        if asked.decision is not None:
            verdict = Verdict(asked.decision, asked.by or _UNVERIFIED, asked.comment, "resource")
            try:
                await self._service.decide(found, verdict)
            except ApprovalOverError:
                ignored = True
        generation = (body.get("metadata") or {}).get("generation")
        number = generation if isinstance(generation, int) else 0
        spec_decided = asked.decision is not None
        await approvals.seen(self._database, uid, number, spec_decided=spec_decided, ignored=ignored)
        status = body.get("status")
        shown = status.get("state") if isinstance(status, dict) else None
        if shown is not None and found.state is ApprovalState.PENDING and shown != ApprovalState.PENDING.value:
            await approvals.again(self._database, uid)  # somebody else wrote it

    async def _disown(self, body: Mapping[str, Any], uid: str, name: str, namespace: str) -> None:
        status = body.get("status")
        if isinstance(status, dict) and status.get("state") == ApprovalState.WITHDRAWN.value:
            return
        log.warning("approval that no run asks for", namespace=namespace, name=name)
        generation = (body.get("metadata") or {}).get("generation")
        await self._objects.disown(namespace, name, uid, generation if isinstance(generation, int) else 0)

    async def resync(self) -> None:
        """Look at everything again, so that a missed event is made good. What is gone is made again, if need be."""
        missing = {row["uid"]: row for row in await approvals.believed(self._database, _SETTLED)}
        async for body in self._objects.each():
            missing.pop(str((body.get("metadata") or {}).get("uid")), None)
            try:
                await self.observe(body)
            except LedgerUnavailableError:
                raise
            except Exception as error:  # one junk object must not keep the others from being looked at
                uid = str((body.get("metadata") or {}).get("uid"))
                log.warning("approval not read", uid=uid, error=str(error)[:300])
        for uid, row in missing.items():
            if await self._objects.uid(row["namespace"], row["name"]) != uid:
                await approvals.gone(self._database, uid)

    async def _all(self, found: Iterable[Approval], work: Callable[[Approval], Awaitable[None]]) -> None:
        """Do this for each; one that is refused waits, and keeps no other from its turn."""

        async def one(approval: Approval) -> None:
            try:
                await work(approval)
            except LedgerUnavailableError:
                raise
            except WindlassError as error:
                log.warning(
                    "approval waits",
                    namespace=approval.namespace,
                    name=approval.name,
                    code=error.code,
                    error=error.message[:300],
                )
                await approvals.postpone(self._database, approval, _TRY_AGAIN)

        await self._gather(found, one)

    async def _gather(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Do this for each, some at once; then raise the first error."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(item: T) -> None:
            async with slots:
                await work(item)

        results = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
        for error in results:
            if error is not None:
                raise error
