"""``@step(protect=True)`` with the real runner and the real routes; the cluster remembers what it is told."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.support import api_server
from tests.support.eventually import eventually
from tests.support.runner import code, ended, logs_of, run_once, runner
from tests.support.world import World
from windlass_operator.ledger.database import Database
from windlass_operator.services.loops import Loop
from windlass_runner import exit_codes

BODY = """
import time
@step(protect=True)
def train():
    print("trains", flush=True)
    time.sleep({seconds})
    return 1
@step
def after():
    print("after in attempt", current_run().attempt, flush=True)
    time.sleep({later})
    return 2
@task
def main():
    return [train(), after()]
"""


@pytest.fixture
async def world(ledger_uri: str) -> AsyncIterator[World]:
    database = Database(ledger_uri)  # the database's own clock: the marks outlast the step by a while
    await database.open()
    yield await World(database).start()
    await database.close()


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with api_server.serving(world) as url:
        yield url


@asynccontextmanager
async def operating(world: World) -> AsyncIterator[None]:
    """Mark pods as the operator does."""
    loop = asyncio.create_task(Loop("protection", world.marker.mark, every=timedelta(milliseconds=50)).run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def marks(world: World) -> list[bool]:
    return [protected for _, protected in world.cluster.marks]


async def test_the_pod_is_marked_before_the_body_begins_and_released_while_the_run_goes_on(
    world: World, url: str
) -> None:
    run_id = await world.submit(code(BODY.format(seconds=0.2, later=4)))
    async with operating(world), runner(world, url) as process:
        await eventually(lambda: logs_of(world, run_id), lambda lines: "trains" in lines)
        assert marks(world) == [True]
        await eventually(lambda: logs_of(world, run_id), lambda lines: "after in attempt 1" in lines)
        await eventually(lambda: asyncio.sleep(0, marks(world)), lambda found: found == [True, False])
        assert process.returncode is None, "the run still goes on"
        assert (await ended(process))[0] == exit_codes.DONE
    assert json.loads((await world.get(run_id))["result"]) == [1, 2]


async def test_without_an_operator_the_run_goes_on_and_says_so(world: World, url: str) -> None:
    run_id = await world.submit(code(BODY.format(seconds=0, later=0)))
    assert (await run_once(world, url))[0] == exit_codes.DONE
    assert marks(world) == []
    lines = await logs_of(world, run_id)
    assert any("although its pod is not marked" in line for line in lines)
    assert json.loads((await world.get(run_id))["result"]) == [1, 2]


async def test_sigterm_lets_a_protected_step_finish_and_begins_no_other(world: World, url: str) -> None:
    run_id = await world.submit(code(BODY.format(seconds=1, later=0)))
    async with operating(world):
        async with runner(world, url) as process:
            await eventually(lambda: logs_of(world, run_id), lambda lines: "trains" in lines)
            process.send_signal(signal.SIGTERM)
            assert (await ended(process))[0] == exit_codes.DONE
        row = await world.get(run_id)
        assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
        await eventually(lambda: asyncio.sleep(0, marks(world)), lambda found: found == [True, False])
        assert (await run_once(world, url))[0] == exit_codes.DONE
    assert await logs_of(world, run_id) == ["trains", "after in attempt 2"]


async def test_a_killed_runner_protects_nothing(world: World, url: str) -> None:
    run_id = await world.submit(code(BODY.format(seconds=60, later=0)))
    async with operating(world), runner(world, url) as process:
        await eventually(lambda: logs_of(world, run_id), lambda lines: "trains" in lines)
        process.kill()
        await process.wait()
        (attempt,) = await world.database.fetch("SELECT id FROM attempt WHERE closed_at IS NULL")
        await world.attempts.lose(attempt["id"], reason="PodDeleted", message="killed by a test")
        await eventually(lambda: asyncio.sleep(0, marks(world)), lambda found: found == [True, False])
