"""A long loop's checkpoints, and time limits, with the real runner."""

import json
from datetime import timedelta

import pytest

from tests.support.runner import ONCE, beat_often, code, logs_of, run_once
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy
from windlass_runner import exit_codes

SHORT = timedelta(seconds=3)
"""It counts from the claim, so a slow machine must have loaded the code by then."""


async def test_a_loop_goes_on_after_its_last_checkpoint_when_its_process_is_killed(world: World, url: str) -> None:
    body = """
import os
@task
async def main():
    run = current_run()
    at = run.last_checkpoint or 0
    while at < 4:
        print("page", at)
        at += 1
        await run.checkpoint(at)
        if at == 2 and run.attempt == 1:
            os.kill(os.getpid(), 9)
    return at
"""
    run_id = await world.submit(code(body, retry=RetryPolicy(max_attempts=2, min_delay=timedelta(0), jitter="none")))
    await run_once(world, url)
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == 4
    assert await logs_of(world, run_id) == ["page 0", "page 1", "page 2", "page 3"]


@pytest.mark.parametrize(("which", "often"), [("timeout", False), ("attempt_timeout", True)], ids=["asks", "hears"])
async def test_code_that_asks_for_more_time_gets_it(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch, which: str, *, often: bool
) -> None:
    if often:
        beat_often(monkeypatch)
    body = """
import time
@task
def main():
    current_run().extend_timeout_sync("1m")
    time.sleep(3.2)
    return "in time"
"""
    run_id = await world.submit(code(body, **{which: SHORT}, retry=ONCE))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_more_time_is_an_end_too(world: World, url: str) -> None:
    body = """
import time
@task
def main():
    current_run().extend_timeout_sync("300ms")
    time.sleep(60)
"""
    run_id = await world.submit(code(body, timeout=SHORT, retry=ONCE))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("TimedOut", "TimedOut")
    assert "The run used its 3300 ms" in row["message"]


async def test_total_timeout_ends_code_that_runs_and_nothing_extends_it(world: World, url: str) -> None:
    body = """
import time
@task
def main():
    current_run().extend_timeout_sync("1h")
    time.sleep(60)
"""
    run_id = await world.submit(code(body, total_timeout=timedelta(seconds=3), retry=RetryPolicy(max_attempts=5)))
    await run_once(world, url)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("TimedOut", "TotalTimedOut")
    assert "had not ended within totalTimeout" in row["message"]
