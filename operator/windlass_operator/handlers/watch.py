"""The kopf edge: what we watch, and to whom each event goes.

Only ``on.event``: no annotations, no finalizers, no progress in the objects. An event is a wake-up; the services are
level-triggered and look again by themselves, so a handler never retries and never decides.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import kopf
import structlog

from windlass_operator.domain.errors import WindlassError
from windlass_operator.handlers.session import by_address, session
from windlass_operator.kube.runner_names import MANAGED_BY_LABEL
from windlass_operator.resources.names import FINALIZER, GROUP, VERSION

log = structlog.get_logger()

_SERVER_TIMEOUT: Final = 300
"""Seconds after which a watch is opened anew: a stream that went silent is noticed at the latest then."""


_PAGE: Final = 500
"""Objects in one answer to the first list: ten thousand at once would be held in memory three times over."""

_IDLE: Final = 0.5
"""Seconds for which kopf keeps the last event of an object, and a task for it. Nothing here uses either."""


class Observers(Protocol):
    """The services that events go to."""

    async def run_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Run was seen, or its deletion."""
        ...

    def shows_nothing_new(self, uid: str, generation: int, run_id: str | None) -> bool:
        """Whether a Run that was not deleted says nothing that was not acted upon."""
        ...

    async def task_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Task was seen, or its deletion."""
        ...

    async def approval_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """An Approval was seen, or its deletion."""
        ...

    async def queue_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A Queue was seen, or its deletion."""
        ...

    async def worker_pool_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A WorkerPool was seen, or its deletion."""
        ...

    async def pod_seen(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A runner pod was seen, or its deletion."""
        ...


def registry(observers: Observers) -> kopf.OperatorRegistry:
    """Return the handlers of all kinds that we watch."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**details: Any) -> kopf.AiohttpSession | None:
        # A registry of our own has none of kopf's defaults.
        within = kopf.login_with_service_account(**details)
        info = by_address(within) if within else kopf.login_with_kubeconfig(**details)
        return session(info, observers.shows_nothing_new) if info else None

    @kopf.on.event(GROUP, VERSION, "runs", registry=handlers)
    async def run_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("run", event):
            await observers.run_seen(event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event(GROUP, VERSION, "tasks", registry=handlers)
    async def task_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("task", event):
            await observers.task_seen(event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event(GROUP, VERSION, "approvals", registry=handlers)
    async def approval_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("approval", event):
            await observers.approval_seen(event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event(GROUP, VERSION, "queues", registry=handlers)
    async def queue_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("queue", event):
            await observers.queue_seen(event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event(GROUP, VERSION, "workerpools", registry=handlers)
    async def worker_pool_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("worker pool", event):
            await observers.worker_pool_seen(event["object"], deleted=event["type"] == "DELETED")

    @kopf.on.event("v1", "pods", labels={MANAGED_BY_LABEL: "windlass"}, registry=handlers)
    async def pod_seen(event: Mapping[str, Any], **_: Any) -> None:
        async with reported("pod", event):
            await observers.pod_seen(event["object"], deleted=event["type"] == "DELETED")

    return handlers


class _NoMemory(kopf.DiffBaseStorage):
    """What kopf keeps to tell what has changed: nothing, because only ``on.event`` is used.

    Its own storage reads an annotation with each event. Junk in there, which anybody may write, would keep the object's
    events from us, and a huge object would be copied each time for nothing.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        pass


@asynccontextmanager
async def reported(kind: str, event: Mapping[str, Any]) -> AsyncIterator[None]:
    """Report what goes wrong with one object and go on with the others. The resync looks at it again."""
    with structlog.contextvars.bound_contextvars(kind=kind, **_name(event)):
        try:
            yield
        except WindlassError as error:
            log.warning("object not handled now", code=error.code, error=error.message)
        except Exception:  # a junk object is reported, never fatal
            log.exception("object not handled")


def _name(event: Mapping[str, Any]) -> dict[str, str]:
    metadata = (event.get("object") or {}).get("metadata") or {}
    return {key: str(metadata.get(key)) for key in ("namespace", "name")}


def settings(*, listed_namespaces: bool) -> kopf.OperatorSettings:
    """Return kopf's settings.

    Args:
        listed_namespaces: The installation watches only some namespaces and may not scan the cluster.
    """
    configured = kopf.OperatorSettings()
    configured.posting.enabled = False  # each log line would be one more write to the API server
    configured.peering.standalone = True  # leadership is a Lease and an epoch in the ledger
    configured.watching.server_timeout = _SERVER_TIMEOUT
    configured.watching.connect_timeout = 10
    configured.watching.chunk_size = _PAGE
    configured.queueing.idle_timeout = _IDLE
    configured.persistence.finalizer = FINALIZER
    configured.persistence.diffbase_storage = _NoMemory()
    configured.persistence.progress_storage = kopf.StatusProgressStorage(field="status.operator")
    configured.scanning.disabled = listed_namespaces
    configured.networking.error_backoffs = [1, 2, 4, 8, 15]
    return configured
