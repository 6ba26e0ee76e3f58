"""``@task(migrate=...)``: old history under new code."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.history import History as Ledger
from windlass import History, step, task

Migrate = Callable[[History], None]


@pytest.fixture
def ledger() -> Ledger:
    """A run that old code has begun: a, b and c are finished."""
    made = Ledger()
    made.value(code("a", "b", "c"), code="old")
    return made


def code(*names: str, migrate: Migrate | None = None, ran: list[str] | None = None, changed: str = "") -> Any:
    """Return a task that calls steps of these names; ``changed`` is called with another argument, x with b's."""

    def body(value: Any) -> Any:
        if ran is not None:
            ran.append(str(value))
        return value

    values = {"x": "b", changed: changed.upper()}

    def main() -> list[Any]:
        return [step(name=name)(body)(values.get(name, name)) for name in names]

    return task(migrate=migrate)(main) if migrate else task(main)


def both(ledger: Ledger, *names: str, migrate: Migrate, **options: Any) -> tuple[list[Any], list[str]]:
    """Run new code twice and return result and what ran; the second attempt runs nothing."""
    ran: list[str] = []
    for number in (2, 3):
        value = ledger.value(code(*names, migrate=migrate, ran=ran, **options), code="new", number=number)
    again: list[str] = []
    assert ledger.value(code(*names, migrate=migrate, ran=again, **options), code="newer", number=4) == value
    assert again == [], "code that is changed once more, elsewhere, gets the same"
    return value, ran


def test_a_renamed_step_keeps_its_result(ledger: Ledger) -> None:
    assert both(ledger, "a", "x", "c", migrate=lambda h: h.rename("b", "x")) == (["a", "b", "c"], [])


def test_an_inserted_step_runs_and_the_others_do_not(ledger: Ledger) -> None:
    found = both(ledger, "a", "new", "b", "c", "d", migrate=lambda h: h.insert_before("b"))
    assert found == (["a", "new", "b", "c", "d"], ["new", "d"])


def test_a_dropped_step_runs_again_once_and_its_new_result_stays(ledger: Ledger) -> None:
    found = both(ledger, "a", "b", "c", migrate=lambda h: h.drop("b"), changed="b")
    assert found == (["a", "B", "c"], ["B"])


def test_a_step_that_the_code_has_no_more_is_dropped(ledger: Ledger) -> None:
    assert both(ledger, "a", "c", "d", migrate=lambda h: h.drop("b")) == (["a", "c", "d"], ["d"])


def test_an_accepted_result_is_kept_for_other_arguments(ledger: Ledger) -> None:
    assert both(ledger, "a", "b", "c", migrate=lambda h: h.accept("b"), changed="b") == (["a", "b", "c"], [])


def test_what_it_does_not_allow_still_diverges(ledger: Ledger) -> None:
    failure = ledger.failure(code("new", "a", "b", "c", migrate=lambda h: h.insert_before("b")), code="new", number=2)
    assert failure.reason == "Divergence"
    assert "history has step 'a'" in failure.message


def test_it_sees_the_whole_history_however_long_and_is_not_called_for_its_own(ledger: Ledger) -> None:
    seen: list[Any] = []

    def migrate(history: History) -> None:
        seen.append([(s.key, s.name, s.place) for s in history.steps])

    ledger.value(code("a", "b", "c", migrate=migrate), code="new", number=2, paged=True)
    assert seen == [[("a", "a", 1), ("b", "b", 2), ("c", "c", 3)]]
    fresh = Ledger()
    for number in (1, 2):
        fresh.value(code("a", migrate=migrate), code="same", number=number)
    assert len(seen) == 1


def test_keys_that_history_does_not_have_are_no_error(ledger: Ledger) -> None:
    def migrate(history: History) -> None:
        history.rename("x", "y")
        history.drop("x")
        history.accept("x")
        history.insert_before("x")

    assert both(ledger, "a", "b", "c", migrate=migrate) == (["a", "b", "c"], [])


@pytest.mark.parametrize(
    ("migrate", "says"),
    [
        (lambda _: 1 / 0, "migrate function failed: ZeroDivisionError"),
        (lambda h: h.rename("a", "b"), "history has both"),
        (lambda _: step(lambda: 1)(), "inside step 'migrate'"),
    ],
    ids=["raises", "two-of-one-name", "calls-a-step"],
)
def test_a_function_that_fails_suspends_the_run_with_its_words(ledger: Ledger, migrate: Migrate, says: str) -> None:
    failure = ledger.failure(code("a", "b", "c", migrate=migrate), code="new", number=2)
    assert (failure.reason, failure.failure_class) == ("Divergence", "permanent")
    assert says in failure.message


async def later(history: History) -> None:
    """No migrate function: nobody would wait for it."""


@pytest.mark.parametrize("wrong", ["rename", 7, later])
def test_only_a_plain_function_is_taken(wrong: Any) -> None:
    with pytest.raises(TypeError, match="write a function"):
        task(migrate=wrong)(lambda: 1)
