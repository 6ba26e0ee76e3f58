"""Attempts: claims, leases and their end. Every write here locks its attempt row and requires it to be open."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

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


async def lock(connection: Connection, attempt_id: UUID, token_hash: bytes | None) -> LockedAttempt | None:
    """Lock an attempt. ``token_hash`` is None only for the reaper, which acts for the ledger itself."""
    parameters = {"id": attempt_id, "token_hash": token_hash}
    row = await (await connection.execute(_SQL["lock_attempt"], parameters)).fetchone()
    if row is None:
        return None
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


async def close(
    connection: Connection, attempt: LockedAttempt, *, outcome: str, failure: str | None, answer: str
) -> None:
    """Close a locked, open attempt. From here on none of its writes is accepted, and its running steps are undone."""
    parameters = {"id": attempt.id, "outcome": outcome, "failure": failure, "answer": answer}
    for row in await (await connection.execute(_SQL["close_attempt"], parameters)).fetchall():
        connection.may_start(row["pod_key"])
    await connection.execute(_SQL["abandon_running_steps"], {"run_id": attempt.run_id})


async def expired(database: Database, lease: timedelta) -> list[UUID]:
    """Return open attempts whose lease has run out while heartbeats were being served."""
    rows = await database.fetch(_SQL["expired_attempts"], {"gap": SERVICE_GAP, "lease": lease})
    return [row["id"] for row in rows]


async def serve_heartbeats(database: Database) -> float | None:
    """Record that heartbeats are being served now; after a gap, since when again. Returns the gap's seconds."""
    rows = await database.fetch(_SQL["serve_heartbeats"], {"gap": SERVICE_GAP})
    return rows[0]["gap"] if rows else None


async def list_of_run(database: Database, run_id: UUID) -> list[dict[str, Any]]:
    """Return the attempts of a run in order."""
    return await database.fetch(_SQL["list_attempts"], {"run_id": run_id})
