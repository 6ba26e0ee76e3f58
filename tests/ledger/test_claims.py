"""Claims: what a pod may take, however the server plans and however often the runner asks."""

import psycopg
import pytest

from tests.ledger.test_attempts import complete
from tests.support.clock import Clock
from tests.support.world import World
from windlass_operator.ledger.database import Database


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def _states(world: World) -> list[str]:
    return sorted(row["state"] for row in await world.database.fetch("SELECT state FROM run"))


async def test_a_claim_takes_no_more_runs_than_it_asks_for_whatever_the_plan(ledger_uri: str, clock: Clock) -> None:
    """A plan that executes the choice of runs once for each queue entry would take another one each time."""
    name = ledger_uri.rsplit("/", 1)[1]
    with psycopg.connect(ledger_uri, autocommit=True) as connection:
        for switch in ("hashjoin", "mergejoin", "hashagg", "material", "sort"):
            connection.execute(f"ALTER DATABASE {name} SET enable_{switch} = off")
    database = Database(ledger_uri, size=2, now=clock.now)
    await database.open()
    try:
        world = await World(database).start()
        for _ in range(5):
            await world.submit()
        assert len(await world.claim()) == 1
        assert await _states(world) == ["Queued"] * 4 + ["Running"]
    finally:
        await database.close()


async def test_a_claim_that_is_repeated_after_its_attempt_ended_takes_nothing(world: World) -> None:
    """A request that was held up on its way: nobody waits for its answer any more."""
    await world.submit()
    (attempt,) = await world.claim()
    seen = next(iter(world.cluster.pods.values()))
    await world.attempts.complete(attempt.token, complete())
    await world.submit()
    assert await world.attempts.claim(world.identity(seen), "claim-1", 1) == []
    assert await _states(world) == ["Queued", "Succeeded"]
