"""Losing sight of each other: a runner without an API, an API without a runner."""

import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.api_server import serving
from tests.support.clock import Clock
from tests.support.eventually import eventually
from tests.support.faulty_link import Loss, linked
from tests.support.runner import beat_often, code, ended, logs_of, run_once, runner, said
from tests.support.world import World, a_task
from windlass_operator import config
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_runner import exit_codes

TWICE = RetryPolicy(max_attempts=2, min_delay=timedelta(0))
BUSY = """
import time
@step
def tick(n):
    return n
@task
def main():
    if current_run().attempt > 1:
        return "second"
    print("on it", flush=True)
    for n in range(10_000):
        tick(n)
        time.sleep(0.02)
"""


@pytest.fixture
async def moved(ledger_uri: str, clock: Clock) -> AsyncIterator[World]:
    """A world whose time a test moves."""
    database = Database(ledger_uri, size=12, now=clock.now)
    await database.open()
    yield await World(database).start()
    await database.close()


async def test_an_api_that_stays_away_before_the_claim_ends_the_pod_with_its_own_code(world: World) -> None:
    run_id = await world.submit(code(BUSY))
    exit_code, output = await run_once(world, "http://127.0.0.1:9", WINDLASS_CLAIM_PATIENCE="0.3")
    assert exit_code == exit_codes.API_UNREACHABLE
    assert "the API could not be reached" in output
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_refused_credential_ends_the_pod_with_the_same_code(world: World, url: str) -> None:
    run_id = await world.submit(code(BUSY))
    exit_code, output = await run_once(world, url, WINDLASS_CREDENTIAL="of somebody else")
    assert exit_code == exit_codes.API_UNREACHABLE
    assert "the API refused this pod: Unauthorized" in output
    assert (await world.get(run_id))["state"] == "Queued"


async def test_an_api_that_stays_away_at_the_end_ends_the_pod_with_the_same_code(world: World) -> None:
    body = "import time\n@task\ndef main():\n    print('on it', flush=True)\n    time.sleep(0.5)\n    return 1\n"
    run_id = await world.submit(code(body))
    async with serving(world) as url:
        started = runner(world, url, WINDLASS_REPORT_PATIENCE="0.3")
        process = await started.__aenter__()
        await said(world, run_id, "on it")
    assert (await ended(process))[0] == exit_codes.API_UNREACHABLE
    await started.__aexit__(None, None, None)
    assert (await world.get(run_id))["state"] == "Running", "the reaper's business now"


async def test_a_zombie_can_write_nothing_when_it_wakes_and_ends_by_itself(
    moved: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    run_id = await moved.submit(code(BUSY, retry=TWICE))
    async with serving(moved) as api, linked(api) as proxy, runner(moved, proxy.url) as process:
        await said(moved, run_id, "on it")
        tree = _tree(process.pid)
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        try:
            await _pass(moved, clock, 2 * config.LEASE)
            assert await moved.attempts.reap() == 1
            before = await moved.runs.steps(run_id, after=0, limit=1000)
        finally:
            for pid in tree:
                os.kill(pid, signal.SIGCONT)
        assert (await ended(process))[0] == exit_codes.LEASE_LOST
        assert await moved.runs.steps(run_id, after=0, limit=1000) == before
        assert proxy.calls["complete"] == proxy.calls["fail"] == proxy.calls["release"] == 0
        assert (await run_once(moved, api))[0] == exit_codes.DONE
    row = await moved.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Succeeded", 0, 1)


async def test_a_runner_that_hears_of_it_last_ends_its_child_and_writes_nothing(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child writes nothing here, so only the heartbeat can tell."""
    beat_often(monkeypatch)
    body = "import os, time\n@task\ndef main():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
    run_id = await world.submit(code(body, retry=TWICE))
    async with linked(url) as proxy, runner(world, proxy.url) as process:
        (pid,) = await eventually(lambda: logs_of(world, run_id))
        (attempt,) = await world.database.fetch("SELECT id FROM attempt")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
        assert (await ended(process))[0] == exit_codes.LEASE_LOST
    assert await eventually(lambda: _gone(pid))
    assert set(proxy.calls) <= {"claim", "heartbeat", "logs"}


async def test_code_that_swallows_everything_cannot_write_after_its_lease_either(world: World, url: str) -> None:
    body = """
import time
@step
def tick(n):
    return n
@task
def main():
    print("on it", flush=True)
    for n in range(50):
        try:
            tick(n)
        except BaseException as error:
            print(type(error).__name__, flush=True)
            return "done all the same"
        time.sleep(0.05)
"""
    run_id = await world.submit(code(body, retry=TWICE))
    async with runner(world, url) as process:
        await said(world, run_id, "on it")
        (attempt,) = await world.database.fetch("SELECT id FROM attempt")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="a test says so")
        assert (await ended(process))[0] == exit_codes.LEASE_LOST
    assert (await world.get(run_id))["state"] == "Queued"
    assert "AttemptClosedError" in await logs_of(world, run_id), "lines of a lost attempt explain the loss"


async def test_a_connection_that_goes_silent_does_not_cost_the_lease(
    world: World, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch, 200)
    silent: list[int] = []

    def lose(route: str) -> Loss:
        if route == "heartbeat" and not silent and proxy.calls["heartbeat"] == 3:
            silent.append(proxy.calls["heartbeat"])
            return "request"
        return None

    body = "import time\n@task\ndef main():\n    time.sleep(3)\n    return 1\n"
    run_id = await world.submit(code(body))
    async with linked(url) as proxy:
        proxy.lose = lose
        assert (await run_once(world, proxy.url))[0] == exit_codes.DONE
    assert silent
    assert proxy.calls["heartbeat"] > 5
    assert (await world.get(run_id))["state"] == "Succeeded"


async def test_the_lease_is_kept_while_a_long_import_leaves_a_large_claim_unread(
    world: World, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch, 100)
    (tmp_path / "slow.py").write_text(
        "import os, time\nfrom windlass import *\n"
        "while 'GATE' in os.environ and not os.path.exists(os.environ['GATE']): time.sleep(0.02)\n"
        "@step\ndef chunk(n):\n    return 'x' * 60_000\n"
        "@task\ndef main():\n    for n in range(14): chunk(n)\n"
        "    if current_run().attempt == 1: raise ValueError\n    return 'fine'\n"
    )
    task = a_task(entrypoint="slow:main", source=None, retry=TWICE)
    run_id = await world.submit(task)
    env = {"PYTHONPATH": str(tmp_path), "WINDLASS_PRELOAD": "slow"}
    assert (await run_once(world, url, **env))[0] == exit_codes.USER_FAILURE
    gate = tmp_path / "imported"
    async with linked(url) as proxy, runner(world, proxy.url, **env, GATE=str(gate)) as process:
        await eventually(lambda: _beats(proxy.calls["heartbeat"]), lambda n: n >= 5)
        gate.touch()
        assert (await ended(process))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == "fine"


async def _beats(number: int) -> int:
    return number


async def _gone(pid: str) -> bool:
    return not _exists(pid)


def _exists(pid: str) -> bool:
    return Path("/proc", pid).exists()


async def _pass(world: World, clock: Clock, time: timedelta) -> None:
    """Let time pass in which the API serves: otherwise it would be a gap, in which nothing is concluded."""
    for _ in range(int(time.total_seconds())):
        clock.advance(timedelta(seconds=1))
        await world.attempts.serve_heartbeats()


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in _tree(int(child)))]
