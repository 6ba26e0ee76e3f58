"""The two long-running processes: the API, and the operator that leads."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import kopf
import structlog
import uvicorn
from starlette.applications import Starlette

from windlass_operator import __version__, metrics
from windlass_operator.api.app import build, health_routes
from windlass_operator.api.approvals import ApprovalRoutes
from windlass_operator.api.auth import Authorizer
from windlass_operator.api.callbacks import CallbackRoutes
from windlass_operator.api.events import EventRoutes
from windlass_operator.api.permits import Permits
from windlass_operator.api.public import PublicRoutes
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.config import Config
from windlass_operator.context import Context, Operator
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.handlers import watch
from windlass_operator.kube.election import lead
from windlass_operator.kube.permissions import LEASE_NAME
from windlass_operator.services.loops import Loop, each

log = structlog.get_logger()

_SWEEP_EVERY = timedelta(hours=6)
"""An orphan costs room and nothing else, and a sweep lists the whole bucket."""


LOOK_FOR_TIMERS: Final = timedelta(seconds=0.5)
"""A timer that was set meanwhile, or whose replica has ended, rings that much too late at most."""


_LOOK_FOR_LEFT_BEHIND: Final = timedelta(seconds=1)
"""Who sends an event delivers it; this is for the events of a sender that ended before it had."""

_FORGET_EVERY: Final = timedelta(hours=1)


class ReadyOnce:
    """Ready from the first answer of the ledger on.

    Later outages do not change that: taken out of the Service, the API could not answer 503 with Retry-After, and
    callers would see refused connections instead of a reason.
    """

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._ready = False

    async def __call__(self) -> None:
        """Ask the ledger until it has answered once."""
        if not self._ready:
            await self._check()
            self._ready = True


async def serve_api(config: Config) -> None:
    """Serve the public API and the runners' protocol until a signal."""
    context = await Context.connect(config, "windlass-api")
    _prepare_metrics(config)
    app = application(context)
    await uvicorn.Server(_settings(app, config.port)).serve()


def application(context: Context) -> Any:
    """Return the ASGI application of a context."""
    authorizer = Authorizer(context.cluster, namespaces=context.config.namespaces)
    permits = Permits(authorizer, context.cluster)
    approvals = ApprovalRoutes(permits, context.approvals)
    public = PublicRoutes(
        permits,
        context.submissions,
        context.runs,
        context.blobs,
        context.changes,
        context.resumption,
    )
    events = EventRoutes(permits, context.events)
    runtime = RuntimeRoutes(
        context.attempts,
        context.steps,
        context.waits,
        context.progress,
        context.children,
        context.blobs,
        context.work,
        authorizer,
        events=context.events,
        tokens=context.tokens,
    )

    @asynccontextmanager
    async def start() -> AsyncIterator[None]:
        async with context.running():
            sweeper = Loop("blob sweeper", context.sweep_blobs, every=_SWEEP_EVERY)
            timers = Loop("timers", context.waits.fire_due, every=LOOK_FOR_TIMERS)
            deliveries = Loop("event delivery", partial(_deliver, context), every=_LOOK_FOR_LEFT_BEHIND)
            forgetting = Loop("event retention", partial(_forget, context), every=_FORGET_EVERY)
            loops = [sweeper, timers, deliveries, forgetting, context.follow_endings()]
            work = [context.serve_heartbeats(), *(loop.run() for loop in loops)]
            tasks = [asyncio.create_task(part) for part in work]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return build(
        [public, approvals, events, CallbackRoutes(context.tokens)],
        runtime,
        ReadyOnce(context.database.check),
        start=start,
        version=__version__,
    )


async def _deliver(context: Context) -> None:
    await each(context.events.deliver_due, context.tokens.deliver_due)


async def _forget(context: Context) -> None:
    await each(context.events.forget, context.tokens.forget)


async def operate(config: Config) -> None:
    """Wait for the lead, then watch, start pods and write statuses until a signal or the loss of the lead.

    Raises:
        LeadershipLostError: Another process leads; the container restarts and waits for its turn.
    """
    context = await Context.connect(config, "windlass-operator")
    _prepare_metrics(config)
    stop, led = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def leading() -> None:
        led.set()
        operator = await _lead_ledger(context)
        loops = asyncio.create_task(operator.run(), name="loops")
        watching = asyncio.create_task(_watch(config, operator, stop), name="watch")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({loops, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                await task  # its error, if it has one, ends the process
        finally:
            stop.set()
            for task in (loops, stopping):
                task.cancel()
            await asyncio.gather(loops, watching, stopping, return_exceptions=True)

    async with context.running(), _health(context, config.port):
        election = asyncio.create_task(
            lead(
                context.client,
                namespace=config.release_namespace,
                name=LEASE_NAME,
                identity=config.pod_name,
                on_started=leading,
            )
        )
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({election, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if election not in done:
            if led.is_set():  # the leader's work ends by the same event; who only waits for the lead is cancelled
                await asyncio.wait({election}, timeout=10)
            election.cancel()
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await election


def _prepare_metrics(config: Config) -> None:
    metrics.BUILD.labels(__version__).set(1)
    metrics.task_labels.limit = config.metrics_tasks


async def _watch(config: Config, operator: Operator, stop: asyncio.Event) -> None:
    await kopf.operator(
        registry=watch.registry(operator),
        settings=watch.settings(listed_namespaces=bool(config.namespaces)),
        clusterwide=not config.namespaces,
        namespaces=list(config.namespaces),
        standalone=True,
        stop_flag=stop,
    )


async def _lead_ledger(context: Context) -> Operator:
    while True:
        try:
            return await Operator.lead(context)
        except LedgerUnavailableError as error:
            log.warning("waiting for the ledger", error=error.message)
            await asyncio.sleep(1)


@asynccontextmanager
async def _health(context: Context, port: int) -> AsyncIterator[None]:
    app = Starlette(routes=health_routes(ReadyOnce(context.database.check)))
    server = uvicorn.Server(_settings(app, port))
    setattr(server, "capture_signals", contextlib.nullcontext)  # noqa: B010 - the operator handles signals itself
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


def _settings(app: Any, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host="0.0.0.0",  # noqa: S104 - a pod's own address
        port=port,
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
