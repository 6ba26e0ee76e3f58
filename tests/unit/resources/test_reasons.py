"""Reasons: public words, each with what it means and what to do."""

import json
import re

import pytest

from windlass_operator.resources.reasons import Reason

DOCUMENTED = {
    "TaskNotFound",
    "PayloadInvalid",
    "PayloadTooLarge",
    "SourceSyntaxError",
    "EntrypointImportFailed",
    "ImagePullFailed",
    "SecretNotFound",
    "Unschedulable",
    "PodPending",
    "OutOfMemory",
    "ResultNotSerializable",
    "Deduplicated",
    "ResourceDeleted",
    "LeaseExpired",
    "RetryScheduled",
    "AttemptsExhausted",
    "Divergence",
    "LedgerRegressed",
}


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_says_what_it_means_and_what_to_do(reason: Reason) -> None:
    assert reason.meaning.endswith(".")
    assert reason.remedy.endswith(".")
    assert reason.__doc__ == f"{reason.meaning} {reason.remedy}"


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_word_that_a_condition_may_hold(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]+", reason.value)


def test_the_documented_reasons_are_there() -> None:
    assert {reason.value for reason in Reason} >= DOCUMENTED


def test_values_are_unique() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason.__members__)


def test_a_reason_is_its_text() -> None:
    text: str = Reason.TASK_NOT_FOUND
    assert text == "TaskNotFound"
    assert Reason("TaskNotFound") is Reason.TASK_NOT_FOUND
    assert json.dumps([Reason.TASK_NOT_FOUND]) == '["TaskNotFound"]'
    assert f"{Reason.TASK_NOT_FOUND}" == "TaskNotFound"
