"""A standby pod is claimed and sent away at the same time: a run is taken by it or by another one, never lost."""

import asyncio
from typing import Any

import pytest

from tests.ledger.test_standby import ask, settle, the_pods, trigger, warm
from tests.support.contention import holding
from tests.support.world import SHOP, World
from windlass import protocol
from windlass_operator.ledger import pods
from windlass_operator.ledger.database import Database

_LOCK_RUN = "SELECT 1 FROM run WHERE id = %s FOR UPDATE"


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    await world.apply_task(warm(1))
    await settle(world)
    return world


async def _pods(world: World) -> list[dict[str, Any]]:
    return await world.database.fetch("SELECT state, draining FROM pod ORDER BY id")


async def test_a_pod_that_is_taking_a_run_is_not_sent_away(world: World, ledger_uri: str) -> None:
    (seen,) = the_pods(world)
    run_id = await trigger(world)
    await world.apply_task(warm(0))
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        claiming = asyncio.create_task(ask(world, seen))
        await run.waited_for(1)  # it has the pod's row and the queue entry, and waits for the run
        await world.pods.start_due()
        assert the_pods(world) == [seen]
    (attempt,) = (await claiming).attempts
    await world.pods.start_due()
    await world.pods.delete_due()
    assert the_pods(world) == [seen]
    assert await _pods(world) == [{"state": "Claimed", "draining": False}]
    assert attempt.run_id == run_id


async def test_a_pod_that_is_being_sent_away_takes_nothing_and_its_run_gets_another_one(
    world: World, ledger_uri: str
) -> None:
    (seen,) = the_pods(world)
    (key,) = await world.database.fetch("SELECT key FROM pod_key")
    await world.apply_task(warm(0))
    run_id = await trigger(world)
    async with world.database.connection() as connection, connection.transaction():
        assert len(await pods.drain_standby(connection, key["key"], 1)) == 1
        claiming = asyncio.create_task(ask(world, seen))
        async with holding(ledger_uri, "SELECT 1") as look:
            await look.waited_for(1)  # the claim waits for the pod's row
    assert await claiming == protocol.ClaimResponse(leave=True)
    await world.pods.delete_due()
    assert not the_pods(world)
    await world.pods.start_due()
    (other,) = the_pods(world)
    (attempt,) = (await ask(world, other)).attempts
    assert attempt.run_id == run_id
    assert (await world.runs.get(SHOP, run_id))["attempts"] == 1


async def test_two_waiting_pods_never_take_one_run(world: World) -> None:
    await world.apply_task(warm(2))
    await settle(world)
    run_id = await trigger(world)
    answers = await asyncio.gather(*(ask(world, seen) for seen in the_pods(world)))
    taken = [attempt.run_id for answer in answers for attempt in answer.attempts]
    assert taken == [run_id]
    assert sorted(answer.again for answer in answers) == [False, True]


async def test_a_lost_answer_is_repeated_to_a_standby_pod(world: World) -> None:
    (seen,) = the_pods(world)
    run_id = await trigger(world)
    (first,) = (await ask(world, seen)).attempts
    (second,) = (await ask(world, seen)).attempts
    assert (second.run_id, second.attempt_id) == (run_id, first.attempt_id)
    assert second.token != first.token
