"""``checkpoint``, ``last_checkpoint`` and ``extend_timeout`` of a run's code."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.history import History
from windlass import current_run, task
from windlass.errors import SerializationError


@pytest.fixture
def history() -> History:
    return History()


def loop(until: int) -> Any:
    @task
    async def main() -> Any:
        run = current_run()
        begins = run.last_checkpoint or {"page": 0}
        for page in range(begins["page"], until):
            await run.checkpoint({"page": page + 1})
        return begins, run.last_checkpoint

    return main


def test_a_loop_goes_on_where_its_last_checkpoint_was(history: History) -> None:
    assert history.value(loop(2)) == [{"page": 0}, {"page": 2}]
    assert history.value(loop(5), number=2) == [{"page": 2}, {"page": 5}]
    assert history.checkpoint.n == 3, "numbered within its attempt"


def test_synchronous_code_has_the_same(history: History) -> None:
    @task
    def main() -> Any:
        before = current_run().last_checkpoint
        current_run().checkpoint_sync([1, 2])
        current_run().extend_timeout_sync("1m")
        return before

    assert history.value(main) is None
    assert history.value(main, number=2) == [1, 2]
    assert history.added_ms == [60_000, 60_000], "each attempt counts its own from nothing"


def test_a_large_state_is_a_blob(history: History) -> None:
    @task
    async def main() -> int:
        before = current_run().last_checkpoint
        await current_run().checkpoint("x" * 70_000)
        return len(before or "")

    assert history.value(main) == 0
    assert history.value(main, number=2) == 70_000


def test_what_the_code_does_to_the_state_it_got_changes_nothing_that_is_saved(history: History) -> None:
    @task
    async def main() -> Any:
        await current_run().checkpoint([1])
        current_run().last_checkpoint.append(2)
        return current_run().last_checkpoint

    assert history.value(main) == [1]


def test_a_state_without_json_is_refused_with_its_place(history: History) -> None:
    @task
    async def main() -> str:
        with pytest.raises(SerializationError) as caught:
            await current_run().checkpoint({"open": object()})
        return str(caught.value)

    said = history.value(main)
    assert "checkpoint()" in said
    assert "open" in said


def test_time_adds_up_within_an_attempt(history: History) -> None:
    @task
    async def main() -> None:
        await current_run().extend_timeout("10m")
        await current_run().extend_timeout(timedelta(seconds=30))

    history.value(main)
    assert history.added_ms == [600_000, 630_000]


@pytest.mark.parametrize("nothing", ["0s", timedelta(0), "soon"])
def test_no_time_is_no_extension(history: History, nothing: Any) -> None:
    @task
    async def main() -> None:
        await current_run().extend_timeout(nothing)

    assert history.failure(main).type in ("ValueError", "InvalidDurationError")
