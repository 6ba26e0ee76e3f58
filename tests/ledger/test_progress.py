"""One saved state for each run, more running time, and totalTimeout, on a real PostgreSQL."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, PayloadInvalidError, ValueNotStoredError
from windlass_operator.domain.ids import content_hash
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.services.projection import status_of

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def state(n: int, text: str) -> protocol.CheckpointRequest:
    return protocol.CheckpointRequest(n=n, state=msgspec.Raw(text.encode()))


async def retried(world: World, clock: Clock, attempt: protocol.ClaimedAttempt) -> protocol.ClaimedAttempt:
    """Fail an attempt and return the next one."""
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(60 * SECOND)
    (again,) = await world.claim(claim_id=f"claim-after-{attempt.number}")
    return again


async def test_the_last_state_is_brought_by_the_next_claim(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    assert (bytes(attempt.checkpoint), attempt.checkpoint_ref) == (b"", None)
    await world.progress.checkpoint(attempt.token, state(1, '{"page":1}'))
    await world.progress.checkpoint(attempt.token, state(2, '{"page":2}'))
    await world.progress.checkpoint(attempt.token, state(1, '{"page":"held up on its way"}'))
    second = await retried(world, clock, attempt)
    assert bytes(second.checkpoint) == b'{"page":2}'
    await world.progress.checkpoint(second.token, state(1, '{"page":3}'))
    assert bytes((await retried(world, clock, second)).checkpoint) == b'{"page":3}'


async def test_a_closed_attempt_saves_no_state_and_gets_no_time(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    second = await retried(world, clock, attempt)
    with pytest.raises(AttemptClosedError):
        await world.progress.checkpoint(attempt.token, state(9, "9"))
    with pytest.raises(AttemptClosedError):
        await world.progress.extend_timeout(attempt.token, protocol.ExtendRequest(added_ms=1))
    assert bytes((await retried(world, clock, second)).checkpoint) == b""


async def test_a_state_that_is_no_json_or_not_stored_is_refused(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    with pytest.raises(PayloadInvalidError):
        await world.progress.checkpoint(attempt.token, state(1, "{nonsense"))
    missing = protocol.CheckpointRequest(n=1, state_ref=protocol.BlobRef(sha256="0" * 64, size=70_000))
    with pytest.raises(ValueNotStoredError):
        await world.progress.checkpoint(attempt.token, missing)


async def test_a_large_state_is_a_blob_and_the_one_before_leaves_no_bytes_behind(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    writer = await world.attempts.authenticate(attempt.token)
    for n in (1, 2):
        data = b'"' + b"x" * (70_000 + n) + b'"'
        ref = await world.blobs.put(writer, hashlib.sha256(data).hexdigest(), data)
        await world.progress.checkpoint(attempt.token, protocol.CheckpointRequest(n=n, state_ref=ref))
    (stored,) = await world.database.fetch("SELECT size FROM blob")
    assert stored["size"] == 70_004
    assert (await retried(world, clock, attempt)).checkpoint_ref == ref


async def test_equal_bytes_that_are_also_a_steps_result_stay(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    writer = await world.attempts.authenticate(attempt.token)
    data = b'"' + b"x" * 70_000 + b'"'
    ref = await world.blobs.put(writer, hashlib.sha256(data).hexdigest(), data)
    step = protocol.Step(key="a", name="a", args_hash="a", state="succeeded", result_ref=ref)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
    await world.progress.checkpoint(attempt.token, protocol.CheckpointRequest(n=1, state_ref=ref))
    await world.progress.checkpoint(attempt.token, state(2, "1"))
    assert await world.blobs.get(writer.project_uid, writer.run_id, ref.sha256) == data


async def test_added_time_is_told_by_heartbeats_and_counts_for_the_run_and_its_next_attempts(
    world: World, clock: Clock
) -> None:
    await world.submit(a_task(timeout=10 * SECOND, attempt_timeout=8 * SECOND))
    (attempt,) = await world.claim()
    for total in (20_000, 20_000, 50_000):  # a repeat adds nothing
        await world.progress.extend_timeout(attempt.token, protocol.ExtendRequest(added_ms=total))
    beats = protocol.HeartbeatRequest(beats=[protocol.Beat(token=attempt.token)])
    (answer,) = (await world.attempts.heartbeat(beats)).answers
    assert (answer.run_added_ms, answer.attempt_added_ms) == (50_000, 50_000)
    clock.advance(30 * SECOND)
    second = await retried(world, clock, attempt)
    assert (second.timeout_ms, second.added_ms, second.attempt_timeout_ms) == (30_000, 50_000, 8_000)
    # It runs the same code again, so it says the same again.
    await world.progress.extend_timeout(second.token, protocol.ExtendRequest(added_ms=50_000))
    beats = protocol.HeartbeatRequest(beats=[protocol.Beat(token=second.token)])
    (answer,) = (await world.attempts.heartbeat(beats)).answers
    assert (answer.run_added_ms, answer.attempt_added_ms) == (50_000, 50_000)


async def test_running_time_that_was_added_keeps_a_run_from_timing_out(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(timeout=10 * SECOND))
    (attempt,) = await world.claim()
    await world.progress.extend_timeout(attempt.token, protocol.ExtendRequest(added_ms=60_000))
    clock.advance(20 * SECOND)
    assert (await world.attempts.fail(attempt.token, a_failure())).state == "Queued"
    assert (await world.get(run_id))["state"] == "Queued"


async def with_limit(world: World, **changes: Any) -> UUID:
    return await world.submit(a_task(total_timeout=HOUR, retry=RetryPolicy(jitter="none"), **changes))


async def test_total_timeout_ends_a_run_that_is_queued_waiting_or_suspended(world: World, clock: Clock) -> None:
    queued = await with_limit(world)
    for report in ("waiting", "suspended"):
        (attempt,) = await world.claim(claim_id=report)
        if report == "waiting":
            wait = protocol.Wait(key="sleep", name="sleep", args_hash="a", kind="sleep", due_in_ms=86_400_000)
            await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[wait]))
            await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=["sleep"]))
        else:
            failure = protocol.Failure(
                type="DivergenceError", message="m", failure_class="permanent", reason="Divergence"
            )
            await world.attempts.fail(attempt.token, protocol.FailRequest(failure=failure))
        if report == "waiting":
            await with_limit(world)
    await with_limit(world)
    states = await world.database.fetch("SELECT state FROM run ORDER BY id")
    assert [row["state"] for row in states] == ["Waiting", "Suspended", "Queued"]
    clock.advance(HOUR - SECOND)
    assert await world.progress.end_overdue() == 0
    clock.advance(SECOND)
    assert await world.progress.end_overdue() == 3
    assert await world.progress.end_overdue() == 0
    row = await world.get(queued)
    assert (row["state"], row["reason"]) == ("TimedOut", "TotalTimedOut")
    assert status_of(row)["message"] == "The run had not ended within totalTimeout (1h), waits included."
    assert await world.database.fetch("SELECT run_id FROM queue_entry UNION ALL SELECT run_id FROM wait") == []


async def test_total_timeout_lets_finished_steps_be_undone_first(world: World, clock: Clock) -> None:
    run_id = await with_limit(world)
    (attempt,) = await world.claim()
    step = a_step("charge")
    step.compensation = msgspec.Raw(b'{"module": "order", "arguments": {}}')
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(HOUR)
    assert await world.progress.end_overdue() == 1
    row = await world.get(run_id)
    assert (row["state"], row["ends_as"], row["reason"]) == ("Compensating", "TimedOut", "TotalTimedOut")
    assert await world.progress.end_overdue() == 0


async def test_a_running_attempt_learns_of_total_timeout_and_is_retried_no_more(world: World, clock: Clock) -> None:
    run_id = await with_limit(world)
    clock.advance(HOUR / 2)
    (attempt,) = await world.claim()
    assert attempt.deadline_ms == HOUR.total_seconds() * 1000 / 2
    clock.advance(HOUR / 2)
    assert await world.progress.end_overdue() == 0  # its runner ends it, or the reaper
    assert (await world.attempts.fail(attempt.token, a_failure("infra"))).state == "TimedOut"
    assert (await world.get(run_id))["reason"] == "TotalTimedOut"


async def test_total_timeout_counts_from_acceptance_also_where_the_task_came_later_or_was_changed(
    world: World, clock: Clock
) -> None:
    run_id = await world.apply_run()
    assert run_id is not None
    clock.advance(60 * SECOND)
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task(total_timeout=HOUR)
    assert await world.submissions.task_seen(SHOP, "order") == 1
    row = await world.get(run_id)
    assert row["deadline_at"] - row["created_at"] == HOUR


async def test_a_task_without_the_field_keeps_the_version_that_an_older_release_gave_it(world: World) -> None:
    run_id = await world.submit()
    (row,) = await world.database.fetch("SELECT spec, spec_hash FROM task_version")
    older = {
        name: value
        for name, value in json.loads(row["spec"]).items()
        if name not in {"total_timeout", "queue", "priority", "standby"}
    }
    del older["pod"]["pool"]
    assert content_hash(older) == row["spec_hash"]
    assert (await world.get(run_id))["version"] == 1
