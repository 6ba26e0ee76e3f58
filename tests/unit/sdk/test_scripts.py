"""What comes next when every run of a test waits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from windlass.testing import SILENCE, TestingError, UnscriptedWaitError, Waiting
from windlass.testing.script import Script
from windlass.testing.waiting import Idle, first_time, next_time, only

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SLEEP = Waiting("r", "order", "sleep", "sleep", "sleep", None, NOW + DAY)
EVENT = Waiting("r", "order", "wait_for_event", "wait_for_event", "event", "paid", None)
APPROVAL = Waiting("r", "order", "approval", "approval", "approval", "approval", None, question="Refund?")


def idle(*waits: Waiting, next_try: datetime | None = None, deadline: datetime | None = None) -> Idle:
    return Idle(list(waits), next_try, deadline)


def test_time_goes_to_the_first_sleep_or_retry_that_is_over() -> None:
    later = replace(SLEEP, due=NOW + 2 * DAY)
    assert next_time(idle(SLEEP, later), Script()) == NOW + DAY
    assert next_time(idle(later, next_try=NOW + timedelta(hours=1)), Script()) == NOW + timedelta(hours=1)


def test_a_wait_without_an_answer_is_told_of_when_nothing_else_can_happen() -> None:
    assert next_time(idle(SLEEP, EVENT), Script()) == NOW + DAY, "what sleeps may send the event"
    with pytest.raises(UnscriptedWaitError, match=r"waits for event 'paid'\. Before run\(\): env\.on_event\('paid', "):
        next_time(idle(EVENT), Script())


def test_a_timeout_does_not_pass_unless_the_script_says_so() -> None:
    timed = replace(EVENT, due=NOW + timedelta(hours=1))
    with pytest.raises(UnscriptedWaitError, match="answer with SILENCE"):
        next_time(idle(timed, SLEEP), Script())
    script = Script()
    script.add("event", "paid", SILENCE)
    assert next_time(idle(timed, SLEEP), script) == NOW + timedelta(hours=1)


def test_silence_without_a_timeout_would_last_for_ever() -> None:
    script = Script()
    script.add("event", "paid", SILENCE)
    with pytest.raises(UnscriptedWaitError):
        next_time(idle(EVENT), script)
    with pytest.raises(UnscriptedWaitError, match="neither over nor waiting"):
        next_time(idle(), script)


def test_the_end_of_a_run_by_its_total_timeout_is_the_last_thing_to_happen() -> None:
    child = replace(SLEEP, kind="run", due=None, target="id")
    assert next_time(idle(child, deadline=NOW + 5 * DAY), Script()) == NOW + 5 * DAY
    with pytest.raises(UnscriptedWaitError):
        next_time(idle(EVENT, deadline=NOW + 5 * DAY), Script())


def test_time_by_hand_goes_to_whatever_is_due_first() -> None:
    timed = replace(EVENT, due=NOW + timedelta(hours=1))
    assert first_time(idle(SLEEP, timed, deadline=NOW + 5 * DAY)) == NOW + timedelta(hours=1)
    assert first_time(idle(EVENT)) is None


def test_answers_are_given_in_turn_and_the_last_one_stays() -> None:
    script = Script()
    for answer in ("a", "b"):
        script.add("event", "paid", answer)
    asked = [replace(EVENT, key=f"wait_for_event#{n}") for n in range(4)]
    assert [script.answer(one) for one in asked] == ["a", "b", "b", "b"]
    assert script.answer(asked[0]) == "a"
    script.rewind()
    assert script.answer(asked[3]) == "a"


def test_an_answer_of_a_name_goes_before_one_for_all() -> None:
    script = Script()
    script.add("approval", None, 1)
    script.add("approval", "second", lambda asked: asked.question)
    assert script.answer(APPROVAL) == 1
    assert script.answer(replace(APPROVAL, key="k", name="second")) == "Refund?"
    assert not script.has(EVENT)


@pytest.mark.parametrize("waits", [[], [APPROVAL, replace(APPROVAL, key="other")]])
def test_what_is_given_by_hand_must_have_one_receiver(waits: list[Any]) -> None:
    with pytest.raises(TestingError, match="There must be exactly one run that asks for an approval"):
        only(waits, None, "asks for an approval")
