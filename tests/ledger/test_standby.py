"""Pods that are kept ready, on a real PostgreSQL: how many there are, for which Tasks, and when they go."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_task
from windlass import protocol
from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import gauges, heads
from windlass_operator.ledger.database import Database
from windlass_operator.services.submitted import Submission


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def warm(standby: int = 1, *, image: str = "runner:test", **changes: Any) -> TaskSnapshot:
    parts = PodParts(image=image, preload=None, source_hash="0" * 16)
    return a_task(pod=parts, standby=standby, **changes)


def the_pods(world: World) -> list[PodSeen]:
    return list(world.cluster.pods.values())


async def ask(world: World, seen: PodSeen) -> protocol.ClaimResponse:
    return await world.attempts.ask(world.identity(seen), f"claim-of-{seen.uid}", 1)


async def rows(world: World) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in await world.database.fetch("SELECT * FROM pod")}


async def images(world: World) -> list[str]:
    found = await world.database.fetch("SELECT uid, parts FROM pod JOIN pod_key k ON k.key = pod_key")
    return sorted(msgspec.json.decode(r["parts"])["image"] for r in found if r["uid"] in world.cluster.pods)


async def settle(world: World) -> None:
    """Start what is due until nothing is, every pod asking for work meanwhile."""
    for _ in range(4):
        await world.pods.start_due()
        for seen in the_pods(world):
            await ask(world, seen)


async def trigger(world: World, name: str = "order") -> str:
    return str((await world.submissions.trigger(SHOP, Submission(task=name, payload=None))).run_id)


async def test_a_task_with_standby_has_its_pods_before_any_run(world: World) -> None:
    await world.apply_task(warm(2))
    await settle(world)
    assert len(the_pods(world)) == 2
    assert all(row["ahead"] for row in (await rows(world)).values())
    for seen in the_pods(world):
        assert await ask(world, seen) == protocol.ClaimResponse(again=True)


async def test_a_task_without_standby_has_none(world: World) -> None:
    await world.apply_task()
    await settle(world)
    assert not the_pods(world)


async def test_a_run_takes_a_waiting_pod_and_another_one_is_started_in_its_place(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    (first,) = the_pods(world)
    run_id = await trigger(world)
    answer = await ask(world, first)
    assert [attempt.run_id for attempt in answer.attempts] == [run_id]
    assert not answer.again
    await world.pods.start_due()
    assert len(the_pods(world)) == 2
    row = await world.runs.get(SHOP, run_id)
    assert (row["state"], row["reason"]) == ("Running", None)


async def test_the_place_of_a_pod_is_filled_while_the_run_that_will_take_it_is_still_queued(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    await trigger(world)
    await world.pods.start_due()
    await world.pods.start_due()
    assert [row["ahead"] for row in (await rows(world)).values()] == [True, True]


async def test_a_burst_gets_pods_of_its_own_beyond_those_that_wait(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    for _ in range(4):
        await trigger(world)
    await world.pods.start_due()
    kinds = sorted(row["ahead"] for row in (await rows(world)).values())
    assert kinds == [False, False, False, True, True]


async def test_two_tasks_of_one_key_keep_as_many_as_both_ask_for(world: World) -> None:
    await world.apply_task(warm(1), name="order")
    await world.apply_task(warm(2, entrypoint="order:other"), name="other")
    await settle(world)
    assert len(the_pods(world)) == 3


async def test_fewer_pods_are_kept_when_standby_is_lowered_and_none_at_zero(world: World) -> None:
    await world.apply_task(warm(3))
    await settle(world)
    await world.apply_task(warm(1))
    await settle(world)
    assert len(the_pods(world)) == 1
    await world.apply_task(warm(0))
    await settle(world)
    assert not the_pods(world)


async def test_standby_makes_no_version(world: World) -> None:
    for n in (0, 1, 2):
        await world.apply_task(warm(n))
    assert [s["version"] for s in world.cluster.task_statuses] == [1, 1, 1]


async def test_pods_go_with_their_task(world: World) -> None:
    await world.apply_task(warm(2))
    await settle(world)
    await world.delete_task()
    await settle(world)
    assert not the_pods(world)


async def test_a_deletion_that_nobody_saw_is_found_by_the_resync(world: World) -> None:
    await world.apply_task(warm(2))
    await settle(world)
    await world.delete_task(seen=False)
    await settle(world)
    assert len(the_pods(world)) == 2
    await world.tasks.resync()
    await settle(world)
    assert not the_pods(world)


async def test_a_task_and_an_edit_that_nobody_saw_are_found_by_the_resync(world: World) -> None:
    await world.apply_task(warm(1), seen=False)
    await world.tasks.resync()
    await settle(world)
    assert len(the_pods(world)) == 1
    await world.apply_task(warm(2), seen=False)
    await world.tasks.resync()
    await settle(world)
    assert len(the_pods(world)) == 2


async def test_the_deletion_of_a_predecessor_changes_nothing(world: World) -> None:
    await world.apply_task(warm(1))
    old = world.cluster.task_objects["shop", "order"]
    await world.delete_task(seen=False)
    await world.apply_task(warm(1))
    await world.tasks.observe(old, deleted=True)
    await settle(world)
    assert len(the_pods(world)) == 1


async def test_an_old_look_at_a_task_does_not_undo_a_newer_one(world: World) -> None:
    await world.apply_task(warm(1))
    old = world.cluster.task_objects["shop", "order"]
    await world.apply_task(warm(2))
    world.cluster.tasks["shop", "order"] = warm(1)
    await world.tasks.observe(old)
    (row,) = await world.database.fetch("SELECT standby FROM task_head")
    assert row["standby"] == 2


async def test_an_edit_of_retry_keeps_the_pods(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    (before,) = the_pods(world)
    await world.apply_task(warm(1, retry=RetryPolicy(max_attempts=9), queue="payments"))
    await settle(world)
    assert the_pods(world) == [before]


async def test_pods_of_an_old_image_go_when_those_of_the_new_one_wait(world: World) -> None:
    await world.apply_task(warm(2))
    await settle(world)
    old = the_pods(world)
    await world.apply_task(warm(2, image="runner:new"))
    await world.pods.start_due()
    await world.pods.start_due()
    assert await images(world) == ["runner:new", "runner:new", "runner:test", "runner:test"]
    one, two = (seen for seen in the_pods(world) if seen not in old)
    await ask(world, one)
    await world.pods.start_due()
    assert set(old) <= set(the_pods(world)), "one of two that take their place is no reason to go"
    await ask(world, two)
    await world.pods.start_due()
    assert await images(world) == ["runner:new", "runner:new"]


async def test_a_task_that_becomes_invalid_keeps_the_pods_that_it_had(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    before = the_pods(world)
    world.cluster.broken_task = TaskInvalidError("spec.image: not a name")
    await world.apply_task(warm(1, image="?"))
    await settle(world)
    assert the_pods(world) == before


async def test_a_paused_queue_leaves_the_pods_waiting(world: World) -> None:
    await world.apply_task(warm(1))
    await world.put_queue(paused=True)
    await settle(world)
    run_id = await trigger(world)
    await settle(world)
    (seen,) = the_pods(world)
    assert (await ask(world, seen)).again
    await world.put_queue(paused=False)
    assert [attempt.run_id for attempt in (await ask(world, seen)).attempts] == [run_id]


async def test_a_pod_that_waits_is_never_too_old_to_be_idle(world: World, clock: Clock) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    clock.advance(timedelta(days=3))
    await world.pods.delete_due()
    await world.pods.resync()
    assert len(the_pods(world)) == 1


async def test_a_namespace_that_is_gone_gets_no_pods(world: World) -> None:
    await world.apply_task(warm(1))
    del world.cluster.namespaces["shop"]
    await settle(world)
    assert not the_pods(world)
    await world.delete_task(seen=False)
    await world.tasks.resync()
    assert await heads.known(world.database) == []


async def ends(world: World, seen: PodSeen, *, code: int = 137) -> None:
    world.cluster.pods.pop(seen.uid)
    await world.pods.observe(replace(seen, ended=True, exit_code=code, message="The runner was killed."))


async def test_pods_that_die_while_they_import_are_started_ever_more_slowly(world: World, clock: Clock) -> None:
    await world.apply_task(warm(1))
    started = 0
    for _ in range(60):
        await world.pods.start_due()
        for seen in the_pods(world):
            started += 1
            await ask(world, seen)
            await ends(world, seen)
        clock.advance(SECOND)
    assert started == 6, "after 0, 1, 3, 7, 15 and 31 seconds"


async def test_a_runner_that_does_not_know_how_to_wait_is_not_started_again_and_again(
    world: World, clock: Clock
) -> None:
    await world.apply_task(warm(1))
    await world.pods.start_due()
    (seen,) = the_pods(world)
    await ask(world, seen)
    await ends(world, seen, code=5)
    await world.pods.start_due()
    assert not the_pods(world)
    clock.advance(SECOND)
    await world.pods.start_due()
    assert len(the_pods(world)) == 1


async def test_a_pod_that_was_deleted_by_somebody_is_replaced_at_once(world: World) -> None:
    await world.apply_task(warm(1))
    await settle(world)
    seen = world.cluster.pods.popitem()[1]
    await world.pods.observe(replace(seen, exists=False, ended=True))
    await world.pods.start_due()
    assert len(the_pods(world)) == 1


async def test_a_pod_that_waits_takes_the_backoff_of_its_key_back(world: World, clock: Clock) -> None:
    await world.apply_task(warm(2))
    await world.pods.start_due()
    one, two = the_pods(world)
    await ask(world, one)
    await ends(world, two, code=1)
    clock.advance(31 * SECOND)
    await world.pods.delete_due()
    (key,) = await world.database.fetch("SELECT failures, backoff_until FROM pod_key")
    assert key == {"failures": 0, "backoff_until": None}


async def test_pods_that_wait_are_not_on_their_way(world: World) -> None:
    world.pods._max_starting = 4
    await world.apply_task(warm(6))
    await world.pods.start_due()
    assert len(the_pods(world)) == 2, "half of the limit: the rest is for runs"
    await settle(world)
    assert len(the_pods(world)) == 6
    for _ in range(9):
        await trigger(world)
    await world.pods.start_due()
    assert len(the_pods(world)) == 9, "six wait, and three more are started for runs"


async def test_a_post_that_was_not_answered_is_repeated_as_a_standby_pod(world: World, clock: Clock) -> None:
    from windlass_operator.kube.errors import KubeUnavailableError

    await world.apply_task(warm(1))
    world.cluster.refuse = KubeUnavailableError("away")
    await world.pods.start_due()
    world.cluster.refuse = None
    clock.advance(6 * SECOND)
    await world.pods.resume_plans()
    assert [plan.ahead for plan in world.cluster.plans] == [True]
    assert len(the_pods(world)) == 1


async def test_pods_that_start_and_pods_that_wait_are_counted(world: World) -> None:
    await world.apply_task(warm(3))
    await world.pods.start_due()
    await ask(world, the_pods(world)[0])
    assert (await gauges.count(world.database)).standby == {"starting": 2, "waiting": 1}
