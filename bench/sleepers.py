"""Sleeping runs: what ten thousand cost while nothing happens, and how late their timers ring."""

import asyncio
import contextlib
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from bench.measured import fine_cpu_seconds
from bench.report import Figure, figure, single
from tests.support.postgres import PostgresServer
from tests.support.world import World
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate

_MANY: Final = 10_000
_IDLE: Final = 20.0
"""Seconds in which nothing happens."""
_PAIRS: Final = 3
_AHEAD: Final = 4.0
"""Seconds until the first timer rings, in which the processes settle."""
_ASLEEP: Final = """
WITH sleeper AS (
    INSERT INTO run (id, project_id, task, task_version_id, state, reason, payload, attempts, started_at)
    SELECT gen_random_uuid(), project_id, task, task_version_id, 'Waiting', 'WaitingForTimer', payload, 1, created_at
      FROM run CROSS JOIN generate_series(1, %(count)s) WHERE run.id = %(model)s RETURNING id, project_id),
noted AS (
    INSERT INTO step (run_id, key, name, args_hash, state, kind, attempt, started_at)
    SELECT id, 'sleep#1', 'sleep', 'a', 'waiting', 'sleep', 1, ledger_now() FROM sleeper)
INSERT INTO wait (run_id, key, project_id, kind, due_at)
SELECT id, 'sleep#1', project_id, 'sleep', ledger_now() + make_interval(secs => %(ahead)s + random() * %(spread)s)
  FROM sleeper
"""
_REMEMBER: Final = "CREATE TABLE expected AS SELECT run_id, key, due_at FROM wait"
_LATE: Final = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(step.xmin) - expected.due_at)::float8 AS seconds
  FROM expected JOIN step USING (run_id, key) WHERE step.state = 'succeeded'
"""
"""By the time of the commit, which is when a runner can see it; not by any clock that ran before it."""
_TOLD: Final = """
SELECT (SELECT count(*) FROM wait) AS asleep, (SELECT count(*) FROM queue_entry) AS queued,
       (SELECT count(*) FROM event WHERE type = 'Woken') AS told
"""


@dataclass
class Night:
    """A ledger with sleeping runs, and one API process."""

    world: World
    uri: str
    api: "subprocess.Popen[str]"

    async def cpu(self) -> dict[int, float]:
        """Return the CPU seconds of the API process, as number 0, and of each session of its database."""
        rows = await self.world.database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        used = {0: fine_cpu_seconds(self.api.pid)}
        for row in rows:
            with contextlib.suppress(FileNotFoundError):  # a session that has just ended
                used[row["pid"]] = fine_cpu_seconds(row["pid"])
        return used


@asynccontextmanager
async def _night(server: PostgresServer, count: int, *, ahead: float, spread: float) -> AsyncIterator[Night]:
    uri = server.create_database()
    migrate(uri)
    database = Database(uri, size=2)
    await database.open()
    api = None
    try:
        world = await World(database).start()
        model = await world.submit()
        await world.claim()
        api = _api(uri)
        if count:
            await database.fetch(_ASLEEP, {"count": count, "model": model, "ahead": ahead, "spread": spread})
            await database.fetch("ANALYZE")
        yield Night(world, uri, api)
    finally:
        if api is not None:
            api.kill()
            api.wait()
        await database.close()


def _api(uri: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-m", "bench.rest_process", uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "it is a pipe"
    process.stdout.readline()
    return process


async def idle(server: PostgresServer) -> list[Figure]:
    """Compare an API process on a ledger full of sleepers with one on an empty ledger, both at the same time."""
    month = 30 * 24 * 3600.0
    series: tuple[list[float], ...] = ([], [], [], [])
    async with (
        _night(server, _MANY, ahead=month, spread=month) as full,
        _night(server, 0, ahead=0, spread=0) as none,
    ):
        await full.world.pods.start_due()
        if len(full.world.cluster.pods) != len(none.world.cluster.pods):
            raise RuntimeError("a pod was started for a run that sleeps")
        for _ in range(_PAIRS):
            before = [await full.cpu(), await none.cpu()]
            await asyncio.sleep(_IDLE)
            after = [await full.cpu(), await none.cpu()]
            for night in range(2):
                # Sessions of both looks: the others are our own, one of which asks, or were closed for want of work.
                both = before[night].keys() & after[night].keys()
                used = {pid: (after[night][pid] - before[night][pid]) * 1000 for pid in both}
                series[night].append(used.pop(0))
                series[2 + night].append(sum(used.values()))
    ours, empty, stored, stored_empty = series
    about = f"{_MANY} sleeping runs, {_IDLE:.0f} s of CPU"
    peer = "empty ledger"
    return [
        figure(f"{about}: API process with its timers", ours, "ms", peer=(peer, empty), goal="ratio<=1.25"),
        figure(f"{about}: its PostgreSQL sessions", stored, "ms", peer=(peer, stored_empty), goal="ratio<=1.25"),
    ]


async def lateness(server: PostgresServer) -> list[Figure]:
    """Ring timers with two API processes, one of which is killed half way."""
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    server.stop()
    server.start()
    figures = []
    for count, spread in ((1000, 20.0), (_MANY, 1.0)):
        late = await _ring(server, count, spread)
        name = f"{count} timers within {spread:.0f} s, two API processes, one killed half way: lateness"
        goal = "<=1" if spread > 1 else ""
        figures.append(single(f"{name} p50", statistics.median(late), "s"))
        figures.append(single(f"{name} p99", sorted(late)[int(len(late) * 0.99)], "s", goal=goal))
        print(f"  the latest of them: {max(late):.2f} s")
    return figures


async def _ring(server: PostgresServer, count: int, spread: float) -> list[float]:
    async with _night(server, count, ahead=_AHEAD, spread=spread) as night:
        second = _api(night.uri)
        try:
            await night.world.database.fetch(_REMEMBER)
            await asyncio.sleep(_AHEAD + spread / 2)
            second.kill()
            async with asyncio.timeout(60 + spread):
                while (told := await _told(night))["asleep"]:
                    await asyncio.sleep(0.2)
        finally:
            second.kill()
            second.wait()
        if told["queued"] != count or told["told"] != count:
            raise RuntimeError(f"of {count} runs {told['queued']} are queued and {told['told']} were woken")
        return [row["seconds"] for row in await night.world.database.fetch(_LATE)]


async def _told(night: Night) -> dict[str, Any]:
    [row] = await night.world.database.fetch(_TOLD)
    return row
