"""An API process with all its loops and wake-ups; prints its address. Kubernetes' answers are scripted."""

import sys

import uvicorn
import uvloop

from bench.measured import quiet
from bench.serving import serve
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
    await serve(config)


if __name__ == "__main__":
    uvloop.run(main())
