"""Where runners wait for work: who is woken by what, who gets it, and what becomes of it when nobody is there."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.ledger.test_attempts import complete
from tests.ledger.test_reusable_pods import ask, change_pod, next_claim, with_session
from tests.support.clock import Clock
from tests.support.eventually import eventually
from tests.support.world import SECOND, World, a_failure, a_task
from windlass import protocol
from windlass_operator.domain.errors import LedgerUnavailableError, UnauthorizedError
from windlass_operator.ledger.database import Database
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.claims import PodIdentity

_LONG = timedelta(seconds=20)
_NEVER = timedelta(hours=1)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """A world whose desk looks by itself about never: what is found, a wake-up has told."""
    world = await World(database).start()
    world.desk = ClaimDesk(world.attempts.claims, every=_NEVER)
    world.attempts.take_next = world.desk.next
    database.on_startable(world.desk.wake)
    yield world
    await world.desk.close()


def waiting(
    world: World, pod: PodIdentity, *, claim_id: str = "", slots: int = 1, gone: asyncio.Task[None] | None = None
) -> asyncio.Task[protocol.ClaimResponse]:
    """Let a runner wait for work."""
    return asyncio.create_task(world.desk.ask(pod, claim_id or str(uuid4()), slots, wait=_LONG, gone=gone))


async def parked(world: World, number: int = 1) -> None:
    """Return when so many wait, and there is nothing left to look at."""

    async def quiet() -> tuple[int, bool]:
        claimers = list(world.desk._keys.values())
        waiters = [w for c in claimers for w in c.waiting]
        return len(waiters), all(c._is_empty() and c.timed for c in claimers) and all(w.looked_at for w in waiters)

    await eventually(quiet, lambda found: found == (number, True))


async def test_a_runner_that_waits_is_answered_when_a_run_is_accepted(world: World) -> None:
    answer = waiting(world, await with_session(world, await world.reusable_pod()))
    await parked(world)
    run_id = await world.submit()
    (attempt,) = (await answer).attempts
    assert attempt.run_id == str(run_id)


async def test_who_has_waited_longest_gets_the_run_and_the_others_wait_on(world: World) -> None:
    pods = [await with_session(world, await world.reusable_pod()) for _ in range(3)]
    answers = []
    for n, pod in enumerate(pods):
        answers.append(waiting(world, pod))
        await parked(world, n + 1)
    await world.submit()
    assert (await answers[0]).attempts
    await parked(world, 2)
    await world.submit()
    await world.submit()
    assert [len((await answer).attempts) for answer in answers[1:]] == [1, 1]


async def test_a_run_of_another_key_wakes_nobody(world: World) -> None:
    answer = waiting(world, await with_session(world, await world.reusable_pod()))
    await parked(world)
    other = a_task(pod=a_task().pod.__class__(image="other:test", preload=None, source_hash="0" * 16))
    await world.submit(other, name="other")
    await parked(world)
    assert not answer.done()


async def test_a_retry_that_becomes_due_needs_nobody_to_tell(world: World, clock: Clock) -> None:
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    answer = waiting(world, pod)
    await parked(world)
    outcome = await world.attempts.fail(attempt.token, a_failure())
    assert outcome.retry_in_ms == 1000
    await eventually(_look_within(world), lambda soon: soon)
    clock.advance(SECOND)
    assert (await answer).attempts[0].number == 2


def _look_within(world: World) -> Any:
    async def soon() -> bool:
        now = asyncio.get_running_loop().time()
        return any(0 < claimer.look_at - now <= 1.1 for claimer in world.desk._keys.values())

    return soon


async def test_a_slot_that_becomes_free_wakes_who_waits_for_it(world: World) -> None:
    await world.put_queue("narrow", concurrency=1)
    one, two = (
        a_task(queue="narrow", pod=a_task().pod.__class__(image=i, preload=None, source_hash="0" * 16)) for i in "ab"
    )
    first = await with_session(world, await world.reusable_pod(one, name="one"))
    second = await with_session(world, await world.reusable_pod(two, name="two"))
    await world.submit(one, name="one")
    (attempt,) = (await ask(world, first, "claim-1")).attempts
    await world.submit(two, name="two")
    answer = waiting(world, second)
    await _held(world)
    assert not answer.done()
    await world.attempts.complete(attempt.token, complete())
    assert (await answer).attempts


async def _held(world: World) -> None:
    """Return when a claimer has found that what is due may not start."""

    async def resting() -> bool:
        now = asyncio.get_running_loop().time()
        return all(c.timed and not c.due and c.look_at > now + 60 for c in world.desk._keys.values())

    await eventually(resting, lambda found: found)


async def test_a_queue_that_goes_on_wakes_who_waits(world: World) -> None:
    await world.put_queue(paused=True)
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    answer = waiting(world, pod)
    await _held(world)
    assert not answer.done()
    await world.put_queue(paused=False)
    assert (await answer).attempts


async def test_a_wait_that_is_over_wakes_who_waits(world: World, clock: Clock) -> None:
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    nap = protocol.Wait(key="nap", name="nap", args_hash="a", kind="sleep", due_in_ms=1000)
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[nap]))
    assert (await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=["nap"]))).suspended
    answer = waiting(world, pod)
    await parked(world)
    clock.advance(2 * SECOND)
    await world.waits.fire_due()
    assert (await answer).attempts[0].number == 2


async def test_a_look_finds_what_nobody_told_of_and_whose_pods_must_leave(world: World) -> None:
    looking = ClaimDesk(world.attempts.claims, every=timedelta(milliseconds=50))
    pods = [await with_session(world, await world.reusable_pod()) for _ in range(2)]
    answers = [asyncio.create_task(looking.ask(pod, "c", 1, wait=_LONG)) for pod in pods]
    await asyncio.sleep(0)
    await change_pod(world, pods[0], "draining = true")
    assert (await answers[0]).leave
    await world.submit()  # the desk of another process is told of it
    (attempt,) = (await answers[1]).attempts
    await looking.close()
    assert attempt.number == 1


async def test_a_repeat_at_another_process_gets_what_the_first_one_took(world: World) -> None:
    """Its session is known there, so nothing is asked before the next look."""
    pod = await with_session(world, await world.reusable_pod())
    other = ClaimDesk(world.attempts.claims, every=timedelta(milliseconds=50))
    await other.ask(pod, "claim-0", 1, wait=timedelta(0))
    await world.submit()
    (lost,) = (await ask(world, pod, "claim-1")).attempts
    (again,) = (await other.ask(pod, "claim-1", 1, wait=_LONG)).attempts
    await other.close()
    assert again.attempt_id == lost.attempt_id


@pytest.mark.parametrize("wait", [timedelta(0), timedelta(milliseconds=1)])
async def test_a_repeat_that_cannot_wait_for_a_look_gets_what_its_claim_took(world: World, wait: timedelta) -> None:
    """The API knows the session and that there is nothing more to take; it has to ask the ledger all the same."""
    pod, idle = [await with_session(world, await world.reusable_pod()) for _ in range(2)]
    for one in (pod, idle):
        await world.desk.ask(one, "claim-0", 1, wait=timedelta(0))
    await world.submit()
    (lost,) = (await ask(world, pod, "claim-1")).attempts
    answer = waiting(world, idle)
    await parked(world)
    (again,) = (await world.desk.ask(pod, "claim-1", 1, wait=wait)).attempts
    assert again.attempt_id == lost.attempt_id
    assert not answer.done()
    await world.submit()
    assert (await answer).attempts


async def test_a_repeat_is_not_told_of_nothing_while_the_ledger_cannot_be_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not ask again for what its claim took, and the attempt would be lost."""
    pod = await with_session(world, await world.reusable_pod())
    looking = ClaimDesk(world.attempts.claims, every=_NEVER)
    await looking.ask(pod, "claim-0", 1, wait=timedelta(0))
    await world.submit()
    (lost,) = (await ask(world, pod, "claim-1")).attempts

    async def away(*_: Any) -> Any:
        raise LedgerUnavailableError("The ledger does not answer.")

    for method in ("look", "take"):
        monkeypatch.setattr(world.attempts.claims, method, away)
    with pytest.raises(LedgerUnavailableError):
        await looking.ask(pod, "claim-1", 1, wait=timedelta(milliseconds=50))
    monkeypatch.undo()
    (again,) = (await looking.ask(pod, "claim-1", 1, wait=timedelta(0))).attempts
    await looking.close()
    assert again.attempt_id == lost.attempt_id


async def test_the_end_of_a_wait_costs_no_query_once_a_look_has_shown_that_nothing_was_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await with_session(world, await world.reusable_pod())
    await world.desk.ask(pod, "claim-0", 1, wait=timedelta(0))
    looks = 0
    look = world.attempts.claims.look

    async def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(*args)

    monkeypatch.setattr(world.attempts.claims, "look", counted)
    monkeypatch.setattr(world.attempts.claims, "take", None)
    answer = asyncio.create_task(world.desk.ask(pod, "claim-1", 1, wait=SECOND))
    assert (await answer).attempts == []
    assert looks == 1


async def test_nothing_is_taken_for_who_has_gone(world: World) -> None:
    one, two = [await with_session(world, await world.reusable_pod()) for _ in range(2)]
    gone = asyncio.get_running_loop().create_future()

    async def leave() -> None:
        await gone

    left = waiting(world, one, gone=asyncio.create_task(leave()))
    await parked(world)
    gone.set_result(None)
    assert (await left).attempts == []
    answer = waiting(world, two)
    await parked(world)
    await world.submit()
    assert (await answer).attempts[0].number == 1


async def test_what_was_taken_for_who_has_gone_meanwhile_is_handed_back_at_no_charge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await with_session(world, await world.reusable_pod())
    taking, go_on = asyncio.Event(), asyncio.Event()
    take = world.attempts.claims.take

    async def slowly(*args: Any) -> Any:
        taking.set()
        answers = await take(*args)
        await go_on.wait()
        return answers

    monkeypatch.setattr(world.attempts.claims, "take", slowly)
    run_id = await world.submit()
    gone = asyncio.get_running_loop().create_future()

    async def leave() -> None:
        await gone

    left = waiting(world, pod, gone=asyncio.create_task(leave()))
    await taking.wait()
    gone.set_result(None)
    await left
    go_on.set()

    async def state() -> tuple[str, int]:
        row = await world.get(run_id)
        return row["state"], row["infra_failures"] + row["user_failures"] + row["attempts"]

    await eventually(state, lambda found: found == ("Queued", 1))


async def test_the_same_question_again_ends_the_wait_of_the_first(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    first = waiting(world, pod, claim_id="claim-1")
    await parked(world)
    second = waiting(world, pod, claim_id="claim-1")
    assert (await first).attempts == []
    await parked(world)
    await world.submit()
    assert (await second).attempts


async def test_others_hear_of_runs_only_when_too_few_runners_wait_here(world: World) -> None:
    answer = waiting(world, await with_session(world, await world.reusable_pod(slots=3)), slots=3)
    await parked(world)
    ((key, claimer),) = world.desk._keys.items()
    claimer.told = 1  # one of the three places is promised
    assert world.desk.wake({key: 2, "another": 1}) == {"another": 1}
    assert world.desk.wake({key: 1}) == {key: 1}
    assert world.desk.wake({key: 0}) == {key: 0}, "some time is not now"
    await world.submit()
    assert len((await answer).attempts) == 1


async def two_waiting(world: World) -> list[asyncio.Task[protocol.ClaimResponse]]:
    """Return the answers for which two pods wait, each with nine free slots."""
    pods = [await with_session(world, await world.reusable_pod(slots=9)) for _ in range(2)]
    answers = [waiting(world, pod, slots=9) for pod in pods]
    await parked(world, 2)
    return answers


async def test_a_claim_that_took_all_there_was_is_followed_by_no_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = await two_waiting(world)
    looks: list[str] = []
    look = world.attempts.claims.look

    async def counted(key: str, asks: Any) -> Any:
        looks.append(key)
        return await look(key, asks)

    monkeypatch.setattr(world.attempts.claims, "look", counted)
    await world.submit()
    done, rest = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    await parked(world, 1)
    await world.submit()
    assert [len((await one).attempts) for one in (*done, *rest)] == [1, 1]
    assert looks == []


async def test_what_is_told_during_a_claim_is_not_forgotten_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = await two_waiting(world)
    take = world.attempts.claims.take

    async def told_meanwhile(pod_key: str, asks: Any) -> Any:
        monkeypatch.undo()
        taken = await take(pod_key, asks)
        world.database._startable.clear()
        await world.submit()  # by another process, which tells of it before this claim is answered
        world.desk.look({pod_key: 1})
        return taken

    monkeypatch.setattr(world.attempts.claims, "take", told_meanwhile)
    await world.submit()
    assert [len((await asyncio.wait_for(one, 10)).attempts) for one in answers] == [1, 1]


async def test_an_end_with_nothing_to_claim_is_answered_at_once_and_costs_no_query(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await with_session(world, await world.reusable_pod()) for _ in range(2)]
    await world.submit()
    (attempt,) = (await ask(world, two, "claim-1")).attempts
    answer = waiting(world, one)
    await parked(world)
    monkeypatch.setattr(world.attempts.claims, "take", None)
    outcome = await world.attempts.complete(attempt.token, next_claim("claim-2"))
    assert (outcome.state, outcome.attempts) == ("Succeeded", [])
    monkeypatch.undo()
    await world.submit()
    assert (await answer).attempts


async def test_whoever_shows_another_session_is_refused_while_the_pod_waits(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    answer = waiting(world, pod)
    await parked(world)
    with pytest.raises(UnauthorizedError):
        await world.desk.ask(PodIdentity(pod.pod_uid, pod.pod_name, session="guessed"), "c", 1, wait=_LONG)
    await world.submit()
    assert (await answer).attempts


async def test_who_waits_is_told_when_the_ledger_cannot_be_asked_and_when_the_process_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await with_session(world, await world.reusable_pod())

    async def away(*_: Any) -> Any:
        raise LedgerUnavailableError("The ledger does not answer.")

    answer = waiting(world, pod)
    await parked(world)
    monkeypatch.setattr(world.attempts.claims, "take", away)
    await world.submit()
    with pytest.raises(LedgerUnavailableError):
        await answer
    monkeypatch.undo()
    assert (await world.desk.ask(pod, "again", 1, wait=_LONG)).attempts
    answer = waiting(world, pod)
    await parked(world)
    await world.desk.close()
    with pytest.raises(LedgerUnavailableError):
        await answer


async def test_a_first_claim_that_waited_has_its_session_in_its_answer(world: World) -> None:
    pod = await world.reusable_pod()
    answer = waiting(world, pod)
    await parked(world)
    await world.submit()
    found = await answer
    assert found.session is not None
    await world.attempts.complete(found.attempts[0].token, complete())
    shown = PodIdentity(pod.pod_uid, pod.pod_name, session=found.session)
    await world.submit()
    (attempt,) = (await world.desk.ask(shown, "claim-2", 1, wait=_LONG)).attempts
    assert UUID(attempt.attempt_id)
