"""What a waiting run says of itself. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

REASONS: Final = {
    "sleep": "WaitingForTimer",
    "event": "WaitingForEvent",
    "token": "WaitingForToken",
    "approval": "WaitingForApproval",
    "run": "WaitingForRun",
}
_WHAT: Final = {
    "event": "event {target!r}",
    "token": "token {target}",
    "approval": "approval {target}",
    "run": "run {target}",
}


@dataclass(frozen=True, slots=True)
class Blocked:
    """One wait that is not over."""

    kind: str
    due_at: datetime | None
    target: str | None


def explain(waits: Sequence[Blocked], total: int) -> tuple[str, str]:
    """Return reason and message of a waiting run.

    Args:
        waits: Some of its waits, the next one due first; at least one.
        total: How many it has in all.
    """
    first = waits[0]
    reason = REASONS.get(first.kind, "WaitingForTimer")
    what = _WHAT.get(first.kind, "").format(target=first.target)
    until = f"until {_time(first.due_at)}" if first.due_at is not None else ""
    said = " ".join(part for part in ("Waiting", what and f"for {what}", until) if part)
    more = f", and for {total - 1} more" if total > 1 else ""
    return reason, f"{said}{more}. No pod is held meanwhile."


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
