"""One attempt: what the task gets, what becomes of what it returns or raises."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.history import History
from windlass import PermanentError, RetryAt, current_run, gather, protocol, step, task
from windlass.errors import AttemptClosedError
from windlass.execution import request_cancel


class Line(BaseModel):
    sku: str
    count: int


class Order(BaseModel):
    id: int
    lines: list[Line] = []


@dataclass
class Receipt:
    order: int
    total: Decimal
    at: datetime


@task
def process(order: Order) -> Receipt:
    return Receipt(order.id, Decimal("9.90"), datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def history() -> History:
    return History()


def test_a_payload_becomes_what_the_parameter_says_and_a_result_becomes_json(history: History) -> None:
    expected = {"order": 7, "total": "9.90", "at": "2026-01-02T00:00:00Z"}
    assert history.value(process, {"id": 7}) == expected


def test_asynchronous_and_synchronous_functions_both_work(history: History) -> None:
    @task
    async def main(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    assert history.value(main, 1) == 2


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (
            {"id": 7, "lines": [{"sku": "a", "count": "many"}]},
            "payload.lines[0].count: Input should be a valid integer",
        ),
        ({"lines": [{}]}, "payload.id: Field required (and 2 more)"),
        ([1], "payload: Input should be"),
        (None, "payload: Input should be"),
    ],
)
def test_a_payload_that_does_not_fit_names_the_path(history: History, payload: Any, said: str) -> None:
    failure = history.failure(process, payload)
    assert (failure.reason, failure.failure_class) == ("PayloadInvalid", "permanent")
    assert failure.message.startswith(said)
    assert failure.traceback is None, "no code of the user ran"


def test_a_plain_type_is_checked_too(history: History) -> None:
    @task
    def main(n: int) -> int:
        return n

    assert "the code wants int, and this is a value of type str" in history.failure(main, "7").message
    assert "the code wants int" in history.failure(main, True).message


def test_a_whole_number_is_a_float_where_the_code_wants_one(history: History) -> None:
    @task
    def main(n: float) -> str:
        return type(n).__name__

    assert history.value(main, 3) == "float"
    assert "too large for a float" in history.failure(main, 10**400).message


def test_several_parameters_are_the_fields_of_the_payload(history: History) -> None:
    @task
    def main(order: Order, count: int = 1, *, when: datetime | None = None) -> list[Any]:
        return [order.id, count, when and when.year]

    assert history.value(main, {"order": {"id": 3}, "when": "2026-01-01T00:00:00Z"}) == [3, 1, 2026]
    assert history.failure(main, {"order": {"id": "x"}}).message.startswith("payload.order.id: ")
    assert history.failure(main, {"size": 1}).message == (
        "payload: it has no 'order' and nothing takes its 'size'; the parameters of main are order, count, when."
    )


def test_keyword_only_and_collecting_parameters_get_their_fields(history: History) -> None:
    @task
    def only(*, n: int) -> int:
        return n

    @task
    def rest(n: int, **others: Any) -> list[Any]:
        return [n, others]

    assert history.value(only, 5) == 5
    assert history.value(rest, {"n": 1, "a": 2}) == [1, {"a": 2}]


def test_defaults_stand_in_for_a_missing_payload(history: History) -> None:
    @task
    def one(n: int = 4) -> int:
        return n

    @task
    def several(a: int = 1, b: int = 2) -> int:
        return a + b

    assert history.value(one) == 4
    assert history.value(several) == 3


def test_an_annotation_that_nothing_can_read_is_the_payloads_problem(history: History) -> None:
    @task
    def main(lock: threading.Event) -> None:  # noqa: ARG001 - only its type matters
        raise AssertionError("not reached")

    failure = history.failure(main, {})
    assert failure.reason == "PayloadInvalid"
    assert "threading.Event" in failure.message


class Odd:
    """No JSON."""


def test_a_result_that_is_no_json_names_type_and_path(history: History) -> None:
    @task
    def main() -> Any:
        return {"items": [1, {"odd": Odd()}]}

    failure = history.failure(main)
    assert (failure.reason, failure.failure_class) == ("ResultNotSerializable", "permanent")
    assert "The result cannot be saved: .items[1].odd is a value of type" in failure.message
    assert "Odd" in failure.message


def test_a_step_result_that_is_no_json_names_the_step(history: History) -> None:
    @step
    def pick() -> Any:
        return [Odd()]

    @task
    def main() -> Any:
        return pick()

    failure = history.failure(main)
    assert "result of step 'pick' cannot be saved: [0] is a value of type" in failure.message
    assert history.steps["pick"].state == "failed"


def test_an_uncaught_exception_keeps_its_cause_and_none_of_our_frames(history: History) -> None:
    @step
    def read() -> None:
        raise OSError("disk")

    @task
    def main() -> None:
        try:
            read()
        except OSError as error:
            raise ValueError("no order") from error

    failure = history.failure(main)
    assert (failure.type, failure.message, failure.failure_class) == ("ValueError", "no order", "user")
    assert failure.traceback is not None
    assert "OSError: disk" in failure.traceback
    assert "test_execution.py" in failure.traceback
    assert "windlass/steps.py" not in failure.traceback


def test_a_permanent_error_in_a_task_group_is_permanent(history: History) -> None:
    @task
    async def main() -> None:
        async def branch() -> None:
            raise PermanentError("no such customer")

        async with asyncio.TaskGroup() as group:
            group.create_task(branch())

    failure = history.failure(main)
    assert (failure.type, failure.message, failure.failure_class) == (
        "PermanentError",
        "no such customer",
        "permanent",
    )


def test_several_failures_of_a_task_group_are_all_told(history: History) -> None:
    @task
    async def main() -> None:
        async def branch(name: str) -> None:
            raise KeyError(name)

        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(branch(name))

    failure = history.failure(main)
    assert failure.failure_class == "user"
    assert failure.traceback is not None
    assert "KeyError: 'a'" in failure.traceback
    assert "KeyError: 'b'" in failure.traceback


def test_retry_at_takes_a_duration_or_an_aware_time(history: History) -> None:
    @task
    def main(kind: str) -> None:
        raise RetryAt("5m" if kind == "text" else datetime.now(UTC) + timedelta(minutes=5))

    for kind in ("text", "time"):
        asked = history.run(main, kind).fail
        assert asked is not None
        assert asked.retry_after_ms == pytest.approx(300_000, abs=10_000)


@pytest.mark.parametrize(("when", "said"), [("soon", "not a duration"), (datetime(2026, 1, 1), "has no time zone")])  # noqa: DTZ001 - the mistake
def test_a_retry_at_that_means_nothing_is_refused_where_it_is_raised(history: History, when: Any, said: str) -> None:
    @task
    def main() -> None:
        raise RetryAt(when)

    failure = history.failure(main)
    assert (failure.type, failure.failure_class) in {("InvalidDurationError", "user"), ("ValueError", "user")}
    assert said in failure.message


def test_a_closed_attempt_reports_nothing() -> None:
    class Closed(History):
        def save_steps(self, steps: Sequence[protocol.Step]) -> None:
            raise AttemptClosedError("closed")

    @step
    async def work() -> None: ...

    @task
    async def alone() -> None:
        await work()

    @task
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())

    for main in (alone, grouped):
        with pytest.raises(AttemptClosedError):
            Closed().run(main)


def test_a_cancellation_that_comes_before_the_code_starts_is_not_lost(history: History) -> None:
    request_cancel()

    @task
    async def main() -> None:
        raise AssertionError("not reached")

    finished = history.run(main)
    assert finished.fail is not None
    assert finished.fail.cancelled
    assert history.run(process, {"id": 1}).complete is not None, "only that attempt was cancelled"


def test_a_cancellation_that_comes_after_the_end_changes_nothing(history: History) -> None:
    """The signal may arrive while the result is written: the event loop is closed by then."""

    class Late(dict[str, int]):
        def items(self) -> Any:
            request_cancel()
            return super().items()

    @task
    async def main() -> Any:
        return {"late": Late(a=1), "set": {1}}

    assert history.value(main) == {"late": {"a": 1}, "set": [1]}


def test_current_run_tells_what_the_claim_said(history: History) -> None:
    @task
    def main() -> list[Any]:
        run = current_run()
        return [run.id, run.task, run.namespace, run.attempt, run.max_attempts, run.cancelled]

    assert history.value(main, number=2) == ["r", "t", "n", 2, 3, False]


def test_steps_that_were_done_when_another_branch_failed_are_saved(history: History) -> None:
    ran: list[str] = []

    @step
    async def quick() -> str:
        ran.append("quick")
        return "done"

    @task
    async def main() -> Any:
        async def broken() -> None:
            raise ValueError("broken")

        results = await gather(quick(), broken(), return_exceptions=current_run().attempt > 1)
        return results[0]

    assert history.failure(main).message == "broken"
    assert history.value(main, number=2) == "done"
