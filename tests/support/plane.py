"""Operator and API as a test needs them beside real faults: the loops that matter, and the API in its own process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from tests.support.world import World
from windlass_operator.services.loops import Loop


@asynccontextmanager
async def operating(world: World) -> AsyncIterator[list[Loop]]:
    """Run what the operator and the API do by themselves, while the block runs."""

    async def start() -> None:
        await world.pods.start_due()

    async def resume() -> None:
        await world.pods.resume_plans()

    async def reap() -> None:
        await world.attempts.reap()

    async def serve() -> None:
        await world.attempts.serve_heartbeats()

    every = timedelta(seconds=0.2)
    loops = [
        Loop("pod planning", start, every=timedelta(seconds=0.05)),
        Loop("plans", resume, every=timedelta(seconds=1)),
        Loop("reaper", reap, every=every),
        Loop("heartbeat service", serve, every=timedelta(seconds=2)),
        Loop("timers", world.waits.fire_due, every=every),
        Loop("endings left undone", world.endings.sweep, every=timedelta(seconds=1)),
    ]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield loops
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def api_process(uri: str) -> AsyncIterator[str]:
    """Run the runtime API as a process of its own, and yield its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.api_process", uri, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None, "it is a pipe"
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()
