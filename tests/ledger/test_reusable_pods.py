"""Pods that take one run after the other: their sessions, their slots, and what a repeated claim is answered."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from tests.ledger.test_attempts import complete
from tests.support.world import SECOND, World, a_failure
from windlass import protocol
from windlass_operator import config
from windlass_operator.domain.errors import ForbiddenError, LedgerUnavailableError, UnauthorizedError
from windlass_operator.ledger.database import Database
from windlass_operator.services.claims import Answer, Ask, PodIdentity


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def ask(world: World, pod: PodIdentity, claim_id: str, slots: int = 1) -> Answer:
    """Return what a pod is answered that asks by itself."""
    pod_id, key = await world.attempts.claims.find(pod)
    (answer,) = await world.attempts.claims.take(key, [Ask(pod_id, claim_id, slots, pod)])
    if answer.error is not None:
        raise answer.error
    return answer


async def with_session(world: World, pod: PodIdentity) -> PodIdentity:
    """Make a pod's first claim, which finds nothing, and return what it shows from then on."""
    answer = await ask(world, pod, "first")
    assert (answer.attempts, answer.again, answer.leave) == ([], True, False)
    return PodIdentity(pod.pod_uid, pod.pod_name, session=answer.session)


async def row_of(world: World, pod: PodIdentity) -> dict[str, Any]:
    (row,) = await world.database.fetch("SELECT * FROM pod WHERE uid = %(uid)s", {"uid": pod.pod_uid})
    return row


async def change_pod(world: World, pod: PodIdentity, change: str) -> None:
    await world.database.fetch(f"UPDATE pod SET {change} WHERE uid = %(uid)s", {"uid": pod.pod_uid})  # noqa: S608


async def test_a_pod_takes_one_run_after_the_other_with_its_session(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    for n in range(3):
        run_id = await world.submit()
        (attempt,) = (await ask(world, pod, f"claim-{n}")).attempts
        assert attempt.run_id == str(run_id)
        await world.attempts.complete(attempt.token, complete())
        assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_repeat_of_the_first_claim_gets_another_session_until_one_is_in_use(world: World) -> None:
    pod = await world.reusable_pod()
    lost = await with_session(world, pod)
    kept = await with_session(world, pod)
    with pytest.raises(UnauthorizedError):
        await ask(world, lost, "claim-1")
    await ask(world, kept, "claim-1")
    with pytest.raises(ForbiddenError):
        await ask(world, pod, "first")  # one that was held up on its way
    assert (await ask(world, kept, "claim-2")).again


async def test_a_pod_makes_one_first_claim(world: World) -> None:
    pod = await world.reusable_pod()
    await ask(world, pod, "first")
    with pytest.raises(ForbiddenError):
        await ask(world, pod, "another")


@pytest.mark.parametrize("session", ["", "guessed"])
async def test_an_unknown_session_is_refused(world: World, session: str) -> None:
    pod = await world.reusable_pod()
    for shown in (
        PodIdentity(pod.pod_uid, pod.pod_name, session=session),  # before there is one
        PodIdentity("nobody", "nobody", session=session),
    ):
        with pytest.raises(UnauthorizedError):
            await ask(world, shown, "claim-1")
    await with_session(world, pod)
    with pytest.raises(UnauthorizedError):
        await ask(world, PodIdentity(pod.pod_uid, pod.pod_name, session=session), "claim-1")


async def test_the_session_of_one_pod_is_none_of_another(world: World) -> None:
    one, two = [await with_session(world, await world.reusable_pod()) for _ in range(2)]
    with pytest.raises(UnauthorizedError):
        await ask(world, PodIdentity(one.pod_uid, one.pod_name, session=two.session), "claim-1")


async def test_a_pod_holds_no_more_attempts_than_it_has_slots(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=3))
    for _ in range(5):
        await world.submit()
    first = (await ask(world, pod, "claim-1", slots=2)).attempts
    second = (await ask(world, pod, "claim-2", slots=64)).attempts
    assert (len(first), len(second)) == (2, 1)
    assert (await ask(world, pod, "claim-3", slots=64)).attempts == []
    await world.attempts.complete(first[0].token, complete())
    assert len((await ask(world, pod, "claim-4", slots=64)).attempts) == 1


async def test_claims_of_one_pod_that_come_together_share_its_slots(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=3))
    for _ in range(8):
        await world.submit()
    answers = await asyncio.gather(*(ask(world, pod, f"claim-{n}", slots=2) for n in range(4)))
    assert sum(len(answer.attempts) for answer in answers) == 3
    pod_id, key = await world.attempts.claims.find(pod)
    batch = [Ask(pod_id, f"together-{n}", 2, pod) for n in range(3)]
    assert [len(a.attempts) for a in await world.attempts.claims.take(key, batch)] == [0, 0, 0]


async def test_a_repeated_claim_is_answered_with_what_it_took_and_is_open_still(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=4))
    for _ in range(6):
        await world.submit()
    taken = (await ask(world, pod, "claim-1", slots=2)).attempts
    others = (await ask(world, pod, "claim-2", slots=1)).attempts
    await world.attempts.complete(taken[0].token, complete())
    (again,) = (await ask(world, pod, "claim-1", slots=4)).attempts
    assert again.attempt_id == taken[1].attempt_id
    with pytest.raises(UnauthorizedError):
        await world.attempts.complete(taken[1].token, complete())
    await world.attempts.complete(again.token, complete())
    assert (await world.attempts.complete(others[0].token, complete())).state == "Succeeded"


async def test_a_claim_that_took_something_takes_nothing_more_when_that_has_ended(world: World) -> None:
    """A request that was held up on its way: nobody waits for its answer any more."""
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    await world.attempts.complete(attempt.token, complete())
    run_id = await world.submit()
    answer = await ask(world, pod, "claim-1")
    assert (answer.attempts, answer.settled, answer.again) == ([], True, True)
    assert (await world.get(run_id))["state"] == "Queued"
    assert (await ask(world, pod, "claim-2")).attempts


async def test_a_claim_that_comes_after_its_own_repeat_takes_nothing_away(world: World) -> None:
    """It came with an end and was held up; its runner has asked for it again meanwhile, and works on the answer."""
    pod = await with_session(world, await world.reusable_pod(slots=2))
    await world.submit()
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    pod_id, key = await world.attempts.claims.find(pod)

    late = [Ask(pod_id, "claim-1", 2, first=True)]
    assert [(a.attempts, a.over) for a in await world.attempts.claims.take(key, late)] == [([], True)]

    assert (await world.attempts.complete(attempt.token, complete())).state == "Succeeded"


async def test_a_draining_pod_is_told_to_leave_and_keeps_what_it_holds(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=2))
    await world.submit()
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    await change_pod(world, pod, "draining = true")
    answer = await ask(world, pod, "claim-2")
    assert (answer.attempts, answer.leave, answer.again) == ([], True, False)
    (again,) = (await ask(world, pod, "claim-1")).attempts  # its answer was lost
    assert again.attempt_id == attempt.attempt_id
    outcome = await world.attempts.complete(again.token, next_claim("claim-3"))
    assert (outcome.state, outcome.attempts, outcome.leave) == ("Succeeded", [], True)


async def test_a_pod_that_has_ended_is_told_to_leave(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    await change_pod(world, pod, "state = 'Ended'")
    answer = await ask(world, pod, "claim-1")
    assert (answer.attempts, answer.leave) == ([], True)


async def test_withdrawing_hands_back_what_that_claim_took_and_leaves_the_rest(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=2))
    one, two = await world.submit(), await world.submit()
    (running,) = (await ask(world, pod, "claim-1")).attempts
    assert (await ask(world, pod, "claim-2")).attempts  # its answer never came
    await world.attempts.withdraw(pod, "claim-2")
    assert [(await world.get(run))["state"] for run in (one, two)] == ["Running", "Queued"]
    assert (await world.get(two))["infra_failures"] == 0
    assert (await ask(world, pod, "claim-3")).leave
    assert (await world.attempts.complete(running.token, complete())).state == "Succeeded"


def next_claim(claim_id: str, slots: int = 1) -> protocol.CompleteRequest:
    request = complete()
    request.claim = protocol.NextClaim(claim_id=claim_id, slots=slots)
    return request


async def test_the_end_of_a_run_and_the_next_claim_are_one_call(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    runs = [await world.submit() for _ in range(3)]
    (attempt,) = (await ask(world, pod, "claim-0")).attempts
    for n, run_id in enumerate(runs[1:], 1):
        outcome = await world.attempts.complete(attempt.token, next_claim(f"claim-{n}"))
        (attempt,) = outcome.attempts
        assert (outcome.state, attempt.run_id) == ("Succeeded", str(run_id))
    failed = a_failure("permanent")
    failed.claim = protocol.NextClaim(claim_id="claim-9")
    outcome = await world.attempts.fail(attempt.token, failed)
    assert (outcome.state, outcome.attempts, outcome.leave) == ("Failed", [], False)


async def test_a_repeated_end_is_answered_without_the_attempts_and_its_claim_brings_them(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    (lost,) = (await world.attempts.complete(attempt.token, next_claim("claim-2"))).attempts
    again = await world.attempts.complete(attempt.token, next_claim("claim-2"))
    assert (again.state, again.attempts) == ("Succeeded", [])
    (found,) = (await ask(world, pod, "claim-2")).attempts
    assert found.attempt_id == lost.attempt_id
    (stored,) = await world.database.fetch(
        "SELECT answer FROM attempt WHERE id = %(id)s", {"id": UUID(attempt.attempt_id)}
    )
    assert "attempts" not in stored["answer"]
    assert "token" not in stored["answer"]


async def test_the_pod_of_a_single_run_gets_nothing_with_its_end(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.submit()
    outcome = await world.attempts.complete(attempt.token, next_claim("claim-2"))
    assert (outcome.state, outcome.attempts, outcome.leave) == ("Succeeded", [], False)


async def test_an_end_stands_although_the_claim_after_it_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = await with_session(world, await world.reusable_pod())
    run_id = await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts

    async def away(*_: Any) -> Any:
        raise LedgerUnavailableError("The ledger does not answer.")

    monkeypatch.setattr(world.attempts, "take_next", away)
    outcome = await world.attempts.complete(attempt.token, next_claim("claim-2"))
    assert (outcome.state, outcome.attempts, outcome.leave) == ("Succeeded", [], False)
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_a_pod_says_since_when_it_is_idle(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    since = (await row_of(world, pod))["idle_since"]
    assert since is not None
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    assert (await row_of(world, pod))["idle_since"] is None
    await world.attempts.complete(attempt.token, next_claim("claim-2"))
    row = await row_of(world, pod)
    assert (row["state"], row["idle_since"]) == ("Claimed", since)  # the clock stands still


async def test_an_attempt_that_nobody_received_is_handed_back_and_not_charged(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    run_id = await world.submit()
    answer = await ask(world, pod, "claim-1")
    await world.attempts.claims.give_back(answer)
    row = await world.get(run_id)
    assert (row["state"], row["infra_failures"], row["user_failures"]) == ("Queued", 0, 0)


async def test_a_claim_whose_attempt_nobody_received_may_take_another(world: World) -> None:
    """The answer was lost for so long that the attempt was closed: its pod must not starve."""
    pod = await with_session(world, await world.reusable_pod())
    await world.submit()
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    await world.attempts.lose(UUID(attempt.attempt_id), reason="LeaseExpired", message="silent")
    (taken,) = (await ask(world, pod, "claim-1")).attempts
    assert (taken.run_id, taken.number) == (attempt.run_id, 2)


async def test_what_was_asked_for_again_is_not_handed_back(world: World) -> None:
    pod = await with_session(world, await world.reusable_pod())
    run_id = await world.submit()
    lost = await ask(world, pod, "claim-1")
    (attempt,) = (await ask(world, pod, "claim-1")).attempts
    await world.attempts.claims.give_back(lost)
    assert (await world.get(run_id))["state"] == "Running"
    assert (await world.attempts.complete(attempt.token, complete())).state == "Succeeded"


async def test_one_batch_gives_the_oldest_run_to_who_asked_first_and_refuses_strangers(world: World) -> None:
    pods = [await with_session(world, await world.reusable_pod(slots=2)) for _ in range(3)]
    runs = [str(await world.submit()) for _ in range(4)]
    found = [await world.attempts.claims.find(pod) for pod in pods]
    key = found[0][1]
    batch = [Ask(pod_id, "claim-1", 2, pod) for (pod_id, _), pod in zip(found, pods, strict=True)]
    stranger = Ask(found[0][0], "claim-x", 1, PodIdentity("x", "x", session="guessed"))
    refused, *answers = await world.attempts.claims.take(key, [stranger, *batch])
    assert isinstance(refused.error, UnauthorizedError)
    assert [[a.run_id for a in answer.attempts] for answer in answers] == [[runs[0], runs[3]], [runs[1]], [runs[2]]]


async def test_leases_of_all_slots_are_kept_in_one_call(world: World, clock: Any) -> None:
    pod = await with_session(world, await world.reusable_pod(slots=3))
    for _ in range(3):
        await world.submit()
    taken = (await ask(world, pod, "claim-1", slots=3)).attempts
    await world.attempts.complete(taken[1].token, complete())
    clock.advance(config.FIRST_LEASE - SECOND)
    beats = [protocol.Beat(token=attempt.token) for attempt in taken]
    answers = (await world.attempts.heartbeat(protocol.HeartbeatRequest(beats=beats))).answers
    assert [answer.open for answer in answers] == [True, False, True]
    clock.advance(2 * SECOND)
    assert await world.attempts.reap() == 0
