"""Runs that start runs: one child for each key whatever crashes, and nobody waits for a child that has ended."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_task
from windlass import protocol
from windlass_operator.api.runtime import _submission
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.domain.errors import (
    AttemptClosedError,
    InvalidRequestError,
    LedgerUnavailableError,
    PayloadInvalidError,
    TaskNotFoundError,
)
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import children
from windlass_operator.ledger.database import Database
from windlass_operator.services.children import (
    DEPTH,
    OtherArgumentsError,
    RunEndingError,
    RunTooDeepError,
    WaitsForItselfError,
)
from windlass_operator.services.invariants import InvariantService
from windlass_operator.services.submitted import Submission

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "part"] = a_task(retry=RetryPolicy(max_attempts=1, jitter="none"))
    world.cluster.tasks["shop", "strict"] = a_task(payload_schema=SCHEMA)
    return world


def child(key: str, *, awaited: bool = True, task: str = "part", payload: str = "1", **more: Any) -> protocol.Child:
    """Return a child as the SDK asks for it."""
    return protocol.Child(
        key=key, name=task, args_hash="a", task=task, payload=msgspec.Raw(payload.encode()), awaited=awaited, **more
    )


async def start(world: World, token: str, *children: protocol.Child) -> list[UUID]:
    """Start runs, as the route does it."""
    wanted = [
        (one, Submission(task=one.task, idempotency_key=one.idempotency_key, at=f"children[{n}]."))
        for n, one in enumerate(children)
    ]
    return [UUID(run_id) for run_id in (await world.children.start(token, wanted)).run_ids]


async def parent(world: World, **spec: Any) -> protocol.ClaimedAttempt:
    """Return an attempt of a run that may start others."""
    await world.submit(a_task(**spec))
    return await claim(world)


async def claim(world: World) -> protocol.ClaimedAttempt:
    """Claim the oldest run that nobody's code has started; the children are ended by hand here."""
    await world.database.fetch("DELETE FROM queue_entry USING run WHERE run.id = run_id AND parent_id IS NOT NULL")
    (attempt,) = await world.claim(claim_id="c")
    return attempt


async def suspend(world: World, attempt: protocol.ClaimedAttempt, *keys: str) -> protocol.SuspendAnswer:
    """Say that nothing but these waits is left, in one group."""
    return await world.waits.suspend(attempt.token, protocol.SuspendRequest(waits=list(keys), groups=[list(keys)]))


async def follow(world: World) -> None:
    """Do what follows from the ends so far."""
    while await world.endings.follow() is not None:
        pass


async def count(world: World) -> int:
    """Return how many runs there are."""
    return int((await world.database.fetch("SELECT count(*) AS n FROM run"))[0]["n"])


async def end(world: World, run_id: UUID, *, result: str | None = None) -> None:
    """Let a queued run run to its end: with a result, or by a failure."""
    token = "00000000-0000-0000-0000-000000000001"
    from windlass_operator.domain.ids import new_id, token_hash

    attempt_id = new_id()
    await world.database.fetch("DELETE FROM queue_entry WHERE run_id = %(id)s", {"id": run_id})
    await world.database.fetch(
        "WITH r AS (UPDATE run SET state = 'Running', attempts = 1, started_at = ledger_now() WHERE id = %(id)s)"
        " INSERT INTO attempt (id, run_id, number, token_hash, lease_until)"
        " VALUES (%(attempt)s, %(id)s, 1, %(hash)s, ledger_now() + interval '1 hour')",
        {"id": run_id, "attempt": attempt_id, "hash": token_hash(token)},
    )
    if result is None:
        await world.attempts.fail(f"{attempt_id}.{token}", a_failure())
    else:
        done = protocol.CompleteRequest(result=msgspec.Raw(result.encode()))
        await world.attempts.complete(f"{attempt_id}.{token}", done)


async def state(world: World, run_id: UUID | str) -> str:
    """Return the state of a run."""
    return str((await world.get(UUID(str(run_id))))["state"])


async def history(world: World, run_id: UUID | str) -> dict[str, protocol.Step]:
    """Return the steps of a run as its next attempt sees them."""
    from windlass_operator.services.handover import step_from_row

    rows = await world.runs.steps(UUID(str(run_id)), after=0, limit=1000)
    return {row["key"]: step_from_row(row) for row in rows}


async def test_a_repeat_returns_the_same_children(world: World) -> None:
    attempt = await parent(world)
    first = await start(world, attempt.token, child("a"), child("b", awaited=False))
    assert await start(world, attempt.token, child("a"), child("b", awaited=False)) == first
    assert await start(world, attempt.token, child("c"), child("b", awaited=False), child("a")) != first
    assert await count(world) == 4
    steps = await history(world, attempt.run_id)
    assert (steps["a"].state, steps["a"].kind, steps["a"].run_id) == ("waiting", "run", str(first[0]))
    assert (steps["b"].state, bytes(steps["b"].result)) == ("succeeded", f'"{first[1]}"'.encode())


async def test_the_next_attempt_gets_the_same_children(world: World) -> None:
    attempt = await parent(world)
    first = await start(world, attempt.token, child("a"), child("b", awaited=False))
    await world.attempts.lose(UUID(attempt.attempt_id), reason="PodDeleted", message="")
    with pytest.raises(AttemptClosedError):
        await start(world, attempt.token, child("c"))
    again = await claim(world)
    assert again.run_id == attempt.run_id
    assert [step.key for step in again.steps] == ["b"], "what is finished is history; what is waited for is asked again"
    assert await start(world, again.token, child("a")) == first[:1]
    assert await count(world) == 3


async def test_requests_that_race_with_their_repeats_start_each_child_once(world: World) -> None:
    attempt = await parent(world)
    wanted = [child(f"k{n}", awaited=n % 2 == 0) for n in range(20)]
    answers = await asyncio.gather(*(start(world, attempt.token, *wanted) for _ in range(6)))
    assert all(answer == answers[0] for answer in answers)
    assert await count(world) == 21


async def test_a_thousand_children_start_in_one_call_and_wake_their_parent_once(world: World) -> None:
    attempt = await parent(world)
    ids = await start(world, attempt.token, *(child(f"k{n}") for n in range(1000)))
    assert ids == sorted(ids)
    assert (await suspend(world, attempt, *(f"k{n}" for n in range(1000)))).suspended
    ended = "UPDATE run SET state = 'Succeeded', result = '7', finished_at = ledger_now() WHERE id = ANY(%(ids)s)"
    await world.database.fetch(ended, {"ids": ids[:-1]})
    for run_id in ids[:-1]:
        world.endings.ended(run_id)
    await follow(world)
    assert await state(world, attempt.run_id) == "Waiting"
    await end(world, ids[-1], result="8")
    await follow(world)
    assert await state(world, attempt.run_id) == "Queued"
    events = await world.runs.events(UUID(attempt.run_id), after=0, limit=100)
    assert [event["type"] for event in events].count("Woken") == 1
    steps = await history(world, attempt.run_id)
    assert {bytes(steps[f"k{n}"].result) for n in range(999)} == {b"7"}
    assert bytes(steps["k999"].result) == b"8"


async def test_a_child_that_ends_before_the_parent_suspends_lets_it_go_on(world: World) -> None:
    attempt = await parent(world)
    (run_id,) = await start(world, attempt.token, child("a"))
    await end(world, run_id, result='{"ok": true}')
    await follow(world)
    answer = await suspend(world, attempt, "a")
    assert not answer.suspended
    assert [(step.key, bytes(step.result), step.run_id) for step in answer.over] == [
        ("a", b'{"ok": true}', str(run_id))
    ]


async def test_a_child_that_ends_while_the_parent_suspends_is_never_missed(world: World) -> None:
    for _ in range(10):
        attempt = await parent(world)
        (run_id,) = await start(world, attempt.token, child("a"))

        async def ends(run_id: UUID = run_id) -> None:
            await end(world, run_id, result="1")
            await follow(world)

        answer, _none = await asyncio.gather(suspend(world, attempt, "a"), ends())
        if answer.suspended:
            assert await state(world, attempt.run_id) == "Queued"
            attempt = await claim(world)
            assert [step.key for step in attempt.steps] == ["a"]
        await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))


async def test_an_end_that_nobody_told_of_is_found_by_the_sweep(world: World) -> None:
    attempt = await parent(world)
    (run_id,) = await start(world, attempt.token, child("a"))
    assert (await suspend(world, attempt, "a")).suspended
    assert (await world.get(UUID(attempt.run_id)))["reason"] == "WaitingForRun"
    await end(world, run_id, result="1")
    world.endings._told.clear()  # the process died
    assert await world.endings.sweep() is None
    assert await state(world, attempt.run_id) == "Queued"


async def test_a_childs_failure_is_a_failed_step_that_says_all_of_it(world: World) -> None:
    attempt = await parent(world)
    failing, cancelled = await start(world, attempt.token, child("a"), child("b"))
    await end(world, failing)
    await world.runs.cancel(cancelled, reason="Cancelled", message="by a person")
    await follow(world)
    steps = await history(world, attempt.run_id)
    error = steps["a"].error
    assert steps["a"].durable
    assert error is not None
    assert error.run is not None
    assert error.type == "RunFailedError"
    assert error.run == protocol.FailedRun(
        run_id=str(failing), state="Failed", type="ValueError", message="boom", failure_class="user"
    )
    other = steps["b"].error
    assert other is not None
    assert other.run is not None
    assert (other.run.state, other.run.message) == ("Cancelled", "by a person")


async def test_a_large_result_of_a_child_is_read_by_its_parent_and_nobody_else(world: World) -> None:
    attempt = await parent(world)
    (run_id,) = await start(world, attempt.token, child("a"))
    text = b'"' + b"x" * 100_000 + b'"'
    staged = await world.blobs.stage(SHOP.uid, run_id, text)

    async def record(connection: Any) -> None:
        await world.blobs.record(connection, run_id, staged)

    await world.database.transaction(record)
    await world.database.fetch(
        "UPDATE run SET state = 'Succeeded', result_sha256 = %(sha)s, result_size = %(size)s,"
        " finished_at = ledger_now() WHERE id = %(id)s",
        {"id": run_id, "sha": staged.ref.sha256, "size": staged.ref.size},
    )
    world.endings.ended(run_id)
    await follow(world)
    step = (await history(world, attempt.run_id))["a"]
    assert step.result_ref is not None
    writer = await world.attempts.authenticate(attempt.token)
    assert await world.blobs.get_for(writer, step.result_ref.sha256) == text
    stranger = await parent(world)
    with pytest.raises(BlobMissingError):
        await world.blobs.get_for(await world.attempts.authenticate(stranger.token), step.result_ref.sha256)


async def test_bad_children_are_named_and_none_is_started(world: World) -> None:
    attempt = await parent(world)
    with pytest.raises(TaskNotFoundError) as missing:
        await start(world, attempt.token, child("a"), child("b", task="nobody"))
    assert (missing.value.field, "namespace 'shop'" in missing.value.message) == ("children[1].task", True)
    with pytest.raises(PayloadInvalidError) as bad:
        await start(world, attempt.token, child("a"), child("b", task="strict", payload='{"n": "x"}'))
    assert bad.value.field == "children[1].payload.n"
    with pytest.raises(PayloadInvalidError):
        await start(world, attempt.token, child("a", payload='{"a": 1, "a": 2}'))
    assert await count(world) == 1
    assert await history(world, attempt.run_id) == {}


async def test_a_child_with_an_idempotency_key_is_shared(world: World) -> None:
    first, second = await parent(world), await parent(world)
    (one,) = await start(world, first.token, child("a", idempotency_key="k"))
    (two,) = await start(world, second.token, child("a", idempotency_key="k"))
    assert one == two
    await end(world, one, result="5")
    await follow(world)
    for attempt in (first, second):
        assert bytes((await history(world, attempt.run_id))["a"].result) == b"5"
    third = await parent(world)
    assert await start(world, third.token, child("a", idempotency_key="k")) == [one]
    await follow(world)
    assert bytes((await history(world, third.run_id))["a"].result) == b"5", "it had ended before"


async def test_a_run_cannot_wait_for_itself(world: World) -> None:
    made = await world.submissions.trigger(SHOP, Submission(task="part", idempotency_key="me"))
    attempt = await claim(world)
    assert UUID(attempt.run_id) == made.run_id
    with pytest.raises(WaitsForItselfError):
        await start(world, attempt.token, child("a", idempotency_key="me"))
    assert await start(world, attempt.token, child("a", idempotency_key="me", awaited=False)) == [made.run_id]


async def test_other_arguments_under_the_same_key_are_refused(world: World) -> None:
    attempt = await parent(world)
    await start(world, attempt.token, child("a"))
    other = child("a")
    other.args_hash = "b"
    with pytest.raises(OtherArgumentsError):
        await start(world, attempt.token, other)


async def test_a_task_that_triggers_itself_comes_to_an_end(world: World) -> None:
    attempt = await parent(world)
    await world.database.fetch("UPDATE run SET depth = %(n)s", {"n": DEPTH - 1})
    (run_id,) = await start(world, attempt.token, child("a", awaited=False))
    assert (await world.get(run_id))["depth"] == DEPTH
    await world.database.fetch("UPDATE run SET depth = %(n)s", {"n": DEPTH})
    with pytest.raises(RunTooDeepError):
        await start(world, attempt.token, child("b"))


async def test_a_child_belongs_to_its_parents_trace_and_tree(world: World) -> None:
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    world.cluster.tasks["shop", "order"] = a_task()
    made = await world.submissions.trigger(SHOP, Submission(task="order", traceparent=place))
    attempt = await claim(world)
    (run_id,) = await start(world, attempt.token, child("a"))
    row = await world.get(run_id)
    assert row["traceparent"].split("-")[1] == place.split("-")[1]
    assert (row["parent_id"], row["root_id"], row["depth"]) == (made.run_id, made.run_id, 1)
    tree = await world.runs.tree(made.run_id, limit=10)
    assert [(node["id"], node["parent_id"]) for node in tree] == [(made.run_id, None), (run_id, made.run_id)]


async def test_cancelling_a_parent_cancels_its_children_and_theirs_but_not_the_detached(world: World) -> None:
    attempt = await parent(world)
    a, b, free = await start(
        world, attempt.token, child("a"), child("b", awaited=False), child("c", awaited=False, detached=True)
    )
    await world.database.fetch(
        "UPDATE run SET parent_id = %(a)s, depth = 2 WHERE id = %(b)s", {"a": a, "b": b}
    )  # a grandchild
    assert (await suspend(world, attempt, "a")).suspended
    await world.runs.cancel(UUID(attempt.run_id), reason="Cancelled", message="")
    await follow(world)
    assert [await state(world, run) for run in (attempt.run_id, a, b, free)] == [
        "Cancelled",
        "Cancelled",
        "Cancelled",
        "Queued",
    ]
    assert (await world.get(a))["reason"] == "ParentCancelled"


async def test_a_cancellation_whose_process_died_goes_on_in_the_sweep(world: World) -> None:
    attempt = await parent(world)
    (run_id,) = await start(world, attempt.token, child("a"))
    await world.runs.cancel(UUID(attempt.run_id), reason="Cancelled", message="")
    world.endings._told.clear()
    await world.endings.sweep()
    assert await state(world, run_id) == "Cancelled"


async def test_children_of_a_parent_that_fails_go_on_and_of_one_that_runs_out_of_time_end(world: World) -> None:
    attempt = await parent(world, retry=RetryPolicy(max_attempts=1))
    (run_id,) = await start(world, attempt.token, child("a", awaited=False))
    await world.attempts.fail(attempt.token, a_failure())
    await follow(world)
    assert await state(world, run_id) == "Queued"
    await world.endings.sweep()
    assert await state(world, run_id) == "Queued"
    await world.database.fetch("UPDATE run SET state = 'TimedOut' WHERE state = 'Failed'")
    await world.endings.sweep()
    assert await state(world, run_id) == "Cancelled"


async def test_nothing_is_started_by_a_run_that_is_being_cancelled_however_they_race(world: World) -> None:
    for n in range(10):
        attempt = await parent(world)

        async def starts(attempt: protocol.ClaimedAttempt = attempt, n: int = n) -> list[UUID]:
            await asyncio.sleep(0.001 * (n % 3))
            try:
                return await start(world, attempt.token, child("a", awaited=False))
            except RunEndingError:
                return []

        made, _none = await asyncio.gather(
            starts(), world.runs.cancel(UUID(attempt.run_id), reason="Cancelled", message="")
        )
        await follow(world)
        for run_id in made:
            assert await state(world, run_id) == "Cancelled"
        with pytest.raises(RunEndingError):
            await start(world, attempt.token, child("b", awaited=False))
        await world.attempts.fail(attempt.token, protocol.FailRequest(failure=a_failure().failure, cancelled=True))


@pytest.mark.parametrize(("together", "after_one"), [(True, "Waiting"), (False, "Queued")])
async def test_a_failed_child_wakes_a_gather_at_once_and_a_batch_with_the_last(
    world: World, together: bool, after_one: str
) -> None:
    attempt = await parent(world)
    first, second = await start(world, attempt.token, child("a"), child("b"))
    group = [["a", "b"]]
    request = protocol.SuspendRequest(
        waits=["a", "b"], groups=[] if together else group, together=group if together else []
    )
    assert (await world.waits.suspend(attempt.token, request)).suspended
    await end(world, first)
    await follow(world)
    assert await state(world, attempt.run_id) == after_one
    await end(world, second)
    await follow(world)
    assert await state(world, attempt.run_id) == "Queued"


async def ends_with(world: World, attempt: protocol.ClaimedAttempt, *keys: str) -> protocol.ClaimedAttempt:
    """Let an attempt end with these failed steps, and return the next one."""
    await world.attempts.fail(attempt.token, msgspec.structs.replace(a_failure(), rerun=list(keys)))
    await world.database.fetch("UPDATE queue_entry SET available_at = ledger_now()")
    return await claim(world)


async def test_a_failed_run_is_started_again_for_a_retry_of_its_parent_and_a_finished_one_is_not(world: World) -> None:
    attempt = await parent(world)
    good, bad = await start(world, attempt.token, child("good"), child("bad"))
    await end(world, good, result="1")
    await end(world, bad)
    await follow(world)
    attempt = await ends_with(world, attempt, "good", "bad")
    assert [step.key for step in attempt.steps] == ["good"]
    same, other = await start(world, attempt.token, child("good"), child("bad"))
    assert same == good
    assert other != bad
    assert (await start(world, attempt.token, child("bad"))) == [other], "a repeat starts nothing"
    assert await count(world) == 4
    assert "children" not in {found.check for found in await InvariantService(world.database, again=0).check()}
    assert (await suspend(world, attempt, "bad")).suspended
    await end(world, other, result="2")
    await follow(world)
    steps = await history(world, attempt.run_id)
    assert bytes(steps["bad"].result) == b"2"
    assert steps["bad"].run_id == str(other)


async def test_a_run_that_was_waited_for_too_shortly_is_waited_for_again(world: World, clock: Clock) -> None:
    attempt = await parent(world)
    (slow,) = await start(world, attempt.token, child("slow", due_in_ms=1000))
    clock.advance(2 * SECOND)
    await world.waits.fire_due()
    attempt = await ends_with(world, attempt, "slow")
    with pytest.raises(OtherArgumentsError):
        await start(world, attempt.token, msgspec.structs.replace(child("slow"), args_hash="b"))
    assert await start(world, attempt.token, child("slow", due_in_ms=1000)) == [slow]
    assert await count(world) == 2
    await end(world, slow, result="7")
    await follow(world)
    assert bytes((await history(world, attempt.run_id))["slow"].result) == b"7"


async def test_a_run_that_ended_after_the_timeout_gives_its_result_to_the_retry(world: World, clock: Clock) -> None:
    attempt = await parent(world)
    (slow,) = await start(world, attempt.token, child("slow", due_in_ms=1000))
    clock.advance(2 * SECOND)
    await world.waits.fire_due()
    attempt = await ends_with(world, attempt, "slow")
    await end(world, slow, result="7")
    await follow(world)
    assert await start(world, attempt.token, child("slow", due_in_ms=1000)) == [slow]
    await follow(world)
    assert bytes((await history(world, attempt.run_id))["slow"].result) == b"7"


async def times_of(world: World, run_id: UUID) -> tuple[timedelta, timedelta | None]:
    """Return after what time a run may begin, and for how long it may wait then."""
    (row,) = await world.database.fetch(
        "SELECT q.available_at - run.created_at AS delay, q.expires_at - q.available_at AS ttl"
        " FROM queue_entry q JOIN run ON run.id = q.run_id WHERE run.id = %(id)s",
        {"id": run_id},
    )
    return row["delay"], row["ttl"]


async def test_a_child_begins_no_earlier_than_its_code_said_first(world: World, clock: Clock) -> None:
    attempt = await parent(world)
    at = (clock.now() + 90 * SECOND).isoformat()
    later = child("a", awaited=False, delay="1m", start_at=at, queue_ttl="10s")
    (run_id,) = await start_as_asked(world, attempt.token, later)
    assert await times_of(world, run_id) == (90 * SECOND, 10 * SECOND)
    clock.advance(30 * SECOND)
    again = child("a", awaited=False, delay="5m")  # the code has run again, and calculates another time
    assert await start_as_asked(world, attempt.token, again) == [run_id]
    assert await times_of(world, run_id) == (90 * SECOND, 10 * SECOND)


async def test_an_expired_child_is_a_failed_one_for_who_waits_for_it(world: World, clock: Clock) -> None:
    attempt = await parent(world)
    (run_id,) = await start_as_asked(world, attempt.token, child("a", delay="1m", queue_ttl="10s"))
    assert (await suspend(world, attempt, "a")).suspended
    clock.advance(65 * SECOND)
    assert await world.runs.expire_due() == 0
    clock.advance(10 * SECOND)
    assert await world.runs.expire_due() == 1
    await follow(world)
    (step,) = await world.runs.steps(UUID(attempt.run_id), after=0, limit=10)
    assert step["state"] == "failed"
    assert msgspec.json.decode(step["error"], type=protocol.Failure).run == protocol.FailedRun(
        run_id=str(run_id), state="Expired", type="QueueTTLExpired", message="No attempt had begun within queueTTL.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"delay": "soon"}, "children[0].delay"),
        ({"start_at": "2030-01-01T00:00:00"}, "children[0].startAt"),
        ({"queue_ttl": "-1s"}, "children[0].queueTTL"),
    ],
)
async def test_times_that_are_none_are_refused_with_their_place(world: World, more: dict[str, Any], field: str) -> None:
    attempt = await parent(world)
    with pytest.raises(InvalidRequestError) as refused:
        await start_as_asked(world, attempt.token, child("a", **more))
    assert refused.value.field == field


async def start_as_asked(world: World, token: str, *children: protocol.Child) -> list[UUID]:
    """Start runs with all that they ask for, as the route reads it."""
    wanted = [(one, _submission(one, f"children[{n}].")) for n, one in enumerate(children)]
    return [UUID(run_id) for run_id in (await world.children.start(token, wanted)).run_ids]


async def test_what_follows_from_an_end_is_done_when_the_ledger_answers_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    async def away(*_: object, **__: object) -> list[UUID]:
        looks.append("orphans")
        raise LedgerUnavailableError("It is away.")

    run_id = await world.submit()
    world.endings.ended(run_id, RunState.CANCELLED)
    with monkeypatch.context() as broken:
        broken.setattr(children, "orphans", away)
        with pytest.raises(LedgerUnavailableError):
            await world.endings.follow()
    assert looks == ["orphans"]
    assert (world.endings._told, world.endings._stopped) == ({run_id}, {run_id})


async def test_the_end_of_a_run_that_leaves_its_children_alone_asks_for_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    real = children.orphans

    async def noted(database: Database, parents: Any, **more: Any) -> Any:
        looks.append(parents)
        return await real(database, parents, **more)

    monkeypatch.setattr(children, "orphans", noted)
    run_id = await world.submit()
    for state in (RunState.SUCCEEDED, RunState.FAILED):
        world.endings.ended(run_id, state)
        assert await world.endings.follow() is None
    assert looks == []
    world.endings.ended(run_id, RunState.TIMED_OUT)
    assert await world.endings.follow() is None
    assert looks == [[run_id]]
