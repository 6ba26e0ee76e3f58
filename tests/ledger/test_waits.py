"""Durable waits on a real PostgreSQL: a run that waits holds nothing, and nothing that ends a wait is lost."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.world import SECOND, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger import waits
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.runs import Value
from windlass_operator.ledger.waits import Outcome

_LOCK_RUN = "SELECT 1 FROM run WHERE id = %s FOR UPDATE"
HOUR = timedelta(hours=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def a_sleep(key: str = "sleep", *, lasts: timedelta = HOUR) -> protocol.Wait:
    return protocol.Wait(key=key, name=key, args_hash="a", kind="sleep", due_in_ms=lasts.total_seconds() * 1000)


def for_event(key: str, *, timeout: timedelta | None = None) -> protocol.Wait:
    due = None if timeout is None else timeout.total_seconds() * 1000
    return protocol.Wait(key=key, name=key, args_hash="a", kind="event", target="paid", due_in_ms=due)


async def begin(world: World, token: str, *asked: protocol.Wait) -> list[protocol.Step]:
    return (await world.waits.register(token, protocol.WaitsRequest(waits=list(asked)))).over


async def suspend(world: World, token: str, *keys: str, groups: Any = ()) -> protocol.SuspendAnswer:
    return await world.waits.suspend(token, protocol.SuspendRequest(waits=list(keys), groups=list(groups)))


async def asleep(world: World, *asked: protocol.Wait, groups: Any = ()) -> tuple[UUID, protocol.ClaimedAttempt]:
    """Return a run that waits, and the attempt that it waited in."""
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, *asked)
    assert (await suspend(world, attempt.token, *(wait.key for wait in asked), groups=groups)).suspended
    return run_id, attempt


async def settle(world: World, *outcomes: Outcome) -> list[UUID]:
    async def work(connection: Any) -> list[UUID]:
        return await waits.settle(connection, outcomes)

    return await world.database.transaction(work)


async def rows(world: World, table: str) -> list[dict[str, Any]]:
    return await world.database.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a test's own word


async def test_a_sleeping_run_holds_no_attempt_and_says_until_when(world: World) -> None:
    run_id, attempt = await asleep(world, a_sleep())
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForTimer")
    assert row["message"] == "Waiting until 2030-01-01T13:00:00Z. No pod is held meanwhile."
    assert [a["outcome"] for a in await world.runs.attempts(run_id)] == ["Waiting"]
    assert await rows(world, "queue_entry") == []
    with pytest.raises(AttemptClosedError):
        await begin(world, attempt.token, a_sleep("another"))


async def test_a_timer_wakes_its_run_at_its_time_and_not_before(world: World, clock: Clock) -> None:
    run_id, _ = await asleep(world, a_sleep())
    clock.advance(HOUR - SECOND)
    assert await world.waits.fire_due() == SECOND
    assert (await world.get(run_id))["state"] == "Waiting"
    clock.advance(SECOND)
    await world.waits.fire_due()
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["user_failures"], row["infra_failures"]) == ("Queued", None, 0, 0)
    (attempt,) = await world.claim(claim_id="claim-2")
    assert [(step.key, step.state, step.kind) for step in attempt.steps] == [("sleep", "succeeded", "sleep")]
    assert [e["type"] for e in await world.runs.events(run_id, after=0, limit=9)] == [
        "Queued",
        "Running",
        "Waiting",
        "Woken",
        "Running",
    ]


async def test_waiting_uses_no_running_time(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(timeout=timedelta(minutes=1)))
    (attempt,) = await world.claim()
    clock.advance(10 * SECOND)
    await begin(world, attempt.token, a_sleep())
    await suspend(world, attempt.token, "sleep")
    clock.advance(HOUR)
    await world.waits.fire_due()
    (again,) = await world.claim(claim_id="claim-2")
    assert again.timeout_ms == 50_000
    assert (await world.attempts.complete(again.token, protocol.CompleteRequest())).state == "Succeeded"
    assert (await world.get(run_id))["running_ms"] == 10_000


async def test_a_wait_that_has_begun_keeps_its_time_over_a_crash(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, a_sleep())
    clock.advance(HOUR / 2)
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(10 * SECOND)
    (again,) = await world.claim(claim_id="claim-2")
    assert await begin(world, again.token, a_sleep()) == []
    clock.advance(HOUR / 2 - 10 * SECOND)
    await world.waits.fire_due()
    assert [step.state for step in await begin(world, again.token, a_sleep())] == ["succeeded"]


async def test_a_wait_that_is_over_before_the_run_suspends_lets_it_go_on(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, a_sleep())
    clock.advance(HOUR)
    await world.waits.fire_due()
    assert (await world.get(run_id))["state"] == "Running"
    answer = await suspend(world, attempt.token, "sleep")
    assert (answer.suspended, [step.key for step in answer.over]) == (False, ["sleep"])
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("still-open")]))


async def test_suspending_is_answered_again_as_it_was(world: World) -> None:
    _, attempt = await asleep(world, a_sleep())
    assert (await suspend(world, attempt.token, "sleep")).suspended


async def test_a_timeout_ends_a_wait_for_an_event_as_a_failure_that_history_keeps(world: World, clock: Clock) -> None:
    await asleep(world, for_event("event", timeout=HOUR))
    clock.advance(HOUR)
    await world.waits.fire_due()
    (attempt,) = await world.claim(claim_id="claim-2")
    (step,) = attempt.steps
    assert (step.state, step.durable, step.error and step.error.type) == ("failed", True, "WaitTimeoutError")


async def test_what_ends_a_wait_reaches_the_code_and_a_second_end_changes_nothing(world: World) -> None:
    run_id, _ = await asleep(world, for_event("event"))
    assert await settle(world, Outcome(run_id=run_id, key="event", result=Value(text='{"n":1}'))) == [run_id]
    assert await settle(world, Outcome(run_id=run_id, key="event", result=Value(text='{"n":2}'))) == []
    (attempt,) = await world.claim(claim_id="claim-2")
    assert [bytes(step.result) for step in attempt.steps] == [b'{"n":1}']


async def test_a_run_wakes_once_for_a_group_of_waits(world: World) -> None:
    keys = ["a", "b", "c"]
    run_id, _ = await asleep(world, *(for_event(key) for key in keys), groups=[keys])
    for key in keys[:2]:
        await settle(world, Outcome(run_id=run_id, key=key))
        assert (await world.get(run_id))["state"] == "Waiting"
    await settle(world, Outcome(run_id=run_id, key="c"))
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_failure_within_a_group_wakes_at_once(world: World) -> None:
    run_id, _ = await asleep(world, for_event("a"), for_event("b"), groups=[["a", "b"]])
    failure = protocol.Failure(type="RunFailedError", message="no")
    await settle(world, Outcome(run_id=run_id, key="a", failure=failure))
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_wait_outside_the_group_wakes_by_itself(world: World) -> None:
    run_id, _ = await asleep(world, for_event("a"), for_event("b"), for_event("c"), groups=[["a", "b"]])
    await settle(world, Outcome(run_id=run_id, key="c"))
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_waiting_run_is_cancelled_at_once_and_leaves_nothing(world: World, clock: Clock) -> None:
    run_id, _ = await asleep(world, a_sleep())
    assert await world.runs.cancel(run_id, reason="Cancelled", message="") == "Cancelled"
    assert await rows(world, "wait") == []
    assert await world.runs.steps(run_id, after=0, limit=9) == []
    clock.advance(HOUR)
    await world.waits.fire_due()
    assert (await world.get(run_id))["state"] == "Cancelled"


async def test_a_run_that_is_cancelled_just_before_it_suspends_ends_there(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, a_sleep())
    assert await world.runs.cancel(run_id, reason="Cancelled", message="") == "Cancelling"
    assert (await suspend(world, attempt.token, "sleep")).suspended
    assert (await world.get(run_id))["state"] == "Cancelled"


async def test_a_failed_attempt_leaves_the_waits_of_its_other_branches(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(retry=RetryPolicy(max_attempts=2, min_delay=timedelta(0), jitter="none")))
    (attempt,) = await world.claim()
    await begin(world, attempt.token, a_sleep())
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(HOUR)
    await world.waits.fire_due()
    (again,) = await world.claim(claim_id="claim-2")
    assert [step.key for step in again.steps] == ["sleep"]
    assert (await world.get(run_id))["attempts"] == 2


@pytest.mark.parametrize("first", ["suspend", "settle"])
async def test_an_end_that_meets_the_suspension_is_never_lost(world: World, ledger_uri: str, first: str) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, for_event("event"))
    ends = Outcome(run_id=run_id, key="event")
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        tasks: list[asyncio.Task[Any]] = []
        for n, kind in enumerate([first, "settle" if first == "suspend" else "suspend"], 1):
            call = settle(world, ends) if kind == "settle" else suspend(world, attempt.token, "event")
            tasks.append(asyncio.create_task(call))
            await run.waited_for(n)
    await asyncio.gather(*tasks)
    state = (await world.get(run_id))["state"]
    assert state == ("Queued" if first == "suspend" else "Running")


async def test_two_ends_of_a_group_that_meet_wake_the_run(world: World, ledger_uri: str) -> None:
    run_id, _ = await asleep(world, for_event("a"), for_event("b"), groups=[["a", "b"]])
    async with holding(ledger_uri, _LOCK_RUN, run_id) as run:
        ends = [asyncio.create_task(settle(world, Outcome(run_id=run_id, key=key))) for key in "ab"]
        await run.waited_for(2)
    await asyncio.gather(*ends)
    assert (await world.get(run_id))["state"] == "Queued"


async def test_two_replicas_ring_a_thousand_timers_once_and_in_few_statements(world: World, clock: Clock) -> None:
    for n in range(3):
        await world.submit()
        (attempt,) = await world.claim(claim_id=f"claim-{n}")
        many = [a_sleep(f"sleep-{i}") for i in range(400)]
        await begin(world, attempt.token, *many)
        await suspend(world, attempt.token, *(wait.key for wait in many))
    clock.advance(HOUR)
    before = metrics.REGISTRY.get_sample_value("windlass_ledger_seconds_count", {"kind": "transaction"}) or 0
    while await rows(world, "wait"):
        await asyncio.gather(world.waits.fire_due(), world.waits.fire_due())
    after = metrics.REGISTRY.get_sample_value("windlass_ledger_seconds_count", {"kind": "transaction"}) or 0
    assert after - before < 20
    assert {row["state"] for row in await rows(world, "run")} == {"Queued"}
    assert len(await rows(world, "queue_entry")) == 3


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        (protocol.Wait(key="w", name="w", args_hash="", kind="event"), "would never be over"),
        (protocol.Wait(key="w", name="w", args_hash="", kind="step", due_in_ms=1), "no kind of wait"),
        (protocol.Wait(key="w", name="w", args_hash="", kind="sleep", due_at="soon"), "no ISO 8601 time"),
        (protocol.Wait(key="w", name="w", args_hash="", kind="sleep", due_at="2030-01-01T00:00"), "with an offset"),
    ],
)
async def test_a_wait_that_makes_no_sense_is_refused_in_words(world: World, wait: protocol.Wait, says: str) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    with pytest.raises(InvalidRequestError, match=says):
        await begin(world, attempt.token, wait)


async def test_a_step_that_claims_to_wait_is_refused(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    step = msgspec.structs.replace(a_step("x"), state="waiting", result=protocol.ABSENT)
    with pytest.raises(InvalidRequestError, match="POST waits"):
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))


async def test_the_resource_of_a_waiting_run_says_what_it_waits_for(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task()
    await world.apply_run()
    (attempt,) = await world.claim()
    await begin(world, attempt.token, for_event("event"))
    await suspend(world, attempt.token, "event")
    await world.projection.project_due()
    status = world.cluster.statuses["order-1"]
    assert (status["state"], status["reason"]) == ("Waiting", "WaitingForEvent")
    assert status["message"] == "Waiting for event 'paid'. No pod is held meanwhile."
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Succeeded": "Unknown", "Finished": "False"}


async def test_a_timed_out_wait_that_ended_the_attempt_begins_again_with_its_whole_time(
    world: World, clock: Clock
) -> None:
    run_id, attempt = await asleep(world, for_event("paid", timeout=HOUR), for_event("caught", timeout=HOUR))
    clock.advance(HOUR)
    await world.waits.fire_due()
    (attempt,) = await world.claim(claim_id="claim-2")
    assert [step.state for step in attempt.steps] == ["failed", "failed"]
    await world.attempts.fail(attempt.token, msgspec.structs.replace(a_failure(), rerun=["paid"]))
    clock.advance(HOUR)
    (attempt,) = await world.claim(claim_id="claim-3")
    assert [step.key for step in attempt.steps] == ["caught"]
    assert await begin(world, attempt.token, for_event("paid", timeout=HOUR)) == []
    assert (await suspend(world, attempt.token, "paid")).suspended
    clock.advance(HOUR - SECOND)
    await world.waits.fire_due()
    assert (await world.get(run_id))["state"] == "Waiting"
    clock.advance(2 * SECOND)
    await world.waits.fire_due()
    assert (await world.get(run_id))["state"] == "Queued"


async def test_one_look_tells_of_timers_events_and_tokens_that_nobody_was_told_of(
    world: World, clock: Clock, database: Database
) -> None:
    assert (await world.attempts.serve_heartbeats()).due_in is None
    await asleep(world, a_sleep("nap", lasts=60 * SECOND))
    clock.advance(20 * SECOND)
    found = await world.attempts.serve_heartbeats()
    assert (found.due_in, found.undelivered) == (40.0, False)
    await database.fetch("INSERT INTO event_name (project_id, name) SELECT id, 'paid' FROM project")
    await database.fetch(
        "INSERT INTO sent_event (project_id, name, id, payload) SELECT id, 'paid', '1', 'null' FROM project"
    )
    assert (await world.attempts.serve_heartbeats()).undelivered


async def test_what_another_replica_has_just_said_of_heartbeats_is_not_written_again(
    world: World, clock: Clock, database: Database
) -> None:
    statement = "SELECT xmin::text AS version FROM heartbeat_service"
    await world.attempts.serve_heartbeats()
    (before,) = await database.fetch(statement)
    clock.advance(SECOND)
    await world.attempts.serve_heartbeats(1.5 * SECOND)
    assert await database.fetch(statement) == [before]
    clock.advance(SECOND)
    await world.attempts.serve_heartbeats(1.5 * SECOND)
    assert await database.fetch(statement) != [before]


async def test_whoever_begins_a_sleep_tells_who_rings(world: World) -> None:
    told: list[float] = []
    world.waits.timer_set = told.append
    await asleep(world, a_sleep("nap", lasts=SECOND / 4))
    assert told == [0.25]
