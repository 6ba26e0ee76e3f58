"""A failed step is history: whatever the code did because of it, it does again after a crash or a long sleep."""

import asyncio
from typing import Any

import pytest

from tests.support.history import History
from windlass import ThreadPoolExecutor, current_run, gather, step, task
from windlass.errors import AttemptClosedError, PermanentError, RetryAt, StepFailedError


class CardDeclinedError(Exception):
    def __init__(self, code: str, *, hint: str) -> None:
        super().__init__(f"declined: {code}")
        self.code, self.hint = code, hint


class OrderFailedError(Exception):
    pass


class Bodies:
    """Steps that fail until they are told to succeed, and how often each ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.well: set[str] = set()

        @step
        def work(name: str) -> str:
            self.ran.append(name)
            if name in self.well:
                return name
            raise CardDeclinedError(name, hint="another card")

        @step
        async def work_async(name: str) -> str:
            await asyncio.sleep(0)
            self.ran.append(name)
            if name in self.well:
                return name
            raise CardDeclinedError(name, hint="another card")

        self.work, self.work_async = work, work_async


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def bodies() -> Bodies:
    return Bodies()


def lost(history: History, function: Any, number: int = 1) -> None:
    """Run an attempt whose pod goes when the code asks for it."""
    with pytest.raises(AttemptClosedError):
        history.run(function, number=number)


def test_a_caught_failure_is_met_again_with_class_fields_and_text(history: History, bodies: Bodies) -> None:
    @task
    def main() -> list[str]:
        try:
            bodies.work("card")
        except CardDeclinedError as error:
            seen = [str(error), error.code, error.hint]
        if current_run().attempt == 1:
            raise AttemptClosedError("the pod goes")
        return seen

    lost(history, main)
    bodies.well.add("card")
    assert history.value(main, number=2) == ["declined: card", "card", "another card"]
    assert bodies.ran == ["card"]


def test_the_other_way_is_taken_again_though_a_later_step_fails_the_attempt(history: History, bodies: Bodies) -> None:
    """The later error was raised while the first was being handled. That does not undo what was done meanwhile."""

    @task
    def main() -> str:
        try:
            return bodies.work("card")
        except CardDeclinedError:
            bodies.work("bank transfer")
            return bodies.work("mail")

    bodies.well.add("bank transfer")
    failed = history.run(main).fail
    assert failed is not None
    assert failed.rerun == ["work#3"]
    bodies.well |= {"card", "mail"}
    assert history.value(main, number=2) == "mail"
    assert bodies.ran == ["card", "bank transfer", "mail", "mail"]


def test_a_step_whose_error_ended_the_attempt_runs_again(history: History, bodies: Bodies) -> None:
    @task
    def main() -> str:
        try:
            return bodies.work("card")
        except CardDeclinedError as error:
            raise OrderFailedError from error

    failed = history.run(main).fail
    assert failed is not None
    assert failed.rerun == ["work"]
    bodies.well.add("card")
    assert history.value(main, number=2) == "card"


def test_a_failure_that_history_has_is_raised_first_and_then_retried_with_the_run(
    history: History, bodies: Bodies
) -> None:
    @task
    def main() -> str:
        try:
            return bodies.work("card")
        finally:
            if current_run().attempt == 1:
                raise AttemptClosedError("the pod goes before the failure is reported")

    lost(history, main)
    bodies.well.add("card")
    failed = history.run(main, number=2).fail
    assert failed is not None
    assert (failed.failure.type, failed.rerun, bodies.ran) == ("CardDeclinedError", ["work"], ["card"])
    assert history.value(main, number=3) == "card"


@pytest.mark.parametrize("number", [2, 20])
def test_all_that_failed_in_one_gather_runs_again_though_the_code_saw_one_error(
    history: History, bodies: Bodies, number: int
) -> None:
    names = [f"n{n}" for n in range(number)]

    @task
    async def main() -> list[str]:
        return await gather(*(bodies.work_async(name) for name in names))

    failed = history.run(main).fail
    assert failed is not None
    bodies.well.update(names)
    assert history.value(main, number=2) == names
    assert sorted(bodies.ran) == sorted(names * 2)


def test_all_that_failed_in_branches_and_threads_runs_again(history: History, bodies: Bodies) -> None:
    names = ["a", "b", "c"]

    async def branch(name: str) -> str:
        return await bodies.work_async(name)

    @task
    async def branches() -> list[str]:
        return await gather(*(branch(name) for name in names))

    @task
    async def group() -> list[str]:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(branch(name)) for name in names]
        return [one.result() for one in made]

    @task
    def threads() -> list[str]:
        with ThreadPoolExecutor(3) as pool:
            made = [pool.submit(bodies.work, name) for name in names]
        return [one.result() for one in made]

    for function in (branches, group, threads):
        history, bodies.well, bodies.ran = History(), set(), []
        assert history.run(function).fail is not None
        bodies.well.update(names)
        assert history.value(function, number=2) == names
        assert sorted(bodies.ran) == sorted(names * 2)


def test_failures_that_a_gather_returned_stay_failed_when_something_else_ends_the_attempt(
    history: History, bodies: Bodies
) -> None:
    @task
    async def main() -> list[str]:
        found = await gather(*(bodies.work_async(n) for n in "ab"), return_exceptions=True)
        bodies.work("report")
        if current_run().attempt == 1:
            raise ValueError("a fault of the code's")
        return [type(one).__name__ for one in found]

    bodies.well = {"report", "b"}
    failed = history.run(main).fail
    assert failed is not None
    assert failed.rerun == []
    bodies.well.add("a")
    assert history.value(main, number=2) == ["CardDeclinedError", "str"]


def test_failures_on_which_history_may_depend_stay_failed(history: History, bodies: Bodies) -> None:
    """The second attempt ends before it comes to the step that the first one ran because of the failures."""

    @task
    async def main() -> list[str]:
        found = await gather(*(bodies.work_async(n) for n in "ab"), return_exceptions=True)
        if current_run().attempt == 2:
            raise ValueError("out of disk")
        bodies.work("report")
        if current_run().attempt == 1:
            raise AttemptClosedError("the pod goes")
        return [type(one).__name__ for one in found]

    bodies.well.add("report")
    lost(history, main)
    failed = history.run(main, number=2).fail
    assert failed is not None
    assert failed.rerun == []
    bodies.well |= {"a", "b"}
    assert history.value(main, number=3) == ["CardDeclinedError", "CardDeclinedError"]


def test_a_step_that_was_interrupted_runs_again(history: History) -> None:
    ran: list[int] = []

    @step
    async def slow() -> str:
        ran.append(current_run().attempt)
        if len(ran) == 1:
            await asyncio.Event().wait()
        return "done"

    @task
    async def main() -> str:
        try:
            async with asyncio.timeout(0.01 if current_run().attempt == 1 else None):
                return await slow()
        except TimeoutError:
            raise AttemptClosedError("the pod goes") from None

    lost(history, main)
    assert (history.steps["slow"].state, history.steps["slow"].durable) == ("failed", False)
    assert history.value(main, number=2) == "done"


def test_an_exception_that_cannot_be_made_again_says_what_it_was(history: History) -> None:
    class LocalError(Exception):
        pass

    @step
    def work() -> None:
        raise LocalError("it went wrong")

    @task
    def main() -> list[str]:
        try:
            work()
        except Exception as error:
            seen = [type(error).__name__, str(error)]
        if current_run().attempt == 1:
            raise AttemptClosedError("the pod goes")
        return seen

    lost(history, main)
    assert history.value(main, number=2) == ["StepFailedError", "LocalError: it went wrong"]


def test_errors_that_steer_the_run_steer_it_from_history_too(history: History) -> None:
    @step
    def work(error: str) -> None:
        raise PermanentError("no") if error == "permanent" else RetryAt("90s")

    @task
    def main(which: str) -> None:
        try:
            work(which)
        finally:
            if current_run().attempt == 1:
                raise AttemptClosedError("the pod goes")

    for which, expected in (("permanent", ("permanent", None)), ("retry", ("user", 90_000))):
        history = History()
        with pytest.raises(AttemptClosedError):
            history.run(main, which)
        failed = history.run(main, which, number=2).fail
        assert failed is not None
        assert (failed.failure.failure_class, failed.retry_after_ms) == expected


def test_a_loop_that_catches_errors_for_days_keeps_none_of_them(history: History, bodies: Bodies) -> None:
    kept: list[int] = []

    @task
    def main() -> None:
        from windlass.context import active

        for _ in range(1000):
            try:
                bodies.work("card")
            except CardDeclinedError:
                attempt = active()
                assert attempt is not None
                kept.append(len(attempt.failed._all))

    history.run(main)
    assert max(kept) < 100


def test_the_stand_in_names_class_and_message() -> None:
    error = StepFailedError("CardDeclined", "no money")
    assert (error.type, error.message, str(error)) == ("CardDeclined", "no money", "CardDeclined: no money")
