"""Attempts: claims, leases and their end. Every write here locks its attempt row and requires it to be open."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("attempts")

SERVICE_GAP: Final = timedelta(seconds=6)
"""Silence of the heartbeat service that counts as a gap. It reports every two seconds."""


@dataclass(frozen=True, slots=True)
class Writer:
    """The attempt that a token belongs to."""

    attempt_id: UUID
    token_hash: bytes
    run_id: UUID
    number: int
    project_uid: str
    namespace: str
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class LockedAttempt:
    """An attempt whose row is locked until the transaction ends."""

    id: UUID
    run_id: UUID
    number: int
    pod_id: UUID | None
    closed: bool
    answer: str | None
    running_ms: int
    started_at: datetime
    expired: bool
    """Its lease has run out."""
    pod_key: str | None = None
    reuse: bool = False
    """Its pod may take another one."""


async def open_of_pod(connection: Connection, pod_id: UUID) -> list[UUID]:
    """Return the open attempts of a pod, in lock order."""
    rows = await (await connection.execute(_SQL["open_attempts_of_pod"], {"pod_id": pod_id})).fetchall()
    return [row["id"] for row in rows]


async def memory_of_open(database: Database, pod_id: UUID) -> list[tuple[UUID, int | None]]:
    """Return the open attempts of a pod with the bytes that each used at its last heartbeat."""
    rows = await database.fetch(_SQL["open_attempts_of_pod"], {"pod_id": pod_id})
    return [(row["id"], row["memory_bytes"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Beaten:
    """What a heartbeat finds of an open attempt."""

    state: RunState
    run_added_ms: int
    attempt_added_ms: int


async def heartbeat(
    database: Database, beats: list[tuple[UUID, bytes, int | None]], lease: timedelta
) -> dict[UUID, Beaten]:
    """Extend the leases of open attempts and return what is new for each; closed ones are absent."""
    rows = await database.fetch(
        _SQL["heartbeat"],
        {
            "ids": [b[0] for b in beats],
            "token_hashes": [b[1] for b in beats],
            "memory": [b[2] for b in beats],
            "lease": lease,
        },
    )
    return {row["id"]: Beaten(RunState(row["state"]), row["run_added_ms"], row["attempt_added_ms"]) for row in rows}


async def authenticate(database: Database, attempt_id: UUID, token_hash: bytes) -> Writer | None:
    """Return whose token this is, or None."""
    rows = await database.fetch(_SQL["authenticate"], {"id": attempt_id, "token_hash": token_hash})
    if not rows:
        return None
    row = rows[0]
    return Writer(
        attempt_id=row["id"],
        token_hash=token_hash,
        run_id=row["run_id"],
        number=row["number"],
        project_uid=row["project_uid"],
        namespace=row["namespace"],
        closed_at=row["closed_at"],
    )


async def lock_all(connection: Connection, wanted: Sequence[tuple[UUID, bytes | None]]) -> dict[UUID, LockedAttempt]:
    """Lock attempts, in their order, and return them by their ids; one whose token is another is not among them.

    Args:
        connection: The transaction.
        wanted: Ids and hashes of tokens. None in place of a hash only for the reaper, which acts for the ledger itself.
    """
    items = [{"id": one, "token_hash": None if hashed is None else hashed.hex()} for one, hashed in wanted]
    parameters = {"items": msgspec.json.encode(items).decode()}
    rows = await (await connection.execute(_SQL["lock_attempts"], parameters)).fetchall()
    return {row["id"]: _locked(row) for row in rows}


def _locked(row: dict[str, Any]) -> LockedAttempt:
    return LockedAttempt(
        id=row["id"],
        run_id=row["run_id"],
        number=row["number"],
        pod_id=row["pod_id"],
        closed=row["closed_at"] is not None,
        answer=row["answer"],
        running_ms=row["running_ms"],
        started_at=row["started_at"],
        expired=row["expired"],
        pod_key=row["pod_key"],
        reuse=row["reuse"],
    )


async def pod_name(connection: Connection, attempt: LockedAttempt) -> str | None:
    """Return the name of an attempt's pod."""
    row = await (await connection.execute(_SQL["pod_of_attempt"], {"pod_id": attempt.pod_id})).fetchone()
    return None if row is None else str(row["name"])


@dataclass(frozen=True, slots=True)
class Close:
    """How a locked, open attempt ends."""

    id: UUID
    outcome: str
    failure: str | None
    answer: str
    """For a repeat of the call that closes it."""


async def close_all(connection: Connection, closes: Sequence[Close]) -> None:
    """Close attempts. From here on none of their writes is accepted, and their running steps are undone."""
    items = {"items": msgspec.json.encode(closes).decode()}
    for row in await (await connection.execute(_SQL["close_attempts"], items)).fetchall():
        connection.may_start(row["pod_key"], row["n"])


async def expired(database: Database, lease: timedelta) -> list[UUID]:
    """Return open attempts whose lease has run out while heartbeats were being served."""
    rows = await database.fetch(_SQL["expired_attempts"], {"gap": SERVICE_GAP, "lease": lease})
    return [row["id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to do that nobody may have been told of."""

    gap: float | None
    """Seconds in which no heartbeats were served, if that was a gap."""
    due_in: float | None
    """Seconds until the next wait is over by its time, negative: since when. None: there is none."""
    undelivered: bool
    """An event was sent, or a token completed, and perhaps not given to all who wait for it."""


async def serve_heartbeats(database: Database, fresh: timedelta = timedelta(0)) -> Outlook:
    """Record that heartbeats are being served now, after a gap since when again, and look for what there is to do.

    Args:
        database: The ledger.
        fresh: What was recorded so short a time ago is not written again.
    """
    (row,) = await database.fetch(_SQL["serve_heartbeats"], {"gap": SERVICE_GAP, "fresh": fresh})
    return Outlook(row["gap"], row["due_in"], row["undelivered"])


async def list_of_run(database: Database, run_id: UUID) -> list[dict[str, Any]]:
    """Return the attempts of a run in order."""
    return await database.fetch(_SQL["list_attempts"], {"run_id": run_id})
