"""Queues: limits are exact, a waiting run gives its place back, and what holds a run is always visible."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.ledger.test_attempts import complete
from tests.support.clock import Clock
from tests.support.world import SHOP, World, a_task
from windlass import protocol
from windlass_operator.domain.errors import QueueFullError
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.intake import When
from windlass_operator.services.submitted import Submission

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def claim_all(world: World) -> list[protocol.ClaimedAttempt]:
    """Start the pods that may start, and claim with each."""
    before = set(world.cluster.pods)
    await world.pods.start_due()
    claimed = []
    for uid, seen in world.cluster.pods.items():
        if uid not in before:
            claimed += await world.attempts.claim(world.identity(seen), f"claim-{uid}", 1)
    return claimed


async def reason(world: World, run_id: UUID) -> str | None:
    found: str | None = (await world.get(run_id))["reason"]
    return found


async def test_no_more_pods_and_attempts_start_than_the_queue_allows(world: World) -> None:
    await world.put_queue(concurrency=2)
    ids = [await world.submit() for _ in range(5)]

    first = await claim_all(world)

    assert [attempt.run_id for attempt in first] == [str(run_id) for run_id in ids[:2]]
    assert len(world.cluster.pods) == 2
    assert await claim_all(world) == []
    await world.attempts.complete(first[0].token, complete())
    assert [attempt.run_id for attempt in await claim_all(world)] == [str(ids[2])]


async def test_a_pod_that_is_there_takes_no_run_beyond_the_limit(world: World) -> None:
    """The planner counts; the claim decides."""
    await world.submit()
    await world.submit()
    await world.pods.start_due()
    await world.put_queue(concurrency=1)
    one, two = world.cluster.pods.values()

    assert len(await world.attempts.claim(world.identity(one), "claim-1", 1)) == 1
    assert await world.attempts.claim(world.identity(two), "claim-2", 1) == []


async def test_a_run_that_waits_gives_its_place_to_the_next(world: World) -> None:
    await world.put_queue(concurrency=1)
    await world.submit()
    second = await world.submit()
    (sleeper,) = await claim_all(world)
    nap = protocol.Wait(key="nap", name="nap", args_hash="a", kind="sleep", due_in_ms=3_600_000)
    await world.waits.register(sleeper.token, protocol.WaitsRequest(waits=[nap]))
    await world.waits.suspend(sleeper.token, protocol.SuspendRequest(waits=["nap"]))

    (attempt,) = await claim_all(world)

    assert attempt.run_id == str(second)


async def test_tasks_share_the_queue_that_they_name(world: World) -> None:
    await world.put_queue("payments", concurrency=1)
    await world.submit(a_task(queue="payments"), name="charge")
    refund = await world.submit(a_task(queue="payments"), name="refund")

    assert len(await claim_all(world)) == 1
    assert await reason(world, refund) == "ConcurrencyLimit"


async def test_a_paused_queue_lets_nothing_start_and_says_so(world: World) -> None:
    run_id = await world.submit()
    await world.put_queue(paused=True)

    assert await claim_all(world) == []
    assert await reason(world, run_id) == "Paused"

    await world.put_queue(paused=False)
    assert len(await claim_all(world)) == 1


async def test_a_task_that_names_a_queue_waits_until_there_is_one(world: World) -> None:
    run_id = await world.submit(a_task(queue="payments"))

    assert await claim_all(world) == []
    row = await world.get(run_id)
    assert row["reason"] == "QueueNotFound"
    assert "There is no Queue 'payments'" in row["message"]

    await world.put_queue("payments", concurrency=1)
    assert len(await claim_all(world)) == 1


async def test_the_limits_of_a_deleted_queue_go_with_it(world: World) -> None:
    await world.put_queue(paused=True)
    await world.submit()
    body = world.queue_objects.bodies.pop((SHOP.namespace, "order"))

    await world.queues.observe(body, deleted=True)

    assert len(await claim_all(world)) == 1


async def test_events_that_were_missed_are_made_good_by_the_resync(world: World) -> None:
    await world.submit()
    world.queue_objects.apply(SHOP.namespace, "order", {"paused": True})
    await world.queues.resync()
    assert await claim_all(world) == []

    world.queue_objects.bodies.clear()
    await world.queues.resync()
    assert len(await claim_all(world)) == 1


async def test_an_event_that_comes_late_does_not_undo_a_later_one(world: World) -> None:
    early = world.queue_objects.apply(SHOP.namespace, "order", {"paused": False})
    await world.put_queue(paused=True)

    await world.queues.observe(early)

    await world.submit()
    assert await claim_all(world) == []


async def test_a_queue_whose_spec_is_junk_keeps_its_limits_and_says_what_is_wrong(world: World) -> None:
    await world.put_queue(paused=True)
    await world.put_queue(concurrency="many", paused=False)
    await world.submit()

    await world.queues.show()

    assert await claim_all(world) == []
    conditions = world.queue_objects.bodies[SHOP.namespace, "order"]["status"]["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [("Ready", "False"), ("Stalled", "True")]
    assert "spec.concurrency" in conditions[0]["message"]


async def test_priority_is_a_head_start_in_seconds(world: World, clock: Clock) -> None:
    await world.put_queue("shared", concurrency=1)
    await world.submit(a_task(queue="shared"), name="plain")
    clock.advance(59 * timedelta(seconds=1))
    urgent = await world.submit(a_task(queue="shared", priority=60), name="urgent")

    (attempt,) = await claim_all(world)

    assert attempt.run_id == str(urgent)


async def test_a_delayed_run_starts_when_its_time_has_come(world: World, clock: Clock) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    wanted = Submission(task="order", when=When(delay=10 * MINUTE))
    run_id = (await world.submissions.trigger(SHOP, wanted)).run_id

    assert await claim_all(world) == []
    assert await reason(world, run_id) == "Delayed"
    clock.advance(10 * MINUTE)
    assert len(await claim_all(world)) == 1


async def test_a_start_in_the_past_is_now(world: World) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    wanted = Submission(task="order", when=When(start_at=datetime(2020, 1, 1, tzinfo=UTC)))
    await world.submissions.trigger(SHOP, wanted)

    assert len(await claim_all(world)) == 1


async def test_a_run_that_did_not_begin_in_time_expires(world: World, clock: Clock) -> None:
    await world.put_queue(paused=True)
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    wanted = Submission(task="order", when=When(delay=MINUTE, queue_ttl=MINUTE))
    run_id = (await world.submissions.trigger(SHOP, wanted)).run_id
    clock.advance(MINUTE)
    assert await world.runs.expire_due() == 0
    clock.advance(MINUTE)
    await world.put_queue(paused=False)

    assert await claim_all(world) == [], "too late: nobody may take it any more"
    assert await world.runs.expire_due() == 1

    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Expired", "QueueTTLExpired")


async def test_a_run_that_has_begun_never_expires(world: World, clock: Clock) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    wanted = Submission(task="order", when=When(queue_ttl=MINUTE))
    await world.submissions.trigger(SHOP, wanted)
    (attempt,) = await claim_all(world)
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    clock.advance(2 * MINUTE)

    assert await world.runs.expire_due() == 0
    assert len(await claim_all(world)) == 1


async def test_a_full_queue_refuses_one_more(world: World) -> None:
    await world.put_queue(paused=True, maxLength=2)
    await world.submit()
    await world.submit()

    with pytest.raises(QueueFullError, match=r"queue 'order' as its maxLength allows \(2\)"):
        await world.submit()
    run_id = await world.apply_run(name="one-more")
    assert run_id is not None
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "QueueFull")


async def test_the_status_of_a_queue_says_how_full_it_is(world: World, clock: Clock) -> None:
    await world.put_queue(concurrency=1)
    await world.submit()
    await claim_all(world)
    await world.submit()
    waits_since = clock.now()
    clock.advance(MINUTE)
    await world.submissions.trigger(SHOP, Submission(task="order", when=When(delay=MINUTE)))

    await world.queues.show()
    await world.queues.show()

    status = world.queue_objects.bodies[SHOP.namespace, "order"]["status"]
    assert (status["running"], status["queued"], status["delayed"]) == (1, 1, 1)
    assert datetime.fromisoformat(status["oldest"]) == waits_since
    assert world.queue_objects.written == 1, "what has not changed is not written again"


async def test_the_status_of_a_run_follows_its_queue(world: World) -> None:
    """Nothing in the run's own row changes when its queue is paused."""
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    await world.apply_run()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["reason"] is None

    await world.put_queue(paused=True)
    await world.queues.show()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["reason"] == "Paused"

    await world.queues.show()
    assert await world.projection.project_due() == 0, "and it is written once"

    await world.put_queue(paused=False)
    await world.queues.show()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["reason"] is None
