"""procrastinate's worker, or a client of it: the first argument says which. The application has the rest."""

import asyncio
import sys
from typing import Any

from bench.peers.load import serve
from bench.peers.procrastinate_app import APP, CONNECTOR, ORDER

_LOOK: float = 0.005
"""Seconds between two looks for ends. procrastinate tells nobody that a job has ended: its state must be asked for."""
_ENDED = "SELECT id, status FROM procrastinate_jobs WHERE id = ANY(%(ids)s) AND status NOT IN ('todo', 'doing')"


class Endings:
    """One look for all clients: a query for each of 64 would be 64 times the load."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._something = asyncio.Event()

    async def of(self, job: int) -> str:
        """Return the final state of a job."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[job] = found
        self._something.set()
        return await found

    async def look(self) -> None:
        """Look for ends, for ever."""
        while True:
            await self._something.wait()
            rows: Any = await CONNECTOR.execute_query_all_async(_ENDED, ids=list(self._waiting))
            for row in rows:
                self._waiting.pop(row["id"]).set_result(row["status"])
            if not self._waiting:
                self._something.clear()
            await asyncio.sleep(_LOOK)


async def _client() -> None:
    endings = Endings()
    deferrer = APP.configure_task("noop")

    async def trigger(_: str, key: str, __: int) -> str:
        job = await deferrer.defer_async(key=key)
        state = await endings.of(job)
        return key if state == "succeeded" else state

    async with APP.open_async():
        looking = asyncio.create_task(endings.look())
        await serve(trigger)
        looking.cancel()


async def _worker() -> None:
    async with APP.open_async():
        if not await APP.check_connection_async():
            await APP.schema_manager.apply_schema_async()
        print("ready", flush=True)
        work = asyncio.create_task(APP.run_worker_async(install_signal_handlers=False, **ORDER["worker"]))
        await asyncio.wait(
            [work, asyncio.create_task(asyncio.to_thread(sys.stdin.read))], return_when="FIRST_COMPLETED"
        )
        if work.done():
            work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_worker() if sys.argv[1] == "worker" else _client())
