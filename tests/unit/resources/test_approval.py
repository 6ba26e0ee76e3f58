"""Approvals as objects: names, manifest, status, and what becomes of junk."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from windlass_operator.domain.approvals import Approval, ApprovalState, approval_name
from windlass_operator.kube.approvals import manifest
from windlass_operator.resources.approval import ApprovalSpec, ApprovalStatus, Decided, status_of, summary
from windlass_operator.resources.base import ResourceInvalidError

RUN = UUID("01900000-0000-7000-8000-000000000001")
AT = datetime(2030, 1, 1, 12, tzinfo=UTC)


def an_approval(**changes: Any) -> Approval:
    """Return a pending approval of a run that has a resource."""
    values: dict[str, Any] = {
        "id": 1,
        "run_id": RUN,
        "key": "approval",
        "name": "order-abc",
        "namespace": "shop",
        "task": "order",
        "question": "Refund 80 EUR?",
        "details": '{"order": 7}',
        "expires_at": AT,
        "state": ApprovalState.PENDING,
        "by": None,
        "comment": None,
        "through": None,
        "over_at": None,
        "created_at": AT,
        "revision": 1,
        "uid": "u1",
        "named": 0,
        "generation": 1,
        "spec_decided": False,
        "ignored": False,
        "run_name": "order-1",
        "run_uid": "uid-of-order-1",
    }
    return Approval(**{**values, **changes})


DECIDED: dict[str, Any] = {
    "state": ApprovalState.APPROVED,
    "by": "alice",
    "comment": "fine",
    "through": "api",
    "over_at": AT,
}


@pytest.mark.parametrize("task", ["order", "a" * 253, "shop.order.v2", "a" * 52 + "-" * 5 + "b" * 100, "x"])
def test_a_name_is_one_that_any_object_may_have_and_always_the_same(task: str) -> None:
    name = approval_name(task, RUN, "approval")
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert name == approval_name(task, RUN, "approval")
    assert name.startswith(task.split(".", maxsplit=1)[0][:50].rstrip("-"))


def test_waits_of_one_run_have_names_of_their_own() -> None:
    keys = [f"approval#{number}" for number in range(500)] + [f"{number}/approval" for number in range(500)]
    assert len({approval_name("order", RUN, key) for key in keys}) == 1000
    assert approval_name("order", RUN, "approval", again=1) != approval_name("order", RUN, "approval")


def test_what_we_make_is_what_the_model_says() -> None:
    made = manifest(an_approval())
    spec = ApprovalSpec.from_object(made["spec"])
    assert spec.to_object() == {**made["spec"], "expiresAt": "2030-01-01T12:00:00Z"}
    assert set(made["spec"]) == {"runId", "runRef", "task", "step", "question", "details", "expiresAt"}
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "windlass.dev/v1alpha1", "kind": "Run", "name": "order-1", "uid": "uid-of-order-1"}
    ]


def test_a_run_without_a_resource_owns_nothing() -> None:
    made = manifest(an_approval(run_name=None, run_uid=None, details=None, expires_at=None))
    assert "ownerReferences" not in made["metadata"]
    assert set(made["spec"]) == {"runId", "task", "step", "question"}


@pytest.mark.parametrize("state", ApprovalState)
def test_a_status_is_one_that_the_api_server_takes(state: ApprovalState) -> None:
    decided = DECIDED if state in (ApprovalState.APPROVED, ApprovalState.REFUSED) else {}
    status = status_of(an_approval(**{**decided, "state": state, "ignored": True, "question": "q " * 512}))
    read = ApprovalStatus.from_object({key: value for key, value in status.items() if value is not None})
    assert read.state == state
    assert {condition.type for condition in read.conditions} == {"Approved", "Finished", "DecisionIgnored"}
    finished = next(condition for condition in read.conditions if condition.type == "Finished")
    assert finished.status == ("False" if state is ApprovalState.PENDING else "True")
    assert (read.by is None) is (not decided)


def test_a_question_is_one_short_line_in_a_list() -> None:
    assert summary("Refund\n  80 EUR?\n") == "Refund 80 EUR?"
    assert len(summary("long " * 100)) == 60


def test_what_people_write_is_read_by_itself() -> None:
    spec = {"decision": "Approved", "by": "a" * 600, "comment": "c" * 2000, "question": 7, "runId": None}
    read = Decided.from_object(spec, at="spec")
    assert (read.decision, len(str(read.by)), len(str(read.comment))) == ("Approved", 512, 1024)
    assert Decided.from_object({}) == Decided()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"decision": "yes"}, "spec.decision"),
        ({"decision": "Approved", "by": 7}, "spec.by"),
        ({"decision": "Approved", "by": "a", "comment": []}, "spec.comment"),
        ([], "spec"),
    ],
)
def test_junk_becomes_a_message_with_its_place(spec: Any, field: str) -> None:
    with pytest.raises(ResourceInvalidError) as refused:
        Decided.from_object(spec, at="spec")
    assert refused.value.field == field
