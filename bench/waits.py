"""Durable waits: how soon a run goes on, what sleeping runs cost, and how late timers ring."""

import asyncio
import json
from typing import Final
from uuid import UUID

from bench import sleepers
from bench.local_plane import LocalPlane, local_plane
from bench.report import Figure, figure
from tests.support.postgres import PostgresServer, postgres_server

_HISTORY: Final = 1000
_RESUMES: Final = 5
_CODE: Final = """
import os
import time
from windlass import sleep, sleep_sync, step, task

ages = []

def age():
    started = open("/proc/self/stat").read().rpartition(")")[2].split()[19]
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")
    return [since * 1000, time.process_time() * 1000]

@step
def tick(n):
    return n

@step
def told():
    return ages[-1]

@step
async def atick(n):
    return n

@step
async def atold():
    return ages[-1]

@task
def sync(plan):
    for n in range(plan[0]):
        tick(n)
    answers = []
    for n in range(plan[1]):
        sleep_sync("1h")
        tick(-n)
        ages.append(age())
        answers.append(told())
    return answers

@task
async def asynchronous(plan):
    for n in range(plan[0]):
        await atick(n)
    answers = []
    for n in range(plan[1]):
        await sleep("1h")
        await atick(-n)
        ages.append(age())
        answers.append(await atold())
    return answers
"""


async def measure() -> list[Figure]:
    """Measure and return the figures."""
    with postgres_server(fsync=True) as server:
        return [*await _resume(server), *await sleepers.idle(server), *await sleepers.lateness(server)]


async def _resume(server: PostgresServer) -> list[Figure]:
    """Time from the start of the child, which the kernel knows to 10 ms, to its first new step saved."""
    figures = []
    async with local_plane(server) as plane:
        for kind in ("sync", "asynchronous"):
            run_id = await plane.submit(_CODE, kind, [_HISTORY, _RESUMES])
            await plane.attempt()
            for _ in range(_RESUMES):
                await _wake(plane, run_id)
                await plane.attempt()
            elapsed, used = zip(*json.loads(await plane.result(run_id)), strict=True)
            name = f"child started → first new step saved, {_HISTORY} finished steps, {kind}"
            figures.append(figure(name, list(elapsed), "ms", goal="<=150"))
            figures.append(figure(f"CPU time of that, {kind}", list(used), "ms"))
    return figures


async def _wake(plane: LocalPlane, run_id: UUID) -> None:
    """Ring the timer that the run waits for."""
    row = await plane.world.get(run_id)
    if row["state"] != "Waiting":
        raise RuntimeError(f"the run is {row['state']}: {row['message']}")
    await plane.world.database.fetch("UPDATE wait SET due_at = ledger_now()")
    await plane.world.waits.fire_due()


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
