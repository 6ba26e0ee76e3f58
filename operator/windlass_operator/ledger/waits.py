"""Durable waits: begun by an attempt, ended by whoever knows that they are over.

A wait is a step that somebody else ends. Its step is history; its row in ``wait`` exists as long as it is not over.

Locks: the row of the run first (several runs in order of id), then its waits. To begin a wait locks the attempt alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, ValueNotStoredError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import runs
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database, broken_reference
from windlass_operator.ledger.queries import load
from windlass_operator.ledger.runs import Value

_SQL: Final = load("waits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a wait: a result, or the failure that the code gets."""

    run_id: UUID
    key: str
    result: Value = field(default_factory=lambda: Value(text="null"))
    failure: protocol.Failure | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A wait whose time has come."""

    run_id: UUID
    key: str
    kind: protocol.StepKind
    name: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A wait that is not over, for people."""

    key: str
    name: str
    kind: protocol.StepKind
    due_at: datetime | None
    target: str | None
    created_at: datetime


async def register(connection: Connection, writer: Writer, waits: Sequence[protocol.Wait]) -> set[str]:
    """Begin waits and return the keys of those that have not begun before.

    Raises:
        AttemptClosedError: The attempt is no longer open. Nothing was written.
    """
    items = [_as_item(wait, order) for order, wait in enumerate(waits)]
    parameters = {
        "items": msgspec.json.encode(items).decode(),
        "attempt_id": writer.attempt_id,
        "token_hash": writer.token_hash,
    }
    row = await (await connection.execute(_SQL["register_waits"], parameters)).fetchone()
    if row is None:
        raise AttemptClosedError
    return set(row["begun"])


def _as_item(wait: protocol.Wait, order: int) -> dict[str, object]:
    return {
        "ord": order,
        "key": wait.key,
        "name": wait.name,
        "args_hash": wait.args_hash,
        "kind": wait.kind,
        "due_in": wait.due_in_ms,
        "due_at": wait.due_at,
        "target": wait.target,
        "detail": bytes(wait.detail).decode() or None,
        "place": wait.place,
        "code_id": wait.code_id,
    }


async def over(connection: Connection, run_id: UUID, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of those steps that wait no more."""
    return await (await connection.execute(_SQL["over"], {"run_id": run_id, "keys": list(keys)})).fetchall()


async def lock_runs(
    connection: Connection, run_ids: Sequence[UUID], *, skip_locked: bool = False
) -> dict[UUID, RunState]:
    """Lock runs in the order of their ids, and return the state of each that is locked.

    Args:
        connection: In a transaction that holds no lock on any wait.
        run_ids: Of the runs, sorted.
        skip_locked: Leave runs alone that somebody else has in hand.
    """
    lock = _SQL["lock_free_runs" if skip_locked else "lock_runs"]
    rows = await (await connection.execute(lock, {"run_ids": list(run_ids)})).fetchall()
    return {row["id"]: RunState(row["state"]) for row in rows}


async def settle(connection: Connection, outcomes: Sequence[Outcome], *, skip_locked: bool = False) -> list[UUID]:
    """End waits and let the runs go on that waited for them. Returns the runs of which a wait has ended.

    A wait that is over or was never begun is left alone.

    Args:
        connection: In a transaction that holds no lock on any wait.
        outcomes: Of any number of runs.
        skip_locked: Leave runs alone that somebody else has in hand; for loops that come back.
    """
    if not outcomes:
        return []
    wanted = sorted({outcome.run_id for outcome in outcomes})
    locked = await lock_runs(connection, wanted, skip_locked=skip_locked)
    waiting = {run_id for run_id, state in locked.items() if state is RunState.WAITING}
    ended = await _end(connection, [outcome for outcome in outcomes if outcome.run_id in locked])
    changed = sorted({row["run_id"] for row in ended})
    await _wake(connection, [row for row in ended if row["run_id"] in waiting])
    if changed:
        await runs.want_projection(connection, changed)
    return changed


async def settle_begun(connection: Connection, outcome: Outcome) -> None:
    """End a wait in the transaction in which an open attempt has begun it: nobody else knows it yet."""
    await _end(connection, [outcome])


async def _end(connection: Connection, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    items = [
        {
            "run_id": outcome.run_id,
            "key": outcome.key,
            "state": "failed" if outcome.failure else "succeeded",
            "result": None if outcome.failure else outcome.result.text,
            "sha256": None if outcome.failure else outcome.result.sha256,
            "size": None if outcome.failure else outcome.result.size,
            "error": msgspec.json.encode(outcome.failure).decode() if outcome.failure else None,
        }
        for outcome in outcomes
    ]
    with broken_reference("step_result_stored", ValueNotStoredError()):
        cursor = await connection.execute(_SQL["end_waits"], {"items": msgspec.json.encode(items).decode()})
    return await cursor.fetchall()


async def _wake(connection: Connection, ended: list[dict[str, Any]]) -> None:
    """Queue the runs that can go on: a wait of no group is over, a group is complete, or one of a group has failed."""
    grouped = {row["run_id"] for row in ended if row["wake_group"] is not None and not _wakes_by_itself(row)}
    open_groups: set[tuple[UUID, int]] = set()
    if grouped:
        # A statement of its own, after the locks: it sees what others have ended meanwhile.
        cursor = await connection.execute(_SQL["unfinished_groups"], {"run_ids": list(grouped)})
        open_groups = {(row["run_id"], row["wake_group"]) for row in await cursor.fetchall()}
    ready = {
        row["run_id"] for row in ended if _wakes_by_itself(row) or (row["run_id"], row["wake_group"]) not in open_groups
    }
    if ready:
        for row in await (await connection.execute(_SQL["wake_runs"], {"run_ids": sorted(ready)})).fetchall():
            connection.may_start(row["pod_key"], row["n"])


def _wakes_by_itself(row: dict[str, Any]) -> bool:
    return row["wake_group"] is None or (row["state"] == "failed" and row["wake_group"] >= 0)


async def due(database: Database, *, limit: int) -> list[Due]:
    """Return waits whose time has come, the longest due first."""
    rows = await database.fetch(_SQL["due_waits"], {"limit": limit})
    return [Due(row["run_id"], row["key"], row["kind"], row["name"]) for row in rows]


async def next_due(database: Database) -> float | None:
    """Return the seconds until the next wait is due, negative if one is; None: no wait has a time."""
    rows = await database.fetch(_SQL["next_due"])
    return None if not rows or rows[0]["seconds"] is None else float(rows[0]["seconds"])


async def of_run(connection: Connection, run_id: UUID, *, limit: int) -> list[Pending]:
    """Return waits of a run that are not over, the next one due first."""
    rows = await (await connection.execute(_SQL["waits_of_run"], {"run_id": run_id, "limit": limit})).fetchall()
    return [
        Pending(row["key"], row["name"], row["kind"], row["due_at"], row["target"], row["created_at"]) for row in rows
    ]


async def count(connection: Connection, run_id: UUID) -> int:
    """Return how many waits of a run are not over."""
    row = await (await connection.execute(_SQL["count_waits"], {"run_id": run_id})).fetchone()
    return 0 if row is None else int(row["n"])


async def group(
    connection: Connection, run_id: UUID, groups: Sequence[Sequence[str]], together: Sequence[Sequence[str]] = ()
) -> None:
    """Record which waits let a locked run go on only together: ``together``, below zero, even when some fail."""
    numbered = [*enumerate(groups), *((-1 - number, keys) for number, keys in enumerate(together))]
    items = [{"key": key, "wake_group": number} for number, keys in numbered for key in keys]
    await connection.execute(_SQL["group_waits"], {"run_id": run_id, "items": msgspec.json.encode(items).decode()})
