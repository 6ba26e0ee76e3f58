"""How results reach the ledger: who shares a request, who waits for whom, and what a fault of one costs the others."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.history import History
from windlass import checkpoints, gather, protocol, step, task
from windlass.errors import ProtocolError, RetryAt, ValueTooLargeError
from windlass.execution import request_cancel


class Recorded(History):
    """Remembers each request, and holds them while ``go_on`` is clear."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[list[tuple[str, str]]] = []
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        self.arrived.set()
        assert self.go_on.wait(10)
        self.requests.append([(s.key, s.state) for s in steps])
        super().save_steps(steps)


@step
async def work(value: Any) -> Any:
    return value


@step
def note(value: Any) -> Any:
    return value


def test_steps_that_end_during_a_request_share_the_next_one() -> None:
    history = Recorded()
    history.go_on.clear()

    @task
    async def main() -> Any:
        made = [asyncio.create_task(work(n)) for n in range(10)]
        await eventually(lambda: asyncio.sleep(0, history.arrived.is_set()))
        for _ in range(3):  # each has ended by now, and is queued behind the first request
            await asyncio.sleep(0)
        history.go_on.set()
        return await gather(*made)

    assert history.value(main) == list(range(10))
    assert len(history.requests) <= 3
    assert sum(len(request) for request in history.requests) == 10


def test_a_long_step_is_shown_as_running_and_then_as_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "ANNOUNCE_AFTER", 0.01)
    history = Recorded()

    @step
    def long() -> None:
        assert history.arrived.wait(10)

    @task
    def main() -> None:
        long()

    history.value(main)
    assert history.requests == [[("long", "running")], [("long", "succeeded")]]
    assert history.steps["long"].state == "succeeded"


def test_a_step_whose_waiter_is_cancelled_is_saved_all_the_same() -> None:
    """It has run. To run it again would be wrong."""
    history = Recorded()
    history.go_on.clear()

    @task
    async def main() -> str:
        waiting = asyncio.create_task(work("done"))
        await eventually(lambda: asyncio.sleep(0, history.arrived.is_set()))
        waiting.cancel()
        history.go_on.set()
        try:
            await waiting
        except asyncio.CancelledError:
            return "gave up"
        return "got it"

    assert history.value(main) == "gave up"
    assert bytes(history.steps["work"].result) == b'"done"'


def test_a_waiter_that_gives_up_in_the_queue_stops_nobody_behind_it() -> None:
    history = Recorded()
    history.go_on.clear()

    @task
    async def main() -> Any:
        first = asyncio.create_task(work(1))
        await eventually(lambda: asyncio.sleep(0, history.arrived.is_set()))
        gives_up, stays = asyncio.create_task(work(2)), asyncio.create_task(work(3))
        for _ in range(5):  # both have ended by now, and are queued behind the first request
            await asyncio.sleep(0)
        gives_up.cancel()
        await asyncio.sleep(0)
        history.go_on.set()
        return [type(r).__name__ for r in await gather(first, gives_up, stays, return_exceptions=True)]

    assert history.value(main) == ["int", "CancelledError", "int"]
    assert [bytes(s.result) for s in history.steps.values()] == [b"1", b"2", b"3"]


def test_a_step_that_a_timeout_cancels_is_recorded_as_failed() -> None:
    history = Recorded()

    @step
    async def hang() -> None:
        await asyncio.Event().wait()

    @task
    async def main() -> str:
        try:
            async with asyncio.timeout(0.01):
                await hang()
        except TimeoutError:
            return "late"
        return "?"

    assert history.value(main) == "late"
    error = history.steps["hang"].error
    assert (history.steps["hang"].state, error and error.type) == ("failed", "CancelledError")


def test_what_becomes_of_a_step_that_nobody_waits_for_is_not_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    refused = threading.Event()

    class Refusing(Recorded):
        def save_steps(self, steps: Sequence[protocol.Step]) -> None:
            refused.set()
            raise ProtocolError("RequestInvalid", "no")

    @step
    async def hang() -> None:
        await asyncio.Event().wait()

    @task
    async def main() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await hang()
        await eventually(lambda: asyncio.sleep(0, refused.is_set()))
        return "went on"

    assert Refusing().value(main) == "went on"
    gc.collect()
    assert caplog.records == []


class Small(Recorded):
    """A store that keeps nothing large."""

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        raise ValueTooLargeError(f"The value has {len(data)} bytes.")


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_result_too_large_fails_its_own_step_and_no_other(kind: str) -> None:
    history = Small()
    large = "x" * 70_000

    @task
    async def together() -> Any:
        return [type(r).__name__ for r in await gather(work(large), work(1), return_exceptions=True)]

    @task
    def alone() -> Any:
        try:
            return note(large)
        except ValueTooLargeError:
            return ["ValueTooLargeError", type(note(1)).__name__]

    assert history.value(together if kind == "async" else alone) == ["ValueTooLargeError", "int"]
    name = "work" if kind == "async" else "note"
    assert history.steps[name].state == "failed"
    assert history.steps[f"{name}#2"].state == "succeeded"


def test_a_result_too_large_that_nobody_catches_ends_the_run_with_its_reason() -> None:
    @task
    def by_step() -> Any:
        return len(note("x" * 70_000))

    @task
    def by_task() -> Any:
        return "x" * 70_000

    failure = Small().failure(by_step)
    assert (failure.reason, failure.failure_class) == ("ResultTooLarge", "permanent")
    assert failure.message == "The result of step 'note' cannot be saved: The value has 70002 bytes."
    assert Small().failure(by_task).message == "The result cannot be saved: The value has 70002 bytes."


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_save_that_is_refused_reaches_the_step_that_waits(kind: str) -> None:
    class Refusing(History):
        def save_steps(self, steps: Sequence[protocol.Step]) -> None:
            if any(s.state == "succeeded" for s in steps):
                raise ProtocolError("RequestInvalid", "no")

    @task
    async def asynchronous() -> None:
        await work(1)

    @task
    def synchronous() -> None:
        note(1)

    failure = Refusing().failure(asynchronous if kind == "async" else synchronous)
    assert (failure.type, failure.message, failure.failure_class) == ("ProtocolError", "RequestInvalid: no", "user")


def test_history_is_fetched_beside_the_event_loop() -> None:
    """A page or a large value may take as long as an outage lasts; a cancellation must get through meanwhile."""
    history = Recorded()
    loop_went_on = threading.Event()

    class Slow(History):
        def load_steps(self, after: str) -> protocol.StepsPage:
            assert loop_went_on.wait(10)
            return super().load_steps(after)

    @task
    async def main() -> Any:
        asyncio.get_running_loop().call_later(0.01, loop_went_on.set)
        return await work("saved")

    history.value(main)
    slow = Slow()
    slow.steps = history.steps
    assert slow.value(main, number=2, paged=True) == "saved"


def test_a_second_cancellation_leaves_the_cleanup_alone() -> None:
    cleaned: list[str] = []

    @task
    async def main() -> None:
        try:
            asyncio.get_running_loop().call_soon(request_cancel)
            await asyncio.Event().wait()
        finally:
            request_cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.append("all")

    finished = History().run(main)
    assert finished.fail is not None
    assert finished.fail.cancelled
    assert cleaned == ["all"]


def test_after_a_cancellation_no_new_step_starts() -> None:
    @task
    async def main() -> None:
        await work(1)
        try:
            asyncio.get_running_loop().call_soon(request_cancel)
            await asyncio.Event().wait()
        finally:
            await work(2)

    history = History()
    finished = history.run(main)
    assert finished.fail is not None
    assert finished.fail.cancelled
    assert finished.fail.failure.message == "The run was cancelled before step 'work#2'."
    assert list(history.steps) == ["work"]


def test_a_retry_time_asked_for_in_a_group_is_kept() -> None:
    @task
    async def main() -> None:
        async def fails(error: Exception) -> None:
            raise error

        async with asyncio.TaskGroup() as group:
            group.create_task(fails(ValueError("x")))
            group.create_task(fails(RetryAt("90s")))

    finished = History().run(main)
    assert finished.fail is not None
    assert finished.fail.retry_after_ms == 90_000
