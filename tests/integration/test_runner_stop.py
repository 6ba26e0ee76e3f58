"""Stopping: a pod that must end, a run that was cancelled."""

import json
import signal
from datetime import timedelta
from uuid import UUID

import pytest

from tests.support.eventually import eventually
from tests.support.faulty_link import Loss, linked
from tests.support.runner import beat_often, code, ended, logs_of, run_once, runner, said
from tests.support.world import World
from windlass_runner import exit_codes

QUICK = "@task\ndef main():\n    return current_run().attempt\n"


async def test_sigterm_while_the_claim_waits_ends_the_pod_which_takes_nothing_any_more(world: World, url: str) -> None:
    cancelled = await world.submit(code(QUICK))
    await world.pods.start_due()
    await world.runs.cancel(cancelled, reason="Cancelled", message="so that there is nothing to claim")
    async with linked(url) as proxy, runner(world, proxy.url, WINDLASS_CLAIM_WAIT_MS="20000") as process:
        await eventually(lambda: _calls(proxy.calls["claim"]))
        process.send_signal(signal.SIGTERM)
        assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    run_id = await world.submit(code(QUICK))
    assert (await run_once(world, url))[0] == exit_codes.DONE, "a pod of its own, not the one that was stopped"
    assert (await world.get(run_id))["attempts"] == 1


async def test_sigterm_before_the_answer_to_the_claim_arrives_uses_no_attempt(world: World, url: str) -> None:
    def lose(route: str) -> Loss:
        return "answer" if route == "claim" else None

    run_id = await world.submit(code(QUICK))
    async with linked(url) as proxy:
        proxy.lose = lose
        async with runner(world, proxy.url) as process:
            await eventually(lambda: world.get(run_id), lambda row: row["state"] == "Running")
            process.send_signal(signal.SIGTERM)
            assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_sigterm_while_the_api_is_out_of_reach_ends_the_pod_within_its_grace(world: World, url: str) -> None:
    await world.submit(code(QUICK))
    async with linked(url) as proxy:
        proxy.lose = lambda _: "request"
        async with runner(world, proxy.url) as process:
            await eventually(lambda: _calls(proxy.calls["claim"]))
            process.send_signal(signal.SIGTERM)
            assert (await ended(process, seconds=15))[0] == exit_codes.DONE
    assert proxy.calls["withdraw"] == 1


async def _calls(number: int) -> int:
    return number


@pytest.mark.usefixtures("beats")
async def test_cancelling_lets_asynchronous_code_clean_up(world: World, url: str) -> None:
    body = """
import asyncio
@step
async def undo():
    return "undone"
@task
async def main():
    print("on it", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaning up", flush=True)
        await asyncio.sleep(0.2)
        print("clean", flush=True)
"""
    run_id = await world.submit(code(body))
    assert await _cancelled(world, url, run_id) == exit_codes.USER_FAILURE
    assert await logs_of(world, run_id) == ["on it", "cleaning up", "clean"]


@pytest.mark.usefixtures("beats")
async def test_cancelling_stops_synchronous_code_at_its_next_step(world: World, url: str) -> None:
    body = """
import time
@step
def work(n):
    return n
@task
def main():
    print("on it", flush=True)
    for n in range(1000):
        work(n)
        time.sleep(0.02)
"""
    run_id = await world.submit(code(body))
    assert await _cancelled(world, url, run_id) == exit_codes.USER_FAILURE
    assert json.loads((await world.get(run_id))["error"])["type"] == "RunCancelled"


@pytest.mark.parametrize(
    "stubborn",
    [
        "import time\n    time.sleep(60)",
        "import signal, time\n    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n    time.sleep(60)",
        # C code that keeps the interpreter's lock and never looks for signals.
        "import collections, itertools\n    collections.deque(itertools.repeat(0), maxlen=0)",
        "import re\n    re.match('(a*)*b', 'a' * 40)",
    ],
)
@pytest.mark.usefixtures("beats")
async def test_code_that_does_not_end_within_the_grace_is_killed(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr("windlass_operator.config.CANCEL_GRACE", timedelta(milliseconds=300))
    run_id = await world.submit(code(f"@task\ndef main():\n    print('on it', flush=True)\n    {stubborn}\n"))
    assert await _cancelled(world, url, run_id) == exit_codes.USER_FAILURE
    error = json.loads((await world.get(run_id))["error"])
    assert error["message"] == "The code did not end within the grace period."


@pytest.mark.usefixtures("beats")
async def test_a_result_that_was_ready_before_the_cancellation_counts(world: World, url: str) -> None:
    body = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(0.7)\n    return 'ready'\n"
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await said(world, run_id, "on it")
        await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
        assert (await ended(process))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


@pytest.mark.usefixtures("beats")
async def test_a_run_cancelled_while_its_code_is_loaded_does_not_run_a_step(world: World, url: str) -> None:
    body = """
import time
from windlass import execution
print("loading", flush=True)
while not execution._cancelled_early.raised:  # until it has been told
    time.sleep(0.01)
@step
def charge(): pass
@task
def main():
    charge()
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await said(world, run_id, "loading")
        await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
        assert (await ended(process))[0] == exit_codes.USER_FAILURE
    assert (await world.get(run_id))["state"] == "Cancelled"
    assert await world.runs.steps(run_id, after=0, limit=10) == []


async def test_sigterm_lets_a_step_finish_and_hands_the_rest_back(world: World, url: str) -> None:
    body = """
import time
@step
def first():
    print("first", flush=True)
    time.sleep(0.5)
    return 1
@step
def second():
    print("second in attempt", current_run().attempt, flush=True)
    return 2
@task
def main():
    return [first(), second()]
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await said(world, run_id, "first")
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    assert [step["key"] for step in await world.runs.steps(run_id, after=0, limit=10)] == ["first"]
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == [1, 2]
    assert await logs_of(world, run_id) == ["first", "second in attempt 2"]


@pytest.mark.parametrize("compensating", [False, True])
async def test_sigterm_stops_each_branch_before_its_next_step_and_leaves_the_others_to_end(
    world: World, url: str, compensating: bool
) -> None:
    undo = "\nundone = []\ndef undo(result):\n    print('undo', result, flush=True)\n    time.sleep(0.5)\n"
    body = f"""
import asyncio, time
{undo if compensating else "undo = None"}
@step(compensate=undo)
async def work(n, seconds):
    print("work", n, flush=True)
    await asyncio.sleep(seconds)
    return n
async def branch(n):
    return [await work(n, n / 4), await work(n + 10, 0)]
@task
async def main():
    done = await gather(branch(1), branch(2))
    if {compensating}:
        raise PermanentError("so that all is undone")
    return done
"""
    run_id = await world.submit(code(body))
    wanted = "undo 12" if compensating else "work 2"
    async with runner(world, url) as process:
        if compensating:
            assert (await ended(process))[0] == exit_codes.USER_FAILURE
    async with runner(world, url) as process:
        await said(world, run_id, wanted)
        process.send_signal(signal.SIGTERM)
        assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["user_failures"], row["infra_failures"]) == (1 if compensating else 0, 0)
    lines = await logs_of(world, run_id)
    assert [line for line in lines if line.startswith(wanted.split(maxsplit=1)[0])] == (
        ["undo 12"] if compensating else ["work 1", "work 2"]
    )
    assert (await run_once(world, url))[0] == exit_codes.DONE
    row = await world.get(run_id)
    if compensating:
        assert (row["state"], row["reason"]) == ("Failed", "PermanentError")
        assert (await logs_of(world, run_id)).count("undo 12") == 1
    else:
        assert json.loads(row["result"]) == [[1, 11], [2, 12]]


async def test_sigterm_lets_code_without_steps_use_its_grace(world: World, url: str) -> None:
    body = """
import time
@task
def main():
    print("on it", flush=True)
    time.sleep(1)
    return "done"
"""
    run_id = await world.submit(code(body))
    async with runner(world, url) as process:
        await said(world, run_id, "on it")
        process.send_signal(signal.SIGTERM)
        assert (await ended(process, seconds=10))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["result"]) == ("Succeeded", '"done"')


async def _cancelled(world: World, url: str, run_id: UUID) -> int:
    """Cancel a run when it says that it is on it; return the exit code of its runner."""
    async with runner(world, url) as process:
        await said(world, run_id, "on it")
        await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
        exit_code, _ = await ended(process)
    assert (await world.get(run_id))["state"] == "Cancelled"
    return exit_code


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellation is announced by heartbeats."""
    beat_often(monkeypatch)
