"""WorkerPools: pods follow what runs need, none that holds a run ever goes, and what is missing is visible."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.ledger.test_attempts import complete
from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.worker_pools import PoolWorld, a_pooled_task, name_head
from tests.support.world import SECOND, SHOP, World, a_task
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.ledger import gauges, worker_pools
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.projection import take_epoch
from windlass_operator.services.submitted import Submission

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


@pytest.fixture
async def pools(world: World) -> PoolWorld:
    """A pool's world; it leads."""
    epoch = await take_epoch(world.database, "test")
    world.pods = world.pod_service(epoch)
    return PoolWorld(world, epoch)


async def runs(world: World, count: int, **task: Any) -> None:
    for _ in range(count):
        await world.submit(a_pooled_task(**task))
    await name_head(world.database)


async def test_a_pool_has_the_pods_that_its_runs_need_and_none_without(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=4, maxReplicas=3)
    assert await pools.scale() == 0
    await runs(world, 9)

    assert await pools.scale() == 3
    assert await pools.scale() == 3, "those on their way count"

    await world.pods.start_due()
    assert len(world.cluster.pods) == 3, "no run of a pool gets a pod of its own"
    first = (await pools.pods())[0]
    assert (first["slots"], first["ahead"], first["name"].startswith("fast-")) == (4, True, True)


async def test_what_its_queue_holds_back_gets_no_pod(world: World, pools: PoolWorld) -> None:
    await pools.put()
    await world.put_queue(concurrency=1)
    await runs(world, 5)

    assert await pools.scale() == 1


async def test_an_idle_pod_goes_after_a_while_and_a_busy_one_never(
    world: World, pools: PoolWorld, clock: Clock
) -> None:
    await pools.put(scaleDownAfter="1m")
    await runs(world, 2)
    await pools.scale()
    one, two = await pools.pods()
    (held,) = (await pools.claim(one, "first")).attempts
    (done,) = (await pools.claim(two, "first")).attempts
    await world.attempts.complete(done.token, complete())

    assert await pools.scale() == 2
    clock.advance(MINUTE - SECOND)
    assert await pools.scale() == 2
    clock.advance(SECOND)
    assert await pools.scale() == 1
    assert [seen.name for seen in world.cluster.pods.values()] == [one["name"]], "the idle one is deleted"
    assert (await pools.claim(two, "second")).leave
    clock.advance(30 * MINUTE)
    await pools.scale()
    assert [seen.name for seen in world.cluster.pods.values()] == [one["name"]]
    await world.attempts.complete(held.token, complete())


async def test_a_claim_sets_the_time_back_from_which_a_pod_is_idle(
    world: World, pools: PoolWorld, clock: Clock
) -> None:
    await pools.put(scaleDownAfter="1m", standby=0)
    await runs(world, 1)
    await pools.scale()
    (pod,) = await pools.pods()
    for n in range(5):
        (attempt,) = (await pools.claim(pod, f"claim-{n}")).attempts
        await world.attempts.complete(attempt.token, complete())
        await pools.scale()
        clock.advance(40 * SECOND)
        await world.submit(a_pooled_task())
        assert await pools.scale() == 1
    assert pod["id"] == (await pools.pods())[0]["id"]


async def test_a_pod_whose_claim_came_first_is_not_drained(world: World, pools: PoolWorld, ledger_uri: str) -> None:
    """The decision to drain was made while the pod was idle; the claim committed in between."""
    await pools.put(minReplicas=1)
    await world.submit(a_pooled_task())
    await name_head(world.database)
    await pools.scale()
    (pod,) = await pools.pods()

    async with holding(ledger_uri, "SELECT id FROM pod WHERE id = %s FOR UPDATE", pod["id"]):
        assert await drain(world, pod, idle_only=True) == [], "its claim is being answered"
    (attempt,) = (await pools.claim(pod, "first")).attempts

    assert await drain(world, pod, idle_only=True) == []
    assert await drain(world, pod, idle_only=False) == [pod["id"]]
    assert await worker_pools.drained(world.database) == [], "a pod that holds a run is not deleted"
    await world.attempts.complete(attempt.token, complete())
    assert [row["id"] for row in await worker_pools.drained(world.database)] == [pod["id"]]


async def test_a_claim_that_comes_after_the_drain_takes_nothing(world: World, pools: PoolWorld) -> None:
    await pools.put()
    await runs(world, 1)
    await pools.scale()
    (pod,) = await pools.pods()
    assert await drain(world, pod, idle_only=True) == [pod["id"]]

    answer = await pools.claim(pod, "first")

    assert (answer.attempts, answer.leave) == ([], True)
    assert await pools.scale() == 1, "another pod takes its place"
    (fresh,) = [row for row in await pools.pods() if not row["draining"]]
    assert len((await pools.claim(fresh, "first")).attempts) == 1


async def drain(world: World, pod: dict[str, Any], *, idle_only: bool) -> list[Any]:
    async def work(connection: Connection) -> list[Any]:
        return await worker_pools.drain(connection, [pod["id"]], idle_only=idle_only)

    return await world.database.transaction(work)


async def test_pods_are_kept_for_the_newest_version_only(world: World, pools: PoolWorld) -> None:
    await pools.put(minReplicas=2)
    await runs(world, 1)
    await pools.scale()
    await pools.come_up()
    old = {row["id"] for row in await pools.pods()}
    assert len(old) == 2
    world.cluster.tasks[SHOP.namespace, "order"] = a_pooled_task(image="runner:next")
    await world.submissions.trigger(SHOP, Submission(task="order", payload=None))
    await name_head(world.database)

    await pools.scale()

    left = {row["id"] for row in await pools.pods() if not row["draining"]}
    assert len(left & old) == 1, "the one that has a run"
    assert len(left - old) == 1, "the fewest are two in all, and the new run needs one"


async def test_a_new_template_brings_new_pods_and_interrupts_nothing(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=2)
    await runs(world, 3)
    await pools.scale()
    one, two = await pools.pods()
    held = (await pools.claim(one, "first", 2)).attempts
    held += (await pools.claim(two, "first", 2)).attempts
    assert len(held) == 3

    await pools.put(slots=2, resources={"limits": {"memory": "1Gi"}})
    assert await pools.scale() == 4, "two of the old ones, two of the new ones"
    await pools.come_up()
    assert await pools.scale() == 2
    old = {one["id"], two["id"]}
    assert {row["id"] for row in await pools.pods() if row["draining"]} == old
    for attempt in held:
        await world.attempts.complete(attempt.token, complete())
    await pools.scale()
    assert not old & {row["id"] for row in await pools.pods()}


async def test_a_pod_that_has_taken_its_last_run_is_replaced(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=3, reuse={"maxRuns": 2})
    await runs(world, 3)
    assert await pools.scale() == 1
    (pod,) = await pools.pods()
    assert len((await pools.claim(pod, "first", 2)).attempts) == 2

    assert await pools.scale() == 2, "the run that is left finds no place in the first one"


async def test_edits_of_numbers_keep_the_pods(world: World, pools: PoolWorld) -> None:
    await pools.put()
    await runs(world, 1)
    await pools.scale()
    (pod,) = await pools.pods()
    await pools.put(maxReplicas=50, scaleDownAfter="1h", standby=1)

    await pools.scale()

    assert pod["id"] in {row["id"] for row in await pools.pods() if not row["draining"]}


async def test_a_number_that_somebody_sets_is_held(world: World, pools: PoolWorld) -> None:
    await pools.put(replicas=2, maxReplicas=1)
    await runs(world, 9)
    assert await pools.scale() == 2
    await pools.put(replicas=0)
    assert await pools.scale() == 0
    assert world.cluster.pods == {}


async def test_without_its_pool_a_run_waits_and_says_so(world: World, pools: PoolWorld) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_pooled_task()
    run_id = await world.apply_run()
    assert run_id is not None
    row = await world.get(run_id)
    assert row["reason"] == "PoolNotFound"
    assert row["message"] == (
        "There is no WorkerPool 'fast', which the Task names. Create it, or change the Task's pool."
    )
    assert await pools.scale() == 0

    await pools.put()
    assert await pools.scale() == 1
    assert (await world.get(run_id))["reason"] is None


async def test_the_status_of_a_run_follows_its_pool(world: World, pools: PoolWorld) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_pooled_task()
    await pools.put()
    await world.apply_run()

    async def shown() -> str | None:
        await pools.service.show({})
        await world.projection.project_due()
        found: str | None = world.cluster.statuses["order-1"]["reason"]
        return found

    assert await shown() is None
    await pools.delete()
    assert await shown() == "PoolNotFound"
    await pools.put()
    assert await shown() is None


async def test_a_run_of_a_missing_pool_takes_no_place_from_others(world: World) -> None:
    await world.put_queue("shared", concurrency=1)
    await world.submit(replace(a_pooled_task(), queue="shared"), name="lost")
    await world.submit(a_task(queue="shared"), name="other")

    await world.pods.start_due()

    assert len(world.cluster.pods) == 1


async def test_a_pool_that_is_deleted_lets_its_runs_finish(world: World, pools: PoolWorld) -> None:
    await pools.put(minReplicas=2)
    await runs(world, 1)
    await pools.scale()
    one, _ = await pools.pods()
    (attempt,) = (await pools.claim(one, "first")).attempts
    await pools.delete()

    await pools.scale()

    (left,) = await pools.pods()
    assert (left["id"], left["draining"]) == (one["id"], True)
    waiting = await world.submit(a_pooled_task())
    assert (await world.get(waiting))["reason"] == "PoolNotFound"
    await world.attempts.complete(attempt.token, complete())
    await pools.scale()
    assert await pools.pods() == []


async def test_a_pod_that_fails_holds_its_key_back_and_says_why(world: World, pools: PoolWorld, clock: Clock) -> None:
    await pools.put(minReplicas=3)
    await runs(world, 1)
    await pools.scale()
    for seen in list(world.cluster.pods.values()):
        await world.pods.observe(_failed(seen))
    clock.advance(SECOND / 10)

    assert await pools.scale() == 0, "it backs off"
    clock.advance(MINUTE)
    assert await pools.scale() == 1, "one try"
    status = await pools.status()
    (ready,) = status["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "ImagePullFailed")
    (row,) = await world.database.fetch("SELECT reason FROM run")
    assert row["reason"] == "ImagePullFailed"


async def test_a_pod_that_another_scheduler_holds_back_is_the_reason_of_its_runs(
    world: World, pools: PoolWorld
) -> None:
    """Kueue's label goes through the pool's template, and its gate comes back as a reason."""
    await pools.put(podTemplate={"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "batch"}}})
    await runs(world, 1)
    await pools.scale()
    (seen,) = world.cluster.pods.values()
    gate = "Scheduling is blocked due to non-empty scheduling gates"
    await world.pods.observe(replace(seen, reason="PodPending", message=gate))

    (row,) = await world.database.fetch("SELECT reason, message FROM run")
    assert (row["reason"], row["message"]) == ("PodPending", gate)
    assert await pools.scale() == 1, "it is waited for"


def _failed(seen: Any) -> Any:
    return replace(seen, ended=True, reason="ImagePullFailed", message="No such image.", exit_code=1)


async def test_a_lost_pod_loses_all_that_it_held_by_no_fault_of_the_code(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=3)
    await runs(world, 3)
    await pools.scale()
    (pod,) = await pools.pods()
    assert len((await pools.claim(pod, "first", 3)).attempts) == 3
    (seen,) = world.cluster.pods.values()

    await world.pods.observe(replace(seen, exists=False, ended=True))

    rows = await world.database.fetch("SELECT state, infra_failures, user_failures FROM run")
    assert [(row["state"], row["infra_failures"], row["user_failures"]) for row in rows] == [("Queued", 1, 0)] * 3
    assert await pools.pods() == []


async def test_the_status_counts_and_is_written_once(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=2, minReplicas=2)
    await runs(world, 3)
    await pools.scale()
    starting = await pools.status()
    assert starting["conditions"][0]["reason"] == "PodsStarting"
    one, two = await pools.pods()
    await pools.claim(one, "first", 2)
    await world.attempts.complete((await pools.claim(two, "first", 2)).attempts[0].token, complete())
    await pools.scale()

    status = await pools.status()

    counts = {key: value for key, value in status.items() if isinstance(value, int)}
    assert counts == {
        "replicas": 2,
        "ready": 2,
        "busy": 1,
        "idle": 1,
        "desired": 2,
        "running": 2,
        "queued": 0,
        "observedGeneration": 1,
    }
    assert status["selector"] == "app.kubernetes.io/managed-by=windlass,windlass.dev/pool=fast"
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [("Ready", "True", "Accepted")]
    written = pools.objects.written
    await pools.status()
    assert pools.objects.written == written


async def test_the_metrics_count_runs_and_pods_of_a_pool(world: World, pools: PoolWorld) -> None:
    await pools.put(slots=2)
    await runs(world, 3)
    await pools.scale()
    one, _ = await pools.pods()
    await pools.claim(one, "first", 2)

    counts = await gauges.count(world.database)

    assert counts.pool_runs == {("shop", "fast", "queued"): 1, ("shop", "fast", "running"): 2}
    pods = {("shop", "fast", "busy"): 1, ("shop", "fast", "idle"): 0, ("shop", "fast", "starting"): 1}
    assert counts.pool_pods == pods


async def test_a_pool_that_no_task_names_is_ready_and_one_that_cannot_be_read_is_stalled(pools: PoolWorld) -> None:
    await pools.put(minReplicas=2)
    await pools.scale()
    assert [(c["status"], c["reason"]) for c in (await pools.status())["conditions"]] == [("True", "NoTask")]

    await pools.put(minReplicas=5, maxReplicas=1)
    status = await pools.status()
    assert {c["type"]: c["reason"] for c in status["conditions"]} == {"Ready": "SpecInvalid", "Stalled": "SpecInvalid"}
    assert status["observedGeneration"] == 2


async def test_a_pool_whose_events_were_missed_is_found_by_the_resync(world: World, pools: PoolWorld) -> None:
    pools.objects.apply(SHOP.namespace, "fast", {"minReplicas": 1})
    await runs(world, 1)
    await pools.service.resync()
    assert await pools.scale() == 1
    pools.objects.bodies.clear()
    await pools.service.resync()
    assert await pools.scale() == 0


async def test_a_pod_whose_post_may_not_have_happened_is_posted_with_the_pools_template(
    world: World, pools: PoolWorld, clock: Clock
) -> None:
    await pools.put(resources={"limits": {"memory": "1Gi"}})
    await runs(world, 1)
    world.cluster.refuse = LedgerUnavailableError("the API server is away")
    await pools.scale()
    assert world.cluster.pods == {}
    world.cluster.refuse = None
    clock.advance(MINUTE)

    await world.pods.resume_plans()

    (pod,) = await pools.pods()
    assert [seen.name for seen in world.cluster.pods.values()] == [pod["name"]]
    assert await pools.scale() == 1
