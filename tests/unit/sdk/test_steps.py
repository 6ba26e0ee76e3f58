"""Steps: keys, replay, divergence. One attempt at a time, on a transport in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import History
from windlass import ThreadPoolExecutor, current_run, gather, step, task, to_thread
from windlass.errors import PermanentError, RetryAt
from windlass.execution import request_cancel


@pytest.fixture
def history() -> History:
    return History()


def counted(log: list[Any]) -> Any:
    @step
    def note(value: Any) -> Any:
        log.append(value)
        return value

    return note


def test_a_finished_step_is_not_run_again(history: History) -> None:
    log: list[Any] = []
    note = counted(log)

    @task
    def main() -> Any:
        return [note(1), note(1), note(2)]

    assert history.value(main) == [1, 1, 2]
    assert history.value(main, number=2) == [1, 1, 2]
    assert log == [1, 1, 2]
    assert sorted(history.steps) == ["note", "note#2", "note#3"]


def test_each_branch_gets_its_own_result_when_their_order_flips(history: History) -> None:
    """The case that plain ordinals fail: in the first attempt branch a is the slow one, in the second the quick one."""
    ran: list[str] = []

    @step
    async def fetch(name: str) -> str:
        ran.append(name)
        return f"result of {name}"

    @task
    async def main() -> Any:
        gate = asyncio.Event()
        first_is_slow = current_run().attempt == 1

        async def branch(name: str, *, slow: bool) -> str:
            if slow:
                await gate.wait()
            result = await fetch(name)
            gate.set()
            return result

        both = await gather(branch("a", slow=first_is_slow), branch("b", slow=not first_is_slow))
        if current_run().attempt == 1:
            raise ValueError("again")
        return both

    assert history.run(main).fail is not None
    assert history.value(main, number=2) == ["result of a", "result of b"]
    assert sorted(ran) == ["a", "b"]
    assert sorted(history.steps) == ["0/fetch", "1/fetch"]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(4)))
def test_keys_do_not_depend_on_the_order_in_which_branches_run(one: list[int], other: list[int]) -> None:
    def keys_of(order: list[int]) -> dict[str, Any]:
        history = History()

        @step
        async def work(branch: int, n: int) -> list[int]:
            return [branch, n]

        @task
        async def main() -> None:
            turns = [asyncio.Event() for _ in range(5)]

            async def branch(number: int) -> None:
                await turns[order.index(number)].wait()
                for n in range(2):
                    await work(number, n)
                turns[order.index(number) + 1].set()

            turns[0].set()
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(branch(number))

        assert history.run(main).complete is not None
        return {key: bytes(s.result) for key, s in history.steps.items()}

    assert keys_of(one) == keys_of(other)


def test_threads_that_we_start_are_branches(history: History) -> None:
    log: list[Any] = []
    note = counted(log)

    @task
    async def main() -> Any:
        return await gather(to_thread(note, "a"), to_thread(note, "b"))

    assert history.value(main) == ["a", "b"]
    assert sorted(history.steps) == ["0.0/note", "1.0/note"]

    @task
    def pool() -> Any:
        with ThreadPoolExecutor(2) as executor:
            return [f.result() for f in [executor.submit(note, n) for n in range(3)]]

    assert History().value(pool) == [0, 1, 2]


def test_a_thread_that_nobody_knows_is_refused(history: History) -> None:
    import threading

    note = counted([])

    @task
    def main() -> str:
        problems: list[str] = []

        def work() -> None:
            try:
                note(1)
            except Exception as error:
                problems.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return problems[0]

    assert "windlass.to_thread" in history.value(main)


def test_other_arguments_diverge_and_never_get_the_saved_value(history: History) -> None:
    note = counted([])

    @task
    def main() -> Any:
        return note(current_run().attempt)

    history.run(main)
    failed = history.run(main, number=2).fail
    assert failed is not None
    assert (failed.failure.reason, failed.failure.failure_class) == ("Divergence", "permanent")
    assert "'note'" in failed.failure.message


def test_the_same_arguments_hash_alike_however_they_are_passed(history: History) -> None:
    @step
    def pay(amount: int, currency: str = "EUR") -> int:
        return amount if currency == "EUR" else 0

    @task
    def main() -> int:
        return pay(5) if current_run().attempt == 1 else pay(amount=5, currency="EUR")

    assert history.value(main) == history.value(main, number=2) == 5


def test_a_failed_step_is_recorded_and_runs_again(history: History) -> None:
    ran: list[int] = []

    @step
    def shaky() -> str:
        ran.append(current_run().attempt)
        if len(ran) == 1:
            raise ConnectionError("down")
        return "up"

    @task
    def main() -> str:
        return shaky()

    failed = history.run(main).fail
    assert failed is not None
    assert (failed.failure.type, history.steps["shaky"].state) == ("ConnectionError", "failed")
    assert history.value(main, number=2) == "up"
    assert ran == [1, 2]


def test_steps_do_not_nest(history: History) -> None:
    note = counted([])

    @step
    def outer() -> Any:
        return note(1)

    @task
    def main() -> Any:
        return outer()

    failed = history.run(main).fail
    assert failed is not None
    assert "Steps do not nest" in failed.failure.message


@dataclass
class Receipt:
    total: int
    lines: list[str]


def test_a_replayed_step_returns_what_its_annotation_says(history: History) -> None:
    @step
    def charge() -> Receipt:
        return Receipt(3, ["a"])

    @task
    def main() -> str:
        return repr(charge())

    assert history.value(main) == history.value(main, number=2)


def test_history_that_did_not_ride_along_is_fetched(history: History) -> None:
    log: list[Any] = []
    note = counted(log)

    @task
    def main() -> Any:
        return note("x")

    history.run(main)
    assert history.value(main, number=2, paged=True) == "x"
    assert log == ["x"]


def test_large_values_go_through_blobs_and_come_back(history: History) -> None:
    @step
    def big() -> str:
        return "x" * 100_000

    @task
    def main() -> int:
        return len(big())

    assert history.value(main) == history.value(main, number=2) == 100_000
    assert history.steps["big"].result_ref is not None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermanentError("no"), ("permanent", None)),
        (RetryAt("90s"), ("user", 90_000)),
        (ValueError("boom"), ("user", None)),
        (SystemExit(3), ("user", None)),
    ],
)
def test_exceptions_say_what_becomes_of_the_run(history: History, error: BaseException, expected: Any) -> None:
    @task
    def main() -> None:
        raise error

    failed = history.run(main).fail
    assert failed is not None
    assert (failed.failure.failure_class, failed.retry_after_ms) == expected


def test_a_result_that_is_no_data_names_its_place(history: History) -> None:
    @task
    def main() -> Any:
        return {"orders": [{"when": object()}]}

    failed = history.run(main).fail
    assert failed is not None
    assert failed.failure.reason == "ResultNotSerializable"
    assert ".orders[0].when" in failed.failure.message


@pytest.mark.parametrize("value", [float("nan"), "\ud800", b"bytes"])
def test_values_that_json_does_not_have_are_refused(history: History, value: Any) -> None:
    @step
    def bad() -> Any:
        return {"here": value}

    @task
    def main() -> Any:
        return bad()

    failed = history.run(main).fail
    assert failed is not None
    assert ".here" in failed.failure.message
    assert "'bad'" in failed.failure.message


def test_cancelled_async_code_may_clean_up(history: History) -> None:
    cleaned: list[bool] = []

    @task
    async def main() -> None:
        try:
            asyncio.get_running_loop().call_soon(request_cancel)
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    failed = history.run(main).fail
    assert failed is not None
    assert failed.cancelled
    assert cleaned == [True]


def test_cancelled_sync_code_ends_at_its_next_step(history: History) -> None:
    note = counted([])

    @task
    def main() -> None:
        note(1)
        request_cancel()
        note(2)

    failed = history.run(main).fail
    assert failed is not None
    assert failed.cancelled
    assert list(history.steps) == ["note"]


def test_outside_a_run_tasks_and_steps_are_plain_functions() -> None:
    note: Callable[[int], int] = counted([])

    @task
    def main(n: int) -> int:
        return note(n)

    assert main(3) == 3
