"""Pods that take one run after the other: their sessions, their slots, and what a repeated claim is answered."""

import pytest

from tests.support.world import World
from windlass_operator.ledger.database import Database


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def test_a_pod_that_was_started_ahead_takes_a_run_that_came_later(world: World) -> None:
    pod = await world.reusable_pod()
    run_id = await world.submit()
    (attempt,) = await world.attempts.claim(pod, "claim-1", 1)
    assert attempt.run_id == str(run_id)
