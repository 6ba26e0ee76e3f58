"""PostgreSQL killed again and again under thousands of runs."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from statistics import median

import pytest

from tests.faults.conftest import ALL
from tests.support.eventually import eventually
from tests.support.executors import Executors
from tests.support.plane import api_process, operating
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.world import SHOP, World, a_task
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.services.invariants import InvariantService
from windlass_operator.services.submitted import Submission

RUNS = 2_000 if ALL else 400
"""At the beginning. A machine that is done with them before the last kill gets more."""
MORE = 400
KILLS = 30 if ALL else 6
EVERY = 3.0
"""Seconds of work between two kills."""
WINDOW = 0.5


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.mark.timeout(900 if ALL else 240)
async def test_runs_survive_a_database_that_is_killed_every_few_seconds(
    server: PostgresServer, say: Callable[[str], None]
) -> None:
    uri = server.create_database()
    migrate(uri)
    database = Database(uri, size=8)
    await database.open()
    world = await World(database).start()
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    total = 0

    async def submit(number: int) -> None:
        nonlocal total
        for start in range(0, number, 500):
            batch = [Submission(task="order", payload=total + n) for n in range(start, min(number, start + 500))]
            await world.submissions.trigger_all(SHOP, batch)
        total += number

    await submit(RUNS)
    up: list[float] = []
    down: list[float] = []
    async with api_process(uri) as url, operating(world), Executors(world, url) as executors:
        while len(up) < KILLS and not executors.errors:
            until = time.monotonic() + EVERY
            while (left := until - time.monotonic()) > 0:  # there is work whenever it is killed
                if total - len(executors.completed) < MORE:
                    await submit(MORE)
                await asyncio.sleep(min(left, 0.2))
            down.append(time.monotonic())
            server.kill()
            await asyncio.to_thread(server.start)
            up.append(time.monotonic())
        await eventually(lambda: _unfinished(database), lambda n: n == 0, seconds=120)
    assert executors.errors == []
    rows = await database.fetch("SELECT state, user_failures, infra_failures, count(*) AS n FROM run GROUP BY 1, 2, 3")
    assert sum(row["n"] for row in rows if (row["state"], row["user_failures"]) == ("Succeeded", 0)) == total, rows
    ends = await database.fetch("SELECT run_id FROM attempt WHERE outcome = 'Succeeded' GROUP BY 1 HAVING count(*) > 1")
    assert ends == [], "none ends twice"
    events = await database.fetch("SELECT run_id FROM event WHERE type = 'Succeeded' GROUP BY 1 HAVING count(*) > 1")
    assert events == []
    assert executors.again == [], "no body runs again after its checkpoint"
    assert await InvariantService(database).check() == []
    say(f"{_report(executors.completed, down, up)}; {executors.lost} attempts lost")
    waits = _recoveries(executors.completed, down, up)
    assert median(waits) <= 3.0, waits
    await database.close()


async def _unfinished(database: Database) -> int:
    rows = await database.fetch("SELECT count(*)::int AS n FROM run WHERE finished_at IS NULL")
    return int(rows[0]["n"])


def _rate(completed: list[float], start: float) -> float:
    return (bisect_left(completed, start + WINDOW) - bisect_left(completed, start)) / WINDOW


def _usual(completed: list[float], down: list[float], up: list[float]) -> float:
    """Return the median rate of the windows in which nothing was wrong."""
    rates = []
    for began, ended in zip([completed[0], *up], [*down, completed[-1]], strict=True):
        at = began + 1.0
        while at + WINDOW <= ended:
            rates.append(_rate(completed, at))
            at += WINDOW
    return median(rates)


def _recoveries(completed: list[float], down: list[float], up: list[float]) -> list[float]:
    """Return, for each kill, the seconds from the server's first answer to four fifths of the usual rate."""
    completed = sorted(completed)
    usual, found = _usual(completed, down, up), []
    for back, ended in zip(up, [*down[1:], completed[-1]], strict=True):
        at = back
        while at < ended - WINDOW and _rate(completed, at) < 0.8 * usual:
            at += 0.05
        found.append(round(at - back, 2))
    return found


def _report(completed: list[float], down: list[float], up: list[float]) -> str:
    completed = sorted(completed)
    away = [round(b - a, 2) for a, b in zip(down, up, strict=True)]
    took = completed[-1] - completed[0]
    return (
        f"{len(completed)} runs in {took:.1f} s, usually {_usual(completed, down, up):.0f}/s; PostgreSQL killed "
        f"{len(down)} times, away for {away} s; {_recoveries(completed, down, up)} s after its return at 4/5 of that"
    )
