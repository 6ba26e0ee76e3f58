"""Where steps may be called from: what runs beside a branch gets an error, and never another branch's key."""

import asyncio
import contextvars
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.history import History
from windlass import ThreadPoolExecutor, gather, step, task, to_thread
from windlass.errors import StepError


@pytest.fixture
def history() -> History:
    return History()


@step
def note(value: Any) -> Any:
    return value


@step
async def fetch(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(StepError) as caught:
        call()
    return str(caught.value)


def test_tasks_that_share_a_context_are_still_two_branches(history: History) -> None:
    @task
    async def main() -> Any:
        context = contextvars.copy_context()

        async def branch(name: str, turns: int) -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await fetch(name)

        made = [asyncio.get_running_loop().create_task(branch(n, 3 - i), context=context) for i, n in enumerate("abc")]
        return await gather(*made)

    assert history.value(main) == ["a", "b", "c"]
    assert {key: bytes(s.result) for key, s in history.steps.items()} == {
        "0/fetch": b'"a"', "1/fetch": b'"b"', "2/fetch": b'"c"',
    }  # fmt: skip


def test_a_thread_of_asyncio_itself_is_refused_even_before_any_other_step(history: History) -> None:
    @task
    async def main() -> Any:
        with pytest.raises(StepError, match=r"from a thread .* Start threads with windlass.to_thread"):
            await asyncio.to_thread(note, 1)
        return note(2)

    assert history.value(main) == 2
    assert list(history.steps) == ["note"]


def test_a_thread_beside_a_branch_is_refused_before_the_branch_has_any_step(history: History) -> None:
    @task
    async def main() -> Any:
        async def branch() -> Any:
            with pytest.raises(StepError, match="from a thread"):
                await asyncio.to_thread(note, 1)
            return note(2)

        return await gather(branch(), branch())

    assert history.value(main) == [2, 2]
    assert sorted(history.steps) == ["0/note", "1/note"]


def test_a_callback_is_refused(history: History) -> None:
    @task
    async def main() -> str:
        said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: said.set_result(refused(lambda: note(1))))
        return await said

    assert "is called from a callback" in history.value(main)


def test_a_synchronous_task_may_run_a_loop_of_its_own_for_one_line_of_steps(history: History) -> None:
    async def line() -> Any:
        return [await fetch(1), note(2), *await asyncio.gather(fetch(3), fetch(4))]

    @task
    def main() -> Any:
        return [asyncio.run(line()), note(5), asyncio.run(line())]

    @task
    async def threaded() -> Any:
        return await to_thread(lambda: asyncio.run(line()))

    assert history.value(main) == history.value(main, number=2) == [[1, 2, 3, 4], 5, [1, 2, 3, 4]]
    assert History().value(threaded) == [1, 2, 3, 4]


@pytest.mark.parametrize("together", [asyncio.gather, lambda *made: asyncio.wait_for(made[0], 10)], ids=["two", "one"])
def test_tasks_of_a_loop_that_we_do_not_know_are_refused(
    history: History, together: Callable[..., Awaitable[Any]]
) -> None:
    async def branch() -> Any:
        return await fetch(1)

    async def lines() -> Any:
        made = [asyncio.create_task(branch()), asyncio.create_task(branch())]
        try:
            return await together(*made)
        finally:
            await asyncio.gather(*made, return_exceptions=True)

    @task
    def main() -> Any:
        return asyncio.run(lines())

    failure = history.failure(main)
    assert failure.type == "StepError"
    assert "of an event loop that Windlass does not know" in failure.message
    assert not history.steps


def test_a_task_factory_of_the_users_is_refused(history: History) -> None:
    async def branch() -> Any:
        await asyncio.sleep(0)
        return await fetch(1)

    @task
    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **more: asyncio.Task(coro, loop=loop, **more))
        return await gather(branch(), branch())

    assert "leave the loop's task factory as it is" in history.failure(main).message


def test_threads_of_a_pool_keep_their_number_whichever_is_faster(history: History) -> None:
    @task
    def main() -> Any:
        gate = threading.Event()

        def slow() -> Any:
            assert gate.wait(10)
            return note("slow")

        def quick() -> Any:
            try:
                return note("quick")
            finally:
                gate.set()

        with ThreadPoolExecutor(2) as pool:
            return [f.result() for f in [pool.submit(slow), pool.submit(quick)]]

    assert history.value(main) == ["slow", "quick"]
    assert [bytes(history.steps[key].result) for key in ("0/note", "1/note")] == [b'"slow"', b'"quick"']


def test_a_thread_that_outlives_the_task_function_may_start_no_step(history: History) -> None:
    ended = threading.Event()
    said: list[str] = []

    @task
    def main() -> None:
        def late() -> None:
            assert ended.wait(10)
            said.append(refused(lambda: note(1)))

        pools.append(ThreadPoolExecutor(1))
        pools[0].submit(late)

    pools: list[ThreadPoolExecutor] = []
    assert history.run(main).complete is not None
    ended.set()
    pools[0].shutdown()
    assert not history.steps
    assert len(said) == 1
    assert "after the task function has ended" in said[0]


def _fork(body: Callable[[], Any]) -> int:
    """Fork; the child leaves by returning or raising as ``body`` does. Returns the child's pid to the parent only."""
    pid = os.fork()
    if pid == 0:
        body()
    return pid


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("end", "code"), [(lambda: sys.exit(3), 3), (sys.exit, 0), (lambda: None, 0), (lambda: 1 / 0, 1)]
)
def test_a_forked_process_that_leaves_the_task_function_reports_nothing(
    history: History, end: Callable[[], Any], code: int
) -> None:
    me = os.getpid()
    forked: list[int] = []

    @task
    def main() -> int:
        note(1)
        forked.append(_fork(end))
        return os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) if forked[0] else -1

    try:
        finished = history.run(main)
    finally:
        if os.getpid() != me:
            os._exit(99)
    assert finished.complete is not None, finished.fail
    assert bytes(finished.complete.result) == str(code).encode()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_may_not_call_steps(history: History) -> None:
    def child() -> None:
        os._exit(0 if "in a process that the run's own has forked" in refused(lambda: note(2)) else 98)

    @task
    def main() -> int:
        note(1)
        return os.waitstatus_to_exitcode(os.waitpid(_fork(child), 0)[1])

    assert history.value(main) == 0
    assert list(history.steps) == ["note"]


def test_the_time_between_call_and_start_is_not_the_steps(history: History) -> None:
    @task
    async def main() -> None:
        called = fetch(1)
        before = time.monotonic()
        while time.monotonic() - before < 0.05:
            await asyncio.sleep(0)
        await called

    history.value(main)
    took = history.steps["fetch"].duration_ms
    assert took is not None
    assert took < 50
