"""The whole API with its timers in a process of its own; prints its address. Kubernetes' answers are scripted."""

import asyncio
import sys
from datetime import timedelta

import uvloop

from bench.measured import quiet
from bench.serving import serve
from tests.support.rest import FakeReviews, application
from tests.support.world import SHOP, World, a_task
from windlass_operator.ledger.database import Database
from windlass_operator.services.lookout import Lookout
from windlass_operator.services.loops import Loop
from windlass_operator.serving import settings


async def main() -> None:
    """Serve until a signal."""
    quiet()  # standard output is a pipe that nobody reads after the first line
    database = Database(sys.argv[1])
    await database.open()
    world = World(database)
    loop = Loop("timers", world.waits.fire_due, every=timedelta(seconds=30))
    lookout = Lookout(world.attempts.serve_heartbeats, ring=loop.wake, deliver=lambda: None)
    world.waits.timer_set = lookout.timer_set
    timers = asyncio.gather(loop.run(), lookout.run())
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    app = application(world, FakeReviews())
    config = settings(app, 0, host="127.0.0.1")  # as it is served in a cluster: what is kept, and for how long
    await serve(config)
    timers.cancel()
    await asyncio.gather(timers, return_exceptions=True)
    await database.close()


if __name__ == "__main__":
    uvloop.run(main())
