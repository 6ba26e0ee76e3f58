"""Ends of many attempts in one call: one transaction for all of them, and an answer for each."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.ledger.test_attempts import complete
from tests.ledger.test_reusable_pods import ask, with_session
from tests.support.world import World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError, UnauthorizedError, WindlassError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.claims import Answer, Ask, PodIdentity

_ONCE = RetryPolicy(max_attempts=1, jitter="none")


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def running(
    world: World, number: int, *, task: TaskSnapshot | None = None, slots: int = 20
) -> tuple[PodIdentity, list[protocol.ClaimedAttempt]]:
    """Return a pod of a pool that holds so many attempts."""
    pod = await with_session(world, await world.reusable_pod(task, slots=slots))
    for _ in range(number):
        await world.submit(task)
    attempts = (await ask(world, pod, "before", slots=number)).attempts
    return pod, sorted(attempts, key=lambda attempt: attempt.run_id)


def done(attempt: protocol.ClaimedAttempt, text: str = "42") -> protocol.End:
    return protocol.End(token=attempt.token, complete=complete(text))


def failed(attempt: protocol.ClaimedAttempt) -> protocol.End:
    return protocol.End(token=attempt.token, fail=a_failure())


async def end(
    world: World, pod: PodIdentity, ends: Sequence[protocol.End], claim: protocol.NextClaim | None = None
) -> tuple[list[Any], Answer]:
    """End attempts; an answer is the state of the run, or the error."""
    answers, taken = await world.attempts.end_all(pod.session or "", ends, claim)
    return [one.state if isinstance(one, protocol.Outcome) else one for one in answers], taken


async def states(world: World, attempts: Sequence[protocol.ClaimedAttempt]) -> list[str]:
    return [(await world.get(UUID(attempt.run_id)))["state"] for attempt in attempts]


class Transactions:
    """Counts the transactions of a ledger, and lets some of them fail, or be done twice."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.twice = False
        self._whole = database.transaction
        monkeypatch.setattr(database, "transaction", self._counted)

    async def _counted(self, work: Any) -> Any:
        self.number += 1
        if self.twice:  # the word of the first commit is lost
            await self._whole(work)
        return await self._whole(work)


async def test_many_ends_share_one_transaction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, attempts = await running(world, 12)
    counted = Transactions(world.database, monkeypatch)
    answers, _ = await end(world, pod, [done(a, str(n)) if n % 3 else failed(a) for n, a in enumerate(attempts)])
    assert counted.number == 1
    assert answers == ["Succeeded" if n % 3 else "Queued" for n in range(12)]
    assert await states(world, attempts) == answers
    assert [(await world.get(UUID(a.run_id)))["result"] for a in attempts[1:3]] == ["1", "2"]


async def test_the_ends_and_the_next_claim_are_one_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, attempts = await running(world, 4, slots=4)
    more = [await world.submit() for _ in range(6)]
    counted = Transactions(world.database, monkeypatch)
    answers, taken = await end(world, pod, [done(a) for a in attempts[:3]], protocol.NextClaim("next", 64))
    assert answers == ["Succeeded"] * 3
    assert {a.run_id for a in taken.attempts} == {str(run_id) for run_id in more[:3]}, "one slot is taken still"
    assert counted.number == 2
    answers, _ = await end(world, pod, [done(a) for a in (attempts[3], *taken.attempts)])
    assert answers == ["Succeeded"] * 4


async def test_one_end_that_is_refused_keeps_no_other(world: World) -> None:
    pod, attempts = await running(world, 6)
    lost = attempts[0]
    await world.attempts.lose(UUID(lost.attempt_id), reason="PodDeleted", message="gone")
    unreadable = protocol.End(token=attempts[1].token, complete=complete('{"a": NaN}'))
    both = protocol.End(token=attempts[2].token, complete=complete(), fail=a_failure())
    stale = protocol.End(token=attempts[3].attempt_id + ".another", complete=complete())
    claims = protocol.End(
        token=attempts[4].token,
        complete=protocol.CompleteRequest(result=msgspec.Raw(b"1"), claim=protocol.NextClaim("x")),
    )
    answers, _ = await end(world, pod, [done(lost), unreadable, both, stale, claims, done(attempts[5])])
    assert [type(a) for a in answers[:5]] == [
        AttemptClosedError,
        type(answers[1]),
        InvalidRequestError,
        UnauthorizedError,
        InvalidRequestError,
    ]
    assert isinstance(answers[1], WindlassError) and answers[1].code == "PayloadInvalid"  # noqa: PT018
    assert answers[5] == "Succeeded"
    assert await states(world, attempts) == ["Queued", *["Running"] * 4, "Succeeded"]


async def test_an_end_whose_write_fails_does_not_fail_the_others(world: World) -> None:
    """The value of one is not stored: the server refuses the transaction, and each end is tried by itself."""
    pod, attempts = await running(world, 4)
    missing = protocol.CompleteRequest(result_ref=protocol.BlobRef(sha256="a" * 64, size=99_999))
    ends = [done(attempts[0]), protocol.End(token=attempts[1].token, complete=missing), *map(done, attempts[2:])]
    answers, _ = await end(world, pod, ends)
    assert isinstance(answers[1], WindlassError)
    assert answers[1].code == "ValueNotStored"
    assert await states(world, attempts) == ["Succeeded", "Running", "Succeeded", "Succeeded"]


async def test_a_repeat_is_answered_alike_and_takes_nothing(world: World) -> None:
    """Whoever repeats may have gone on since: what its claim took keeps its tokens."""
    pod, attempts = await running(world, 3, slots=3)
    for _ in range(6):
        await world.submit()
    ends, claim = [done(attempts[0]), failed(attempts[1])], protocol.NextClaim("next", 2)
    first, taken = await end(world, pod, ends, claim)
    again, nothing = await end(world, pod, ends, claim)
    assert again == first == ["Succeeded", "Queued"]
    assert (len(taken.attempts), nothing.attempts) == (2, [])
    assert await end(world, pod, [done(a) for a in taken.attempts]) == (["Succeeded"] * 2, Answer())
    assert (await ask(world, pod, "next", slots=2)).attempts == [], "that claim has taken something"


async def test_a_claim_whose_answer_was_lost_is_asked_again_by_its_id(world: World) -> None:
    pod, attempts = await running(world, 2, slots=2)
    for _ in range(4):
        await world.submit()
    _, lost = await end(world, pod, [done(a) for a in attempts], protocol.NextClaim("next", 2))
    found = (await ask(world, pod, "next", slots=2)).attempts
    assert [a.attempt_id for a in found] == [a.attempt_id for a in lost.attempts]
    answers, _ = await end(world, pod, [done(lost.attempts[0]), done(found[1])])
    assert isinstance(answers[0], UnauthorizedError), "a repeat has other tokens"
    assert answers[1] == "Succeeded"


async def test_ends_whose_commit_was_not_acknowledged_are_written_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, attempts = await running(world, 5)
    counted = Transactions(world.database, monkeypatch)
    counted.twice = True
    answers, _ = await end(world, pod, [done(attempts[0]), failed(attempts[1]), *map(done, attempts[2:])])
    assert answers == ["Succeeded", "Queued", "Succeeded", "Succeeded", "Succeeded"]
    rows = await world.database.fetch("SELECT attempts, user_failures FROM run ORDER BY id")
    assert [(row["attempts"], row["user_failures"]) for row in rows] == [(1, 0), (1, 1), (1, 0), (1, 0), (1, 0)]


async def test_a_claim_with_ends_whose_commit_was_not_acknowledged_has_what_it_took(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, _ = await running(world, 1, slots=3)
    for _ in range(2):
        await world.submit()
    pod_id, key = await world.attempts.claims.find(pod)
    counted = Transactions(world.database, monkeypatch)
    counted.twice = True
    (taken,) = await world.attempts.claims.take(key, [Ask(pod_id, "next", 2, first=True)])
    counted.twice = False
    assert (await end(world, pod, [done(a) for a in taken.attempts]))[0] == ["Succeeded"] * 2


async def test_the_same_end_twice_in_a_call_is_an_end_and_its_repeat(world: World) -> None:
    pod, attempts = await running(world, 2)
    answers, _ = await end(world, pod, [done(attempts[0]), failed(attempts[0]), done(attempts[1]), done(attempts[0])])
    assert answers == ["Succeeded"] * 4, "who ends it again, whatever they say, is answered as the first was"


async def test_a_session_that_is_not_the_pods_claims_nothing(world: World) -> None:
    pod, attempts = await running(world, 1)
    await world.submit()
    stranger = PodIdentity(pod.pod_uid, pod.pod_name, session="guessed")
    answers, taken = await end(world, stranger, [done(attempts[0])], protocol.NextClaim("next", 1))
    assert (answers, taken.attempts) == (["Succeeded"], [])


async def test_many_ends_give_the_slots_of_their_queue_back(world: World) -> None:
    await world.put_queue("order", concurrency=3)
    pod, attempts = await running(world, 3)
    waiting = [await world.submit() for _ in range(5)]
    assert (await ask(world, pod, "full", slots=5)).attempts == []
    _, taken = await end(world, pod, [done(attempts[0]), failed(attempts[1])], protocol.NextClaim("next", 5))
    assert len(taken.attempts) == 2
    assert {a.run_id for a in taken.attempts} <= {attempts[1].run_id, *(str(run_id) for run_id in waiting)}


async def test_who_waits_elsewhere_is_woken_for_each_slot_that_ends_give_back(world: World, database: Database) -> None:
    told: list[dict[str, int]] = []
    await world.put_queue("order", concurrency=3)
    pod, attempts = await running(world, 3)
    for _ in range(5):
        await world.submit()
    database.on_startable(lambda keys: told.append(dict(keys)))
    await end(world, pod, [done(a) for a in attempts])
    assert [list(keys.values()) for keys in told] == [[3]]


async def test_failed_ends_are_compensated_where_they_must_and_retried_where_they_may(world: World) -> None:
    pod, attempts = await running(world, 4, task=a_task(retry=_ONCE))
    undo = msgspec.Raw(b'{"function":"order:undo"}')
    await world.steps.save(attempts[0].token, protocol.SaveStepsRequest(steps=[a_step("charge", compensation=undo)]))
    await world.runs.cancel(UUID(attempts[2].run_id), reason="Cancelled", message="enough")
    answers, taken = await end(
        world,
        pod,
        [failed(attempts[0]), failed(attempts[1]), failed(attempts[2]), done(attempts[3])],
        protocol.NextClaim("undo", 4),
    )
    assert answers == ["Compensating", "Failed", "Cancelled", "Succeeded"]
    (undoing,) = taken.attempts
    assert (undoing.compensating, [c.key for c in undoing.compensate]) == (True, ["charge"])
    undone = protocol.SaveStepsRequest(steps=[a_step("compensate/charge")])
    await world.steps.save(undoing.token, undone)
    answers, _ = await end(world, pod, [done(undoing, "")])
    assert answers == ["Failed"]


async def test_an_end_and_the_reaper_close_an_attempt_once(world: World) -> None:
    """In either order, with others beside them in the same transactions."""
    pod, attempts = await running(world, 16)
    losing = [
        world.attempts.lose(UUID(a.attempt_id), reason="PodDeleted", message="gone", failure_class="infra")
        for a in attempts[::2]
    ]
    (answers, _), lost = await asyncio.gather(end(world, pod, [done(a) for a in attempts]), asyncio.gather(*losing))
    for n, attempt in enumerate(attempts):
        run = await world.get(UUID(attempt.run_id))
        events = await world.database.fetch(
            "SELECT type FROM event WHERE run_id = %(id)s ORDER BY n", {"id": run["id"]}
        )
        was_lost = n % 2 == 0 and lost[n // 2]
        assert run["state"] == ("Queued" if was_lost else "Succeeded")
        assert [e["type"] for e in events][-1] == ("RetryScheduled" if was_lost else "Succeeded")
        assert isinstance(answers[n], AttemptClosedError) == was_lost


async def test_ends_from_many_pods_in_any_order_never_wait_in_a_circle(world: World) -> None:
    """Each attempt is ended by two calls at once, in opposite orders, while others write to the same attempts."""
    pod, attempts = await running(world, 40, slots=40)
    calls = []
    for n in range(8):
        mine = [a for m, a in enumerate(attempts) if m % 8 in (n, (n + 1) % 8)]
        calls.append(end(world, pod, [done(a) for a in (mine if n % 2 else mine[::-1])]))
    beats = protocol.HeartbeatRequest(beats=[protocol.Beat(token=a.token) for a in attempts[::-1]])
    beating = asyncio.gather(*(world.attempts.heartbeat(beats) for _ in range(4)))
    assert [answers for answers, _ in await asyncio.gather(*calls)] == [["Succeeded"] * 10] * 8
    await beating
    assert await states(world, attempts) == ["Succeeded"] * 40


async def test_single_ends_that_come_together_share_transactions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, attempts = await running(world, 20)
    counted = Transactions(world.database, monkeypatch)
    outcomes = await asyncio.gather(
        *(world.attempts.complete(a.token, complete()) for a in attempts[:10]),
        *(world.attempts.fail(a.token, a_failure()) for a in attempts[10:]),
    )
    assert [o.state for o in outcomes] == ["Succeeded"] * 10 + ["Queued"] * 10
    assert counted.number == 1


async def test_an_end_that_waits_for_a_row_of_its_own_is_written_with_what_it_finds(
    world: World, database: Database
) -> None:
    """A step that is being saved holds the attempt: the end waits, and the step is part of history."""
    pod, attempts = await running(world, 3)
    held, go = asyncio.Event(), asyncio.Event()

    async def hold(connection: Connection) -> None:
        await connection.execute("SELECT 1 FROM attempt WHERE id = %s FOR UPDATE", (attempts[1].attempt_id,))
        held.set()
        await go.wait()

    holding = asyncio.create_task(database.transaction(hold))
    await held.wait()
    ending = asyncio.create_task(end(world, pod, [done(a) for a in attempts]))
    await asyncio.sleep(0.05)
    assert not ending.done()
    go.set()
    await holding
    assert (await ending)[0] == ["Succeeded"] * 3
