"""New runs: however many, they are one statement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from windlass.durations import parse_duration
from windlass_operator.domain.project import Project
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Connection
from windlass_operator.ledger.queries import load
from windlass_operator.ledger.runs import UnreadVersion, Value, Version

_SQL: Final = load("intake")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which run has started a run."""

    parent_id: UUID
    root_id: UUID
    """The run at the top, which nobody's code has started."""
    depth: int
    """Levels below that one, from 1."""
    detached: bool = False
    """It goes on when its parent is cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """When a run may start: not before the later of the two."""

    delay: timedelta | None = None
    start_at: datetime | None = None
    queue_ttl: timedelta | None = None
    """If it has not begun this long after it might have, it expires."""


def when_of(delay: str | None, start_at: datetime | None, queue_ttl: str | None) -> When:
    """Return what a request says in durations as people write them."""
    return When(
        delay=None if delay is None else parse_duration(delay),
        start_at=None if start_at is None else _in_utc(start_at),
        queue_ttl=None if queue_ttl is None else parse_duration(queue_ttl),
    )


def _in_utc(moment: datetime) -> datetime:
    """Return a time as Postgres reads it, whose offsets end at 16 hours; one beyond all calendars is their end."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if moment.year == 1 else datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to be accepted."""

    id: UUID
    task: str
    version: Version | UnreadVersion | None
    """None: the Task is missing, and the run waits for it."""
    payload: Value
    wanted_version: int | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    idempotency_key: str | None = None
    reason: str | None = None
    message: str | None = None
    resource_uid: str | None = None
    resource_name: str | None = None
    resource_hash: str | None = None
    when: When = field(default_factory=When)
    lineage: Lineage | None = None
    """None: nobody's code has started it."""


async def insert(connection: Connection, project_id: int, new: Sequence[NewRun]) -> set[UUID]:
    """Accept runs of a project: their rows, their places in the queue and their first events.

    Returns:
        Those that were written: a run with the same id or of the same resource may exist already.
    """
    return await _insert(connection, {"project_id": project_id, "project_uid": None, "namespace": None}, new)


async def insert_known(connection: Connection, project: Project, new: Sequence[NewRun]) -> set[UUID]:
    """Accept runs of unread versions, as far as that takes no more than this statement. It needs no transaction.

    Returns:
        Those that were written. Of the others the project or the version is not known, or the queue has a
        ``maxLength``, or they exist already: they are decided upon by who reads and locks what that takes.
    """
    return await _insert(
        connection, {"project_id": None, "project_uid": project.uid, "namespace": project.namespace}, new
    )


async def _insert(connection: Connection, project: Mapping[str, object], new: Sequence[NewRun]) -> set[UUID]:
    items = msgspec.json.encode([_item(run) for run in new]).decode()
    rows = await (await connection.execute(_SQL["insert_runs"], {**project, "items": items})).fetchall()
    made = {run.id for run in new} - {row["id"] for row in rows}
    for row in rows:
        if row["pod_key"] is not None:
            connection.may_start(row["pod_key"], row["due"])
    shown = [run.id for run in new if run.resource_uid is not None and run.id in made]
    if shown:
        await runs.want_projection(connection, shown)
    return made


def _item(run: NewRun) -> dict[str, object]:
    when, lineage, total = run.when, run.lineage, run.version.snapshot.total_timeout if run.version else None
    item = {
        "id": run.id,
        "task": run.task,
        "task_version_id": run.version.id if isinstance(run.version, Version) else None,
        "spec_hash": run.version.spec_hash if isinstance(run.version, UnreadVersion) else None,
        "wanted_version": run.wanted_version,
        "total_timeout": None if total is None else total.total_seconds(),
        "delay": None if when.delay is None else when.delay.total_seconds(),
        "start_at": when.start_at,
        "queue_ttl": None if when.queue_ttl is None else when.queue_ttl.total_seconds(),
        "reason": run.reason,
        "message": run.message,
        "payload": run.payload.text,
        "sha256": run.payload.sha256,
        "size": run.payload.size,
        "tags": run.tags,
        "traceparent": run.traceparent,
        "idempotency_key": run.idempotency_key,
        "resource_uid": run.resource_uid,
        "resource_name": run.resource_name,
        "resource_hash": run.resource_hash,
        "parent_id": lineage.parent_id if lineage else None,
        "root_id": lineage.root_id if lineage else None,
        "depth": lineage.depth if lineage else 0,
        "detached": lineage is not None and lineage.detached,
    }
    return {name: value for name, value in item.items() if value is not None}
