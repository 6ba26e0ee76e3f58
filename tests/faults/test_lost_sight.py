"""Heartbeats that cannot be served, runners that were paused, clocks that are wrong: who may be taken for dead."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.faults.conftest import through
from tests.support.api_server import serving
from tests.support.clock import Clock
from tests.support.faulty_link import PostgresLink, linked
from tests.support.footprint import footprint
from tests.support.postgres import PostgresServer
from tests.support.runner import beat_often, code, ended, run_once, runner, said
from tests.support.world import SECOND, World
from windlass_operator import config, metrics
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_runner import exit_codes

TWICE = RetryPolicy(max_attempts=2, min_delay=timedelta(0))
EFFECTS = """
import os, time
import psycopg
@step
def charge(n):
    with psycopg.connect(os.environ["EFFECTS"], autocommit=True) as effects:
        effects.execute("INSERT INTO effect VALUES (%s, %s)", (current_run().attempt, n))
    return n
@task
def main():
    print(f"attempt {current_run().attempt}", flush=True)
    if current_run().attempt == 1:
        for n in range(10_000):
            charge(n)
            time.sleep(0.02)
    charge(0)
    return current_run().attempt
"""
SLOW = """
import time
@task
def main():
    print("on it", flush=True)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        time.sleep(0.05)
    return current_run().attempt
"""


@pytest.fixture
async def moved(ledger_uri: str, link: PostgresLink, clock: Clock) -> AsyncIterator[World]:
    """A world whose time a test moves, and whose way to PostgreSQL it can break."""
    database = Database(through(ledger_uri, link), size=6, now=clock.now)
    await database.open()
    yield await World(database).start()
    await database.close()


async def pass_unserved(clock: Clock, world: World, leases: int) -> None:
    """Let leases go by in which no heartbeat can be served."""
    for _ in range(leases * 15):
        clock.advance(2 * SECOND)
        try:
            await asyncio.wait_for(world.attempts.serve_heartbeats(), 0.01)
        except (LedgerUnavailableError, TimeoutError):
            continue
        raise AssertionError("it was served")


@pytest.mark.parametrize("down", ["api", "postgres", "both"])
async def test_nothing_is_reaped_for_three_leases_without_heartbeats_and_the_attempt_goes_on(
    moved: World, clock: Clock, link: PostgresLink, monkeypatch: pytest.MonkeyPatch, down: str
) -> None:
    beat_often(monkeypatch)
    run_id = await moved.submit(code(SLOW, retry=TWICE))
    async with serving(moved) as api, linked(api) as way, runner(moved, way.url) as process:
        await said(moved, run_id, "on it")
        if down != "postgres":
            way.go_away()
        if down != "api":
            link.go_away()
            await pass_unserved(clock, moved, 3)
        else:  # the process that serves them is gone; the ledger and the reaper are there
            for _ in range(45):
                clock.advance(2 * SECOND)
                assert await moved.attempts.reap() == 0
        link.away = False
        await moved.attempts.serve_heartbeats()
        assert await moved.attempts.reap() == 0, "the first look after the gap"
        way.away = False
        clock.advance(2 * SECOND)
        await moved.attempts.serve_heartbeats()
        assert await moved.attempts.reap() == 0
        assert (await ended(process))[0] == exit_codes.DONE
    row = await moved.get(run_id)
    assert (row["state"], row["attempts"], row["infra_failures"], json.loads(row["result"])) == ("Succeeded", 1, 0, 1)


async def test_a_zombie_is_refused_everything_and_its_successor_is_the_only_one_with_an_effect(
    moved: World, clock: Clock, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    effects = postgres.create_database()
    with psycopg.connect(effects, autocommit=True) as connection:
        connection.execute("CREATE TABLE effect (attempt int, n int)")
        run_id = await moved.submit(code(EFFECTS, retry=TWICE))
        async with serving(moved) as api, runner(moved, api, EFFECTS=effects) as zombie:
            await said(moved, run_id, "attempt 1")
            await eventually_charged(connection)
            family = tree(zombie.pid)
            assert len(family) >= 3, "process 1, the zygote, the child"
            for pid in family:
                os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(2 * int(config.LEASE.total_seconds())):
                    clock.advance(SECOND)
                    await moved.attempts.serve_heartbeats()
                assert await moved.attempts.reap() == 1
                assert (await run_once(moved, api, EFFECTS=effects))[0] == exit_codes.DONE
                before, refused = await footprint(moved.database), refusals()
            finally:
                for pid in family:
                    os.kill(pid, signal.SIGCONT)
            assert (await ended(zombie))[0] == exit_codes.LEASE_LOST
        assert refusals() > refused, "the fence was tried, and held"
        after = await footprint(moved.database)
        assert {k: n for k, n in after.items() if not k.startswith("log")} == {
            k: n for k, n in before.items() if not k.startswith("log")
        }, "no write of the zombie"
        # Bodies of the first attempt ran, as promised at least once; the checkpoint of charge(0) is not charged again.
        again = connection.execute("SELECT n FROM effect WHERE attempt = 2").fetchall()
        assert again == []
    row = await moved.get(run_id)
    assert (row["state"], row["attempts"], json.loads(row["result"])) == ("Succeeded", 2, 2)
    assert (row["user_failures"], row["infra_failures"]) == (0, 1)


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_runner_whose_clock_is_hours_off_does_what_all_do(
    world: World, tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\n_right = time.time\ntime.time = lambda: _right() + {hours} * 3600\n"
    )
    body = """
import time
from datetime import UTC, datetime
@step
def look():
    return round(time.time())
@task
def main():
    print("said", flush=True)
    return look()
"""
    run_id = await world.submit(code(body, timeout=timedelta(minutes=5)))
    async with serving(world) as url:
        env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
        assert (await run_once(world, url, **env))[0] == exit_codes.DONE
    row = await world.get(run_id)
    off = json.loads(row["result"]) - time.time()
    assert abs(off - hours * 3600) < 120, "its clock was wrong"
    (step,) = await world.runs.steps(run_id, after=0, limit=9)
    now = (await world.database.fetch("SELECT ledger_now() AS now"))[0]["now"]
    assert abs(now - step["started_at"]) < timedelta(minutes=2)
    (line,) = [line for line in await world.runs.logs(run_id, after=(0, 0), limit=9) if line["text"] == "said"]
    assert abs(now - line["at"]) < timedelta(minutes=2)


async def test_a_killed_runner_is_replaced_within_its_lease_and_five_seconds(
    moved: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None]
) -> None:
    """In ledger time, with the loops' own pauses: the reaper looks every two seconds, pods are planned every one."""
    beat_often(monkeypatch)
    run_id = await moved.submit(code(SLOW.replace("+ 4", "+ 60 if current_run().attempt == 1 else 0"), retry=TWICE))
    async with serving(moved) as api, runner(moved, api) as process:
        await said(moved, run_id, "on it")
        (held,) = await moved.database.fetch("SELECT lease_until - ledger_now() AS left FROM attempt")
        assert held["left"] <= config.LEASE
        for pid in tree(process.pid):
            os.kill(pid, signal.SIGKILL)
        await process.wait()
        killed = clock.now()
        while (await moved.get(run_id))["state"] == "Running":
            clock.advance(2 * SECOND)
            await moved.attempts.serve_heartbeats()
            await moved.attempts.reap()
        clock.advance(SECOND)
        assert (await run_once(moved, api))[0] == exit_codes.DONE
    took = clock.now() - killed
    say(f"after kill -9 of a runner: the next attempt {took.total_seconds():.0f} s later, in ledger time")
    assert took <= config.LEASE + 5 * SECOND
    assert (await moved.get(run_id))["state"] == "Succeeded"


async def test_a_crashed_child_that_was_reported_is_followed_within_a_second(
    world: World, say: Callable[[str], None]
) -> None:
    body = """
import os
@task
def main():
    if current_run().attempt == 1:
        os.kill(os.getpid(), 11)
    return 1
"""
    run_id = await world.submit(code(body, retry=TWICE))
    async with serving(world) as url:
        await run_once(world, url)
        assert (await run_once(world, url))[0] == exit_codes.DONE
    first, second = await world.runs.attempts(run_id)
    took = (second["started_at"] - first["closed_at"]).total_seconds()
    (due,) = await world.database.fetch(
        "SELECT max(available_at) - %(at)s AS after FROM run", {"at": first["closed_at"]}
    )
    claimable = due["after"].total_seconds()
    say(f"after a reported crash of the child: claimable {claimable:.3f} s later, next attempt {took:.2f} s later")
    assert due["after"] <= timedelta(milliseconds=10), "no backoff was asked for"
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"]) == ("Succeeded", 1)


def refusals() -> float:
    """Return how many writes of closed attempts were refused."""
    return sum(
        sample.value
        for metric in metrics.FENCED_REFUSALS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


async def eventually_charged(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    from tests.support.eventually import eventually

    async def rows() -> int:
        return len(connection.execute("SELECT 1 FROM effect").fetchall())

    await eventually(rows, lambda n: n >= 2)


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in tree(int(child)))]
