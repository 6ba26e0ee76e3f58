"""Conditions: what `kubectl wait` and installation tools make of a Run and a Task."""

from datetime import UTC, datetime, timedelta

import pytest

from windlass_operator.domain.run_state import RunState
from windlass_operator.resources.conditions import Condition, merge, ready_conditions, run_conditions

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def _run(state: RunState, reason: str | None = None, **more: object) -> dict[str, Condition]:
    arguments = {"message": None, "generation": 1, "at": NOW, **more}
    return {c.type: c for c in run_conditions(state, reason=reason, **arguments)}  # type: ignore[arg-type]  # test data


@pytest.mark.parametrize(
    ("state", "succeeded", "finished"),
    [
        (RunState.QUEUED, "Unknown", "False"),
        (RunState.RUNNING, "Unknown", "False"),
        (RunState.CANCELLING, "Unknown", "False"),
        (RunState.SUCCEEDED, "True", "True"),
        (RunState.FAILED, "False", "True"),
        (RunState.TIMED_OUT, "False", "True"),
        (RunState.CANCELLED, "False", "True"),
    ],
)
def test_a_run_says_whether_it_finished_and_how(state: RunState, succeeded: str, finished: str) -> None:
    conditions = _run(state)
    assert conditions["Succeeded"].status == succeeded
    assert conditions["Finished"].status == finished
    assert conditions["Finished"].reason == state.value


def test_every_state_is_covered() -> None:
    for state in RunState:
        assert set(_run(state)) == {"Succeeded", "Finished"}


def test_a_failed_run_is_no_failed_installation() -> None:
    """Ready and Stalled are what installation tools look at; a Run carries neither."""
    assert not _run(RunState.FAILED).keys() & {"Ready", "Stalled", "Reconciling"}


def test_the_reason_is_why() -> None:
    assert _run(RunState.QUEUED, "TaskNotFound")["Succeeded"].reason == "TaskNotFound"
    assert _run(RunState.RUNNING)["Succeeded"].reason == "Running"


def test_a_class_name_becomes_a_word_that_conditions_may_carry() -> None:
    assert _run(RunState.FAILED, "Fehler größer")["Succeeded"].reason == "Fehlergrer"
    assert _run(RunState.FAILED, "!")["Succeeded"].reason == "Unknown"


def test_a_changed_spec_is_named_while_it_lasts() -> None:
    ignored = _run(RunState.RUNNING, spec_changed=True)["SpecChangeIgnored"]
    assert (ignored.status, ignored.reason) == ("True", "SpecChangeIgnored")
    assert "Create another Run" in ignored.message
    assert "SpecChangeIgnored" not in _run(RunState.RUNNING)


def test_a_broken_task_is_stalled_and_a_mended_one_is_not() -> None:
    broken = ready_conditions(problem="TaskInvalid", message="spec.env", generation=3, now=NOW)
    assert [(c.type, c.status, c.reason) for c in broken] == [
        ("Ready", "False", "TaskInvalid"),
        ("Stalled", "True", "TaskInvalid"),
    ]
    mended = ready_conditions(problem=None, message=None, generation=4, now=LATER, current=broken)
    assert [(c.type, c.status, c.reason, c.observed_generation) for c in mended] == [("Ready", "True", "Accepted", 4)]


def test_conditions_look_as_kubernetes_writes_them() -> None:
    (ready,) = ready_conditions(problem=None, message=None, generation=1, now=NOW)
    assert ready.to_object() == {
        "type": "Ready",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": 1,
    }


def test_a_type_that_is_not_wanted_any_more_goes() -> None:
    old = ready_conditions(problem="TaskInvalid", message=None, generation=1, now=NOW)
    assert [c.type for c in merge(old, old[:1])] == ["Ready"]
