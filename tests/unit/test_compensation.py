"""The pure rules of runs that are being undone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from windlass_operator.domain.compensation import COMPENSATION_BUDGET, Ending, after_failure, not_undone
from windlass_operator.domain.retry import FailureClass
from windlass_operator.domain.run_state import FINAL, RunEvent, RunState, transition

ENDING = Ending(
    state=RunState.FAILED,
    reason="AttemptsExhausted",
    message="boom",
    failure_class="user",
    failures=0,
    claimed=True,
    not_undone=("ship", "charge"),
    left=2,
)


@pytest.mark.parametrize("state", sorted(FINAL - {RunState.SUCCEEDED, RunState.EXPIRED}))
def test_every_end_without_success_is_reached_from_compensating(state: RunState) -> None:
    assert transition(RunState.COMPENSATING, replace(ENDING, state=state).event) is state


@pytest.mark.parametrize("kind", ["user", "timeout", "infra"])
def test_the_budget_counts_failures_of_every_kind(kind: FailureClass) -> None:
    before = replace(ENDING, failures=COMPENSATION_BUDGET - 2)
    assert after_failure(before, kind).event is RunEvent.RETRY
    last = after_failure(replace(before, failures=COMPENSATION_BUDGET - 1), kind)
    assert (last.event, last.reason) == (RunEvent.FAIL, "CompensationFailed")


def test_a_permanent_failure_ends_it_in_the_state_that_it_was_going_to() -> None:
    cancelled = replace(ENDING, state=RunState.CANCELLED)
    assert after_failure(cancelled, "permanent").event is RunEvent.CONFIRM_CANCEL


def test_the_first_lost_pod_costs_no_delay_and_the_pauses_grow_to_half_a_minute() -> None:
    assert after_failure(ENDING, "infra", draw=0.99).delay == timedelta(0)
    delays = [after_failure(replace(ENDING, failures=n), "user", draw=1.0).delay for n in range(9)]
    assert [delay.total_seconds() for delay in delays if delay is not None] == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_the_code_may_choose_the_pause() -> None:
    later = timedelta(hours=1)
    assert after_failure(ENDING, "user", retry_after=later).delay == later


def test_the_message_names_what_was_not_undone_and_why_and_how_the_run_ended() -> None:
    many = replace(ENDING, not_undone=tuple(f"s{n}" for n in range(20)), left=300)
    assert not_undone(many, "ValueError: no.") == (
        "Not undone: 's0', 's1', 's2', 's3', 's4' and 295 more. ValueError: no. "
        "The run ended for AttemptsExhausted: boom"
    )
    plain = replace(ENDING, state=RunState.CANCELLED, reason=None, message=None, not_undone=("a",), left=1)
    assert not_undone(plain, "no").endswith("Not undone: 'a'. no. The run ended for Cancelled")
    assert len(not_undone(replace(ENDING, not_undone=("k" * 600,) * 5), "w" * 5000)) <= 1024
