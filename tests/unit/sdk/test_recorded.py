"""What differs from call to call and not from attempt to attempt: keys for other systems, times, random numbers."""

import asyncio
import re
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import windlass
from tests.support.history import History
from windlass import Retry, StepError, gather, step, task, to_thread
from windlass.errors import AttemptClosedError

KEY = re.compile(r"wl-[0-9a-f]{32}")


@pytest.fixture
def history() -> History:
    return History()


def test_a_steps_key_is_the_same_in_all_tries_and_attempts_and_no_others(history: History) -> None:
    seen: list[tuple[str, str]] = []

    @step(retry=Retry(max_attempts=2, min_delay="1ms"))
    def charge(order: str) -> None:
        seen.append((order, step.idempotency_key))
        if len(seen) < 4:
            raise ConnectionError

    @task
    def main() -> None:
        charge("a")
        charge("a")

    history.failure(main)
    history.value(main, number=2)
    keys = [key for _, key in seen]
    assert all(KEY.fullmatch(key) for key in keys)
    assert keys == [keys[0]] * 4 + [keys[4]]
    assert keys[0] != keys[4]


def test_a_steps_key_is_there_in_all_that_the_body_starts(history: History) -> None:
    @step
    async def charge() -> list[str]:
        async def part() -> str:
            return step.idempotency_key

        return [step.idempotency_key, *await gather(part(), to_thread(lambda: step.idempotency_key))]

    @step(on_error=lambda: step.idempotency_key)
    async def other() -> str:
        raise ConnectionError(step.idempotency_key)

    @task
    async def main() -> list[list[str]]:
        return [*await gather(charge(), charge()), [await other()]]

    found = history.value(main)
    assert [len(set(keys)) for keys in found] == [1, 1, 1]
    assert len({keys[0] for keys in found}) == 3


def test_a_steps_key_is_asked_for_in_a_step(history: History) -> None:
    @task
    def main() -> str:
        return step.idempotency_key

    assert history.failure(main).type == "StepError"
    with pytest.raises(StepError, match="outside a step's body"):
        step.idempotency_key  # noqa: B018 - the property itself


def test_a_step_that_is_called_without_a_run_has_a_key_of_its_own() -> None:
    @step
    def charge() -> list[str]:
        return [step.idempotency_key, step.idempotency_key]

    @step
    async def charge_async() -> list[str]:
        return [step.idempotency_key, step.idempotency_key]

    (one, same), (other, _) = charge(), charge()
    assert one == same != other
    assert len(set(asyncio.run(charge_async()))) == 1


def taken() -> list[Any]:
    return [windlass.now().isoformat(), windlass.random(), str(windlass.uuid())]


def test_all_three_are_the_same_in_the_next_attempt_and_differ_from_call_to_call(history: History) -> None:
    seen: list[Any] = []

    async def branch() -> list[Any]:
        return taken()

    @task
    async def main() -> Any:
        seen.append([taken(), taken(), *await gather(branch(), branch(), to_thread(taken))])
        if len(seen) == 1:
            raise AttemptClosedError("the pod goes")

    with pytest.raises(AttemptClosedError):
        history.run(main)
    history.value(main, number=2)
    assert seen[0] == seen[1]
    for column in (1, 2):
        assert len({one[column] for one in seen[0]}) == 5
    assert sorted(history.steps) == ["0/now", "1/now", "2.0/now", "now", "now#2"]  # the other two need no write
    assert history.steps["now"].name == "now"


def test_other_runs_get_other_values() -> None:
    @task
    def main() -> Any:
        return taken()[1:]

    first, other = History(), History()
    other.run_id = "another"
    assert first.value(main) != other.value(main)


def test_random_numbers_are_even_and_ids_are_of_version_4(history: History) -> None:
    @task
    def main() -> list[Any]:
        return [[windlass.random() for _ in range(2000)], str(windlass.uuid())]

    numbers, text = history.value(main)
    assert all(0 <= one < 1 for one in numbers)
    assert 0.45 < sum(numbers) / len(numbers) < 0.55
    assert UUID(text).version == 4


def test_in_a_steps_body_only_ids_are_held(history: History) -> None:
    """A step that draws a server at random must not draw the broken one in every try."""
    seen: list[list[Any]] = []

    @step(retry=Retry(max_attempts=2, min_delay="1ms"))
    def work() -> None:
        seen.append([windlass.now(), windlass.random(), windlass.uuid(), windlass.uuid()])
        if len(seen) < 2:
            raise ConnectionError

    @task
    def main() -> str:
        work()
        return str(windlass.uuid())

    outside = history.value(main)
    assert seen[0][2:] == seen[1][2:]
    assert len({str(seen[0][2]), str(seen[0][3]), outside}) == 3
    assert seen[0][1] != seen[1][1]
    assert list(history.steps) == ["work"]


def test_outside_a_run_they_are_the_plain_ones() -> None:
    assert abs((windlass.now() - datetime.now(UTC)).total_seconds()) < 10
    assert windlass.random() != windlass.random()
    assert windlass.uuid() != windlass.uuid()


def test_a_thread_that_nobody_knows_is_refused_in_words_that_fit(history: History) -> None:
    @task
    def main() -> list[str]:
        problems: list[str] = []

        def work() -> None:
            for call in (windlass.now, windlass.random, windlass.uuid):
                try:
                    call()
                except StepError as error:
                    problems.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return problems

    assert [text.split(" is called")[0] for text in history.value(main)] == ["Step 'now'", "random()", "uuid()"]
