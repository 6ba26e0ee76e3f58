"""The runner of a reusable pod against the real API and a real ledger, and what becomes of its runs when things die."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.runner import code
from tests.support.world import World
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.services.claims import PodIdentity
from windlass_runner import exit_codes

OFTEN = RetryPolicy(max_attempts=60, min_delay=timedelta(0), jitter="none")
WORK = """
import time
@step
def charge(n):
    time.sleep(n % 7 / 200)
    return n
@task
def main(n=0):
    print("run", n)
    return [charge(n), charge(n + 1)]
"""
LONG = """
import time
@step
def first():
    print("on it", flush=True)
    time.sleep(0.2)
@task
def main():
    first()
    time.sleep(60)
"""


async def test_two_hundred_runs_end_once_each_while_children_zygotes_and_runners_are_killed(
    world: World, url: str
) -> None:
    task = code(WORK, retry=OFTEN)
    ids = [await world.submit(task, payload=n) for n in range(200)]
    chance = random.Random(7)  # noqa: S311 - a test is to do the same each time
    killed = {"child": 0, "zygote": 0, "runner": 0}
    while left := await _left(world):
        pod = await world.reusable_pod(task, slots=8)
        async with runner(url, pod) as process:
            while await _left(world):
                left = await _fewer(world, pod, max(0, left - 8))
                tree = await eventually(partial(_tree, process.pid), lambda found: len(found) > 1, seconds=60)
                _, zygote, *children = tree  # one that was killed a moment ago has a successor first
                what = chance.choice(["child"] * 6 + ["zygote"] * 2 + ["runner"])
                killed[what] += 1
                if what == "runner":
                    break
                _kill(zygote if what == "zygote" else chance.choice(children or [zygote]))
            assert process.returncode is None, "neither children nor zygotes take process 1 with them"
    assert min(killed.values()) > 0, killed
    rows = [await world.get(run_id) for run_id in ids]
    assert {row["state"] for row in rows} == {"Succeeded"}
    ends = await world.database.fetch(
        "SELECT run_id, count(*) FROM attempt WHERE outcome = 'Succeeded' GROUP BY run_id"
    )
    assert [row["count"] for row in ends] == [1] * 200
    assert await world.database.fetch("SELECT 1 FROM attempt WHERE closed_at IS NULL") == []


async def test_sigterm_under_load_hands_everything_back_and_uses_no_attempt(world: World, url: str) -> None:
    task = code(LONG, retry=OFTEN)
    for _ in range(20):
        await world.submit(task)
    pod = await world.reusable_pod(task, slots=8)
    async with runner(url, pod, WINDLASS_GRACE="1") as process:
        await eventually(lambda: _open(world), lambda count: count == 8)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == exit_codes.DONE
    assert await _open(world) == 0
    rows = await world.database.fetch("SELECT state, user_failures, infra_failures FROM run")
    assert {tuple(row.values()) for row in rows} == {("Queued", 0, 0)}
    outcomes = await world.database.fetch("SELECT DISTINCT outcome FROM attempt")
    assert [row["outcome"] for row in outcomes] == ["Released"]


async def test_a_session_serves_runs_that_come_later_and_the_pod_leaves_when_it_is_drained(
    world: World, url: str
) -> None:
    task = code("@task\ndef main():\n    return 7\n")
    pod = await world.reusable_pod(task, slots=2)
    async with runner(url, pod) as process:
        for _ in range(3):
            run_id = await world.submit(task)
            await eventually(partial(world.get, run_id), lambda row: row["state"] == "Succeeded")
        await world.database.fetch("UPDATE pod SET draining = true RETURNING id")
        assert await asyncio.wait_for(process.wait(), 30) == exit_codes.DONE


async def _fewer(world: World, pod: PodIdentity, most: int) -> int:
    """Wait until so few runs are left; what pods before this one still hold is lost, as the operator would see."""

    async def look() -> int:
        for row in await world.database.fetch(
            "SELECT attempt.id FROM attempt JOIN pod ON pod.id = pod_id WHERE closed_at IS NULL AND uid <> %(uid)s",
            {"uid": pod.pod_uid},
        ):
            await world.attempts.lose(row["id"], reason="PodDeleted", message="the runner was killed")
        return await _left(world)

    return await eventually(look, lambda left: left <= most, seconds=120)


@asynccontextmanager
async def runner(url: str, pod: PodIdentity, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "windlass_runner",
        env={
            **os.environ,
            "WINDLASS_URL": url,
            "POD_NAME": pod.pod_name,
            "POD_UID": pod.pod_uid,
            "WINDLASS_CREDENTIAL": pod.secret or "",
            "WINDLASS_CLAIM_WAIT_MS": "1000",
            **env,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        for pid in descendants(process.pid):  # as the end of its container would
            _kill(pid)
        await process.wait()


async def _tree(pid: int) -> list[int]:
    return descendants(pid)


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for known in found:
        found += parents.get(known, [])
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _left(world: World) -> int:
    rows = await world.database.fetch("SELECT count(*) FROM run WHERE finished_at IS NULL")
    return int(rows[0]["count"])


async def _open(world: World) -> int:
    rows: list[dict[str, Any]] = await world.database.fetch("SELECT count(*) FROM attempt WHERE closed_at IS NULL")
    return int(rows[0]["count"])
