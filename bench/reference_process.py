"""The least that a durable step can be with our libraries: one request, one row, one commit. Prints its address.

What ours costs is told as a multiple of this. It imports nothing of Windlass and must not be made faster or slower.
"""

import sys

import uvicorn
import uvloop
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.serving import serve

_TABLE = "CREATE TABLE IF NOT EXISTS reference (id bigserial PRIMARY KEY, key text NOT NULL, value text NOT NULL)"
_INSERT = "INSERT INTO reference (key, value) VALUES (%s, %s)"


async def main() -> None:
    """Serve until a signal."""
    async with AsyncConnectionPool(sys.argv[1], min_size=2, max_size=2, kwargs={"autocommit": True}) as pool:
        async with pool.connection() as connection:
            await connection.execute(_TABLE)

        async def save(request: Request) -> Response:
            value = (await request.body()).decode()
            async with pool.connection() as connection:
                await connection.execute(_INSERT, ("step", value), prepare=True)
            return Response(status_code=204)

        app = Starlette(routes=[Route("/save", save, methods=["POST"])])
        config = uvicorn.Config(app, host="127.0.0.1", port=0, http="httptools", access_log=False, log_level="warning")
        await serve(config)


if __name__ == "__main__":
    uvloop.run(main())
