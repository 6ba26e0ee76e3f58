"""``python -m bench.soak``: constant load beside a session that is idle in a transaction. Does it stay as fast?"""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from bench.measured import quiet
from bench.peers.bursts import quantile
from bench.peers.processes import tree_cpu
from bench.report import Figure, single, write
from bench.soak_load import Done, Load, PodsByTask
from tests.support.plane import operating
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.world import World
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.services.loops import Loop

_MINUTES: Final = float(os.environ.get("WINDLASS_SOAK_MINUTES", "20"))
_WARM: Final = 15.0
_THREADS: Final = 6
_HOT: Final = ("queue_entry", "attempt", "run", "step", "projection_entry", "pod")
_TABLES: Final = """
SELECT relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) AS bytes, n_tup_upd, n_tup_hot_upd,
       autovacuum_count
  FROM pg_stat_user_tables WHERE relname = ANY(%(names)s)
"""


@dataclass(frozen=True)
class Window:
    """What happened in a part of the time.

    Attributes:
        runs: Completed runs for a second.
        p99: Milliseconds from the trigger of a run to its end, of 99 % of the stand-ins' runs.
        api: Milliseconds of CPU of the API for a run.
        database: The same of PostgreSQL.
    """

    runs: float
    p99: float
    api: float
    database: float


@dataclass(frozen=True)
class Look:
    """CPU seconds that were used until then."""

    at: float
    api: float
    database: float


def window(done: list[Done], begin: Look, end: Look) -> Window:
    """Return what was done between two looks. Pure.

    Raises:
        RuntimeError: Nothing was.
    """
    inside = [one for one in done if begin.at <= one.at < end.at]
    light = [one.took * 1000 for one in inside if not one.real]
    if not light:
        raise RuntimeError("no run was completed in this part of the time")
    return Window(
        len(inside) / (end.at - begin.at),
        quantile(light, 0.99),
        (end.api - begin.api) / len(inside) * 1000,
        (end.database - begin.database) / len(inside) * 1000,
    )


async def measure(minutes: float) -> list[Figure]:
    """Measure and return the figures."""
    quiet()
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server(fsync=True))
        uri = server.create_database()
        migrate(uri)
        database = Database(uri, size=12)
        await database.open()
        stack.push_async_callback(database.close)
        world = await World(database, cluster=PodsByTask()).start()
        api = subprocess.Popen([sys.executable, "-m", "bench.rest_process", uri], stdout=subprocess.PIPE, text=True)
        stack.callback(api.wait)
        stack.callback(api.terminate)
        assert api.stdout is not None, "it is a pipe"
        url = api.stdout.readline().strip()
        loops = await stack.enter_async_context(operating(world))
        idle = stack.enter_context(psycopg.connect(uri))
        return await _soak(world, url, loops[0], idle, server, api.pid, minutes * 60)


async def _soak(
    world: World,
    url: str,
    planning: Loop,
    idle: psycopg.Connection[Any],
    server: PostgresServer,
    api: int,
    wanted: float,
) -> list[Figure]:
    def look() -> Look:
        return Look(time.monotonic(), tree_cpu([api]), tree_cpu([server.pid]))

    part = max(20.0, wanted * 0.1)
    async with Load(world, url, planning, threads=_THREADS) as load:
        await asyncio.sleep(_WARM)
        # From here on nothing that dies may be cleaned up: this session might still want to see it.
        idle.execute("SET idle_in_transaction_session_timeout = 0")
        idle.commit()
        idle.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        idle.execute("SELECT pg_current_xact_id()")
        begin = look()
        await _watched(load, part)
        early = look()
        tables = await _tables(world.database)
        end = begin.at + wanted
        while (left := end - part - time.monotonic()) > 0:
            await _watched(load, min(left, 60.0))
            so_far = window(load.done, begin, look())
            print(f"{(time.monotonic() - begin.at) / 60:.1f} min: {so_far.runs:.1f} runs/s so far", flush=True)
        late = look()
        await _watched(load, part)
        last = look()
        state = idle.info.transaction_status.name
    after = await _tables(world.database)
    real = [one for one in load.done if one.real]
    print(f"{len(load.done)} runs, of which {len(real)} in runner processes; the idle session is {state}")
    if state != "INTRANS":
        raise RuntimeError("the session did not stay in its transaction: the soak proves nothing")
    _say_tables(tables, after, len(load.done))
    return figures(window(load.done, begin, early), window(load.done, late, last), after)


async def _watched(load: Load, seconds: float) -> None:
    """Wait, but no longer than the load goes on."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not load.errors:
        await asyncio.sleep(min(left, 1.0))
    if load.errors:
        raise RuntimeError(f"the load has failed: {load.errors[0]!r}") from load.errors[0]


def figures(first: Window, last: Window, tables: dict[str, dict[str, Any]]) -> list[Figure]:
    """Return the end beside the start. Pure, but for printing."""
    start = "at the start"
    return [
        single("soak: throughput at the end", last.runs, "runs/s", peer=(start, first.runs), goal="ratio>=0.9"),
        single("soak: p99 from trigger to end, at the end", last.p99, "ms", peer=(start, first.p99)),
        single("soak: CPU of PostgreSQL for a run, at the end", last.database, "ms", peer=(start, first.database)),
        single("soak: CPU of the API for a run, at the end", last.api, "ms", peer=(start, first.api)),
        *(single(f"soak: dead rows in {name}", row["n_dead_tup"], "rows") for name, row in tables.items()),
    ]


async def _tables(database: Database) -> dict[str, dict[str, Any]]:
    rows = await database.fetch(_TABLES, {"names": list(_HOT)})
    return {row["relname"]: row for row in sorted(rows, key=lambda row: _HOT.index(row["relname"]))}


def _say_tables(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], runs: int) -> None:
    print("| table | MB at start, end | live | dead at start, end | dead for a run | HOT updates | vacuums |")
    print("|---|---|---|---|---|---|---|")
    for name, row in after.items():
        old = before[name]
        hot = f"{row['n_tup_hot_upd'] / row['n_tup_upd']:.0%}" if row["n_tup_upd"] else "no updates"
        print(
            f"| {name} | {old['bytes'] / 1e6:.1f}, {row['bytes'] / 1e6:.1f} | {row['n_live_tup']} "
            f"| {old['n_dead_tup']}, {row['n_dead_tup']} | {row['n_dead_tup'] / runs:.2f} | {hot} "
            f"| {row['autovacuum_count']} |"
        )


def main() -> None:
    """Soak, and write the figures."""
    write(asyncio.run(measure(_MINUTES)))


if __name__ == "__main__":
    main()
