"""Serving an application on a free port of this machine. Imports nothing of Windlass."""

import asyncio

import uvicorn


async def serve(config: uvicorn.Config) -> None:
    """Serve until a signal; print the address when callers may come."""
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True)
    await task
