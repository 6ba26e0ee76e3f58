"""Runs that wait, with the real runner: the process ends, nothing of the code is undone, and another one goes on."""

import json
import os
import signal
from uuid import UUID

import pytest

from tests.support.eventually import eventually
from tests.support.runner import beat_often, code, ended, logs_of, run_once, runner, said
from tests.support.world import World
from windlass_runner import exit_codes


async def ring(world: World) -> None:
    """Let the time of every wait come."""
    await world.database.fetch("UPDATE wait SET due_at = ledger_now()")
    await world.waits.fire_due()


async def state_of(world: World, run_id: UUID) -> str:
    return str((await world.get(run_id))["state"])


async def test_a_run_sleeps_without_a_process_and_goes_on_in_another(world: World, url: str) -> None:
    body = """
@step
async def note(word):
    print(word)
    return word
@task
async def main():
    words = [await note("before")]
    try:
        await sleep("24h")
    finally:
        print("cleaning up")
    return [*words, await note("after")]
"""
    run_id = await world.submit(code(body))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForTimer")
    assert await logs_of(world, run_id) == ["before"], "what is left behind is not cleaned up: it is not over"
    await ring(world)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], json.loads(row["result"])) == ("Succeeded", ["before", "after"])
    assert await logs_of(world, run_id) == ["before", "cleaning up", "after"]
    attempts = await world.runs.attempts(run_id)
    assert [a["outcome"] for a in attempts] == ["Waiting", "Succeeded"]
    assert (row["user_failures"], row["infra_failures"]) == (0, 0)


async def test_synchronous_code_sleeps_without_a_process(world: World, url: str) -> None:
    body = "@task\ndef main():\n    sleep_sync('24h')\n    return 'done'\n"
    run_id = await world.submit(code(body))
    await run_once(world, url)
    assert await state_of(world, run_id) == "Waiting"
    await ring(world)
    await run_once(world, url)
    assert await state_of(world, run_id) == "Succeeded"


async def test_a_wait_that_is_over_while_a_branch_works_goes_on_in_the_same_process(world: World, url: str) -> None:
    body = """
import asyncio
async def waits():
    await sleep("24h")
    print("woken")
async def works():
    print("working")
    while not stop.is_set():
        await asyncio.sleep(0.05)
stop = asyncio.Event()
async def both():
    await waits()
    stop.set()
@task
async def main():
    await gather(both(), works())
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await said(world, run_id, "working")
        await eventually(lambda: world.database.fetch("SELECT 1 FROM wait"), bool)
        await ring(world)
        assert (await ended(process))[0] == exit_codes.DONE
    assert await state_of(world, run_id) == "Succeeded"
    assert len(await world.runs.attempts(run_id)) == 1


async def test_a_cancellation_reaches_code_that_waits_beside_work(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    body = """
import asyncio
@task
async def main():
    try:
        await gather(sleep("24h"), asyncio.sleep(100))
    finally:
        print("cleaning up")
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await eventually(lambda: world.database.fetch("SELECT 1 FROM wait"), bool)
        await world.runs.cancel(run_id, reason="Cancelled", message="")
        await ended(process)
    assert await state_of(world, run_id) == "Cancelled"
    assert await logs_of(world, run_id) == ["cleaning up"]


async def test_a_runner_that_dies_beside_a_wait_leaves_the_wait_its_time(world: World, url: str) -> None:
    body = """
import asyncio, os
@task
async def main():
    if current_run().attempt == 1:
        print(os.getppid(), os.getpid())
        await gather(sleep("24h"), asyncio.sleep(100))
    await sleep("24h")
    return "done"
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        waits = await eventually(lambda: world.database.fetch("SELECT due_at FROM wait"), bool)
        [pids] = await eventually(lambda: logs_of(world, run_id), lambda lines: len(lines) == 1)
        process.kill()
        await process.wait()
    for pid in pids.split():  # a pod's end takes them down with process 1
        os.kill(int(pid), signal.SIGKILL)
    (attempt,) = await world.runs.attempts(run_id)
    await world.attempts.lose(attempt["id"], reason="PodDeleted", message="gone")
    await run_once(world, url)
    assert await state_of(world, run_id) == "Waiting"
    assert await world.database.fetch("SELECT due_at FROM wait") == waits


async def test_a_hundred_waits_begin_in_few_requests_and_wake_the_run_once(world: World, url: str) -> None:
    body = """
@task
async def main():
    await gather(*(sleep(f"{n + 10}h") for n in range(100)))
"""
    run_id = await world.submit(code(body))
    await run_once(world, url)
    assert await state_of(world, run_id) == "Waiting"
    await world.database.fetch("UPDATE wait SET due_at = ledger_now() WHERE key <> 'sleep#7'")
    await world.waits.fire_due()
    assert await state_of(world, run_id) == "Waiting"
    await ring(world)
    await run_once(world, url)
    assert await state_of(world, run_id) == "Succeeded"
    assert len(await world.runs.attempts(run_id)) == 2
