"""Idempotency keys: callers who mean the same run get the same run, however they race, repeat and delete."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SHOP, World, a_failure, a_task
from windlass import protocol
from windlass_operator.domain.errors import TaskNotFoundError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.services.submitted import Accepted, Submission


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    once = RetryPolicy(max_attempts=1, jitter="none")
    world.cluster.tasks["shop", "order"] = a_task(retry=once)
    world.cluster.tasks["shop", "refund"] = a_task(retry=once)
    return world


async def _trigger(world: World, key: str | None = "order-7", *, task: str = "order", payload: Any = None) -> Accepted:
    return await world.submissions.trigger(SHOP, Submission(task=task, payload=payload, idempotency_key=key))


async def _count(world: World) -> int:
    rows = await world.database.fetch("SELECT count(*) AS n FROM run")
    return int(rows[0]["n"])


async def _finish(world: World, *, well: bool = True) -> None:
    (attempt,) = await world.claim(claim_id=str(await _count(world)))
    if well:
        await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b'"paid"')))
    else:
        await world.attempts.fail(attempt.token, a_failure())


async def _status(world: World, name: str) -> dict[str, Any]:
    while await world.projection.project_due():
        pass
    return world.cluster.statuses[name]


async def test_a_second_trigger_with_the_key_gets_the_first_run_while_it_runs_and_when_it_succeeded(
    world: World,
) -> None:
    first = await _trigger(world, payload={"amount": 1})
    assert not first.deduplicated
    assert await _trigger(world, payload={"amount": 2}) == Accepted(first.run_id, deduplicated=True)
    await _finish(world)
    assert await _trigger(world) == Accepted(first.run_id, deduplicated=True)
    assert await _count(world) == 1


async def test_a_run_that_failed_or_was_cancelled_sets_its_key_free(world: World) -> None:
    first = await _trigger(world)
    await _finish(world, well=False)
    second = await _trigger(world)
    assert second.run_id != first.run_id
    await world.runs.cancel(second.run_id, reason="Cancelled", message="")
    third = await _trigger(world)
    assert not third.deduplicated
    assert await _trigger(world) == Accepted(third.run_id, deduplicated=True)


async def test_a_key_is_of_one_task_and_kept_for_thirty_days(world: World, clock: Clock) -> None:
    first = await _trigger(world)
    assert not (await _trigger(world, task="refund")).deduplicated
    await _finish(world)
    clock.advance(timedelta(days=29))
    assert (await _trigger(world)).run_id == first.run_id
    clock.advance(timedelta(days=1))
    assert (await _trigger(world)).run_id != first.run_id


async def test_eight_callers_at_once_start_one_run(world: World) -> None:
    accepted = await asyncio.gather(*(_trigger(world) for _ in range(8)))
    assert len({each.run_id for each in accepted}) == 1
    assert [each.deduplicated for each in accepted].count(False) == 1
    assert await _count(world) == 1


async def test_eight_callers_at_once_share_the_key_of_a_failed_run_anew(world: World) -> None:
    failed = await _trigger(world)
    await _finish(world, well=False)
    accepted = await asyncio.gather(*(_trigger(world) for _ in range(8)))
    assert len({each.run_id for each in accepted} - {failed.run_id}) == 1
    assert await _count(world) == 2


async def test_a_second_resource_with_the_key_is_a_handle_on_the_first_ones_run(world: World) -> None:
    await world.imports.observe(world.create_run("order-1", idempotencyKey="7"))
    await world.imports.observe(world.create_run("order-2", idempotencyKey="7"))
    one, two = await _status(world, "order-1"), await _status(world, "order-2")
    assert one["runId"] == two["runId"]
    assert (one["reason"], two["reason"]) == (None, "Deduplicated")
    assert "Run resource 'order-1'" in two["message"]
    await _finish(world)
    two = await _status(world, "order-2")
    assert (two["state"], two["result"], two["reason"]) == ("Succeeded", "paid", "Deduplicated")
    assert str((await world.runs.get(SHOP, "order-2"))["id"]) == one["runId"]
    assert await _count(world) == 1


async def test_a_handle_on_a_run_that_fails_shows_why_it_failed(world: World) -> None:
    await world.imports.observe(world.create_run("order-1", idempotencyKey="7"))
    await world.imports.observe(world.create_run("order-2", idempotencyKey="7"))
    await _finish(world, well=False)
    status = await _status(world, "order-2")
    assert (status["state"], status["reason"]) == ("Failed", "AttemptsExhausted")
    assert "boom" in status["message"]


async def test_a_resource_may_be_a_handle_on_a_run_that_the_api_started(world: World) -> None:
    first = await _trigger(world)
    body = world.create_run("order-1", idempotencyKey="order-7")
    await world.imports.observe(body)
    assert (await _status(world, "order-1"))["runId"] == str(first.run_id)
    world.cluster.runs.clear()
    await world.imports.observe(body, deleted=True)
    assert (await world.get(first.run_id))["state"] == "Queued", "deleting a handle stops nothing"


async def test_a_run_is_cancelled_when_the_last_of_its_resources_is_deleted(world: World) -> None:
    """A resource that is renamed in a repository: the new one comes, the old one goes, the run stays."""
    old, new = (world.create_run(name, idempotencyKey="7") for name in ("old", "new"))
    await world.imports.observe(old)
    await world.imports.observe(new)
    del world.cluster.runs["uid-of-old"]
    await world.imports.observe(old, deleted=True)
    status = await _status(world, "new")
    assert (status["state"], status["reason"]) == ("Queued", None)
    del world.cluster.runs["uid-of-new"]
    await world.imports.observe(new, deleted=True)
    run = await world.get(UUID(status["runId"]))
    assert (run["state"], run["reason"]) == ("Cancelled", "ResourceDeleted")


async def test_a_handle_that_vanished_unseen_is_forgotten_by_the_resync(world: World, clock: Clock) -> None:
    for name in ("order-1", "order-2"):
        await world.imports.observe(world.create_run(name, idempotencyKey="7"))
    clock.advance(timedelta(minutes=1))
    del world.cluster.runs["uid-of-order-2"]
    await world.imports.resync()
    assert await world.database.fetch("SELECT * FROM run_handle") == []
    assert (await _status(world, "order-1"))["state"] == "Queued"


async def test_handles_are_removed_after_their_own_time(world: World, clock: Clock) -> None:
    """A handle that was made long after the run's end must be seen before it goes."""
    await world.imports.observe(world.create_run("order-1", idempotencyKey="7"))
    await _finish(world)
    await _status(world, "order-1")
    clock.advance(timedelta(hours=2))
    await world.imports.observe(world.create_run("order-2", idempotencyKey="7"))
    await _status(world, "order-2")
    await world.projection.remove_expired()
    assert world.cluster.deleted_runs == ["order-1"]
    clock.advance(timedelta(hours=2))
    await world.projection.remove_expired()
    assert world.cluster.deleted_runs == ["order-1", "order-2"]


async def test_a_run_with_a_payload_that_is_refused_keeps_no_key(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task(payload_schema={"type": "object"})
    await world.imports.observe(world.create_run("bad", idempotencyKey="7", payload=1))
    await world.imports.observe(world.create_run("good", idempotencyKey="7", payload={}))
    assert (await _status(world, "bad"))["reason"] == "PayloadInvalid"
    assert (await _status(world, "good"))["state"] == "Queued"


async def test_a_finished_run_that_a_person_deletes_and_creates_again_runs_again(world: World) -> None:
    body = world.create_run("order-1")
    await world.imports.observe(body)
    await _finish(world)
    world.cluster.runs.clear()
    await world.imports.observe(body, deleted=True)
    again = world.create_run("order-1")
    again["metadata"]["uid"] = "another"
    await world.imports.observe(again)
    assert await _count(world) == 2


async def test_nor_is_it_bound_when_nobody_saw_the_deletion(world: World, clock: Clock) -> None:
    await world.imports.observe(world.create_run("order-1"))
    await _finish(world)
    await _status(world, "order-1")
    world.cluster.runs.clear()
    clock.advance(timedelta(hours=2))
    await world.projection.remove_expired()
    again = world.create_run("order-1")
    again["metadata"]["uid"] = "another"
    await world.imports.observe(again)
    assert await _count(world) == 2


async def test_a_resource_that_is_bound_again_after_its_time_stays_for_that_time(world: World, clock: Clock) -> None:
    """Removed at once it would come back at once, for as long as a tool wants it there."""
    await world.imports.observe(world.create_run("order-1"))
    await _finish(world)
    await _status(world, "order-1")
    clock.advance(timedelta(hours=2))
    await world.projection.remove_expired()
    again = world.create_run("order-1")
    again["metadata"]["uid"] = "another"
    await world.imports.observe(again)
    await _status(world, "order-1")
    await world.projection.remove_expired()
    assert world.cluster.deleted_runs == ["order-1"], "once, before it was created again"
    assert await _count(world) == 1


async def test_a_run_that_is_refused_in_its_transaction_keeps_no_key(world: World) -> None:
    with pytest.raises(TaskNotFoundError):
        await world.submissions.trigger(SHOP, Submission(task="order", version=99, idempotency_key="7"))
    accepted = await world.submissions.trigger(SHOP, Submission(task="order", idempotency_key="7"))
    assert not accepted.deduplicated
    assert (await world.get(accepted.run_id))["state"] == "Queued"
