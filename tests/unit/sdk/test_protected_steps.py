"""``@step(protect=True)``: on record before its body begins, and its pod marked, but for how long that may take."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.history import History
from windlass import protection, protocol, step, task
from windlass.errors import ProtocolError


class Watched(History):
    """Notes what is said, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        self.said += [f"{one.state} {one.key}{' protected' if one.protect else ''}" for one in steps]
        super().save_steps(steps)

    def pod_is_protected(self) -> bool:
        marked = super().pod_is_protected()
        self.said.append("marked" if marked else "not marked")
        return marked


@pytest.fixture
def history() -> Watched:
    return Watched()


def charging(history: Watched, *, is_async: bool, **options: Any) -> Any:
    """Return a task with one protected step."""
    if is_async:

        @step(protect=True, **options)
        async def charge() -> int:
            history.said.append("body")
            return 1

        @task
        async def main() -> int:
            return await charge()

        return main

    @step(name="charge", protect=True, **options)
    def charge_sync() -> int:
        history.said.append("body")
        return 1

    @task
    def main_sync() -> int:
        return charge_sync()

    return main_sync


@pytest.mark.parametrize("is_async", [True, False])
def test_the_body_begins_when_it_is_on_record_and_the_pod_is_marked(history: Watched, *, is_async: bool) -> None:
    history.unprotected = 1
    assert history.value(charging(history, is_async=is_async)) == 1
    assert history.said == [
        "running charge protected", "not marked", "marked", "body", "succeeded charge protected",
    ]  # fmt: skip


@pytest.mark.parametrize("is_async", [True, False])
def test_a_finished_step_protects_nothing_any_more(history: Watched, *, is_async: bool) -> None:
    main = charging(history, is_async=is_async)
    history.value(main)
    history.said.clear()
    assert history.value(main, number=2) == 1
    assert history.said == []


def test_without_an_operator_the_body_begins_after_a_while_and_the_log_says_so(
    history: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protection, "WITHIN", 0.02)
    history.unprotected = 1_000_000
    with caplog.at_level(logging.WARNING, "windlass"):
        assert history.value(charging(history, is_async=False)) == 1
    assert "although its pod is not marked" in caplog.text


def test_an_api_that_knows_nothing_of_it_holds_no_step_up(history: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> bool:
        raise ProtocolError("NotFound", "There is nothing here.")

    monkeypatch.setattr(protection, "WITHIN", 0.0)
    history.pod_is_protected = unknown  # type: ignore[method-assign]
    assert history.value(charging(history, is_async=True)) == 1


def test_a_step_that_is_not_protected_says_nothing_of_it(history: Watched) -> None:
    @step
    def plain() -> int:
        return 2

    @task
    def main() -> int:
        return plain()

    assert history.value(main) == 2
    assert history.said == ["succeeded plain"]


def test_it_goes_with_retries(history: Watched) -> None:
    from windlass import Retry

    retry = Retry(max_attempts=2, min_delay="10ms")
    assert history.value(charging(history, is_async=True, retry=retry)) == 1
    assert history.said[0] == "running charge protected"


def test_a_compensation_that_is_a_protected_step_is_protected_too(history: Watched) -> None:
    assert history.value(undone_later) == 1
    history.said.clear()
    assert history.undo(undone_later).fail is None
    assert history.said[:2] == ["running compensate/book protected", "marked"]


def test_anything_but_a_boolean_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="protect=True"):
        step(protect="yes")  # type: ignore[call-overload]


@step(protect=True)
def unbook() -> None:
    """Undo it."""


@step(compensate=unbook)
def book() -> int:
    """Do it."""
    return 1


@task
def undone_later() -> int:
    """Book."""
    return book()
