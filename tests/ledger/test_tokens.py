"""Tokens on a real PostgreSQL: whoever comes first, the value reaches every wait."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.world import SECOND, World
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.ledger.database import Database
from windlass_operator.services.tokens import TokenEndedError, TokenService

HOUR = timedelta(hours=1)
_LOCK_TOKEN = "SELECT 1 FROM token WHERE id = %s FOR UPDATE"


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def a_run(world: World, number: int = 1) -> tuple[UUID, str]:
    run_id = await world.submit()
    (attempt,) = await world.claim(claim_id=f"claim-{number}")
    return run_id, attempt.token


async def make(world: World, credential: str, key: str = "create_token") -> protocol.TokenCreated:
    return await world.tokens.create(credential, protocol.CreateTokenRequest(key=key, timeout_ms=3_600_000))


async def complete(world: World, made: protocol.TokenCreated, body: bytes = b'"done"') -> bool:
    found = await world.tokens.look_up(made.url.rpartition("/")[2])
    return await world.tokens.complete(found, body)


async def begin(world: World, credential: str, made: protocol.TokenCreated) -> list[protocol.Step]:
    wait = protocol.Wait(key="wait_for", name="wait_for", args_hash="a", kind="token", target=made.id)
    return (await world.waits.register(credential, protocol.WaitsRequest(waits=[wait]))).over


async def value_of(world: World, run_id: UUID) -> Any:
    steps = await world.runs.steps(run_id, after=0, limit=9)
    return [(step["state"], step["result"]) for step in steps]


async def test_asked_for_again_a_token_is_the_same_with_the_same_address(world: World) -> None:
    _, credential = await a_run(world)
    first = await make(world, credential)
    assert await make(world, credential) == first
    other = await make(world, credential, "create_token#2")
    assert (other.id != first.id, other.url.rpartition(".")[2] != first.url.rpartition(".")[2]) == (True, True)


async def test_the_secret_of_a_token_is_that_of_no_other(world: World) -> None:
    _, credential = await a_run(world)
    first, other = await make(world, credential), await make(world, credential, "b")
    mixed = f"{first.id}.{other.url.rpartition('.')[2]}"
    with pytest.raises(Exception, match="no token at this address"):
        await world.tokens.look_up(mixed)


async def test_a_closed_attempt_makes_no_token(world: World) -> None:
    _, credential = await a_run(world)
    await world.attempts.complete(credential, protocol.CompleteRequest())
    with pytest.raises(AttemptClosedError):
        await make(world, credential)


async def test_every_run_that_waits_for_a_token_is_woken(world: World) -> None:
    first, credential = await a_run(world, 1)
    made = await make(world, credential)
    second, other = await a_run(world, 2)
    for run_credential in (credential, other):
        await begin(world, run_credential, made)
        await world.waits.suspend(run_credential, protocol.SuspendRequest(waits=["wait_for"]))
    assert (await world.get(first))["reason"] == "WaitingForToken"
    assert await complete(world, made) is False
    assert [(await world.get(run_id))["state"] for run_id in (first, second)] == ["Queued", "Queued"]
    assert await value_of(world, second) == [("succeeded", '"done"')]


@pytest.mark.parametrize("first", ["completes", "waits"])
async def test_a_wait_that_begins_while_the_token_is_completed_gets_the_value(
    world: World, ledger_uri: str, first: str
) -> None:
    run_id, credential = await a_run(world)
    made = await make(world, credential)
    parts: list[Any] = [complete(world, made), begin(world, credential, made)]
    async with holding(ledger_uri, _LOCK_TOKEN, UUID(made.id)) as held:
        tasks = [asyncio.create_task(parts.pop(0 if first == "completes" else 1))]
        await held.waited_for(1)
        tasks.append(asyncio.create_task(parts.pop()))
        await held.waited_for(2)
    await asyncio.gather(*tasks)
    assert await value_of(world, run_id) == [("succeeded", '"done"')]


async def test_of_two_who_complete_a_token_with_different_values_one_is_refused(world: World) -> None:
    _, credential = await a_run(world)
    made = await make(world, credential)
    ends = await asyncio.gather(*(complete(world, made, b"%d" % n) for n in range(2)), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["TokenCompletedError", "bool"]


async def test_a_wait_lasts_no_longer_than_its_token(world: World, clock: Clock) -> None:
    run_id, credential = await a_run(world)
    made = await make(world, credential)
    await begin(world, credential, made)
    clock.advance(HOUR)
    with pytest.raises(TokenEndedError):
        await complete(world, made)
    clock.advance(5 * SECOND)
    await world.waits.fire_due()
    ((state, _),) = await value_of(world, run_id)
    assert state == "failed"


async def test_a_value_that_nobody_was_told_of_is_delivered_by_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, credential = await a_run(world)
    made = await make(world, credential)
    await begin(world, credential, made)

    async def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(TokenService, "_deliver", crash)
        with pytest.raises(RuntimeError):
            await complete(world, made)
    assert await value_of(world, run_id) == [("waiting", None)]
    await world.tokens.deliver_due()
    assert await value_of(world, run_id) == [("succeeded", '"done"')]
    assert await complete(world, made) is True


async def test_tokens_are_forgotten_long_after_the_end_of_their_run(world: World, clock: Clock) -> None:
    _, ended = await a_run(world, 1)
    await make(world, ended)
    _, alive = await a_run(world, 2)
    kept = await make(world, alive)
    await world.attempts.complete(ended, protocol.CompleteRequest())
    clock.advance(timedelta(days=31))
    await world.tokens.forget()
    assert [str(row["id"]) for row in await world.database.fetch("SELECT id FROM token")] == [kept.id]
