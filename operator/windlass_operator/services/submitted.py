"""What is asked for and what becomes of it: submissions on their way to the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from windlass.traces import TraceContext
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.task_snapshot import TaskSnapshot
from windlass_operator.ledger import handles
from windlass_operator.ledger.intake import Lineage, NewRun, When
from windlass_operator.ledger.runs import UnreadVersion, Value, Version
from windlass_operator.services.blobs import Staged


@dataclass(frozen=True, slots=True)
class Resource:
    """The Run resource that asks for a run."""

    uid: str
    name: str
    spec_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a caller asks for."""

    task: str
    payload: Any = None
    """A JSON value. REST: as ``payloads.parse`` returned it; a resource: as it comes, to be held to the same rules."""
    size: int = 0
    """About the bytes of the payload, if it may be large."""
    version: int | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    when: When = field(default_factory=When)
    idempotency_key: str | None = None
    """Of this and all callers who mean the same run: the first one's is run."""
    at: str = ""
    """Where it stands in a request for many, such as ``items[3].``: begins the field that an error names."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a submission."""

    run_id: UUID
    deduplicated: bool = False
    """The run is an earlier one with the same idempotency key."""
    row: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """A new run as it is when this is committed, for who answers with it; None where it was not read."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission that keeps every rule and waits for its transaction."""

    wanted: Submission
    run_id: UUID
    snapshot: TaskSnapshot
    payload: Value
    staged: Staged | None
    """Its payload, if that is large."""
    began: datetime
    asked: str | None
    """The caller's trace."""
    place: TraceContext | None
    """Place of the submission's own span."""
    shown: bool = True
    """Its row is part of the answer."""

    @property
    def simple(self) -> bool:
        """Nothing has to be looked up for it but its version, and nothing to be kept beside it."""
        return self.wanted.idempotency_key is None and self.wanted.version is None and self.staged is None

    @property
    def key(self) -> handles.Key | None:
        """Task and idempotency key, if it has one."""
        return None if self.wanted.idempotency_key is None else (self.wanted.task, self.wanted.idempotency_key)


class SomeRefusedError(Exception):
    """Ends a transaction of many of which not all can be accepted."""


def new_run(
    run_id: UUID,
    wanted: Submission,
    version: Version | UnreadVersion | None,
    payload: Value,
    *,
    resource: Resource | None = None,
    why: WindlassError | None = None,
    lineage: Lineage | None = None,
) -> NewRun:
    """Return the run that a submission asks for. ``why``: for what it waits, or why it ends at once."""
    return NewRun(
        id=run_id,
        task=wanted.task,
        version=version,
        wanted_version=wanted.version,
        payload=payload,
        tags=wanted.tags,
        when=wanted.when,
        traceparent=wanted.traceparent,
        idempotency_key=wanted.idempotency_key,
        reason=why.code if why else None,
        message=why.message if why else None,
        resource_uid=resource.uid if resource else None,
        resource_name=resource.name if resource else None,
        resource_hash=resource.spec_hash if resource else None,
        lineage=lineage,
    )
