"""The API of a context, and how it is served."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.requests import Request

from windlass_operator import __version__
from windlass_operator.api.app import Application, build
from windlass_operator.api.approvals import ApprovalRoutes
from windlass_operator.api.auth import Authorizer, Reviews
from windlass_operator.api.callbacks import CallbackRoutes
from windlass_operator.api.events import EventRoutes
from windlass_operator.api.permits import Permits
from windlass_operator.api.pools import PoolRoutes
from windlass_operator.api.public import PublicRoutes
from windlass_operator.api.queues import QueueRoutes
from windlass_operator.api.runtime import RuntimeRoutes, bearer
from windlass_operator.context import Context
from windlass_operator.services.blobs import SWEEP_EVERY
from windlass_operator.services.explanation import ExplanationService
from windlass_operator.services.lookout import Lookout
from windlass_operator.services.loops import Loop, each
from windlass_operator.services.pool_lists import PoolListService
from windlass_operator.services.queue_lists import QueueListService
from windlass_operator.services.results import ResultService

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod's own address

_LOOK_ANYWAY: Final = timedelta(seconds=30)
"""The loops that the lookout wakes look by themselves so often."""

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


def application(
    context: Context, reviews: Reviews, *, token_of: Callable[[Request], str] = bearer, endings: bool = True
) -> Application:
    """Return the ASGI application of a context.

    Args:
        context: What it serves.
        reviews: Say who a caller is and what they may do.
        token_of: Reads the token of a request.
        endings: Whether to follow the ends of runs. Not where an operator in the same process does.
    """
    authorizer = Authorizer(reviews, namespaces=context.config.namespaces)
    permits = Permits(authorizer, context.cluster, token_of)
    approvals = ApprovalRoutes(permits, context.approvals)
    public = PublicRoutes(
        permits,
        context.submissions,
        context.runs,
        context.blobs,
        ResultService(context.database, context.changes),
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
        context.desk,
        authorizer,
        events=context.events,
        tokens=context.tokens,
        protection=context.protection,
    )

    queues = QueueRoutes(
        permits, context.runs, QueueListService(context.database), ExplanationService(context.database)
    )

    pools = PoolRoutes(permits, PoolListService(context.database))

    @asynccontextmanager
    async def start() -> AsyncIterator[None]:
        async with context.running():
            sweeper = Loop("blob sweeper", context.sweep_blobs, every=SWEEP_EVERY)
            timers = Loop("timers", context.waits.fire_due, every=_LOOK_ANYWAY)
            deliveries = Loop("event delivery", partial(_deliver, context), every=_LOOK_ANYWAY)
            lookout = Lookout(context.attempts.serve_heartbeats, ring=timers.wake, deliver=deliveries.wake)
            context.waits.timer_set = lookout.timer_set
            forgetting = Loop("event retention", partial(_forget, context), every=_FORGET_EVERY)
            loops = [sweeper, timers, deliveries, forgetting, *([context.follow_endings()] if endings else [])]
            work = [lookout.run(), *(loop.run() for loop in loops)]
            tasks = [asyncio.create_task(part) for part in work]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return build(
        [public, approvals, events, queues, pools, CallbackRoutes(context.tokens)],
        runtime,
        ReadyOnce(context.database.check),
        start=start,
        version=__version__,
        plain=public.plain_routes(),
    )


async def _deliver(context: Context) -> None:
    await each(context.events.deliver_due, context.tokens.deliver_due)


async def _forget(context: Context) -> None:
    await each(context.events.forget, context.tokens.forget)


def settings(app: Any, port: int, *, host: str = EVERYWHERE) -> uvicorn.Config:
    """Return how an application is served."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        access_log=False,
        proxy_headers=False,  # nobody asks where a request came from, and each would pay for it
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
