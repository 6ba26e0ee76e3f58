"""Conditions: what ``kubectl wait`` waits for and what tools read to learn whether an object is well.

A Run carries ``Succeeded`` (Unknown until the end, then True or False), ``Finished`` (True at every end, so that one
wait covers them all), and ``SpecChangeIgnored`` while its spec is not the accepted one. It never carries ``Ready``:
tools that wait for an installation would call a failed run a failed installation. A Task, a Queue or a WorkerPool has
``Ready``, and ``Stalled`` while its spec cannot work: only that tells a doomed object from a slow one. An Approval
carries ``Approved`` (Unknown until it is over) and ``Finished``, and ``DecisionIgnored`` where its spec has another
decision.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, TypeAdapter, ValidationError

from windlass_operator.domain.approvals import ApprovalState
from windlass_operator.domain.run_state import RunState
from windlass_operator.resources.base import KubeModel, Message, clip
from windlass_operator.resources.reasons import Reason

Status = Literal["True", "False", "Unknown"]


class ConditionType(StrEnum):
    """The types that we set."""

    SUCCEEDED = "Succeeded"
    FINISHED = "Finished"
    READY = "Ready"
    STALLED = "Stalled"
    SPEC_CHANGE_IGNORED = "SpecChangeIgnored"
    APPROVED = "Approved"
    DECISION_IGNORED = "DecisionIgnored"


class Condition(KubeModel):
    """One thing that is true, false or not yet known about the object."""

    type: Annotated[str, Field(min_length=1, max_length=316, pattern=r"^[A-Za-z]([-A-Za-z0-9_./]*[A-Za-z0-9])?$")]
    """What this is about."""
    status: Status
    """True, False, or Unknown while it is still open."""
    # No pattern: a failure that has no reason of ours is called by its exception's class, which may be any identifier.
    reason: Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(clip(1024))]
    """Why, as one word for programs. The reference lists every reason with what to do."""
    message: Message = ""
    """Why, and what to do next, for people."""
    last_transition_time: AwareDatetime
    """When the status last changed."""
    observed_generation: int | None = Field(None, ge=0)
    """The metadata.generation that this was decided on."""


def merge(current: Sequence[Condition], wanted: Sequence[Condition]) -> list[Condition]:
    """Return ``wanted``, with the time of the last change taken from ``current`` where the status is the same.

    Types that are not wanted any more are dropped: each object has one writer.
    """
    before = {condition.type: condition for condition in current}
    merged = []
    for condition in wanted:
        old = before.get(condition.type)
        same = old is not None and old.status == condition.status
        time = old.last_transition_time if old is not None and same else condition.last_transition_time
        merged.append(condition.model_copy(update={"last_transition_time": time}))
    return merged


def read_conditions(status: Any) -> list[Condition]:
    """Return the conditions that an object shows; none if somebody wrote there what is no condition."""
    try:
        return TypeAdapter(list[Condition]).validate_python((status or {}).get("conditions") or [])
    except (AttributeError, ValidationError):
        return []


def run_conditions(
    state: RunState,
    *,
    reason: str | None,
    message: str | None,
    generation: int,
    at: datetime,
    spec_changed: bool = False,
) -> list[Condition]:
    """Return the conditions of a Run.

    Args:
        state: Where the run stands.
        reason: Why it stands there; the state itself if nothing holds it.
        message: The same for people.
        generation: ``metadata.generation`` that was acted on.
        at: When the run finished, or was accepted if it has not: the only times at which a status changes. Aware.
        spec_changed: The resource's spec is not the one that was accepted.
    """
    succeeded: Status = "Unknown"
    if state.final:
        succeeded = "True" if state is RunState.SUCCEEDED else "False"
    shared = {"message": message or "", "observed_generation": generation, "last_transition_time": _whole_seconds(at)}
    conditions = [
        Condition(type=ConditionType.SUCCEEDED, status=succeeded, reason=_one_word(reason or state.value), **shared),
        # The reason is the state itself: which end it was, in a word.
        Condition(type=ConditionType.FINISHED, status="True" if state.final else "False", reason=state.value, **shared),
    ]
    if spec_changed:  # present only while true, as for every condition that means trouble
        ignored = Reason.SPEC_CHANGE_IGNORED
        shared["message"] = f"{ignored.meaning} {ignored.remedy}"
        conditions.append(Condition(type=ConditionType.SPEC_CHANGE_IGNORED, status="True", reason=ignored, **shared))
    return conditions


def ready_conditions(
    *,
    problem: str | None,
    message: str | None,
    generation: int,
    now: datetime,
    current: Sequence[Condition] = (),
) -> list[Condition]:
    """Return the conditions of a Task or a Queue.

    Args:
        problem: Reason why its spec cannot be used, or None.
        message: The same for people.
        generation: ``metadata.generation`` that was judged.
        now: When this is decided, aware.
        current: What the object shows now.
    """
    shared = {"message": message or "", "observed_generation": generation, "last_transition_time": _whole_seconds(now)}
    wanted = [
        Condition(
            type=ConditionType.READY, status="False" if problem else "True", reason=problem or "Accepted", **shared
        )
    ]
    if problem:
        # Present only while true, as for every condition that means trouble.
        wanted.append(Condition(type=ConditionType.STALLED, status="True", reason=problem, **shared))
    return merge(current, wanted)


def pool_conditions(
    *,
    invalid: tuple[str, str] | None,
    failing: tuple[str, str] | None,
    waits_for: int,
    tasks: bool,
    generation: int,
    now: datetime,
    current: Sequence[Condition] = (),
) -> list[Condition]:
    """Return the conditions of a WorkerPool.

    Args:
        invalid: Reason and message why its spec cannot be used, or None.
        failing: Reason and message why its pods do not start, or None.
        waits_for: Pods that are still to come up.
        tasks: Whether a Task names it.
        generation: ``metadata.generation`` that was judged.
        now: When this is decided, aware.
        current: What the object shows now.
    """
    ready: Status = "True"
    reason, message = ("Accepted", "") if tasks else ("NoTask", "No Task names this pool, so it has no pods.")
    if waits_for:
        ready, reason = "False", Reason.PODS_STARTING.value
        message = f"{waits_for} of its pods {'is' if waits_for == 1 else 'are'} not up yet."
    if invalid or failing:
        ready, (reason, message) = "False", invalid or failing or ("", "")
    shared = {"observed_generation": generation, "last_transition_time": _whole_seconds(now)}
    wanted = [Condition(type=ConditionType.READY, status=ready, reason=reason, message=message, **shared)]
    if invalid:
        wanted.append(
            Condition(type=ConditionType.STALLED, status="True", reason=invalid[0], message=invalid[1], **shared)
        )
    return merge(current, wanted)


def approval_conditions(
    state: ApprovalState, *, reason: str, message: str, generation: int, at: datetime, ignored: bool = False
) -> list[Condition]:
    """Return the conditions of an Approval.

    Args:
        state: Where it stands.
        reason: The state, or why it is none of ours.
        message: The same for people.
        generation: ``metadata.generation`` that was acted on.
        at: When it was over, or began. Aware.
        ignored: The resource's spec has a decision that is not the one that counts.
    """
    pending = state is ApprovalState.PENDING
    approved: Status = "True" if state is ApprovalState.APPROVED else "False"
    shared = {"message": message, "observed_generation": generation, "last_transition_time": _whole_seconds(at)}
    conditions = [
        Condition(type=ConditionType.APPROVED, status="Unknown" if pending else approved, reason=reason, **shared),
        Condition(type=ConditionType.FINISHED, status="False" if pending else "True", reason=reason, **shared),
    ]
    if ignored:
        shared["message"] = f"The decision in the spec has no effect: it came too late. {message}".strip()
        conditions.append(
            Condition(type=ConditionType.DECISION_IGNORED, status="True", reason=Reason.DECIDED_BEFORE, **shared)
        )
    return conditions


def _one_word(text: str) -> str:
    """Return a reason that conditions may carry: the API conventions want a word of letters and digits."""
    return re.sub(r"[^A-Za-z0-9_,:]+", "", text)[:256] or "Unknown"


def _whole_seconds(now: datetime) -> datetime:
    # Kubernetes writes its own times to the second; a finer one would not compare equal after a round trip.
    return now.astimezone(UTC).replace(microsecond=0)
