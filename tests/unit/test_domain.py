"""The pure rules."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_operator.domain.backlog import KeyFacts, pods_to_drain, pods_to_start, standby_to_start
from windlass_operator.domain.pod_key import PodParts, pod_key
from windlass_operator.domain.retry import INFRA_BUDGET, RetryPolicy, Tally, after_failure, after_release, backoff
from windlass_operator.domain.run_state import (
    FINAL,
    TRANSITIONS,
    IllegalTransitionError,
    RunEvent,
    RunState,
    as_mermaid,
    transition,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("state", "event"), list(product(RunState, RunEvent)))
def test_every_pair_of_state_and_event_is_an_arrow_or_refused(state: RunState, event: RunEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert transition(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransitionError, match=state.value):
            transition(state, event)


def test_no_arrow_leaves_a_final_state() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in FINAL]


def test_every_state_is_reached_and_every_state_but_the_final_ones_is_left() -> None:
    assert {RunState.QUEUED, *TRANSITIONS.values()} == set(RunState)
    assert {state for state, _ in TRANSITIONS} == set(RunState) - FINAL


def test_the_diagram_shows_every_arrow() -> None:
    assert as_mermaid().count("-->") == len(TRANSITIONS) + 1 + len(FINAL)


def test_without_jitter_the_backoff_grows_to_its_ceiling() -> None:
    policy = RetryPolicy(jitter="none", max_delay=timedelta(seconds=5))
    assert [backoff(policy, n, 0.5).total_seconds() for n in (1, 2, 3, 4, 10_000)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_between_nothing_and_the_ceiling(failures: int, draw: float) -> None:
    policy = RetryPolicy()
    assert timedelta(0) <= backoff(policy, failures, draw) <= policy.max_delay


def test_the_last_attempt_of_the_user_is_the_last() -> None:
    tally = Tally(user_failures=2, infra_failures=0)
    decision = after_failure(RetryPolicy(max_attempts=3), tally, "user", reason="ValueError")
    assert (decision.event, decision.reason) == (RunEvent.FAIL, "AttemptsExhausted")


def test_infrastructure_failures_use_no_attempt_of_the_user() -> None:
    decision = after_failure(
        RetryPolicy(max_attempts=1), Tally(user_failures=0, infra_failures=0), "infra", reason="PodDeleted"
    )
    assert (decision.event, decision.user_failures, decision.delay) == (RunEvent.RETRY, 0, timedelta(0))


def test_the_infrastructure_budget_ends() -> None:
    tally = Tally(user_failures=0, infra_failures=INFRA_BUDGET)
    assert after_failure(RetryPolicy(), tally, "infra", reason="PodDeleted").event is RunEvent.FAIL


def test_a_cancelled_run_is_never_retried() -> None:
    tally = Tally(user_failures=0, infra_failures=0, cancelling=True)
    assert after_failure(RetryPolicy(), tally, "user", reason="x").event is RunEvent.CONFIRM_CANCEL
    assert after_release(tally).event is RunEvent.CONFIRM_CANCEL


def test_the_users_own_delay_replaces_the_backoff() -> None:
    tally = Tally(user_failures=0, infra_failures=0)
    decision = after_failure(RetryPolicy(), tally, "user", reason="x", retry_after=timedelta(minutes=7))
    assert decision.delay == timedelta(minutes=7)


def test_a_divergence_suspends_the_run_and_counts_as_nobodys_failure() -> None:
    tally = Tally(user_failures=2, infra_failures=INFRA_BUDGET)
    decision = after_failure(RetryPolicy(max_attempts=3), tally, "permanent", reason="Divergence")
    assert (decision.event, decision.user_failures, decision.infra_failures) == (RunEvent.SUSPEND, 0, 0)
    stopped = Tally(user_failures=0, infra_failures=0, cancelling=True)
    assert after_failure(RetryPolicy(), stopped, "permanent", reason="Divergence").event is RunEvent.CONFIRM_CANCEL


@pytest.mark.parametrize("kind", ["user", "infra", "timeout", "permanent"])
def test_a_run_that_is_over_its_total_timeout_is_not_retried_whatever_failed(kind: Any) -> None:
    tally = Tally(user_failures=0, infra_failures=0, overdue=True)
    decision = after_failure(RetryPolicy(), tally, kind, reason="Divergence")
    assert (decision.event, decision.reason) == (RunEvent.TIME_OUT, "TotalTimedOut")


def test_used_up_running_time_ends_the_run() -> None:
    tally = Tally(user_failures=0, infra_failures=0, running_time_left=timedelta(0))
    assert after_failure(RetryPolicy(), tally, "infra", reason="x").event is RunEvent.TIME_OUT


@pytest.mark.parametrize(
    ("facts", "everywhere", "expected"),
    [
        (KeyFacts(ready=5, starting=2), 2, 3),
        (KeyFacts(ready=5, starting=7), 7, 0),
        (KeyFacts(ready=50, starting=0), 95, 5),
        (KeyFacts(ready=50, starting=0), 200, 0),
        (KeyFacts(ready=5, starting=0, backoff_until=NOW + timedelta(seconds=1)), 0, 0),
        (KeyFacts(ready=5, starting=0, backoff_until=NOW), 0, 1),
        (KeyFacts(ready=5, starting=1, backoff_until=NOW), 1, 0),
    ],
)
def test_pods_start_for_runs_that_have_none_on_its_way(facts: KeyFacts, everywhere: int, expected: int) -> None:
    assert pods_to_start(facts, starting_everywhere=everywhere, limit=100, now=NOW) == expected


@pytest.mark.parametrize(
    ("facts", "runs", "standby", "surplus"),
    [
        (KeyFacts(ready=0, starting=0, standby=3), 0, 3, 0),
        (KeyFacts(ready=0, starting=0, standby=3, ahead=2, waiting=1), 0, 1, 0),
        (KeyFacts(ready=0, starting=0, standby=1, ahead=3, waiting=3), 0, 0, 2),
        (KeyFacts(ready=2, starting=0, standby=1, ahead=3, waiting=3), 0, 0, 0),
        (KeyFacts(ready=1, starting=0, standby=1, ahead=1, waiting=1), 0, 1, 0),
        (KeyFacts(ready=5, starting=0, standby=1, ahead=1, waiting=1), 4, 1, 0),
        (KeyFacts(ready=4, starting=4, standby=1, ahead=1), 0, 0, 0),
        (KeyFacts(ready=0, starting=3, standby=1, ahead=1), 0, 0, 0),
        (KeyFacts(ready=0, starting=0, ahead=2, waiting=2), 0, 0, 2),
        (KeyFacts(ready=1, starting=0, ahead=2, waiting=2), 0, 0, 1),
        (KeyFacts(ready=0, starting=0, ahead=2, waiting=2, kept=True), 0, 0, 0),
        (KeyFacts(ready=0, starting=0, standby=90), 0, 50, 0),
        (KeyFacts(ready=0, starting=0, standby=3, backoff_until=NOW + timedelta(seconds=1)), 0, 0, 0),
        (KeyFacts(ready=0, starting=0, standby=3, backoff_until=NOW), 0, 1, 0),
        (KeyFacts(ready=0, starting=0, standby=3, ahead=1, backoff_until=NOW), 0, 0, 0),
        (KeyFacts(ready=0, starting=0, standby=3, ahead=1, waiting=1, backoff_until=NOW), 0, 1, 0),
    ],
)
def test_pods_are_kept_ready_beyond_what_runs_need(facts: KeyFacts, runs: int, standby: int, surplus: int) -> None:
    assert pods_to_start(facts, starting_everywhere=0, limit=100, now=NOW) == runs
    assert standby_to_start(facts, starting_everywhere=runs, limit=100, now=NOW) == standby
    assert pods_to_drain(facts) == surplus


def test_standby_pods_take_no_more_than_half_of_the_limit() -> None:
    facts = KeyFacts(ready=0, starting=0, standby=90)
    assert standby_to_start(facts, starting_everywhere=45, limit=100, now=NOW) == 5
    assert standby_to_start(facts, starting_everywhere=60, limit=100, now=NOW) == 0
    assert standby_to_start(facts, starting_everywhere=0, limit=1, now=NOW) == 1


def test_equal_tasks_of_two_projects_never_share_a_pod() -> None:
    parts = PodParts(image="i", preload=None, source_hash=None)
    assert pod_key("a", parts) != pod_key("b", parts)
    assert pod_key("a", parts) == pod_key("a", PodParts(image="i", preload=None, source_hash=None))
    assert pod_key("a", parts) != pod_key("a", replace(parts, pool="fast", isolation="Pool"))
    # As a release without pools made it: an upgrade must not replace every pod.
    assert "pool" not in parts.as_json()
