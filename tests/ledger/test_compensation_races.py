"""Two who want to end, claim or explain one run that is to be undone, both in the middle of it."""

import asyncio
from uuid import UUID

import pytest

from tests.ledger.test_compensation import DONE, ONCE, cancel, fails_after, save, undo, undoable
from tests.ledger.test_races import _LOCK_RUN, _refused_by_the_server, _rows
from tests.support.contention import holding
from tests.support.world import World, a_failure, a_task
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Database
from windlass_operator.services.attempts import AttemptService

_SAVE_A_STEP = """
INSERT INTO step (run_id, key, name, args_hash, state, attempt, started_at, compensation, finished_n)
SELECT run_id, 'charge', 'charge', 'a', 'succeeded', number, now(), '{}', nextval('step_finished_n')
  FROM attempt WHERE id = %s FOR SHARE
"""


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def test_a_claim_takes_a_run_that_is_cancelled_under_its_hands_to_undo_it(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.withdraw(world.identity(list(world.cluster.pods.values())[-1]), "claim-1")
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    before = _refused_by_the_server()
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        cancelling = asyncio.create_task(cancel(world, run_id))
        await run.waited_for(1)  # first for the run, so it gets it first
        claiming = asyncio.create_task(world.attempts.claim(world.identity(seen), "claim-2", 1))
        await run.waited_for(2)  # has the queue entry, waits for the run
    (undoing,) = await claiming
    assert await cancelling is RunState.COMPENSATING
    assert (undoing.compensating, [c.key for c in undoing.compensate]) == (True, ["charge"])
    assert _refused_by_the_server() == before, "they waited for each other in a circle"
    assert await _rows(world, "queue_entry") == []
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Cancelled"


async def test_of_two_who_close_an_attempt_one_queues_the_run_to_be_undone(world: World, ledger_uri: str) -> None:
    run_id = await world.submit(a_task(retry=ONCE))
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        failing = asyncio.create_task(world.attempts.fail(attempt.token, a_failure()))
        await run.waited_for(1)
        losing = asyncio.create_task(
            AttemptService(world.database).lose(UUID(attempt.attempt_id), reason="PodDeleted", message="gone")
        )
        await run.waited_for(2)
    assert (await failing).state == "Compensating"
    assert not await losing
    assert len(await _rows(world, "queue_entry")) == 1


async def test_a_result_that_comes_before_a_cancellation_is_kept_and_nothing_is_undone(
    world: World, ledger_uri: str
) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        completing = asyncio.create_task(world.attempts.complete(attempt.token, DONE))
        await run.waited_for(1)
        cancelling = asyncio.create_task(cancel(world, run_id))
        await run.waited_for(2)
    assert (await completing).state == "Succeeded"
    assert await cancelling is RunState.SUCCEEDED


async def test_a_cancellation_that_comes_before_the_last_failure_decides_how_the_run_ends(
    world: World, ledger_uri: str
) -> None:
    run_id = await world.submit(a_task(retry=ONCE))
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        cancelling = asyncio.create_task(cancel(world, run_id))
        await run.waited_for(1)
        failing = asyncio.create_task(world.attempts.fail(attempt.token, a_failure()))
        await run.waited_for(2)
    assert await cancelling is RunState.CANCELLING
    assert (await failing).state == "Compensating"
    assert (await world.get(run_id))["ends_as"] == "Cancelled"


async def test_a_step_that_is_saved_while_its_attempt_is_being_closed_is_undone(world: World, ledger_uri: str) -> None:
    run_id = await world.submit(a_task(retry=ONCE))
    (attempt,) = await world.claim()
    async with holding(ledger_uri, _SAVE_A_STEP, attempt.attempt_id) as saving:
        losing = asyncio.create_task(
            world.attempts.lose(
                UUID(attempt.attempt_id), reason="OutOfMemory", message="gone", failure_class="permanent"
            )
        )
        await saving.waited_for(1)
    assert await losing
    assert (await world.get(run_id))["state"] == "Compensating"


async def test_a_reason_that_comes_after_the_claim_does_not_hold_what_is_being_undone(
    world: World, ledger_uri: str
) -> None:
    run_id = await fails_after(world, undoable("charge"))
    await world.pods.start_due()
    first, seen = list(world.cluster.pods.values())[-2:]
    assert first.uid != seen.uid
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        claiming = asyncio.create_task(world.attempts.claim(world.identity(seen), "claim-2", 1))
        await run.waited_for(1)
        explaining = asyncio.create_task(world.pods._note_problem(await _key(world), "ImagePullFailed", "no image"))
        await run.waited_for(2)
    (undoing,) = await claiming
    await explaining
    row = await world.get(run_id)
    assert (undoing.compensating, row["reason"], row["held_since"]) == (True, "AttemptsExhausted", None)


async def _key(world: World) -> str:
    (row,) = await _rows(world, "pod_key")
    return str(row["key"])
