"""Pods of protected steps, on a real PostgreSQL: when they are marked, when no longer, and what survives a crash."""

import asyncio
from typing import Any, cast

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.contention import Holder
from tests.support.world import SECOND, World, a_failure, a_step
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.domain.pods import PodSeen
from windlass_operator.kube.errors import KubeUnavailableError
from windlass_operator.ledger import gauges
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.projection import LeadershipLostError, take_epoch
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.projection import facts_of_run
from windlass_operator.services.protection import LINGER, PodMarker


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def started(world: World) -> protocol.ClaimedAttempt:
    """Return an attempt in a pod of its own."""
    await world.submit()
    (attempt,) = await world.claim()
    return attempt


async def pooled(world: World, n: int) -> tuple[PodIdentity, list[protocol.ClaimedAttempt]]:
    """Return a pod that takes one run after the other, and ``n`` attempts in it."""
    pod = await world.reusable_pod(slots=n)
    seen = PodSeen(pod.pod_name, "shop", pod.pod_uid, exists=True, ended=False, succeeded=False, started=True)
    world.cluster.pods[pod.pod_uid] = seen
    for _ in range(n):
        await world.submit()
    return pod, (await world.attempts.ask(pod, "claim-1", n)).attempts


async def begin(world: World, attempt: protocol.ClaimedAttempt, key: str = "charge") -> None:
    step = a_step(key, state="running", protect=True)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))


async def end(
    world: World, attempt: protocol.ClaimedAttempt, key: str = "charge", state: protocol.StepState = "succeeded"
) -> None:
    failure = protocol.Failure(type="ValueError", message="boom") if state == "failed" else None
    step = a_step(key, state=state, protect=True, error=failure)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))


async def on_pod(world: World, attempt: protocol.ClaimedAttempt) -> bool:
    writer = await world.attempts.authenticate(attempt.token)
    return (await world.protection.of(writer.attempt_id)).on_pod


def marks(world: World) -> list[bool]:
    return [protected for _, protected in world.cluster.marks]


async def test_a_pod_is_marked_while_a_protected_step_runs_and_not_afterwards(world: World, clock: Clock) -> None:
    attempt = await started(world)
    await world.marker.mark()
    assert marks(world) == []
    await begin(world, attempt)
    assert not await on_pod(world, attempt), "the operator has not come to it"
    assert await world.marker.mark() is not None, "it looks again soon"
    assert marks(world) == [True]
    assert await on_pod(world, attempt)
    await end(world, attempt)
    clock.advance(LINGER + SECOND)
    await world.marker.mark()
    assert marks(world) == [True, False]
    assert await world.marker.mark() is None, "there is nothing left to look for"


async def test_a_step_that_is_not_protected_costs_the_cluster_nothing(world: World) -> None:
    attempt = await started(world)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge", state="running")]))
    await world.marker.mark()
    assert marks(world) == []


async def test_a_step_that_follows_at_once_finds_its_pod_marked(world: World, clock: Clock) -> None:
    attempt = await started(world)
    await begin(world, attempt, "one")
    await world.marker.mark()
    await end(world, attempt, "one")
    await world.marker.mark()
    await begin(world, attempt, "two")
    assert await on_pod(world, attempt)
    clock.advance(LINGER + SECOND)
    await world.marker.mark()
    assert marks(world) == [True], "neither taken off nor put on again"


@pytest.mark.parametrize("how", ["failed step", "failed attempt", "lost attempt", "completed run"])
async def test_whatever_ends_a_step_or_its_attempt_releases_the_pod(world: World, clock: Clock, how: str) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    await world.marker.mark()
    if how == "failed step":
        await end(world, attempt, state="failed")
    elif how == "failed attempt":
        await world.attempts.fail(attempt.token, a_failure())
    elif how == "lost attempt":
        writer = await world.attempts.authenticate(attempt.token)
        await world.attempts.lose(writer.attempt_id, reason="PodDeleted", message="gone")
    else:
        await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))
    clock.advance(LINGER + SECOND)
    await world.marker.mark()
    assert marks(world) == [True, False]


async def test_a_pod_with_several_runs_stays_marked_until_none_of_them_is_protected(world: World, clock: Clock) -> None:
    _, (first, second) = await pooled(world, 2)
    await begin(world, first)
    await begin(world, second)
    await world.marker.mark()
    await end(world, first)
    clock.advance(LINGER + SECOND)
    await world.marker.mark()
    assert marks(world) == [True]
    assert await on_pod(world, second)
    await world.attempts.fail(second.token, a_failure())
    await world.marker.mark()
    assert marks(world) == [True, False]


async def test_a_closed_attempt_protects_nothing(world: World) -> None:
    attempt = await started(world)
    await world.attempts.fail(attempt.token, a_failure())
    with pytest.raises(AttemptClosedError):
        await begin(world, attempt)
    await world.marker.mark()
    assert marks(world) == []


async def test_a_message_that_comes_after_the_end_of_its_step_protects_nothing(world: World, clock: Clock) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    await end(world, attempt)
    await begin(world, attempt)  # held up on its way
    clock.advance(LINGER + SECOND)
    await world.marker.tidy()
    await begin(world, attempt)
    await world.marker.mark()
    assert marks(world) == []


async def test_an_api_server_that_does_not_answer_is_asked_again_and_holds_no_other_pod_up(world: World) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    world.cluster.refuse_mark = KubeUnavailableError("away")
    await world.marker.mark()
    assert not await on_pod(world, attempt)
    world.cluster.refuse_mark = None
    await world.marker.mark()
    assert await on_pod(world, attempt)


async def test_what_an_operator_left_halfway_is_put_right_by_the_next(world: World, clock: Clock) -> None:
    attempt = await started(world)
    await begin(world, attempt)

    class DiesError(Exception):
        pass

    mark_pod = world.cluster.mark_pod

    async def dies_after(*args: Any, **more: Any) -> bool:
        await mark_pod(*args, **more)
        raise DiesError

    world.cluster.mark_pod = dies_after  # type: ignore[method-assign]
    with pytest.raises(DiesError):
        await world.marker.mark()
    world.cluster.mark_pod = mark_pod  # type: ignore[method-assign]
    await end(world, attempt)
    clock.advance(LINGER + SECOND)
    successor = PodMarker(world.database, world.cluster, epoch=await take_epoch(world.database, "successor"))
    await successor.mark()
    assert marks(world) == [True, False], "nobody had noted that it was marked"


async def test_an_operator_that_lost_the_lead_marks_nothing(world: World) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    await take_epoch(world.database, "successor")
    with pytest.raises(LeadershipLostError):
        await world.marker.mark()
    assert marks(world) == []
    assert not await on_pod(world, attempt)


@pytest.mark.parametrize("runs", [True, False])
async def test_annotations_that_somebody_changed_are_put_right(world: World, clock: Clock, *, runs: bool) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    await world.marker.mark()
    if not runs:
        await end(world, attempt)
        clock.advance(LINGER + SECOND)
        await world.marker.mark()
    (uid,) = world.cluster.pods
    world.cluster.pods[uid] = PodSeen(
        world.cluster.pods[uid].name, "shop", uid, exists=True, ended=False, succeeded=False, started=True,
        marked=not runs,
    )  # fmt: skip
    world.cluster.marks.clear()
    await world.pods.resync()
    await world.marker.mark()
    assert marks(world) == [runs]
    await world.pods.resync()
    await world.marker.mark()
    assert marks(world) == [runs], "once"


async def test_a_pod_that_is_gone_is_asked_for_nothing(world: World) -> None:
    attempt = await started(world)
    await begin(world, attempt)
    await world.marker.mark()
    (seen,) = world.cluster.pods.values()
    world.cluster.pods.clear()
    gone = PodSeen(seen.name, seen.namespace, seen.uid, exists=False, ended=True, succeeded=False, started=False)
    await world.pods.observe(gone)
    assert await world.marker.mark() is None
    await world.marker.tidy()
    assert await world.database.fetch("SELECT FROM protection") == []
    assert await world.database.fetch("SELECT FROM pod WHERE protection IS NOT NULL") == []


async def test_who_takes_the_marks_off_and_a_step_that_begins_never_miss_each_other(
    world: World, clock: Clock, ledger_uri: str
) -> None:
    """The step is noted after the operator has counted: it must not take the marks that go for its own."""
    attempt = await started(world)
    await begin(world, attempt, "one")
    await world.marker.mark()
    await end(world, attempt, "one")
    clock.advance(LINGER + SECOND)
    go_on = asyncio.Event()
    counted = asyncio.Event()

    class Held:
        """The ledger for the operator alone: what a step has left to be shown is another transaction."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.database, name)

        async def transaction(self, work: Any) -> Any:
            async def slow(connection: Any) -> Any:
                found = await work(connection)
                counted.set()
                await go_on.wait()
                return found

            return await world.database.transaction(slow)

    world.marker._database = cast("Database", Held())
    marking = asyncio.create_task(world.marker.mark())
    await counted.wait()
    world.marker._database = world.database
    await begin(world, attempt, "two")
    asking = asyncio.create_task(on_pod(world, attempt))
    await Holder(ledger_uri).waited_for()
    go_on.set()
    answered = await asking
    await marking
    await world.marker.mark()
    assert await on_pod(world, attempt)
    # On a machine so busy that the held transaction is given up and done again, it counts the step, and nothing goes.
    assert (answered, marks(world)) in ((False, [True, False, True]), (True, [True]))


async def test_where_nothing_removes_pods_nobody_waits_for_marks(world: World) -> None:
    world.cluster.disrupts_pods = False
    attempt = await started(world)
    await begin(world, attempt)
    assert await on_pod(world, attempt)
    await world.marker.mark()
    assert marks(world) == []


async def test_the_metrics_count_protected_pods(world: World) -> None:
    attempt = await started(world)
    assert (await gauges.count(world.database)).protected == 0
    await begin(world, attempt)
    await world.marker.mark()
    assert (await gauges.count(world.database)).protected == 1


async def test_the_run_and_its_step_say_so_while_it_lasts(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()

    async def shown() -> tuple[Any, list[bool]]:
        row = await world.get(run_id)
        steps = await world.runs.steps(run_id, after=0, limit=10)
        return facts_of_run(row)["protected"], [step["protected"] for step in steps]

    assert await shown() == (None, [])
    await begin(world, attempt)
    assert await shown() == (True, [True])
    await end(world, attempt)
    assert await shown() == (None, [False])
