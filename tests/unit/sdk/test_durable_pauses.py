"""A long pause between two tries of a step holds no pod, and the tries before it stay used."""

import asyncio
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.history import History
from windlass import Retry, RetryAt, gather, sleep, step, task

LONG = Retry(max_attempts=3, min_delay="10s", max_delay="1h", factor=1, jitter="none")


@pytest.fixture
def history() -> History:
    return History()


class Flaky:
    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.tried = 0

    def __call__(self) -> str:
        self.tried += 1
        if self.tried <= self.fails:
            raise ConnectionError(f"try {self.tried}")
        return "well"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("paged", [False, True])
def test_the_run_waits_without_a_pod_and_goes_on_with_the_next_try(history: History, kind: str, paged: bool) -> None:
    body = Flaky(2)

    @step(retry=LONG)
    def work() -> str:
        return body()

    @step(retry=LONG, name="work")
    async def work_async() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    @task
    async def main_async() -> str:
        return await work_async()

    function = main if kind == "sync" else main_async
    assert history.waits_for(function) == ["work~try1"]
    assert history.waits["work~try1"].due_in_ms == 10_000
    assert "work" not in {key for key, one in history.steps.items() if one.state != "running"}
    history.end_wait("work~try1")
    assert history.waits_for(function, number=2, paged=paged) == ["work~try2"]
    history.end_wait("work~try2")
    assert history.value(function, number=3, paged=paged) == "well"
    assert (body.tried, history.steps["work"].tries) == (3, 3)
    assert history.value(function, number=4, paged=paged) == "well"
    assert body.tried == 3


def test_the_pause_goes_on_where_another_wait_woke_the_run(history: History) -> None:
    body = Flaky(1)

    @step(retry=LONG)
    async def work() -> str:
        return body()

    async def other() -> str:
        await sleep("1m")
        return "other"

    @task
    async def main() -> Any:
        return await gather(work(), other())

    assert history.waits_for(main) == ["1/sleep", "work~try1"]
    history.end_wait("1/sleep")
    assert history.waits_for(main, number=2) == ["work~try1"]
    assert body.tried == 1
    history.end_wait("work~try1")
    assert history.value(main, number=3) == ["well", "other"]
    assert body.tried == 2


def test_each_of_several_pauses_wakes_the_run_by_itself(history: History) -> None:
    @step(retry=LONG)
    async def work(fails: int) -> None:
        raise ConnectionError(str(fails))

    @task
    async def main() -> None:
        await gather(work(1), work(2))

    assert history.waits_for(main) == ["work#2~try1", "work~try1"]
    assert history.suspended[-1][1] == []  # no group: after a pause there is a body to run, whoever waits for it


def test_short_pauses_stay_in_the_process_and_a_step_may_choose_a_long_one(history: History) -> None:
    asked: list[str] = ["1ms", "2h"]

    @step(retry=Retry(max_attempts=3, min_delay="1ms"))
    async def work() -> str:
        if asked:
            raise RetryAt(asked.pop(0))
        return "well"

    @task
    async def main() -> str:
        return await work()

    assert history.waits_for(main) == ["work~try2"]
    assert 7_190_000 < (history.waits["work~try2"].due_in_ms or 0) <= 7_200_000
    history.end_wait("work~try2")
    assert history.value(main, number=2) == "well"
    assert history.steps["work"].tries == 3


def test_when_all_tries_are_used_the_runs_retry_brings_all_of_them_again(history: History) -> None:
    body = Flaky(3)

    @step(retry=Retry(max_attempts=2, min_delay="10s", max_delay="10s", jitter="none"))
    def work() -> str:
        return body()

    @task
    def main() -> str:
        return work()

    assert history.waits_for(main) == ["work~try1"]
    history.end_wait("work~try1")
    assert history.failure(main, number=2).message == "try 2"
    assert history.waits_for(main, number=3) == ["work~try1"]
    history.end_wait("work~try1")
    assert history.value(main, number=4) == "well"


def test_an_interrupted_pause_is_no_failure(history: History) -> None:
    body = Flaky(1)

    @step(retry=LONG)
    async def work() -> str:
        return body()

    @task
    async def main() -> str:
        waiting = asyncio.create_task(work())
        await eventually(lambda: asyncio.sleep(0, body.tried))
        waiting.cancel()
        try:
            return await waiting
        except asyncio.CancelledError:
            return "late"

    assert history.value(main) == "late"
    assert not history.steps["work"].durable
