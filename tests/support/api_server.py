"""The real runtime API on a real ledger, served on a free port of the loopback interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from tests.support.world import World
from windlass_operator.api.runtime import RuntimeRoutes, Vouch
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.domain.errors import UnauthorizedError
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.services.blobs import BlobService


class NobodyVouches:
    """No projected tokens in these tests."""

    async def pod_of(self, token: str) -> tuple[str, str]:
        raise UnauthorizedError("no tokens here")


@asynccontextmanager
async def serving(
    world: World, *, port: int = 0, blobs: BlobService | None = None, vouch: Vouch | None = None
) -> AsyncIterator[str]:
    """Serve the runtime routes of a world and yield the URL. Large values are rows, unless ``blobs`` keeps them."""
    blobs = blobs or BlobService(world.database, LedgerBlobs(world.database, BlobMissingError))
    routes = RuntimeRoutes(
        world.attempts,
        world.steps,
        world.waits,
        world.progress,
        world.children,
        blobs,
        world.desk,
        vouch or NobodyVouches(),
        events=world.events,
        tokens=world.tokens,
        protection=world.protection,
    )
    config = uvicorn.Config(
        Starlette(routes=routes.routes()), host="127.0.0.1", port=port, log_level="warning", ws="none"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task
