"""Durable waits as code meets them: when a run lets its process go, and what it finds when it comes back."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.history import History
from windlass import (
    NotInRunError,
    ThreadPoolExecutor,
    WaitTimeoutError,
    gather,
    protocol,
    sleep,
    sleep_sync,
    sleep_until,
    step,
    task,
    to_thread,
)
from windlass.waits import begin


@pytest.fixture
def history() -> History:
    return History()


def event(name: str = "event") -> Any:
    return begin(name, "event", arguments=None, target=name)


async def waits_for(name: str) -> Any:
    """Wait in a coroutine that is not the SDK's own."""
    return (await event(name).result()).result


def test_a_sleep_ends_the_attempt_and_the_next_one_goes_on_behind_it(history: History) -> None:
    log: list[str] = []

    @step
    async def note(word: str) -> None:
        log.append(word)

    @task
    async def main() -> str:
        await note("before")
        await sleep("24h")
        await note("after")
        return "done"

    assert history.waits_for(main) == ["sleep"]
    assert history.waits["sleep"].due_in_ms == 86_400_000
    assert history.waits_for(main, number=2) == ["sleep"], "woken too early, it waits again"
    history.end_wait("sleep")
    assert history.value(main, number=3) == "done"
    assert log == ["before", "after"]


def test_synchronous_code_sleeps_in_the_same_way(history: History) -> None:
    @task
    def main() -> str:
        sleep_sync("24h")
        return "done"

    assert history.waits_for(main) == ["sleep"]
    history.end_wait("sleep")
    assert history.value(main, number=2) == "done"


def test_a_short_sleep_stays_in_the_process_and_is_not_slept_again(history: History) -> None:
    @task
    async def main() -> float:
        began = asyncio.get_running_loop().time()
        await sleep("40ms")
        return asyncio.get_running_loop().time() - began

    assert history.value(main) >= 0.04
    assert (history.waits, history.steps["sleep"].kind) == ({}, "sleep")
    assert history.value(main, number=2) < 0.04


def test_sleeping_until_a_time_that_has_passed_ends_at_once(history: History) -> None:
    @task
    async def main() -> str:
        await sleep_until(datetime.now(UTC) - timedelta(days=1))
        return "done"

    assert history.value(main) == "done"


def test_a_run_waits_only_when_every_branch_does(history: History) -> None:
    log: list[str] = []
    gate = threading.Event()

    @step
    def slow() -> str:
        gate.wait(10)
        log.append("slow")
        return "slow"

    async def busy() -> str:
        result = await to_thread(slow)
        await sleep("2h")
        return result

    async def opens() -> None:
        await sleep("1h")

    @task
    async def main() -> Any:
        asyncio.get_running_loop().call_later(0.2, gate.set)
        return await gather(opens(), busy())

    assert history.waits_for(main) == ["0/sleep", "1/sleep"]
    assert log == ["slow"]


Joiner = Callable[..., Awaitable[Any]]


async def by_gather(*parts: Any) -> Any:
    return await gather(*parts)


async def by_group(*parts: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)


async def by_wait(*parts: Any) -> Any:
    return await asyncio.wait([asyncio.create_task(part) for part in parts])


async def one_by_one(*parts: Any) -> Any:
    for started in [asyncio.create_task(part) for part in parts]:
        await started


@pytest.mark.parametrize("join", [by_gather, by_group, by_wait, one_by_one])
def test_every_way_to_join_branches_lets_the_process_go(history: History, join: Joiner) -> None:
    @task
    async def main() -> None:
        await join(waits_for("a"), waits_for("b"), waits_for("c"))

    assert history.waits_for(main) == ["0/a", "1/b", "2/c"]


@pytest.mark.parametrize("join", [by_gather, by_group, by_wait])
def test_waits_that_are_joined_as_they_are_wake_the_run_once(history: History, join: Joiner) -> None:
    @task
    async def main() -> None:
        await join(sleep("1h"), sleep("2h"), waits_for("a"))

    history.waits_for(main)
    assert history.suspended[-1][1] == [["sleep", "sleep#2"]], "after 'a' the user's code goes on, so it stands alone"


def test_the_first_of_several_waits_wakes_by_itself(history: History) -> None:
    @task
    async def main() -> None:
        parts = [asyncio.create_task(part) for part in (sleep("1h"), sleep("2h"))]
        await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)

    assert history.waits_for(main) == ["sleep", "sleep#2"]
    assert history.suspended[-1][1] == []


def test_a_timeout_of_asyncio_around_a_wait_is_kept_by_the_process(history: History) -> None:
    @task
    async def main() -> str:
        try:
            async with asyncio.timeout(0.3):
                await waits_for("a")
        except TimeoutError:
            return "too late"
        return "came"

    assert history.value(main) == "too late"


def test_a_wait_with_a_timeout_of_its_own_in_asyncio_is_kept_by_the_process(history: History) -> None:
    @task
    async def main() -> int:
        done, _ = await asyncio.wait([asyncio.create_task(sleep("1h"))], timeout=0.3)
        return len(done)

    assert history.value(main) == 0


def test_a_task_of_a_library_that_nobody_awaits_holds_no_pod(history: History) -> None:
    async def keeps_connections_warm() -> None:
        while True:
            await asyncio.sleep(3600)

    @task
    async def main() -> None:
        main.background = asyncio.create_task(keeps_connections_warm())  # type: ignore[attr-defined]
        await sleep("1h")

    assert history.waits_for(main) == ["sleep"]


def test_a_branch_with_steps_that_nobody_awaits_is_waited_for(history: History) -> None:
    log: list[str] = []

    @step
    async def note(word: str) -> None:
        log.append(word)

    async def beside() -> None:
        await note("one")
        await asyncio.sleep(0.3)
        await note("two")

    @task
    async def main() -> None:
        started = asyncio.create_task(beside())
        await sleep("1h")
        await started

    assert history.waits_for(main) == ["sleep"]
    assert log == ["one", "two"]


def test_threads_that_all_wait_let_the_process_go(history: History) -> None:
    def branch(name: str) -> Any:
        return event(name).result_sync()

    @task
    def main() -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(branch, ["a", "b"]))

    assert history.waits_for(main) == ["0/a", "1/b"]


def test_threads_that_are_joined_by_leaving_the_pool_let_the_process_go(history: History) -> None:
    @task
    def main() -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(lambda: event("a").result_sync())

    assert history.waits_for(main) == ["0/a"]


def test_a_thread_of_asynchronous_code_that_waits_lets_the_process_go(history: History) -> None:
    @task
    async def main() -> None:
        await gather(to_thread(lambda: sleep_sync("1h")), sleep("2h"))

    assert history.waits_for(main) == ["0.0/sleep", "sleep"]


def test_a_result_that_is_waited_for_with_a_timeout_keeps_the_process(history: History) -> None:
    @task
    def main() -> str:
        with ThreadPoolExecutor() as pool:
            future = pool.submit(lambda: event("a").result_sync())
            try:
                future.result(timeout=0.3)
            except concurrent.futures.TimeoutError:
                history.end_wait("0/a")
                return "too late"
        return "came"

    assert history.value(main) == "too late"


def test_a_wait_that_is_over_while_another_branch_works_goes_on_in_the_same_process(history: History) -> None:
    @task
    async def main() -> Any:
        async def ends_it() -> None:
            await asyncio.sleep(0.2)
            history.end_wait("0/a", 42)
            await asyncio.sleep(0.5)

        return bytes((await gather(waits_for("a"), ends_it()))[0]).decode()

    assert history.value(main) == "42"
    assert history.suspended == []


def test_a_wait_that_ends_just_before_the_suspension_goes_on(history: History) -> None:
    plain = history.suspend

    def suspend(waits: Any, groups: Any, together: Any = ()) -> protocol.SuspendAnswer:
        if "sleep" in history.waits:
            history.end_wait("sleep")
        return plain(waits, groups, together)

    history.suspend = suspend  # type: ignore[method-assign]

    @task
    async def main() -> str:
        await sleep("1h")
        return "done"

    assert history.value(main) == "done"


def test_a_timeout_reaches_the_code_as_an_error_it_can_catch(history: History) -> None:
    @task
    async def main() -> str:
        try:
            await waits_for("a")
        except WaitTimeoutError as error:
            return str(error)
        return "came"

    history.waits_for(main)
    history.end_wait("a", failure=protocol.Failure(type="WaitTimeoutError", message="late"))
    assert history.value(main, number=2) == "late"
    assert history.value(main, number=3) == "late"


def test_another_wait_under_the_key_of_history_diverges(history: History) -> None:
    hours = ["1h", "2h"]

    @task
    async def main() -> None:
        await sleep(hours.pop(0))

    history.waits_for(main)
    history.end_wait("sleep")
    failure = history.failure(main, number=2)
    assert (failure.reason, "other arguments" in failure.message) == ("Divergence", True)


def test_sleep_in_synchronous_code_says_what_to_call(history: History) -> None:
    @task
    def main() -> None:
        sleep("1h").close()

    assert "call sleep_sync()" in history.failure(main).message


def test_sleep_sync_in_asynchronous_code_says_what_to_write(history: History) -> None:
    @task
    async def main() -> None:
        sleep_sync("1h")

    assert "write `await sleep()`" in history.failure(main).message


def test_a_wait_inside_a_step_is_refused_in_words(history: History) -> None:
    @step
    async def patient() -> None:
        await sleep("1h")

    @task
    async def main() -> None:
        await patient()

    assert "A step runs in one go" in history.failure(main).message


async def test_outside_a_run_a_sleep_is_plain_and_other_waits_say_that_there_is_no_run() -> None:
    await sleep("1ms")
    with pytest.raises(NotInRunError, match="inside a task"):
        event()


def test_a_time_without_a_zone_is_refused(history: History) -> None:
    @task
    async def main() -> None:
        await sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point

    assert "time zone" in history.failure(main).message


def test_cleanup_code_of_a_run_that_waits_can_take_no_step(history: History) -> None:
    """Without a process to end, the code is left by an exception: what it would do then must not become history."""

    @step
    def undo() -> None:
        raise AssertionError("must not run")

    @task
    def main() -> None:
        try:
            sleep_sync("1h")
        finally:
            undo()

    assert history.waits_for(main) == ["sleep"]
