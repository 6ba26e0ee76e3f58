"""The Approval resource: a question of a run to people. The operator makes it, people decide, the ledger keeps it.

Who decided is no matter of trust: the chart's ValidatingAdmissionPolicy lets ``spec.by`` be nothing but the name under
which the API server knows the person who writes it.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from windlass_operator.domain.approvals import Approval, ApprovalState
from windlass_operator.resources.base import FreeForm, KubeModel, Message, ObjectName, Word, clip, rule, validations
from windlass_operator.resources.conditions import Condition, approval_conditions
from windlass_operator.resources.reasons import Reason

QUESTION_MAX: Final = 1024
"""Characters of a question. What does not fit is a detail."""
COMMENT_MAX: Final = 1024
BY_MAX: Final = 512
"""Characters of a user's name: a service account's has up to 340, an identity provider may write more."""
SUMMARY_MAX: Final = 60
"""Characters of a question in a list."""


def _fixed(field: str) -> JsonDict:
    same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return rule(same, f"{field} of an Approval cannot be changed: it is what the run asks.", at=f".{field}")


def _final(field: str) -> JsonDict:
    same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return rule(f"!has(oldSelf.decision) || ({same})", "A decision is final: the first one counts.", at=f".{field}")


class ApprovalRun(KubeModel):
    """The Run that asks."""

    name: ObjectName
    """Name of the Run in the same namespace."""


class ApprovalSpec(KubeModel):
    """What the run asks, and what was decided. The operator writes the question; people write the decision, once."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            *(_fixed(field) for field in ("runId", "runRef", "task", "step", "question", "expiresAt")),
            *(_final(field) for field in ("decision", "by", "comment")),
            rule("!has(self.decision) || has(self.by)", "A decision needs by: your own user name.", at=".by"),
            rule("has(self.decision) || !has(self.by)", "by says whose the decision is, and there is none.", at=".by"),
        )
    )

    run_id: Annotated[str, Field(max_length=36)]
    """Id of the run that waits, by which the API and the command line know it."""
    run_ref: ApprovalRun | None = None
    """The Run that asks, if the run has a resource."""
    task: ObjectName
    """The Task that the run executes."""
    step: Annotated[str, Field(max_length=600)]
    """Key of the wait within the run, as its list of steps shows it."""
    question: Annotated[str, Field(min_length=1, max_length=QUESTION_MAX)]
    """What is to be decided."""
    details: FreeForm = None
    """What one has to know in order to decide: any JSON, at most 16 KiB."""
    expires_at: AwareDatetime | None = None
    """Until when it can be decided. After that, the run goes on with a WaitTimeoutError. Absent: for as long as the
    run waits."""
    decision: Literal["Approved", "Refused"] | None = None
    """Approved or Refused. Set it together with by, once: the first decision counts, and cannot be taken back."""
    by: Annotated[str, Field(min_length=1, max_length=BY_MAX)] | None = None
    """Your own user name, as kubectl auth whoami prints it; another one is refused by the admission policy. A decision
    that came through the Windlass API has the name of the user who sent it."""
    comment: Annotated[str, Field(max_length=COMMENT_MAX)] | None = None
    """Why, for the run and for whoever reads it later."""


class ApprovalStatus(KubeModel):
    """What the ledger knows. Written by the operator only."""

    # No list of allowed values: a CRD that an upgrade kept must not refuse a state that the new release knows.
    state: Word | None = None
    """Pending, and at the end Approved, Refused, Expired (nobody decided in time) or Withdrawn (the run does not ask
    any more)."""
    summary: Annotated[str, Field(max_length=SUMMARY_MAX), BeforeValidator(clip(SUMMARY_MAX))] | None = None
    """The beginning of the question, for lists."""
    decided_at: AwareDatetime | None = None
    """When the decision was recorded, by the ledger's clock."""
    by: Annotated[str, Field(max_length=BY_MAX), BeforeValidator(clip(BY_MAX))] | None = None
    """Whose decision counts."""
    comment: Message | None = None
    """What they said."""
    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this status is about."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Finished: nothing can be decided any more. Approved: Unknown until then. DecisionIgnored: the spec has a decision
    that is not the one that counts. Wait with kubectl wait --for=condition=Finished."""


class Decided(KubeModel):
    """The part of a spec that people write. Read by itself: junk elsewhere must not hide a decision."""

    decision: Literal["Approved", "Refused"] | None = None
    by: Annotated[str, BeforeValidator(clip(BY_MAX))] | None = None
    comment: Annotated[str, BeforeValidator(clip(COMMENT_MAX))] | None = None


def summary(question: str) -> str:
    """Return a question as a list shows it: on one line, and short."""
    return str(clip(SUMMARY_MAX)(" ".join(question.split())))


def spec_of(approval: Approval) -> dict[str, Any]:
    """Return the spec of the resource that the operator makes."""
    spec: dict[str, Any] = {
        "runId": str(approval.run_id),
        "task": approval.task,
        "step": approval.key,
        "question": approval.question,
    }
    if approval.run_name is not None:
        spec["runRef"] = {"name": approval.run_name}
    if approval.details is not None:
        spec["details"] = json.loads(approval.details)
    if approval.expires_at is not None:
        spec["expiresAt"] = _time(approval.expires_at)
    return spec


def status_of(approval: Approval) -> dict[str, Any]:
    """Return the status of the resource. Absent values are null."""
    decided = approval.by is not None
    return {
        "state": approval.state.value,
        "summary": summary(approval.question),
        "decidedAt": _time(approval.over_at) if decided and approval.over_at is not None else None,
        "by": approval.by,
        "comment": approval.comment,
        "observedGeneration": approval.generation,
        "conditions": [
            condition.to_object()
            for condition in approval_conditions(
                approval.state,
                reason=approval.state.value,
                message=_said(approval),
                generation=approval.generation,
                at=approval.over_at or approval.created_at,
                ignored=approval.ignored,
            )
        ],
    }


def status_of_stranger(generation: int, now: datetime) -> dict[str, Any]:
    """Return the status of a resource that no run asks for: made by somebody else, or kept from another ledger."""
    message = "No run waits for this: Windlass did not make it, or the ledger is another one. Nothing will come of it."
    conditions = approval_conditions(
        ApprovalState.WITHDRAWN, reason=Reason.APPROVAL_UNKNOWN, message=message, generation=generation, at=now
    )
    return {
        "state": ApprovalState.WITHDRAWN.value,
        "observedGeneration": generation,
        "conditions": [condition.to_object() for condition in conditions],
    }


def _said(approval: Approval) -> str:
    match approval.state:
        case ApprovalState.PENDING:
            return "The run waits for a decision: set spec.decision and spec.by."
        case ApprovalState.EXPIRED:
            return "Nobody decided in time."
        case ApprovalState.WITHDRAWN:
            return "The run does not wait any more: it was cancelled, or ended without the answer."
        case _:
            door = "in the resource" if approval.through == "resource" else "through the API"
            return f"{approval.state.value} by {approval.by} {door}."


def _time(value: datetime) -> str:
    # Kubernetes writes its own times to the second.
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
