"""The runtime API in a process of its own, on a free port; prints its address."""

import asyncio
import sys

import uvicorn
import uvloop
from starlette.applications import Starlette

from tests.support.api_server import NobodyVouches, PollingSignal
from windlass_operator.api.runtime import RuntimeRoutes
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Database
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.blobs import BlobService
from windlass_operator.services.events import EventService
from windlass_operator.services.progress import ProgressService
from windlass_operator.services.steps import StepService
from windlass_operator.services.tokens import TokenService
from windlass_operator.services.waits import WaitService


async def main() -> None:
    """Serve until a signal."""
    database = Database(sys.argv[1])
    await database.open()
    blobs = BlobService(database, LedgerBlobs(database, BlobMissingError))
    attempts, steps = AttemptService(database), StepService(database)
    events = EventService(database, attempts)
    tokens = TokenService(database, attempts)
    waits = WaitService(database, attempts, kinds={"event": events.begin, "token": tokens.begin})
    routes = RuntimeRoutes(
        attempts,
        steps,
        waits,
        ProgressService(database),
        blobs,
        PollingSignal(),
        NobodyVouches(),
        events=events,
        tokens=tokens,
    )
    app = Starlette(routes=routes.routes())
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
