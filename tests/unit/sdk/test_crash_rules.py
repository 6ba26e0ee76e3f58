"""What ``crash_everywhere`` lets a crash change, and what not."""

from typing import Any

import pytest

from windlass.testing.comparing import differences
from windlass.testing.journal import Passage, read

RUN, STEP = "order", "charge"


def effect(what: str = "mail", *args: Any, key: str | None = None, step: str | None = STEP) -> dict[str, Any]:
    return {"effect": {"what": what, "args": list(args), "key": key, "step": step, "run": RUN}}


def passage(*entries: dict[str, Any], result: Any = 1, state: str = "Succeeded", given: Any = None) -> Passage:
    return read(entries, state=state, result=result, error=None if state == "Succeeded" else "E: e", given=given)


BODY, SAVED = {"body": [RUN, STEP]}, {"saved": [RUN, STEP, True]}
KILLED = {"killed": ["order, attempt 1: save charge", "before"]}
CALM = passage(BODY, effect(), SAVED)


def test_the_same_is_no_difference() -> None:
    assert differences(CALM, passage(BODY, effect(), SAVED, KILLED)) == []


def test_a_body_that_was_cut_off_may_repeat_its_effects() -> None:
    crashed = passage(BODY, effect(), KILLED, BODY, effect(), SAVED)
    assert crashed.cut_off == {(RUN, STEP)}
    assert differences(CALM, crashed) == []
    (told,) = differences(CALM, crashed, exactly_once=True)
    assert told == (
        "Effect mail() of step 'charge' happens 2 times; without a crash once. The body was cut off before its "
        "checkpoint and ran again. Give the receiver step.idempotency_key, and the effect key=step.idempotency_key."
    )


def test_it_may_repeat_them_once_and_no_more() -> None:
    crashed = passage(BODY, effect(), KILLED, BODY, effect(), effect(), SAVED)
    assert differences(CALM, crashed)


def test_effects_with_a_key_count_once() -> None:
    calm = passage(BODY, effect(key="k"), SAVED)
    assert (
        differences(calm, passage(BODY, effect(key="k"), KILLED, BODY, effect(key="k"), SAVED), exactly_once=True) == []
    )
    assert differences(calm, passage(BODY, effect(key="k"), KILLED, BODY, effect(key="other"), SAVED))


def test_a_step_that_was_not_cut_off_may_repeat_nothing() -> None:
    (told,) = differences(CALM, passage(BODY, effect(), SAVED, KILLED, effect()))
    assert "Its step was not cut off" in told


def test_code_outside_of_steps_may_repeat_nothing() -> None:
    calm = passage(effect(step=None))
    (told,) = differences(calm, passage(effect(step=None), KILLED, effect(step=None)))
    assert "outside of any step" in told


def test_an_effect_that_is_missing_is_told_of() -> None:
    assert differences(CALM, passage(KILLED)) == [
        "Effect mail() of step 'charge' is missing; without a crash it happens once."
    ]


def test_an_effect_with_other_arguments_is_another_effect() -> None:
    found = differences(passage(effect("mail", 1)), passage(effect("mail", 2)))
    assert [line.partition(";")[0] for line in found] == [
        "Effect mail(1) of step 'charge' is missing",
        "Effect mail(2) of step 'charge' happens once",
    ]


def test_a_body_that_runs_after_its_checkpoint_breaks_the_promise() -> None:
    crashed = passage(BODY, effect(), SAVED, KILLED, BODY)
    assert crashed.repeated == ((RUN, STEP),)
    assert "was saved, and its body ran again" in differences(CALM, crashed)[0]


def test_a_failed_try_that_is_not_kept_may_run_again() -> None:
    assert passage(BODY, {"saved": [RUN, STEP, False]}, BODY, SAVED).repeated == ()


@pytest.mark.parametrize(
    ("calm", "crashed", "told"),
    [
        (passage(result={"a": 1}), passage(result={"a": 2}), 'The result is {"a": 2}; without a crash it is {"a": 1}.'),
        (passage(), passage(state="Failed"), "The run is Failed (E: e); without a crash it is Succeeded."),
    ],
)
def test_another_end_is_told_of(calm: Passage, crashed: Passage, told: str) -> None:
    assert differences(calm, crashed) == [told]


def test_the_test_says_what_of_a_result_counts() -> None:
    assert differences(passage(result=[1, 2]), passage(result=[2, 1]), same=sorted) == []


@pytest.mark.parametrize(
    ("before", "after", "cut_off", "fine"),
    [
        (1, 1, False, True),
        (1, 2, True, True),
        (1, 2, False, False),
        (1, 3, True, False),
        (2, 1, True, False),
        (["a", "b"], ["b", "a"], False, False),
        (["a", "b"], ["a", "b", "a"], True, True),
        (["a", "b"], ["a", "b", "c"], True, False),
        ({"a": 1}, {"a": 2}, True, False),
    ],
)
def test_what_the_tests_own_function_returns_is_held_to_the_same_rule(
    before: Any, after: Any, cut_off: bool, fine: bool
) -> None:
    crashed = passage(*([BODY, KILLED] if cut_off else [KILLED]), given=after)
    assert (differences(passage(given=before), crashed) == []) is fine
    assert before == after or differences(passage(given=before), crashed, exactly_once=True)


def test_boundaries_are_kept_once_and_in_order() -> None:
    at = [{"at": ["a", "before"]}, {"at": ["b", "before"]}, {"at": ["a", "before"]}]
    assert passage(*at).boundaries == [("a", "before"), ("b", "before")]
