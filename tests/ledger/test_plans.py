"""What happens to a few runs reads a few rows, whatever else the ledger holds: also by plans that PostgreSQL keeps."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.ledger.test_attempts import complete
from tests.ledger.test_reusable_pods import ask, with_session
from tests.support.world import SHOP, World, a_step, a_task
from windlass import protocol
from windlass_operator.ledger import outcomes
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.submitted import Submission

_OLD = 3000
_MANY = 500
"""Rows that nothing below has a reason to read."""
_KEPT = 8
"""Executions after which PostgreSQL keeps a plan, and a few more."""
_FILL = """
INSERT INTO attempt (id, run_id, number, token_hash, lease_until, closed_at, outcome)
SELECT gen_random_uuid(), id, 1, '', now(), now(), 'Succeeded' FROM run WHERE task = 'old';
INSERT INTO step (run_id, key, name, args_hash, state, attempt, result, started_at, finished_at)
SELECT id, 'charge', 'charge', 'a', 'succeeded', 1, '1', now(), now() FROM run WHERE task = 'old';
INSERT INTO wait (run_id, key, project_id, kind, due_at)
SELECT id, 'charge', project_id, 'sleep', now() + interval '1 day' FROM run WHERE task = 'old'
"""
_COUNT = "ANALYZE run, attempt, step, wait, queue_entry, event, pod"
_READ = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS n FROM pg_stat_xact_user_tables"
"""What this connection has read of late: the counts begin anew now and then, and not with each transaction."""


class Watched(Database):
    """Notes which transactions, each statement being one, have read many rows of a table.

    Attributes:
        watches: From now on.
        read: Table and rows.
    """

    watches = False
    read: list[tuple[str, int]]

    async def _retry(self, work: Callable[[Connection], Awaitable[Any]], *, transaction: bool) -> Any:
        async def watched(connection: Connection) -> Any:
            before = await _rows_read(connection)
            done = await work(connection)
            after = await _rows_read(connection)
            self.read += [(table, n - before[table]) for table, n in after.items() if n - before[table] > _MANY]
            return done

        return await super()._retry(watched if self.watches else work, transaction=transaction or self.watches)


async def _rows_read(connection: Connection) -> Counter[str]:
    rows = await (await connection.execute(_READ)).fetchall()
    return Counter({row["relname"]: row["n"] for row in rows})


@pytest.fixture
async def world(ledger_uri: str) -> AsyncIterator[World]:
    """An empty ledger, and one connection to it."""
    database = Watched(ledger_uri, size=1)
    database.read = []
    await database.open()
    world = await World(database).start()
    yield world
    await world.desk.close()
    await database.close()


async def fill(world: World) -> None:
    """Let there be much in the ledger. The server has not counted it."""
    old = a_task().pod.__class__(image="old:test", preload=None, source_hash="0" * 16)
    await world.put_queue("new")  # the runs of both Tasks wait in it
    world.cluster.tasks[(SHOP.namespace, "old")] = a_task(pod=old, queue="new")
    for _ in range(_OLD // 500):
        await world.submissions.trigger_all(SHOP, [Submission(task="old") for _ in range(500)])
    for statement in _FILL.split(";"):
        await world.database.fetch(statement)


async def run_some(world: World, pod: PodIdentity) -> None:
    """Take some runs from their triggers to their results, so many that plans are kept after them."""
    for n in range(_KEPT):
        run_id = await world.submit(name="new", payload=n)
        (attempt,) = (await ask(world, pod, str(uuid4()))).attempts
        assert attempt.run_id == str(run_id)
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge")]))
        await world.attempts.complete(attempt.token, complete())
        assert (await outcomes.of_runs(world.database, [run_id]))[run_id].result == "42"


async def test_a_run_from_its_trigger_to_its_result_reads_no_table_from_end_to_end(world: World) -> None:
    await fill(world)
    await world.database.fetch(_COUNT)
    pod = await with_session(world, await world.reusable_pod(slots=9))
    assert isinstance(world.database, Watched)
    world.database.watches = True
    await run_some(world, pod)
    assert world.database.read == []


async def test_plans_that_were_made_while_the_ledger_was_empty_stay_good_when_it_fills(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=9))
    await run_some(world, pod)
    await fill(world)
    assert isinstance(world.database, Watched)
    world.database.watches = True
    await run_some(world, pod)
    assert world.database.read == []
