"""The runtime API in a process of its own, on a free port; prints its address."""

import asyncio
import contextlib
import sys
from datetime import timedelta

import uvloop

from bench.measured import quiet
from bench.serving import serve
from tests.support.api_server import NobodyVouches
from tests.support.world import SHOP, World, a_task
from windlass_operator.api.app import build
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.ledger.database import Database
from windlass_operator.services.loops import Loop
from windlass_operator.services.steps import StepService
from windlass_operator.serving import settings


async def main() -> None:
    """Serve until a signal."""
    quiet()  # standard output is a pipe that nobody reads after the first line
    database = Database(sys.argv[1])
    await database.open()
    world = World(database)
    # As in production. The world's own notes progress after each step, which a test wants to see at once.
    world.steps = StepService(database, protection=world.protection)
    routes = RuntimeRoutes(
        world.attempts,
        world.steps,
        world.waits,
        world.progress,
        world.children,
        world.blobs,
        world.desk,
        NobodyVouches(),
        events=world.events,
        tokens=world.tokens,
        protection=world.protection,
    )
    # The Task that children are runs of: Kubernetes is not there to be asked.
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    endings = Loop("endings", world.endings.follow, every=timedelta(seconds=1))
    world.endings.wake = endings.wake
    following = asyncio.create_task(endings.run())
    app = build([], routes, database.check, start=contextlib.AsyncExitStack, version="bench")
    await serve(settings(app, 0, host="127.0.0.1"))
    following.cancel()
    await database.close()


if __name__ == "__main__":
    uvloop.run(main())
