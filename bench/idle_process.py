"""An API process with all its loops and wake-ups; prints its address. Kubernetes' answers are scripted."""

import asyncio
import sys

import uvicorn
import uvloop

from bench.measured import quiet
from tests.support.approvals import FakeApprovals
from tests.support.objects import FakeObjects
from tests.support.rest import FakeReviews
from tests.support.world import FakeCluster
from windlass_operator.config import Config
from windlass_operator.context import Context
from windlass_operator.services.platform import Platform
from windlass_operator.serving import application


async def _nothing() -> None:
    """End the connections to a cluster that is not there."""


async def main() -> None:
    """Serve until a signal."""
    quiet()  # standard output is a pipe that nobody reads after the first line
    platform = Platform(FakeCluster(), FakeApprovals(), FakeObjects(), FakeObjects(), _nothing)
    app = application(Context(Config(postgres_uri=sys.argv[1]), platform), FakeReviews())
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await task


if __name__ == "__main__":
    uvloop.run(main())
