"""Attempts: claims, leases and their end. Every write here locks its attempt row and requires it to be open."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.ids import new_id
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import queues, runs
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


async def pod_for_claim(connection: Connection, pod_uid: str, pod_name: str) -> dict[str, Any] | None:
    """Lock and return the pod that asks for work, or None if the ledger does not know its UID (yet)."""
    parameters = {"pod_uid": pod_uid, "pod_name": pod_name}
    return await (await connection.execute(_SQL["pod_for_claim"], parameters)).fetchone()


async def use_pod(connection: Connection, pod_id: UUID, claim_id: str) -> None:
    """Record that the pod's credential serves this claim and no other."""
    await connection.execute(_SQL["use_pod"], {"pod_id": pod_id, "claim_id": claim_id})


async def withdraw_pod(connection: Connection, pod_id: UUID, claim_id: str) -> None:
    """Record that the pod claims nothing any more."""
    await connection.execute(_SQL["withdraw_pod"], {"pod_id": pod_id, "claim_id": claim_id})


async def claim(
    connection: Connection, pod_id: UUID, pod_key: str, token_hashes: list[bytes], lease: timedelta
) -> list[UUID]:
    """Open an attempt for up to ``len(token_hashes)`` runs of the pod key and return their ids, in order."""
    free = await queues.admit(connection, pod_key, len(token_hashes))
    if not free:
        return []
    parameters = {
        "pod_key": pod_key,
        "n": len(token_hashes),
        "queue_ids": list(free),
        "free": list(free.values()),
    }
    rows = await (await connection.execute(_SQL["claim_runs"], parameters)).fetchall()
    assert len(rows) <= len(token_hashes), "a run that is taken without an attempt would be stuck"
    ids = []
    for row, token_hash in zip(rows, token_hashes, strict=False):
        attempt_id = new_id()
        await connection.execute(
            _SQL["open_attempt"],
            {
                "id": attempt_id,
                "run_id": row["id"],
                "number": row["number"],
                "pod_id": pod_id,
                "queue_id": row["queue_id"],
                "token_hash": token_hash,
                "lease": lease,
            },
        )
        await runs.add_event(connection, row["id"], row["revision"], row["state"], attempt=row["number"])
        ids.append(attempt_id)
    if ids:
        await connection.execute(_SQL["pod_claimed"], {"pod_id": pod_id})
        await runs.want_projection(connection, [row["id"] for row in rows])
    return ids


async def open_of_pod(connection: Connection, pod_id: UUID) -> list[UUID]:
    """Return the open attempts of a pod, in lock order."""
    rows = await (await connection.execute(_SQL["open_attempts_of_pod"], {"pod_id": pod_id})).fetchall()
    return [row["id"] for row in rows]


async def memory_of_open(database: Database, pod_id: UUID) -> list[tuple[UUID, int | None]]:
    """Return the open attempts of a pod with the bytes that each used at its last heartbeat."""
    rows = await database.fetch(_SQL["open_attempts_of_pod"], {"pod_id": pod_id})
    return [(row["id"], row["memory_bytes"]) for row in rows]


async def renew_token(connection: Connection, attempt_id: UUID, token_hash: bytes, lease: timedelta) -> bool:
    """Give an open attempt another token, for a claim whose answer was lost."""
    parameters = {"id": attempt_id, "token_hash": token_hash, "lease": lease}
    return await (await connection.execute(_SQL["renew_token"], parameters)).fetchone() is not None


async def claimed(connection: Connection, ids: list[UUID]) -> list[dict[str, Any]]:
    """Return what a runner needs of its attempts, in the order of their ids."""
    return await (await connection.execute(_SQL["claimed_attempt"], {"ids": ids})).fetchall()


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
    await connection.execute(_SQL["close_attempt"], parameters)
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
