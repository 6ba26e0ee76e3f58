"""Retries, timeouts and fallbacks of steps."""

import asyncio
import re
import signal
import time
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.history import History
from windlass import (
    PermanentError,
    Retry,
    RetryAt,
    StepError,
    StepTimeoutError,
    current_run,
    gather,
    step,
    task,
    to_thread,
)
from windlass.execution import request_cancel

QUICK = Retry(max_attempts=3, min_delay="1ms", max_delay="2ms")


@pytest.fixture
def history() -> History:
    return History()


class Flaky:
    """Fails so often, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.tried = 0

    def __call__(self) -> str:
        self.tried += 1
        if self.errors:
            raise self.errors.pop(0)
        return "well"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_step_is_tried_again_within_its_policy_and_saved_once(history: History, kind: str) -> None:
    body = Flaky(ConnectionError("one"), ConnectionError("two"))

    @step(retry=QUICK)
    def work() -> str:
        return body()

    @step(retry=QUICK, name="work")
    async def work_async() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    @task
    async def main_async() -> str:
        return await work_async()

    assert history.value(main if kind == "sync" else main_async) == "well"
    assert (body.tried, list(history.steps), history.steps["work"].tries) == (3, ["work"], 3)


def test_the_last_error_leaves_the_step_when_all_tries_are_used(history: History) -> None:
    body = Flaky(*(ConnectionError(str(n)) for n in range(1, 9)))

    @step(retry=QUICK)
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    failure = history.failure(main)
    assert (failure.message, body.tried) == ("3", 3)
    assert (history.steps["work"].state, history.steps["work"].tries) == ("failed", 3)
    assert history.failure(main, number=2).message == "6"  # the run's retry gives it three more


@pytest.mark.parametrize(
    "error", [PermanentError("no"), ExceptionGroup("several", [ValueError(), PermanentError("no")])]
)
def test_a_permanent_error_is_never_tried_again(history: History, error: Exception) -> None:
    body = Flaky(error)

    @step(retry=QUICK)
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    assert history.failure(main).failure_class == "permanent"
    assert body.tried == 1


def test_only_errors_that_are_worth_it_are_tried_again(history: History) -> None:
    body = Flaky(ConnectionError(), ValueError("bad input"))

    @step(retry=QUICK, retry_if=lambda error: isinstance(error, ConnectionError))
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    assert history.failure(main).message == "bad input"
    assert body.tried == 2


def test_a_step_chooses_the_time_of_its_next_try(history: History) -> None:
    body = Flaky(RetryAt("1ms"))

    @step(retry=Retry(max_attempts=2, min_delay="1h", max_delay="1h"), retry_if=lambda _: False)
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    assert history.value(main) == "well"


def test_without_a_policy_there_is_one_try_and_the_time_is_that_of_the_runs_retry(history: History) -> None:
    body = Flaky(RetryAt("90s"))

    @step(on_error=None)
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    failed = history.run(main).fail
    assert failed is not None
    assert (failed.retry_after_ms, body.tried) == (90_000, 1)


def test_a_cancelled_run_is_not_tried_again(history: History) -> None:
    @step(retry=Retry(max_attempts=3, min_delay="1h", max_delay="1h", jitter="none"))
    def work() -> str:
        request_cancel()
        raise ConnectionError

    @task
    def main() -> str:
        return work()

    failed = history.run(main).fail
    assert failed is not None
    assert failed.cancelled


def test_a_later_try_is_shown_with_why_the_last_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass.checkpoints.ANNOUNCE_AFTER", 0.01)
    seen: list[tuple[int, str]] = []

    class Watched(History):
        def save_steps(self, steps: Any) -> None:
            seen.extend((s.tries, s.error.message if s.error else "") for s in steps if s.state == "running")
            super().save_steps(steps)

    @step(retry=QUICK)
    async def work() -> str:
        if not seen:
            await eventually(lambda: asyncio.sleep(0, seen))
            raise ConnectionError("down")
        await eventually(lambda: asyncio.sleep(0, len(seen) > 1))
        return "well"

    @task
    async def main() -> str:
        return await work()

    assert Watched().value(main) == "well"
    assert seen[:2] == [(1, ""), (2, "down")]


def test_a_try_that_takes_too_long_is_ended_and_may_be_tried_again() -> None:
    tried: list[int] = []
    ended: list[str] = []

    @step(timeout="20ms", retry=QUICK)
    async def work() -> str:
        tried.append(1)
        try:
            if len(tried) == 1:
                await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")
        return "well"

    @step(timeout="20ms", retry=QUICK)
    def work_sync() -> str:
        tried.append(1)
        try:
            while len(tried) == 1:
                time.sleep(5)
        except Exception:
            ended.append("a body that catches everything must not keep it")
        return "well"

    @task
    async def main() -> str:
        return await work()

    @task
    def main_sync() -> str:
        return work_sync()

    for function in (main, main_sync):
        tried.clear()
        assert History().value(function) == "well"
        assert len(tried) == 2
    assert ended == ["cleaned up", "cleaned up"]


def test_the_error_names_try_step_and_limit(history: History) -> None:
    @step(timeout="20ms")
    def work() -> None:
        time.sleep(5)

    @task
    def main() -> None:
        work()

    failure = history.failure(main)
    assert (failure.type, failure.failure_class) == ("StepTimeoutError", "user")
    assert failure.message == "Try 1 of step 'work' took longer than its timeout of 20ms."


def test_a_timer_and_a_handler_of_the_code_are_given_back(history: History) -> None:
    rang: list[int] = []

    @step(timeout="1h")
    def work() -> None:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1000

    @task
    def main() -> float:
        before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
        try:
            signal.setitimer(signal.ITIMER_REAL, 100)
            work()
            left = signal.getitimer(signal.ITIMER_REAL)[0]
            signal.raise_signal(signal.SIGALRM)
            return left
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    assert 90 < history.value(main) <= 100
    assert rang == [1]


def test_a_timeout_that_is_the_bodys_own_stays_its_own(history: History) -> None:
    @step(timeout="10s")
    async def work() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    @task
    async def main() -> None:
        await work()

    assert history.failure(main).type == "TimeoutError"


def test_a_synchronous_step_in_a_thread_cannot_have_a_timeout(history: History) -> None:
    @step(timeout="10s")
    def work() -> None:
        """Never called."""

    @task
    async def main() -> None:
        await gather(to_thread(work))

    failure = history.failure(main)
    assert failure.type == StepError.__name__
    assert re.match(
        "Step 'work' has a timeout and is called in a thread, .* Make the step `async def`", failure.message
    )


def test_a_fallback_stands_in_and_its_value_is_the_steps(history: History) -> None:
    asked: list[Any] = []

    def other(error: Exception, amount: int) -> str:
        asked.append((str(error), amount))
        return "by bank transfer"

    @step(retry=QUICK, on_error=other)
    def charge(order: str, amount: int = 7) -> str:
        raise ConnectionError(f"{order} for {amount}")

    @task
    def main() -> str:
        return charge("o-1")

    assert history.value(main) == history.value(main, number=2) == "by bank transfer"
    assert asked == [("o-1 for 7", 7)]
    assert (history.steps["charge"].state, history.steps["charge"].tries) == ("succeeded", 3)


def test_a_fallback_may_be_asynchronous_and_its_error_fails_the_step(history: History) -> None:
    async def other(error: Exception) -> str:
        await asyncio.sleep(0)
        if current_run().attempt == 1:
            raise LookupError("nor that") from error
        return "well"

    @step(on_error=other)
    async def work() -> str:
        raise ConnectionError

    @task
    async def main() -> str:
        return await work()

    assert history.failure(main).type == "LookupError"
    assert history.value(main, number=2) == "well"


def test_a_fallback_hides_no_wrong_use_of_steps() -> None:
    @step
    def inner() -> None:
        """Never called."""

    @step(retry=QUICK, on_error=lambda: "hidden")
    def outer() -> Any:
        inner()

    @step(on_error=lambda: "hidden")
    def open_end() -> Any:
        return object()

    @task
    def main(which: str) -> Any:
        return outer() if which == "outer" else open_end()

    assert History().failure(main, "outer").type == "StepError"
    assert History().failure(main, "open end").type == "SerializationError"


def test_steps_with_options_are_plain_functions_outside_a_run() -> None:
    @step(retry=QUICK, timeout="1s", on_error=lambda: "hidden")
    def work() -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        work()


async def a_fallback() -> None:
    """Asynchronous."""


@step
def a_step() -> None:
    """A step."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retry": 3}, "write Retry(max_attempts=3)"),
        ({"retry_if": lambda _: True}, "add retry=Retry(max_attempts=3)"),
        ({"retry": QUICK, "retry_if": OSError}, "retry_if=lambda error: isinstance(error, OSError)"),
        ({"retry": QUICK, "retry_if": (OSError, KeyError)}, "isinstance(error, (OSError, KeyError))"),
        ({"retry": QUICK, "retry_if": a_fallback}, "wants a plain function"),
        ({"retry": QUICK, "retry_if": lambda: True}, "is called with the error alone"),
        ({"timeout": "0s"}, "write more than nothing"),
        ({"timeout": "soon"}, "'soon' is not a duration"),
        ({"on_error": "other"}, "wants a function"),
        ({"on_error": a_step}, "steps do not nest"),
        ({"on_error": a_fallback}, "Make the step `async def`"),
        ({"on_error": lambda card: card}, "takes 'card', which nothing is given by. It gets what it asks for by name"),
        ({"on_error": lambda *rest: rest}, "takes '*rest'"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_where_it_is_written(options: dict[str, Any], expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(expected)):

        @step(**options)
        def work(order: str, amount: int) -> None:
            """Never called."""


def test_a_parameter_named_error_leaves_no_name_for_the_error() -> None:
    with pytest.raises(TypeError, match="has a parameter 'error'"):

        @step(on_error=lambda error: error)
        def work(error: str) -> None:
            """Never called."""


def test_the_timeout_error_is_an_ordinary_error_of_ours() -> None:
    assert isinstance(StepTimeoutError("late"), Exception)
