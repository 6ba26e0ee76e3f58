"""Loops go on, whatever happens to their work."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.services import loops
from windlass_operator.services.loops import Loop, each


async def test_a_loop_ends_although_its_work_has_swallowed_the_cancellation() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    task = asyncio.create_task(Loop("stubborn", work, every=timedelta(seconds=60)).run())
    await began.wait()
    task.cancel()
    _, late = await asyncio.wait({task}, timeout=5)
    assert not late
    assert task.cancelled()


@pytest.mark.parametrize("error", [LedgerUnavailableError("away"), RuntimeError("a fault")])
async def test_a_loop_outlives_an_outage_of_any_length(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal calls
        calls += 1
        loop.wake()
        await asyncio.sleep(0)
        if calls == 1_100:
            done.set()
        raise error

    monkeypatch.setattr(loops.log, "exception", lambda *_, **__: None)
    monkeypatch.setattr(loops.log, "warning", lambda *_, **__: None)
    loop = Loop("test", work, every=timedelta(seconds=1))
    running = asyncio.create_task(loop.run())
    waiting = asyncio.create_task(done.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=20)
    assert not running.done()
    running.cancel()
    waiting.cancel()


async def test_a_part_that_fails_keeps_no_other_part_from_its_turn() -> None:
    done: list[str] = []

    async def broken() -> None:
        raise RuntimeError("a fault")

    async def fine() -> None:
        done.append("fine")

    with pytest.raises(RuntimeError, match="a fault"):
        await each(broken, fine, broken)
    assert done == ["fine"]


async def test_a_crowd_of_wake_ups_shares_one_look_and_who_comes_alone_waits_for_nothing() -> None:
    looks: list[float] = []
    clock = asyncio.get_running_loop().time

    async def work() -> None:
        looks.append(clock())

    loop = Loop("test", work, every=timedelta(hours=1), apart=timedelta(milliseconds=200))
    running = asyncio.create_task(loop.run())
    began = clock()
    while len(looks) < 3:
        loop.wake()
        await asyncio.sleep(0.005)
    assert looks[0] - began < 0.1
    assert clock() - began >= 0.4, "two pauses lie between three looks"
    running.cancel()
