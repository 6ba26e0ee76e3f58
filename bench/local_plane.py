"""A control plane of local processes: PostgreSQL, one API process, and runner processes instead of pods."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from tests.support.postgres import PostgresServer
from tests.support.world import World, a_task
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate


class LocalPlane:
    """Runs tasks with real runners.

    Args:
        world: The operator's services.
        url: Address of the API process.
        pid: Of the API process.
    """

    def __init__(self, world: World, url: str, pid: int = 0) -> None:
        self.world = world
        self.url = url
        self.pid = pid

    async def submit(self, source: str, function: str, payload: Any) -> UUID:
        """Accept a run of one function of a module."""
        task = a_task(entrypoint=f"job:{function}", source=source, retry=RetryPolicy(max_attempts=1))
        return await self.world.submit(task, name=function.replace("_", "-"), payload=payload)

    async def attempt(self) -> None:
        """Start the pods that are due, run the newest one's runner as a process here, and wait for its end."""
        await self.world.pods.start_due()
        seen = list(self.world.cluster.pods.values())[-1]
        env = {
            **os.environ,
            "WINDLASS_URL": self.url,
            "POD_NAME": seen.name,
            "POD_UID": seen.uid,
            "WINDLASS_CREDENTIAL": self.world.cluster.credentials[seen.namespace],
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "windlass_runner", env=env, stdout=subprocess.DEVNULL
        )
        await process.wait()

    async def result(self, run_id: UUID) -> str:
        """Return the JSON of a run's result.

        Raises:
            RuntimeError: It has not succeeded.
        """
        row = await self.world.get(run_id)
        if row["state"] != "Succeeded":
            raise RuntimeError(f"the run is {row['state']}: {row['message']}")
        return str(row["result"])

    async def run(self, source: str, function: str, payload: Any) -> str:
        """Run one function in one attempt and return the JSON of its result."""
        run_id = await self.submit(source, function, payload)
        await self.attempt()
        return await self.result(run_id)


@asynccontextmanager
async def local_plane(server: PostgresServer, api: str = "bench.api_process") -> AsyncIterator[LocalPlane]:
    """Keep a control plane on a database of its own for the duration of the block.

    Args:
        server: Where the database is made.
        api: Module of the API process: the runtime API alone, or ``bench.rest_process`` for the whole.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    uri = server.create_database()
    migrate(uri)
    database = Database(uri, size=12)
    await database.open()
    world = await World(database).start()
    process = subprocess.Popen([sys.executable, "-m", api, uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "it is a pipe"
    try:
        yield LocalPlane(world, process.stdout.readline().strip(), process.pid)
    finally:
        process.terminate()
        process.wait()
        await database.close()
