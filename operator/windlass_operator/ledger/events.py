"""Events that are sent to runs: kept in order, and taken by each run at most once.

Sending and beginning to wait hold the lock of the event's name, so one of the two comes first and is seen by the other.
Locks: an attempt, then a name; giving events to waits that began earlier locks their runs and no name.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("events")

NO_RUN: Final = UUID(int=0)
"""Before every run, where a page of waits begins."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event in the ledger."""

    seq: int
    """Its place among those of its name."""
    name: str
    id: str
    sent_at: datetime
    payload: str = "null"
    """JSON text."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A wait for an event."""

    run_id: UUID
    key: str
    detail: str
    """JSON text: a ``protocol.EventDetail``."""
    created_at: datetime
    """Of the run."""


async def lock_name(connection: Connection, project_id: int, name: str) -> None:
    """Hold the name's lock until the transaction ends."""
    await connection.execute(_SQL["lock_name"], {"project_id": project_id, "name": name})


async def add(connection: Connection, project_id: int, name: str, event_id: str, payload: str) -> Sent | None:
    """Keep an event; its name's lock is held. None: the id stands for one already."""
    parameters = {"project_id": project_id, "name": name, "id": event_id, "payload": payload}
    row = await (await connection.execute(_SQL["add_event"], parameters)).fetchone()
    return None if row is None else _sent(row)


async def by_id(connection: Connection, project_id: int, event_id: str) -> Sent | None:
    """Return the event that an id stands for, without its payload."""
    row = await (await connection.execute(_SQL["event_by_id"], {"project_id": project_id, "id": event_id})).fetchone()
    return None if row is None else _sent(row)


async def project_of_open(connection: Connection, writer: Writer) -> int:
    """Return the project of an attempt and hold the attempt open until the transaction ends.

    Raises:
        AttemptClosedError: It is closed.
    """
    parameters = {"attempt_id": writer.attempt_id, "token_hash": writer.token_hash}
    row = await (await connection.execute(_SQL["open_attempt"], parameters)).fetchone()
    if row is None:
        raise AttemptClosedError
    return int(row["project_id"])


async def note_selector(connection: Connection, run_id: UUID, key: str, selector: str | None) -> int:
    """Record by which word a wait is found. Returns the project."""
    parameters = {"run_id": run_id, "key": key, "selector": selector}
    row = await (await connection.execute(_SQL["note_selector"], parameters)).fetchone()
    assert row is not None, "the wait has just begun in this transaction"
    return int(row["project_id"])


async def kept(
    connection: Connection, run_id: UUID, project_id: int, name: str, *, after: int, lookback: timedelta, limit: int
) -> list[Sent]:
    """Return events that are there for a wait that begins, in order, without those that its run has taken."""
    parameters = {
        "run_id": run_id,
        "project_id": project_id,
        "name": name,
        "after": after,
        "lookback": lookback.total_seconds(),
        "limit": limit,
    }
    return [_sent(row) for row in await (await connection.execute(_SQL["kept_events"], parameters)).fetchall()]


async def undelivered(database: Database, project_id: int, name: str, *, limit: int) -> list[Sent]:
    """Return events that may have waits left, in order."""
    parameters = {"project_id": project_id, "name": name, "limit": limit}
    return [_sent(row) for row in await database.fetch(_SQL["undelivered"], parameters)]


async def undelivered_names(database: Database) -> list[tuple[int, str]]:
    """Return projects and names of such events, some of them."""
    return [(row["project_id"], row["name"]) for row in await database.fetch(_SQL["undelivered_names"])]


async def candidates(
    database: Database,
    project_id: int,
    name: str,
    selectors: Collection[str],
    *,
    after: tuple[UUID, str],
    limit: int,
) -> list[Waiting]:
    """Return a page of waits that events with these words may be for; ``after`` is the last one's run and key."""
    parameters = {
        "project_id": project_id,
        "name": name,
        "selectors": list(selectors),
        "after_run": after[0],
        "after_key": after[1],
        "limit": limit,
    }
    return [_waiting(row) for row in await database.fetch(_SQL["candidates"], parameters)]


async def waits_of(connection: Connection, project_id: int, name: str, run_ids: Collection[UUID]) -> list[Waiting]:
    """Return the waits of locked runs for events of a name, each run's in the order in which they began."""
    parameters = {"project_id": project_id, "name": name, "run_ids": list(run_ids)}
    return [_waiting(row) for row in await (await connection.execute(_SQL["waits_of_runs"], parameters)).fetchall()]


async def taken(connection: Connection, run_ids: Collection[UUID], seqs: Collection[int]) -> set[tuple[UUID, int]]:
    """Return which of these runs have taken which of these events."""
    parameters = {"run_ids": list(run_ids), "seqs": list(seqs)}
    rows = await (await connection.execute(_SQL["taken"], parameters)).fetchall()
    return {(row["run_id"], row["seq"]) for row in rows}


async def take(connection: Connection, wanted: Sequence[tuple[UUID, int, str]]) -> set[tuple[UUID, int]]:
    """Take events for runs (run, event, key of the wait). Returns those that nobody has taken before."""
    items = [{"run_id": run_id, "seq": seq, "key": key} for run_id, seq, key in wanted]
    cursor = await connection.execute(_SQL["take"], {"items": msgspec.json.encode(items).decode()})
    return {(row["run_id"], row["seq"]) for row in await cursor.fetchall()}


async def mark_delivered(database: Database, seqs: Collection[int]) -> None:
    """Record that no wait is left for these which began before they came."""
    await database.fetch(_SQL["mark_delivered"], {"seqs": list(seqs)})


async def count_taken(database: Database, seq: int) -> int:
    """Return how many runs have taken an event."""
    return int((await database.fetch(_SQL["count_taken"], {"seq": seq}))[0]["n"])


async def forget(database: Database, keep: timedelta, *, limit: int) -> int:
    """Delete events, and names without any, that are older than ``keep``; a batch. Returns how many events."""
    gone = await database.fetch(_SQL["forget_events"], {"keep": keep, "limit": limit})
    await database.fetch(_SQL["forget_names"], {"keep": keep, "limit": limit})
    return len(gone)


def _sent(row: dict[str, Any]) -> Sent:
    return Sent(row["seq"], row["name"], row["id"], row["sent_at"], row.get("payload", "null"))


def _waiting(row: dict[str, Any]) -> Waiting:
    return Waiting(row["run_id"], row["key"], row["detail"] or "{}", row["created_at"])
