"""Events on a real PostgreSQL: each reaches every run that it is for, once, in order, whoever comes first."""

import asyncio
import random
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.eventually import eventually
from tests.support.world import SECOND, SHOP, World
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, PayloadTooLargeError
from windlass_operator.ledger.database import Database
from windlass_operator.services.events import EventIdInUseError, EventService

HOUR = timedelta(hours=1)
_LOCK_RUN = "SELECT 1 FROM run WHERE id = %s FOR UPDATE"
_LOCK_NAME = "INSERT INTO event_name (project_id, name) SELECT id, %s FROM project"


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def a_wait(
    key: str = "wait_for_event", *, name: str = "paid", match: Any = None, lookback: timedelta = timedelta(0)
) -> protocol.Wait:
    detail = protocol.EventDetail(
        match=msgspec.Raw(msgspec.json.encode(match)), lookback_ms=lookback.total_seconds() * 1000
    )
    raw = msgspec.Raw(msgspec.json.encode(detail))
    return protocol.Wait(key=key, name="wait_for_event", args_hash="a", kind="event", target=name, detail=raw)


async def a_run(world: World, number: int = 1) -> tuple[UUID, str]:
    """Return a run and the token of its attempt."""
    run_id = await world.submit()
    (attempt,) = await world.claim(claim_id=f"claim-{number}")
    return run_id, attempt.token


async def begin(world: World, token: str, *asked: protocol.Wait) -> list[Any]:
    """Begin waits and return the payloads of the events that are there."""
    answer = await world.waits.register(token, protocol.WaitsRequest(waits=list(asked)))
    return [msgspec.json.decode(step.result)["payload"] for step in answer.over]


async def came(world: World, run_id: UUID, *keys: str) -> list[Any]:
    """Return the payloads of the events that have come, in the order of the keys."""
    over = {row["key"]: row["result"] for row in await world.runs.steps(run_id, after=0, limit=99)}
    return [msgspec.json.decode(over[key])["payload"] if over[key] else None for key in keys]


async def send(world: World, payload: Any = None, *, name: str = "paid", event_id: str | None = None) -> int:
    return (await world.events.send(SHOP, name, payload, event_id)).runs


async def rows(world: World, table: str) -> list[dict[str, Any]]:
    return await world.database.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a test's own word


async def test_an_event_wakes_every_waiting_run_that_it_matches(world: World) -> None:
    found = []
    for number, match in enumerate([{"orderId": 7}, {"orderId": 7, "eu": True}, {"orderId": 8}, None]):
        run_id, token = await a_run(world, number)
        await begin(world, token, a_wait(match=match))
        await world.waits.suspend(token, protocol.SuspendRequest(waits=["wait_for_event"]))
        found.append(run_id)
    assert await send(world, {"orderId": 7, "eu": True}) == 3
    assert [(await world.get(run_id))["state"] for run_id in found] == ["Queued", "Queued", "Waiting", "Queued"]
    row = await world.get(found[2])
    assert (row["reason"], row["message"]) == (
        "WaitingForEvent",
        "Waiting for event 'paid'. No pod is held meanwhile.",
    )
    assert all(event["delivered_at"] for event in await rows(world, "sent_event"))


async def test_the_result_says_which_event_it_was(world: World) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait())
    await send(world, {"nul": "\0"}, event_id="order-7")
    (step,) = await world.runs.steps(run_id, after=0, limit=9)
    assert msgspec.json.decode(step["result"]) == {
        "name": "paid",
        "id": "order-7",
        "payload": {"nul": "\0"},
        "sentAt": "2030-01-01T12:00:00+00:00",
    }


async def test_an_event_that_comes_before_the_wait_is_kept_for_it(world: World) -> None:
    _, token = await a_run(world)
    assert await send(world, 1) == 0
    assert await begin(world, token, a_wait()) == [1]


async def test_a_loop_gets_one_event_after_the_other_in_their_order(world: World) -> None:
    run_id, token = await a_run(world)
    for number in range(3):
        await send(world, number)
    taken = [(await begin(world, token, a_wait(f"w{number}"))) for number in range(4)]
    assert taken == [[0], [1], [2], []]
    await send(world, 3)
    assert await came(world, run_id, "w3") == [3]


async def test_two_waits_of_a_run_share_no_event(world: World) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait("a"), a_wait("b"))
    assert await send(world, 1) == 1
    assert await came(world, run_id, "a", "b") == [1, None]
    await send(world, 2)
    assert await came(world, run_id, "a", "b") == [1, 2]


async def test_an_event_that_was_sent_before_the_run_is_found_only_by_looking_back(world: World, clock: Clock) -> None:
    await send(world, "early")
    clock.advance(HOUR)
    await send(world, "late")
    clock.advance(SECOND)
    _, token = await a_run(world)
    assert await begin(world, token, a_wait("plain")) == []
    assert await begin(world, token, a_wait("short", lookback=HOUR / 2)) == ["late"]
    assert await begin(world, token, a_wait("long", lookback=2 * HOUR)) == ["early"]


async def test_an_event_for_nobody_is_delivered_and_still_found_later(world: World) -> None:
    _, token = await a_run(world)
    await send(world, {"orderId": 1})
    await send(world, {"orderId": 2})
    assert all(event["delivered_at"] for event in await rows(world, "sent_event"))
    assert await begin(world, token, a_wait("a", match={"orderId": 2})) == [{"orderId": 2}]
    assert await begin(world, token, a_wait("b", match={"orderId": 1})) == [{"orderId": 1}]


async def test_another_name_and_another_project_are_not_reached(world: World) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait())
    assert await send(world, name="refunded") == 0
    world.cluster.namespaces["bank"] = "uid-of-bank"
    assert (await world.events.send(await world.cluster.project("bank"), "paid", 1, None)).runs == 0
    assert await came(world, run_id, "wait_for_event") == [None]


async def test_a_repeat_with_the_same_id_is_sent_once(world: World) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait("a"), a_wait("b"))
    first = await world.events.send(SHOP, "paid", 1, "order-7")
    again = await world.events.send(SHOP, "paid", 2, "order-7")
    assert (first.runs, first.deduplicated, again.runs, again.deduplicated) == (1, False, 1, True)
    assert await came(world, run_id, "a", "b") == [1, None]
    with pytest.raises(EventIdInUseError):
        await world.events.send(SHOP, "refunded", 1, "order-7")


async def test_a_closed_attempt_sends_nothing(world: World) -> None:
    _, token = await a_run(world)
    request = protocol.SendEventRequest(name="paid", id="a", payload=msgspec.Raw(b"1"))
    assert (await world.events.send_from_run(token, request)).id == "a"
    await world.events.send_from_run(token, request)
    await world.attempts.complete(token, protocol.CompleteRequest())
    with pytest.raises(AttemptClosedError):
        await world.events.send_from_run(token, protocol.SendEventRequest(name="paid", id="b"))
    assert [event["id"] for event in await rows(world, "sent_event")] == ["a"]


async def test_a_payload_over_64_kib_and_a_match_of_too_many_values_are_refused(world: World) -> None:
    with pytest.raises(PayloadTooLargeError):
        await send(world, "x" * 65_536)
    _, token = await a_run(world)
    asked = [a_wait("a", match=list(range(100))), a_wait("b", name="a\nb")]
    over = (await world.waits.register(token, protocol.WaitsRequest(waits=asked))).over
    assert [(step.state, step.durable, step.error and step.error.message[:35]) for step in over] == [
        ("failed", True, "A match has 100 values at most; thi"),
        ("failed", True, "An event's name has 1 to 200 charac"),
    ]


async def test_a_loop_delivers_what_its_sender_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait())
    with monkeypatch.context() as patch:
        patch.setattr(EventService, "deliver", _crash)
        with pytest.raises(RuntimeError):
            await send(world, 1)
    assert await came(world, run_id, "wait_for_event") == [None]
    await world.events.deliver_due()
    assert await came(world, run_id, "wait_for_event") == [1]
    assert all(event["delivered_at"] for event in await rows(world, "sent_event"))


async def _crash(*_: Any, **__: Any) -> bool:
    raise RuntimeError("the process dies here")


async def test_a_run_in_somebody_elses_hands_keeps_its_event_until_the_loop_comes_again(
    world: World, ledger_uri: str
) -> None:
    first, token = await a_run(world, 1)
    await begin(world, token, a_wait())
    second, other = await a_run(world, 2)
    await begin(world, other, a_wait())
    async with holding(ledger_uri, _LOCK_RUN, first) as held:
        sending = asyncio.create_task(send(world, 1))
        await held.waited_for(1)
        await world.events.deliver_due()  # what is free is not held up by what is not
        assert await came(world, second, "wait_for_event") == [1]
        assert not any(event["delivered_at"] for event in await rows(world, "sent_event"))
    assert await sending == 2
    assert await came(world, first, "wait_for_event") == [1]


async def test_a_wait_that_begins_while_an_event_is_sent_gets_it(world: World, ledger_uri: str) -> None:
    """Both want the name's lock: whichever comes second sees the first."""
    for number, sender_first in enumerate([True, False]):
        run_id, token = await a_run(world, number)
        name = f"paid-{number}"
        async with holding(ledger_uri, _LOCK_NAME, name) as held:
            sending, waiting = send(world, 1, name=name), begin(world, token, a_wait(name=name))
            first, second = (sending, waiting) if sender_first else (waiting, sending)
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(first)]
            await held.waited_for(1)
            tasks.append(asyncio.create_task(second))
            await held.waited_for(2)
        await asyncio.gather(*tasks)
        assert await came(world, run_id, "wait_for_event") == [1]


async def test_an_event_for_more_runs_than_are_locked_at_once_reaches_them_all(world: World) -> None:
    await a_run(world)
    for statement in (
        (
            "INSERT INTO run (id, project_id, task, task_version_id, state) SELECT gen_random_uuid(), project_id, task,"
            " task_version_id, 'Waiting' FROM run, generate_series(1, 450)"
        ),
        (
            "INSERT INTO step (run_id, key, name, args_hash, state, kind, attempt, started_at)"
            " SELECT id, 'w', 'w', 'a', 'waiting', 'event', 1, now() FROM run WHERE state = 'Waiting'"
        ),
        (
            "INSERT INTO wait (run_id, key, project_id, kind, target, detail)"
            " SELECT id, 'w', project_id, 'event', 'paid', '{}' FROM run WHERE state = 'Waiting'"
        ),
    ):
        await world.database.fetch(statement)
    await send(world, 1)
    await world.events.deliver_due()  # a slow machine's sender may have left some
    assert await rows(world, "wait") == []
    assert len(await rows(world, "event_taken")) == 450
    assert await world.database.fetch("SELECT DISTINCT state, result IS NULL AS empty FROM step") == [
        {"state": "succeeded", "empty": False}
    ]


async def test_a_timeout_and_an_event_at_the_same_moment_end_a_wait_once(
    world: World, clock: Clock, ledger_uri: str
) -> None:
    run_id, token = await a_run(world)
    wait = a_wait()
    wait.due_in_ms = 1000.0
    await begin(world, token, wait)
    clock.advance(SECOND)
    async with holding(ledger_uri, _LOCK_RUN, run_id) as held:
        sending = asyncio.create_task(send(world, 1))
        await held.waited_for(1)
        await world.waits.fire_due()
    await sending
    await world.waits.fire_due()
    assert await came(world, run_id, "wait_for_event") == [1]
    assert await begin(world, token, a_wait("next")) == []


async def test_events_and_unused_names_are_forgotten_after_their_time(world: World, clock: Clock) -> None:
    run_id, token = await a_run(world)
    await begin(world, token, a_wait())
    await send(world, 1)
    clock.advance(timedelta(days=20))
    await send(world, 2, name="later")
    clock.advance(timedelta(days=11))
    await world.events.forget()
    assert [event["name"] for event in await rows(world, "sent_event")] == ["later"]
    assert [name["name"] for name in await rows(world, "event_name")] == ["later"]
    assert await rows(world, "event_taken") == []
    assert await came(world, run_id, "wait_for_event") == [1], "history keeps what was taken"


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_order_of_senders_and_waits_every_run_gets_every_event_once(
    ledger_uri: str, seed: int
) -> None:
    """Six runs wait in loops while three senders send, and loops of two replicas deliver."""
    database = Database(ledger_uri, size=16)
    await database.open()
    world = await World(database).start()
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    events_each, senders = 5, 3
    total = events_each * senders
    seen: dict[UUID, list[Any]] = {}

    async def run_loop(run_id: UUID, token: str) -> None:
        got = seen[run_id] = []
        for number in range(total):
            key = f"w{number}"
            await asyncio.sleep(chance.random() * 0.01)
            found = await begin(world, token, a_wait(key))
            if not found:
                found = await eventually(partial(came, world, run_id, key), lambda values: values != [None])
            got += found

    async def sender(number: int) -> None:
        for count in range(events_each):
            await asyncio.sleep(chance.random() * 0.02)
            await send(world, [number, count])

    async def replica() -> None:
        while True:
            await world.events.deliver_due()
            await asyncio.sleep(0.003)

    loops = [asyncio.create_task(replica()) for _ in range(2)]
    starts = [await a_run(world, number) for number in range(6)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(run_loop(*start) for start in starts), *(sender(n) for n in range(senders)))
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    sent = [
        msgspec.json.decode(event["payload"]) for event in await database.fetch("SELECT * FROM sent_event ORDER BY seq")
    ]
    assert list(seen.values()) == [sent] * 6
    await database.close()
