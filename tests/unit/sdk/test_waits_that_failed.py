"""Waits that failed and ended an attempt: the next one waits again, and what the code caught stays as it was."""

from typing import Any

import pytest

from tests.support.history import History
from windlass import RunFailedError, WaitTimeoutError, gather, protocol, task, wait_for_event


@task
async def fetch(url: str) -> str:
    return url


LATE = protocol.Failure(type="WaitTimeoutError", message="late", failure_class="timeout")


def _failed(key: str) -> protocol.Failure:
    run = protocol.FailedRun(run_id=f"id-{key}", state="Failed", type="E", message="boom", failure_class="user")
    return protocol.Failure(type="RunFailedError", message=f"{key} is Failed", run=run)


def test_a_failed_run_that_ended_the_attempt_is_started_again() -> None:
    history = History()

    @task
    async def main() -> Any:
        return await gather(fetch.trigger_and_wait("a"), fetch.trigger_and_wait("b"))

    assert history.waits_for(main) == ["fetch", "fetch#2"]
    history.end_wait("fetch", "done")
    history.end_wait("fetch#2", failure=_failed("fetch#2"))
    finished = history.run(main, number=2)
    assert finished.fail is not None
    assert (finished.fail.failure.type, finished.fail.rerun) == ("RunFailedError", ["fetch#2"])
    assert history.waits_for(main, number=3) == ["fetch#2"]
    assert history.started_in == [2, 1]
    history.end_wait("fetch#2", "done too")
    assert history.value(main, number=4) == ["done", "done too"]


def test_an_event_that_did_not_come_is_waited_for_again_in_the_same_process_too() -> None:
    history = History()

    @task
    async def main() -> Any:
        return (await wait_for_event("paid", timeout="1h")).payload

    history.waits_for(main)
    history.end_wait("wait_for_event", failure=LATE)
    finished = history.run(main, number=2)
    assert finished.fail is not None
    assert finished.fail.rerun == ["wait_for_event"]
    assert history.waits_for(main, number=3) == ["wait_for_event"]


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_failed_run_that_the_code_caught_stays_failed(synchronous: bool) -> None:
    history = History()

    @task
    async def main() -> Any:
        try:
            return await fetch.trigger_and_wait("a")
        except RunFailedError:
            await fetch.trigger_and_wait("b")
            raise ValueError("later") from None

    @task
    def main_sync() -> Any:
        try:
            return fetch.trigger_and_wait_sync("a")
        except RunFailedError:
            fetch.trigger_and_wait_sync("b")
            raise ValueError("later") from None

    chosen: Any = main_sync if synchronous else main
    history.waits_for(chosen)
    history.end_wait("fetch", failure=_failed("fetch"))
    assert history.waits_for(chosen, number=2) == ["fetch#2"]
    history.end_wait("fetch#2", "done")
    finished = history.run(chosen, number=3)
    assert finished.fail is not None
    assert (finished.fail.failure.type, finished.fail.rerun) == ("ValueError", [])
    assert history.failure(chosen, number=4).type == "ValueError"


@pytest.mark.parametrize("how", ["raised", "seen"])
def test_of_a_batch_only_what_the_code_raises_is_started_again(how: str) -> None:
    history = History()

    @task
    async def main() -> Any:
        results = await fetch.batch_trigger_and_wait(["a", "b", "c"])
        wrong = [one.error for one in results if one.error is not None]
        if how == "raised" and wrong:
            raise ExceptionGroup("some failed", wrong)
        if wrong:
            raise ValueError(f"{len(wrong)} failed")
        return [one.value for one in results]

    history.waits_for(main)
    history.end_wait("fetch", "done")
    history.end_wait("fetch#2", failure=_failed("fetch#2"))
    history.end_wait("fetch#3", failure=LATE)
    finished = history.run(main, number=2)
    assert finished.fail is not None
    if how == "seen":
        assert finished.fail.rerun == []
        assert history.failure(main, number=3).message == "2 failed"
        return
    assert finished.fail.rerun == ["fetch#2", "fetch#3"]
    assert history.waits_for(main, number=3) == ["fetch#2", "fetch#3"]
    history.end_wait("fetch#2", "2")
    history.end_wait("fetch#3", "3")
    assert history.value(main, number=4) == ["done", "2", "3"]


def test_a_timeout_is_still_what_it_was_for_code_that_handles_it() -> None:
    history = History()

    @task
    async def main() -> str:
        try:
            await wait_for_event("paid", timeout="1h")
        except WaitTimeoutError:
            return "late"
        return "in time"

    history.waits_for(main)
    history.end_wait("wait_for_event", failure=LATE)
    assert history.value(main, number=2) == history.value(main, number=3) == "late"
