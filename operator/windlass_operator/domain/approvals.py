"""Approvals: their states, their names, and the answer to who comes too late. Pure."""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from windlass_operator.domain.errors import WindlassError

Door = Literal["resource", "api"]
_NAME_MAX: Final = 63
_ID: Final = 10
"""Letters of the short id: 50 bits, so that two approvals of one project never meet."""


class ApprovalState(StrEnum):
    """Where an approval stands. The value is what users read in status, API and CLI."""

    PENDING = "Pending"
    """The run waits. A decision, the timeout or the run's end moves it on."""
    APPROVED = "Approved"
    REFUSED = "Refused"
    EXPIRED = "Expired"
    """Nobody decided before its timeout."""
    WITHDRAWN = "Withdrawn"
    """The run was cancelled or ended without the answer."""


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval as it is now.

    Attributes:
        key: Of its wait, within the run.
        state: Where it stands now.
        details: JSON.
        through: The door that the decision came in by.
        over_at: When it was decided, or was over otherwise.
        revision: Grows with what its status shows.
        uid: Of its resource, once there is one.
        named: How often its name was found taken.
        generation: Of the resource, as it was last seen.
        spec_decided: The resource's spec has a decision.
        ignored: And it is not the one that counts.
        run_name: Of the Run resource, if there is one; ``run_uid`` likewise.
    """

    id: int
    run_id: UUID
    key: str
    name: str
    namespace: str
    task: str
    question: str
    details: str | None
    expires_at: datetime | None
    state: ApprovalState
    by: str | None
    comment: str | None
    through: Door | None
    over_at: datetime | None
    created_at: datetime
    revision: int
    uid: str | None
    named: int
    generation: int
    spec_decided: bool
    ignored: bool
    run_name: str | None
    run_uid: str | None


class ApprovalNotFoundError(WindlassError):
    """No approval of that name in that namespace."""

    code, http_status = "ApprovalNotFound", 404

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(
            f"Approval {name[:253]!r} is not in namespace {namespace!r}. See `windlass approvals list -n {namespace}`."
        )


class ApprovalNameTakenError(WindlassError):
    """Something that is not ours has the name of an approval's resource."""

    code, http_status = "ApprovalNameTaken", 409

    def __init__(self, name: str, namespace: str) -> None:
        super().__init__(f"There is another Approval {namespace}/{name}, which no run asks for.")


class ApprovalOverError(WindlassError):
    """A decision that comes after the first one, after the timeout, or after the run's end."""

    http_status = 409

    def __init__(self, name: str, state: ApprovalState, by: str | None, at: datetime | None) -> None:
        self.code = "ApprovalDecided" if by is not None else f"Approval{state.value}"
        when = "" if at is None else f" at {at.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"
        what = f"{state.value.lower()} by {by}{when}" if by is not None else f"{state.value.lower()}{when}"
        super().__init__(
            f"Approval {name!r} was {what}; nothing can be decided any more.",
            hint="The first decision counts. A new run asks again.",
        )


def approval_name(task: str, run_id: UUID, key: str, *, again: int = 0) -> str:
    """Return the name of the resource for a wait: the task's, as far as it fits, and a short id.

    Made of the wait's own identity, so that whoever makes it twice makes the same one.

    Args:
        task: Name of the Task.
        run_id: The run that waits.
        key: Of the wait.
        again: How often the name was found taken by something else.
    """
    text = f"{run_id}/{key}/{again}" if again else f"{run_id}/{key}"
    short = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:_ID]
    head = re.sub(r"[^a-z0-9-]", "-", task)[: _NAME_MAX - _ID - 1].rstrip("-")
    return f"{head}-{short}" if head else f"approval-{short}"
