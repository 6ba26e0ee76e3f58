"""What a TaskVersion keeps of a Task: an immutable snapshot, so that an edit never changes a run that was accepted."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.retry import RetryPolicy

DEFAULT_START_TIMEOUT: Final = timedelta(minutes=10)
DEFAULT_TTL: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """The parts of a Task that runs depend on. Stored as JSON in ``task_version.spec``."""

    entrypoint: str | None
    """None for a container task, whose command is part of its pod."""
    source: str | None = None
    pod: PodParts
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: timedelta | None = None
    """Running time over all attempts."""
    attempt_timeout: timedelta | None = None
    total_timeout: timedelta | None = None
    """From acceptance to the end, waits included."""
    start_timeout: timedelta = DEFAULT_START_TIMEOUT
    payload_schema: dict[str, Any] | None = None
    queue: str | None = None
    """None: one of its own."""
    priority: int | None = None
    """Seconds of head start."""
    standby: int = 0
    """Single-use pods to keep ready. No run depends on it, so it makes no version."""
    ttl_seconds: float = DEFAULT_TTL.total_seconds()
    """Of finished Run resources. A number, because a statement reads it."""
