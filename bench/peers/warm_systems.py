"""Systems whose workers wait for runs: procrastinate, DBOS, Restate, and ours when its runners can be reused."""

import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.peers.bursts import Cost, Ended
from bench.peers.processes import OURS, THEIRS, Piped, piped, rest, tree_cpu
from bench.peers.restate import Restate, restate_system
from tests.support.postgres import PostgresServer

_CLIENTS: Final = 64
STEPS: Final = 20
_LOG: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8"
"""How many bytes of log the server has written; only one contestant works at a time."""


@dataclass
class Warm:
    """A contestant with an idle worker.

    Attributes:
        effects: The file in which its bodies leave their effects.
        client: The process that triggers and reads results.
        pids: Of its programs, without a database server.
        pauses: Whether its programs may be stopped while others have their turn: servers that watch over themselves
            may not.
        server: PostgreSQL, if it uses that.
        restate: The server, if it is Restate.
        steps: Durable steps that it does in each of its runs of the row of steps; none, if it has no steps.
        share: Of the runs of a burst that it gets: what takes a second for each run would take minutes otherwise.
    """

    effects: Path
    client: Piped
    pids: Sequence[int]
    pauses: bool = True
    server: PostgresServer | None = None
    restate: Restate | None = None
    steps: int = STEPS
    share: float = 1.0

    def turn(self, *, begins: bool) -> None:
        """Wake its programs, or put them to rest."""
        if self.pauses:
            rest([*self.pids, self.client.pid], awake=begins)

    async def burst(self, **order: Any) -> tuple[list[Ended], Cost]:
        """Trigger runs and wait for their results."""
        before = self._used()
        answer = await self.client.ask(order)
        after = self._used()
        workers, database, client, wal = (b - a for a, b in zip(before, after, strict=True))
        cost = Cost(workers, database, client, int(wal) if self.server else None)
        return [Ended(*one) for one in answer], cost

    def _used(self) -> tuple[float, float, float, float]:
        database, wal = 0.0, 0.0
        if self.server is not None:
            database = tree_cpu([self.server.pid])
            with psycopg.connect(self.server.uri(), autocommit=True) as connection:
                [wal] = connection.execute(_LOG).fetchone() or [0.0]
        return tree_cpu(self.pids), database, tree_cpu([self.client.pid]), wal


@asynccontextmanager
async def procrastinate(server: PostgresServer, *, concurrency: int | None, workers: int = 1) -> AsyncIterator[Warm]:
    """An asynchronous worker that listens for jobs; without ``concurrency`` as it comes, which is one job at once."""
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        order = {"uri": server.create_database(), "effects": str(effects), "pool": 10, "worker": {}}
        if concurrency:
            order["worker"] = {"concurrency": concurrency}
        names = ("bench.peers.procrastinate_process", "worker", json.dumps(order))
        running = [await stack.enter_async_context(piped(THEIRS, *names)) for _ in range(workers)]
        client_order = json.dumps({**order, "pool": _CLIENTS // 4})
        client = await stack.enter_async_context(piped(THEIRS, names[0], "client", client_order))
        yield Warm(effects, client, [one.pid for one in running], server=server, steps=0)


@asynccontextmanager
async def dbos(
    server: PostgresServer,
    *,
    queue: dict[str, Any] | None = None,
    polling: Mapping[str, float] | None = None,
    settings: dict[str, Any] | None = None,
    share: float = 1.0,
) -> AsyncIterator[Warm]:
    """An application with a queue.

    Args:
        server: Where its system database is.
        queue: Settings of the queue that differ from the defaults.
        polling: Seconds between two looks for a result, by task; None for the default.
        settings: Of the application.
        share: See ``Warm``.
    """
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        uri = server.create_database()
        order = {"uri": uri, "effects": str(effects), "settings": settings or {}, "queue": queue or {}}
        worker = await stack.enter_async_context(piped(THEIRS, "bench.peers.dbos_worker", json.dumps(order)))
        asked = {"uri": uri, "polling": dict(polling or {})}
        client = await stack.enter_async_context(piped(THEIRS, "bench.peers.dbos_client", json.dumps(asked)))
        yield Warm(effects, client, [worker.pid], server=server, share=share)


@asynccontextmanager
async def restate(*, workers: int = 1) -> AsyncIterator[Warm]:
    """A server and a service."""
    async with AsyncExitStack() as stack:
        effects = effects_file(stack)
        system = await stack.enter_async_context(
            restate_system({"WINDLASS_BENCH_EFFECTS": str(effects)}, workers=workers)
        )
        order = json.dumps({"url": system.url})
        client = await stack.enter_async_context(piped(OURS, "bench.peers.http_client", order))
        yield Warm(effects, client, system.pids, pauses=False, restate=system)


def effects_file(stack: AsyncExitStack) -> Path:
    """Return an empty file for effects, which is there as long as the stack."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="windlass-bench-"))
    file = Path(folder) / "effects"
    file.touch()
    return file
