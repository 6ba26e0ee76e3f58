"""Two who change one run at the same time: each test holds a lock until both are in the middle of it."""

import asyncio
from typing import Any

import pytest

from tests.ledger.test_attempts import beat, serve
from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator import config, metrics
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.ledger.database import Database
from windlass_operator.services.submitted import Submission

_LOCK_RUN = "SELECT 1 FROM run WHERE id = %s FOR UPDATE"


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task()
    return world


async def _rows(world: World, table: str) -> list[dict[str, Any]]:
    return await world.database.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a test's own word


def _refused_by_the_server() -> float:
    """How many transactions had to be repeated, such as for a deadlock."""
    return metrics.REGISTRY.get_sample_value("windlass_ledger_failures_total", {"kind": "transaction"}) or 0


async def test_a_run_that_is_cancelled_while_it_is_queued_again_leaves_its_queue(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        failing = asyncio.create_task(world.attempts.fail(attempt.token, a_failure()))
        await run.waited_for(1)
        cancelling = asyncio.create_task(world.runs.cancel(run_id, reason="Cancelled", message=""))
        await run.waited_for(2)
    await asyncio.gather(failing, cancelling)
    assert (await world.get(run_id))["state"] == "Cancelled"
    assert await _rows(world, "queue_entry") == [], "or a pod is started for a run that has ended"


async def test_a_claim_and_a_cancellation_of_one_run_do_not_wait_for_each_other(world: World, ledger_uri: str) -> None:
    run_id = await world.submit()
    await world.pods.start_due()
    (seen,) = world.cluster.pods.values()
    before = _refused_by_the_server()
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        cancelling = asyncio.create_task(world.runs.cancel(run_id, reason="Cancelled", message=""))
        await run.waited_for(1)  # first for the run, so it gets it first
        claiming = asyncio.create_task(world.attempts.claim(world.identity(seen), "claim-1", 1))
        await run.waited_for(2)  # has the queue entry, waits for the run
    assert (await claiming, await cancelling) == ([], "Cancelled")
    assert _refused_by_the_server() == before
    assert await _rows(world, "queue_entry") == []
    assert await _rows(world, "attempt") == []


async def test_a_resource_that_asks_for_a_run_while_its_first_resource_is_deleted_gets_one_that_runs(
    world: World, ledger_uri: str
) -> None:
    old, new = (world.create_run(name, idempotencyKey="7") for name in ("old", "new"))
    await world.imports.observe(old)
    (run,) = await _rows(world, "run")
    del world.cluster.runs["uid-of-old"]
    async with holding(ledger_uri, _LOCK_RUN, run["id"]) as lock:
        going = asyncio.create_task(world.imports.observe(old, deleted=True))
        await lock.waited_for(1)
        coming = asyncio.create_task(world.imports.observe(new))
        await lock.waited_for(2)
    await asyncio.gather(going, coming)
    assert (await world.runs.get(SHOP, "new"))["state"] == "Queued"


async def test_of_two_handles_the_second_inherits_a_run_when_owner_and_first_handle_go_together(
    world: World, ledger_uri: str
) -> None:
    bodies = [world.create_run(f"order-{n}", idempotencyKey="7") for n in range(3)]
    for body in bodies:
        await world.imports.observe(body)
    (run,) = await _rows(world, "run")
    for body in bodies[:2]:
        del world.cluster.runs[body["metadata"]["uid"]]
    async with holding(ledger_uri, _LOCK_RUN, run["id"]) as lock:
        going = [asyncio.create_task(world.imports.observe(body, deleted=True)) for body in bodies[:2]]
        await lock.waited_for(2)
    await asyncio.gather(*going)
    row = await world.get(run["id"])
    assert (row["state"], row["resource_name"]) == ("Queued", "order-2")


async def test_a_resource_that_is_seen_twice_at_once_is_one_handle(world: World, ledger_uri: str) -> None:
    first = await world.submissions.trigger(SHOP, Submission(task="order", idempotency_key="7"))
    body = world.create_run("order-1", idempotencyKey="7")
    async with holding(ledger_uri, _LOCK_RUN, first.run_id) as run:
        seen = [asyncio.create_task(world.imports.observe(body)) for _ in range(2)]
        await run.waited_for(2)
    await asyncio.gather(*seen)
    assert len(await _rows(world, "run_handle")) == 1


async def test_a_run_that_started_is_not_ended_by_a_look_at_a_newer_task(world: World, ledger_uri: str) -> None:
    """Two looks at once at the Task that a run waits for, between which its schema changes."""
    world.cluster.tasks.clear()
    await world.imports.observe(world.create_run("order-1", payload={"amount": 1}))
    (run,) = await _rows(world, "run")
    world.cluster.tasks["shop", "order"] = a_task()
    async with holding(ledger_uri, _LOCK_RUN, run["id"]) as lock:
        first = asyncio.create_task(world.submissions.task_seen(SHOP, "order"))
        await lock.waited_for(1)
        world.cluster.tasks["shop", "order"] = a_task(payload_schema={"type": "array"})
        second = asyncio.create_task(world.submissions.task_seen(SHOP, "order"))
        await lock.waited_for(2)
    await asyncio.gather(first, second)
    assert (await world.get(run["id"]))["state"] == "Queued"


async def test_a_runner_that_comes_back_while_the_reaper_is_about_to_close_its_attempt_keeps_it(
    world: World, clock: Clock, ledger_uri: str
) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await serve(world, clock, config.LEASE + 4 * SECOND)
    lock = "SELECT 1 FROM attempt WHERE id = %s FOR UPDATE"
    async with holding(ledger_uri, lock, attempt.attempt_id) as row:
        beating = asyncio.create_task(beat(world, attempt.token))
        await row.waited_for(1)
        reaping = asyncio.create_task(world.attempts.reap())
        await row.waited_for(2)
    assert (await beating).open
    assert await reaping == 0
    assert (await world.get(run_id))["state"] == "Running"


async def test_one_attempt_that_cannot_be_closed_keeps_no_other_open(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    await world.claim()
    other = await world.submit()
    await world.claim(claim_id="claim-2")
    broken = "UPDATE run SET state = 'Failed', finished_at = now() WHERE id = %(id)s"  # what must never be
    await world.database.fetch(broken, {"id": run_id})
    await serve(world, clock, config.LEASE + 4 * SECOND)
    assert await world.attempts.reap() == 1
    assert (await world.get(other))["state"] == "Queued"


async def test_submissions_of_one_project_do_not_wait_for_each_other(world: World, ledger_uri: str) -> None:
    await world.submit()
    async with holding(ledger_uri, "UPDATE project SET namespace = namespace"), asyncio.timeout(5):
        await world.submit()


async def test_new_versions_and_keys_of_one_project_at_once_are_all_accepted_without_a_deadlock(world: World) -> None:
    """Each holds the project's key by its idempotency key before it numbers a version under the project's lock."""

    async def trigger(n: int) -> int:
        world.cluster.tasks["shop", f"task-{n}"] = a_task()
        wanted = Submission(task=f"task-{n}", idempotency_key="7")
        await world.submissions.trigger(SHOP, wanted)
        return n

    before = _refused_by_the_server()
    assert sorted(await asyncio.gather(*(trigger(n) for n in range(10)))) == list(range(10))
    assert _refused_by_the_server() == before


async def test_a_repeated_claim_is_not_answered_with_an_attempt_that_ends_meanwhile(
    world: World, ledger_uri: str
) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    (seen,) = world.cluster.pods.values()
    close = "UPDATE attempt SET closed_at = started_at, outcome = 'Succeeded' WHERE id = %s"
    async with holding(ledger_uri, close, attempt.attempt_id) as row:
        again = asyncio.create_task(world.attempts.claim(world.identity(seen), "claim-1", 1))
        await row.waited_for(1)
    assert await again == [], "its code would be started once more"


async def test_a_step_is_confirmed_when_it_is_committed_and_not_before(world: World, ledger_uri: str) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    lock = "SELECT 1 FROM attempt WHERE id = %s FOR UPDATE"
    async with holding(ledger_uri, lock, attempt.attempt_id) as row:
        saving = asyncio.create_task(world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("a")])))
        await row.waited_for(1)
        assert not saving.done(), "its code would go on, and the step might be lost"
    await saving
    assert [step["state"] for step in await _rows(world, "step")] == ["succeeded"]


async def test_a_step_that_comes_while_its_attempt_is_being_closed_is_refused(world: World, ledger_uri: str) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    close = "UPDATE attempt SET closed_at = started_at, outcome = 'Lost' WHERE id = %s"
    async with holding(ledger_uri, close, attempt.attempt_id) as row:
        request = protocol.SaveStepsRequest(steps=[a_step("a")])
        saving = asyncio.create_task(world.steps.save(attempt.token, request))
        await row.waited_for(1)
    with pytest.raises(AttemptClosedError):
        await saving
    assert await _rows(world, "step") == []


async def test_a_runner_whose_claim_was_repeated_writes_nothing(world: World) -> None:
    """The repeat has another token; whoever has the first one was given up."""
    await world.submit()
    (first,) = await world.claim()
    (seen,) = world.cluster.pods.values()
    (again,) = await world.attempts.claim(world.identity(seen), "claim-1", 1)
    assert again.attempt_id == first.attempt_id
    with pytest.raises(AttemptClosedError):
        await world.steps.save(first.token, protocol.SaveStepsRequest(steps=[a_step("a")]))
    assert await _rows(world, "step") == []
