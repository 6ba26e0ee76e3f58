"""The whole API in a process of its own, on a free port; prints its address. Kubernetes' answers are scripted."""

import asyncio
import sys

import uvicorn
import uvloop

from tests.support.rest import FakeReviews, application
from tests.support.world import World
from windlass_operator.ledger.database import Database


async def main() -> None:
    """Serve until a signal."""
    database = Database(sys.argv[1])
    await database.open()
    app = application(World(database), FakeReviews())
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await task
    await database.close()


if __name__ == "__main__":
    uvloop.run(main())
