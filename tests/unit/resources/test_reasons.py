"""Reasons: public words, each with what it means and what to do."""

import json
import re
from pathlib import Path

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


def test_every_reason_that_the_code_names_is_documented() -> None:
    root = Path(__file__).resolve().parents[3]
    folders = ("operator/windlass_operator", "runner-image/windlass_runner", "sdk/windlass")
    named = {
        (word, path.name)
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for word in re.findall(r'\b(?:reason=|_permanent\()"([A-Z][A-Za-z]+)"', path.read_text("utf-8"))
    }
    assert named, "the pattern finds the places"
    unknown = sorted(f"{word} in {file}" for word, file in named if word not in set(Reason))
    assert not unknown, "say in resources/reasons.py what it means and what to do"
