"""What cannot be saved is refused with step, place and type; what is many goes in few requests."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.history import History
from windlass import gather, protocol, step, task
from windlass.errors import ValueTooLargeError


def a_cycle() -> Any:
    value: dict[str, Any] = {}
    value["again"] = [value]
    return value


def too_deep() -> Any:
    value: Any = 1
    for _ in range(300):
        value = [value]
    return value


NOT_JSON: list[tuple[Any, str]] = [
    (object(), ".orders[1] is a value of type object"),
    (b"png", ".orders[1] is a value of type bytes"),
    (iter([1]), ".orders[1] is a value of type list_iterator"),
    (threading.Lock(), ".orders[1] is a value of type _thread.lock"),
    (float("nan"), ".orders[1] is nan"),
    (10**400, ".orders[1] is an integer of more than 300 digits"),
    ("\ud800", ".orders[1] has a lone surrogate"),
    (a_cycle(), ".orders[1].again[0] contains itself"),
    (too_deep(), "is nested too deeply"),
]


@pytest.mark.parametrize(("value", "said"), NOT_JSON)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_result_that_has_no_json_names_step_place_and_type(value: Any, said: str, kind: str) -> None:
    @step
    def list_orders() -> Any:
        return {"orders": [1, value]}

    @step(name="list_orders")
    async def list_orders_async() -> Any:
        return {"orders": [1, value]}

    @task
    def main() -> Any:
        return list_orders()

    @task
    async def main_async() -> Any:
        return await list_orders_async()

    history = History()
    failure = history.failure(main if kind == "sync" else main_async)
    assert (failure.type, failure.reason) == ("SerializationError", "ResultNotSerializable")
    assert failure.message.startswith("The result of step 'list_orders' cannot be saved: ")
    assert said in failure.message
    assert history.steps["list_orders"].state == "failed"


@pytest.mark.parametrize(("value", "said"), NOT_JSON)
def test_an_argument_that_has_no_json_names_step_argument_place_and_type(value: Any, said: str) -> None:
    @step
    def save(order: int, lines: Any) -> None:
        """Never called."""

    @task
    def main() -> None:
        save(1, lines={"orders": [1, value]})

    failure = History().failure(main)
    assert failure.message.startswith("The argument 'lines' of step 'save' cannot be saved: ")
    assert said in failure.message


def test_a_result_that_is_too_large_names_step_and_both_sizes() -> None:
    class Small(History):
        def put_blob(self, data: bytes) -> protocol.BlobRef:
            raise ValueTooLargeError(f"The value has {len(data)} bytes, and 80000 is the most.")

    @step
    def dump() -> str:
        return "x" * 100_000

    @task
    def main() -> str:
        return dump()

    history = Small()
    failure = history.failure(main)
    assert (failure.reason, failure.failure_class) == ("ResultTooLarge", "permanent")
    assert failure.message == (
        "The result of step 'dump' cannot be saved: The value has 100002 bytes, and 80000 is the most."
    )
    assert (history.steps["dump"].state, history.steps["dump"].result_ref) == ("failed", None)


def test_a_hundred_steps_in_one_gather_are_saved_in_a_few_requests() -> None:
    requests: list[int] = []

    class Slow(History):
        def save_steps(self, steps: Sequence[protocol.Step]) -> None:
            requests.append(len(steps))
            time.sleep(0.02)  # what a request takes: the others end meanwhile
            super().save_steps(steps)

    @step
    async def fetch(n: int) -> int:
        return n

    @task
    async def main() -> list[int]:
        return await gather(*(fetch(n) for n in range(100)))

    assert Slow().value(main) == list(range(100))
    assert sum(requests) == 100
    assert len(requests) <= 5
