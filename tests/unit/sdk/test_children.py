"""Runs that code starts: one for each call however often it runs again, and the process ends while it waits."""

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
import pytest

import windlass
from tests.support.history import History
from windlass import (
    ApiError,
    RunFailedError,
    RunResult,
    StepError,
    Task,
    WaitTimeoutError,
    gather,
    protocol,
    step,
    task,
)
from windlass.context import NotInRunError


class Page(pydantic.BaseModel):
    text: str


@task
async def fetch(url: str) -> Page:
    return Page(text=url)


@task
def count(n: int) -> int:
    return n


def _failed(key: str) -> protocol.Failure:
    run = protocol.FailedRun(
        run_id=f"id-{key}", state="Failed", type="ValueError", message="boom", failure_class="user"
    )
    return protocol.Failure(type="RunFailedError", message=f"Run id-{key} is Failed: ValueError: boom", run=run)


def test_a_triggered_run_is_one_run_in_every_attempt() -> None:
    history = History()

    @task
    async def main() -> list[str]:
        first = await fetch.trigger("a", tags=("x",), detached=True)
        second = await fetch.trigger("a")
        return [first.id, second.id, first.namespace]

    assert history.value(main) == ["id-fetch", "id-fetch#2", "n"]
    assert (history.children["fetch"].tags, history.children["fetch"].detached) == (["x"], True)
    assert bytes(history.children["fetch"].payload) == b'"a"'
    assert history.value(main, number=2) == ["id-fetch", "id-fetch#2", "n"]
    assert history.started_in == [1, 1], "the second attempt starts nothing"


def test_a_run_waits_for_another_without_a_process_and_gets_its_result_by_its_type() -> None:
    history = History()

    @task
    async def main() -> str:
        page = await fetch.trigger_and_wait("a")
        assert isinstance(page, Page)
        return page.text

    assert history.waits_for(main) == ["fetch"]
    history.end_wait("fetch", {"text": "hello"})
    assert history.value(main, number=2) == "hello"
    assert history.started_in == [1]


def test_a_crash_between_start_and_wait_starts_no_second_run() -> None:
    history = History()

    @task
    async def main() -> Any:
        return (await fetch.trigger_and_wait("a")).text

    history.waits_for(main)
    history.waits_for(main, number=2)
    assert list(history.children) == ["fetch"]


def test_gather_starts_its_runs_together_and_waits_for_the_last() -> None:
    history = History()

    @task
    async def main() -> list[str]:
        pages = await gather(*(fetch.trigger_and_wait(str(n)) for n in range(20)))
        return [page.text for page in pages]

    keys = history.waits_for(main)
    assert len(keys) == 20
    assert history.suspended[-1][1] == [keys]
    assert history.started_in == [20], "calls that come together share a request"
    for n, key in enumerate(sorted(keys, key=lambda key: int(key.partition("#")[2] or 1))):
        history.end_wait(key, {"text": str(n)})
    assert history.value(main, number=2) == [str(n) for n in range(20)]


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_batch_waits_for_all_of_its_runs_and_returns_failures_as_results(synchronous: bool) -> None:
    history = History()

    def told(results: list[RunResult]) -> list[Any]:
        return [[r.ok, r.run_id, r.value.text if r.ok else str(r.error)] for r in results]

    @task
    async def main_async() -> list[Any]:
        return told(await fetch.batch_trigger_and_wait(["a", "b", "c"]))

    @task
    def main_sync() -> list[Any]:
        return told(fetch.batch_trigger_and_wait_sync(["a", "b", "c"]))

    main = main_sync if synchronous else main_async
    keys = history.waits_for(main)
    assert keys == ["fetch", "fetch#2", "fetch#3"]
    assert history.together == [keys]
    assert history.started_in == [3]
    history.end_wait("fetch", {"text": "A"})
    assert history.waits_for(main, number=2) == ["fetch#2", "fetch#3"]
    assert history.children.keys() == {"fetch", "fetch#2", "fetch#3"}
    history.end_wait("fetch#2", failure=_failed("fetch#2"))
    late = protocol.Failure(type="WaitTimeoutError", message="fetch was not over.")
    history.end_wait("fetch#3", failure=late)
    assert history.value(main, number=3) == [
        [True, "id-fetch", "A"],
        [False, "id-fetch#2", "Run id-fetch#2 is Failed: ValueError: boom"],
        [False, "id-fetch#3", "fetch was not over."],
    ]


def test_a_batch_of_thousands_is_started_in_requests_of_a_thousand_and_in_order() -> None:
    history = History()

    @task
    async def main() -> list[str]:
        return [run.id for run in await count.batch_trigger(range(2500))]

    ids = history.value(main)
    assert (ids[0], ids[1], ids[2499]) == ("id-count", "id-count#2", "id-count#2500")
    assert history.started_in == [1000, 1000, 500]
    assert history.value(main, number=2) == ids
    assert sum(history.started_in) == 2500


def test_a_failed_run_is_an_exception_that_says_which_and_why_and_again_in_the_next_attempt() -> None:
    history = History()

    @task
    async def main() -> list[Any]:
        try:
            await fetch.trigger_and_wait("a")
        except RunFailedError as error:
            return [error.run_id, error.state, error.failure_type, error.failure_class, error.failure_message]
        return []

    history.waits_for(main)
    history.end_wait("fetch", failure=_failed("fetch"))
    assert history.value(main, number=2) == ["id-fetch", "Failed", "ValueError", "user", "boom"]
    assert history.value(main, number=3) == ["id-fetch", "Failed", "ValueError", "user", "boom"]


def test_a_wait_for_a_run_may_have_an_end() -> None:
    history = History()

    @task
    def main() -> str:
        try:
            fetch.trigger_and_wait_sync("a", timeout="90s")
        except WaitTimeoutError as error:
            return str(error)
        return ""

    history.waits_for(main)
    assert history.children["fetch"].due_in_ms == 90_000
    history.end_wait("fetch", failure=protocol.Failure(type="WaitTimeoutError", message="late"))
    assert history.value(main, number=2) == "late"


def test_a_refused_run_is_an_error_of_its_own_call_alone() -> None:
    history = History()
    history.refused = {"count"}

    @task
    async def main() -> list[str]:
        made = await gather(fetch.trigger("a"), count.trigger(1), fetch.trigger("b"), return_exceptions=True)
        assert isinstance(made[1], ApiError)
        assert (made[1].code, made[1].field) == ("TaskNotFound", "task")
        return [run.id for run in made if not isinstance(run, BaseException)]

    assert history.value(main) == ["id-fetch", "id-fetch#2"]


def test_other_arguments_than_in_history_diverge() -> None:
    history = History()
    payload = "a"

    @task
    async def main() -> None:
        await fetch.trigger(payload)

    history.value(main)
    payload = "b"
    assert history.failure(main, number=2).reason == "Divergence"


def test_a_call_that_only_started_the_run_is_no_wait_for_it() -> None:
    history = History()

    @task
    async def before() -> None:
        await fetch.trigger("a")

    @task
    async def after() -> None:
        await fetch.trigger_and_wait("a")

    history.value(before)
    assert history.failure(after, number=2).reason == "Divergence"


def test_what_cannot_be_a_durable_step_is_refused_with_the_way_out() -> None:
    @step
    async def inside() -> None:
        await fetch.trigger("a")

    @task
    async def nested() -> None:
        await inside()

    @task
    async def elsewhere() -> None:
        await fetch.trigger("a", namespace="bank")

    @task
    def synchronous() -> None:
        fetch.trigger_and_wait("a")  # type: ignore[unused-coroutine]  # refused before it is one

    @task
    async def asynchronous() -> None:
        fetch.trigger_and_wait_sync("a")

    for main, said in (
        (nested, "inside step 'inside'"),
        (elsewhere, "a run starts runs of its own namespace, 'n'"),
        (synchronous, "here, call trigger_and_wait_sync()"),
        (asynchronous, "here, write `await trigger_and_wait()`"),
    ):
        history = History()
        failure = history.failure(main)
        assert (failure.type, said in failure.message) == ("StepError", True), failure
        assert history.children == {}


def test_outside_a_run_nothing_can_wait_durably() -> None:
    async def ask() -> None:
        await fetch.trigger_and_wait("a")

    with pytest.raises(NotInRunError):
        asyncio.run(ask())


def test_an_asynchronous_call_and_its_twin_take_the_same() -> None:
    for name in ("trigger", "batch_trigger", "trigger_and_wait", "batch_trigger_and_wait"):
        ours, twin = (inspect.signature(getattr(windlass.Task, n)) for n in (name, f"{name}_sync"))
        assert ours.parameters.keys() == twin.parameters.keys()


def test_the_error_of_a_failed_run_survives_a_pool_of_processes() -> None:
    import pickle

    error = RunFailedError("Failed", "text", run_id="r", failure_type="ValueError", failure_class="user")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(again), again.__dict__) == (str(error), error.__dict__)
    assert isinstance(again, StepError | RunFailedError)


def test_a_run_waits_for_another_by_trigger_and_wait_and_not_by_its_handle() -> None:
    @task
    async def main() -> Any:
        handle = await fetch.trigger("a")
        return await handle.result()

    @task
    def main_sync() -> Any:
        return fetch.trigger_sync("a").get_sync()

    for function in (main, main_sync):
        failure = History().failure(function)
        assert failure.type == "StepError"
        assert "id-fetch. To wait for its result, without a pod, start it by trigger_and_wait()" in failure.message


def test_a_task_is_triggered_by_its_name_where_its_code_is_elsewhere() -> None:
    history = History()
    crawl = Task.named("shop.crawl")

    @task(checkpoint="auto")
    async def main() -> Any:
        handle = await crawl.trigger({"n": 1}, tags=("x",))
        return [handle.id, await crawl.trigger_and_wait(2)]

    assert history.waits_for(main) == ["shop.crawl#2"]
    assert [(one.task, bytes(one.payload)) for one in history.children.values()] == [
        ("shop.crawl", b'{"n":1}'), ("shop.crawl", b"2"),
    ]  # fmt: skip
    history.end_wait("shop.crawl#2", {"pages": 3})
    assert history.value(main, number=2) == ["id-shop.crawl", {"pages": 3}]
    with pytest.raises(TypeError, match="no code to call: trigger it"):
        asyncio.run(crawl(1))
    with pytest.raises(ValueError, match="cannot be the name of a Task resource"):
        Task.named("Crawl")


@pytest.mark.parametrize("how", ["trigger", "batch_trigger", "trigger_and_wait", "batch_trigger_and_wait"])
@pytest.mark.parametrize("is_async", [True, False])
def test_every_way_to_start_a_run_says_when_it_is_to_begin(how: str, *, is_async: bool) -> None:
    history = History()
    payload: Any = ["a"] if "batch" in how else "a"
    at = datetime(2030, 1, 1, tzinfo=UTC)

    @task
    async def main() -> None:
        await getattr(fetch, how)(payload, delay="10m", start_at=at, queue_ttl=timedelta(hours=1))

    @task
    def main_sync() -> None:
        getattr(fetch, f"{how}_sync")(payload, delay="10m", start_at=at, queue_ttl=timedelta(hours=1))

    history.run(main if is_async else main_sync)
    child = history.children["fetch"]
    assert (child.delay, child.start_at, child.queue_ttl) == ("10m", "2030-01-01T00:00:00+00:00", "1h")


def test_code_that_runs_again_and_calculates_another_time_gets_the_run_that_it_has_started() -> None:
    history = History()
    clock = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)])

    @task
    async def main() -> str:
        return (await fetch.trigger("a", start_at=next(clock))).id

    assert history.value(main) == history.value(main, number=2) == "id-fetch"
    assert history.children["fetch"].start_at == "2030-01-01T00:00:00+00:00"


def test_a_time_without_a_zone_is_refused_where_it_is_written() -> None:
    @task
    async def main() -> None:
        await fetch.trigger("a", start_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point

    failed = History().run(main).fail
    assert failed is not None
    assert "start_at has no time zone" in failed.failure.message
