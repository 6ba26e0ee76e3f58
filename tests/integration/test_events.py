"""Runs that wait for events, with the real runner: no process while they wait."""

import json
from typing import Any
from uuid import UUID

from tests.support.runner import code, logs_of, run_once
from tests.support.world import SHOP, World
from windlass_runner import exit_codes


async def result_of(world: World, run_id: UUID) -> tuple[str, Any]:
    row = await world.get(run_id)
    return row["state"], row["result"] and json.loads(row["result"])


async def test_an_event_wakes_a_run_and_its_payload_reaches_the_code(world: World, url: str) -> None:
    body = """
@task
async def main():
    event = await wait_for_event("paid", {"orderId": 7}, timeout="7d")
    return [event.name, event.id, event.payload]
"""
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForEvent")
    assert "event 'paid' until" in row["message"]
    assert (await world.events.send(SHOP, "paid", {"orderId": 8}, "a")).runs == 0
    assert (await world.events.send(SHOP, "paid", {"orderId": 7, "eu": True}, "b")).runs == 1
    await run_once(world, url)
    assert await result_of(world, run_id) == ("Succeeded", ["paid", "b", {"orderId": 7, "eu": True}])


async def test_one_run_sends_to_another_that_waits_and_to_one_that_waits_later(world: World, url: str) -> None:
    waiting = 'event = wait_for_event_sync("counted")\n    return event.payload'
    early = await world.submit(code(f"@task\ndef main():\n    {waiting}\n"), name="early")
    await run_once(world, url)
    late = await world.submit(code(f"@task\ndef main():\n    {waiting}  # later\n"), name="late")
    sends = "@task\nasync def main():\n    return await send_event('counted', [1, 2])\n"
    sender = await world.submit(code(sends), name="sender")
    # A pod for each: claims go by the pods' keys, so the order of the runners does not matter.
    for _ in range(3):
        await run_all(world, url)
    assert [await result_of(world, run_id) for run_id in (early, late)] == [("Succeeded", [1, 2])] * 2
    state, event_id = await result_of(world, sender)
    (event,) = await world.database.fetch("SELECT id, name FROM sent_event")
    assert (state, event) == ("Succeeded", {"id": event_id, "name": "counted"})


async def run_all(world: World, url: str) -> None:
    """Start the pods that are due, one runner after the other."""
    before = set(world.cluster.pods)
    await world.pods.start_due()
    for uid in [uid for uid in world.cluster.pods if uid not in before]:
        seen = world.cluster.pods.pop(uid)
        world.cluster.pods[uid] = seen  # the newest: a runner takes the last one
        await run_once(world, url)


async def test_a_wait_that_nobody_ends_in_time_is_an_exception_that_code_may_handle(world: World, url: str) -> None:
    body = """
@task
async def main():
    try:
        await wait_for_event("paid", timeout="1h")
    except WaitTimeoutError as error:
        return f"gave up: {error}"
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    await world.database.fetch("UPDATE wait SET due_at = ledger_now()")
    await world.waits.fire_due()
    await run_once(world, url)
    state, result = await result_of(world, run_id)
    assert (state, result[:8]) == ("Succeeded", "gave up:")


async def test_a_match_that_is_too_much_is_told_where_the_code_waits(world: World, url: str) -> None:
    body = """
@task
async def main():
    try:
        await wait_for_event("paid", list(range(200)))
    except WaitError as error:
        return str(error)
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    state, result = await result_of(world, run_id)
    assert (state, result[:15]) == ("Succeeded", "A match has 100")


async def test_a_run_waits_for_a_token_that_is_completed_by_its_address(world: World, url: str) -> None:
    body = """
@task
async def main():
    token = await create_token(timeout="2h")
    print(token.url)
    return await wait_for(token)
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForToken")
    (address,) = await logs_of(world, run_id)
    found = await world.tokens.look_up(address.removeprefix("http://windlass.example/callbacks/v1/"))
    await world.tokens.complete(found, b'{"approved": true}')
    await run_once(world, url)
    assert await result_of(world, run_id) == ("Succeeded", {"approved": True})
    assert (await logs_of(world, run_id))[-1] == address, "the same address after the replay"
