"""The primary dies and its standby is promoted: with every acknowledged commit, and without some of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.api_server import serving
from tests.support.eventually import eventually
from tests.support.executors import Executors
from tests.support.plane import operating
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.world import SHOP, World, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import UnauthorizedError
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.services.invariants import InvariantService
from windlass_operator.services.submitted import Submission

RUNS = 120
Pair = tuple[PostgresServer, PostgresServer]


@pytest.fixture
def servers() -> Iterator[Pair]:
    with postgres_server() as primary, postgres_server(follows=primary) as standby:
        yield primary, standby


@pytest.fixture
async def world(servers: Pair) -> AsyncIterator[World]:
    """A world that is told of both servers and writes to whichever takes writes."""
    primary, standby = servers
    uri = primary.create_database()
    migrate(uri)
    both = f"windlass@127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    database = Database(urlsplit(uri)._replace(netloc=both, query="target_session_attrs=read-write").geturl(), size=6)
    await database.open()
    world = await World(database).start()
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    yield world
    await database.close()


def promote(standby: PostgresServer) -> None:
    standby.execute("SELECT pg_promote(true, 30)")
    # A new primary would otherwise wait for a standby of its own; whoever operates it takes that back.
    standby.execute("ALTER SYSTEM RESET synchronous_standby_names")
    standby.execute("SELECT pg_reload_conf()")


async def replicating(primary: PostgresServer, state: str) -> None:
    async def look() -> list[tuple[str, str]]:
        with psycopg.connect(primary.uri()) as connection:
            return connection.execute("SELECT sync_state, state FROM pg_stat_replication").fetchall()

    await eventually(look, lambda rows: rows == [(state, "streaming")])


@pytest.mark.timeout(240)
async def test_a_standby_that_has_every_commit_takes_over_and_all_runs_end(world: World, servers: Pair) -> None:
    primary, standby = servers
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    primary.execute("SELECT pg_reload_conf()")
    await replicating(primary, "sync")
    await world.submissions.trigger_all(SHOP, [Submission(task="order", payload=n) for n in range(RUNS)])
    async with serving(world) as url, operating(world), Executors(world, url, threads=4) as executors:
        await eventually(lambda: _number(executors.completed), lambda n: n >= RUNS // 4, seconds=60)
        primary.kill()
        await asyncio.to_thread(promote, standby)
        await eventually(lambda: _unfinished(world), lambda n: n == 0, seconds=100)
    assert executors.errors == []
    assert executors.again == [], "no body runs again after its checkpoint"
    rows = await world.database.fetch("SELECT state, user_failures, count(*) AS n FROM run GROUP BY 1, 2")
    assert rows == [{"state": "Succeeded", "user_failures": 0, "n": RUNS}]
    ends = await world.database.fetch(
        "SELECT run_id FROM event WHERE type = 'Succeeded' GROUP BY 1 HAVING count(*) > 1"
    )
    assert ends == []
    assert await InvariantService(world.database).check() == []


async def test_a_standby_that_lacks_commits_runs_nothing_again_that_a_status_names(world: World, servers: Pair) -> None:
    """Windlass cannot bring back what the database lost. It sees it, says so, and starts nothing for it."""
    primary, standby = servers
    await replicating(primary, "async")
    world.create_run("kept")
    await world.imports.resync()
    kept = await _run_of(world, "kept")
    await eventually(lambda: _has(standby, world, kept))
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''")  # it follows no more, and nobody notices
    standby.execute("SELECT pg_reload_conf()")
    await eventually(lambda: _followers(primary), lambda n: n == 0)
    body = world.create_run("lost")
    await world.imports.resync()
    lost = await _run_of(world, "lost")
    body["status"] = {"runId": lost}
    attempts = await world.claim()
    await world.steps.save(attempts[0].token, protocol.SaveStepsRequest(steps=[a_step("charge")]))
    primary.kill()
    await asyncio.to_thread(promote, standby)
    await world.imports.resync()
    assert world.cluster.rejected["lost"][0] == "LedgerRegressed"
    assert "kept" not in world.cluster.rejected
    rows = await world.database.fetch("SELECT id::text, state FROM run")
    assert rows == [{"id": kept, "state": "Queued"}], "the lost one was not accepted a second time"
    with pytest.raises(UnauthorizedError, match="belongs to no attempt"):
        await world.attempts.complete(attempts[0].token, protocol.CompleteRequest())


async def _number(items: list[float]) -> int:
    return len(items)


async def _unfinished(world: World) -> int:
    rows = await world.database.fetch("SELECT count(*)::int AS n FROM run WHERE finished_at IS NULL")
    return int(rows[0]["n"])


async def _run_of(world: World, name: str) -> str:
    (row,) = await world.database.fetch("SELECT id::text FROM run WHERE resource_name = %(name)s", {"name": name})
    return str(row["id"])


async def _has(standby: PostgresServer, world: World, run_id: str) -> bool:
    (row,) = await world.database.fetch("SELECT current_database() AS name")
    with psycopg.connect(standby.uri(row["name"])) as connection:
        return connection.execute("SELECT 1 FROM windlass.run WHERE id = %s", (run_id,)).fetchone() is not None


async def _followers(primary: PostgresServer) -> int:
    with psycopg.connect(primary.uri()) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchone()
    return int(row[0]) if row else 0
