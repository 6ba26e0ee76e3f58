"""``wait_for_approval`` as code meets it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.history import History
from windlass import (
    Decision,
    NotInRunError,
    StepError,
    ValueTooLargeError,
    WaitTimeoutError,
    gather,
    protocol,
    step,
    task,
    wait_for_approval,
    wait_for_approval_sync,
)

AT = "2030-01-01T12:00:00+00:00"
YES = {"approved": True, "by": "alice", "comment": "fine", "at": AT}
NO = {"approved": False, "by": "bob", "comment": None, "at": AT}


@pytest.fixture
def history() -> History:
    return History()


class Refund(BaseModel):
    order: int
    amount: float


def test_a_run_that_asks_ends_its_attempt_and_gets_the_answer_in_the_next(history: History) -> None:
    seen: list[Decision] = []

    @task
    async def main() -> str:
        decision = await wait_for_approval("Refund?", timeout="7d", details=Refund(order=7, amount=80))
        seen.append(decision)
        return f"{decision.approved} by {decision.by}"

    assert history.waits_for(main) == ["approval"]
    wait = history.waits["approval"]
    assert (wait.kind, wait.due_in_ms) == ("approval", 7 * 86_400_000)
    assert bytes(wait.detail) == b'{"question":"Refund?","details":{"order":7,"amount":80.0}}'
    history.end_wait("approval", YES)
    assert history.value(main, number=2) == "True by alice"
    assert seen == [Decision(approved=True, by="alice", comment="fine", at=datetime(2030, 1, 1, 12, tzinfo=UTC))]


def test_a_refusal_is_a_value_and_no_exception(history: History) -> None:
    @task
    def main() -> list[Any]:
        decision = wait_for_approval_sync("Refund?")
        return [decision.approved, decision.by, decision.comment]

    assert history.waits_for(main) == ["approval"]
    assert history.waits["approval"].due_in_ms is None
    history.end_wait("approval", NO)
    assert history.value(main, number=2) == [False, "bob", None]


def test_nobody_in_time_is_an_exception_that_code_can_handle(history: History) -> None:
    @task
    async def main() -> str:
        try:
            await wait_for_approval("Refund?", timeout="1h")
        except WaitTimeoutError:
            return "nobody answered"
        return "answered"

    history.waits_for(main)
    history.end_wait("approval", failure=protocol.Failure(type="WaitTimeoutError", message="too late"))
    assert history.value(main, number=2) == "nobody answered"


def test_questions_of_branches_have_keys_and_answers_of_their_own(history: History) -> None:
    @task
    async def main() -> list[bool]:
        asked = [wait_for_approval(f"Refund {n}?", name="refund") for n in (1, 2)]
        return [decision.approved for decision in await gather(*asked)]

    keys = history.waits_for(main)
    assert len(set(keys)) == 2
    answers = {key: YES if b"Refund 1" in bytes(history.waits[key].detail) else NO for key in keys}
    for key, answer in answers.items():
        history.end_wait(key, answer)
    assert history.value(main, number=2) == [True, False]


def test_another_question_in_the_place_of_one_that_was_answered_diverges(history: History) -> None:
    question = ["Refund 80 EUR?"]

    @task
    async def main() -> bool:
        return (await wait_for_approval(question[0])).approved

    history.waits_for(main)
    history.end_wait("approval", YES)
    question[0] = "Refund 8,000 EUR?"
    assert "other arguments" in history.failure(main, number=2).message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"question": ""}, "1 to 1024 characters"),
        ({"question": "  "}, "1 to 1024 characters"),
        ({"question": "x" * 1025}, "details"),
        ({"question": 7}, "1 to 1024 characters"),
        ({"question": "?", "name": "a/b"}, "cannot be a wait's name"),
        ({"question": "?", "name": ""}, "cannot be a wait's name"),
        ({"question": "?", "details": "x" * 16_384}, "16386 bytes of JSON; the limit is 16384"),
        ({"question": "?", "details": object()}, "details of wait_for_approval()"),
        ({"question": "?", "timeout": "soon"}, "soon"),
    ],
)
def test_what_cannot_be_asked_is_refused_where_it_is_asked(
    history: History, arguments: dict[str, Any], said: str
) -> None:
    @task
    def main() -> None:
        wait_for_approval_sync(**arguments)

    assert said in history.failure(main).message
    assert not history.waits


def test_it_belongs_between_steps_of_a_run(history: History) -> None:
    @step
    def inside() -> None:
        wait_for_approval_sync("?")

    @task
    def main() -> None:
        inside()

    assert "inside step" in history.failure(main).message
    with pytest.raises(NotInRunError):
        wait_for_approval_sync("?")
    with pytest.raises(StepError, match="wait_for_approval_sync"):
        _ = wait_for_approval("?")


def test_details_over_the_limit_are_an_error_of_their_own(history: History) -> None:
    caught: list[Exception] = []

    @task
    def main() -> None:
        try:
            wait_for_approval_sync("?", details="x" * 20_000)
        except ValueTooLargeError as error:
            caught.append(error)

    history.value(main)
    assert len(caught) == 1
