"""Tokens: completed once, from outside, and waited for by any run of the project.

Who completes one and who begins to wait for it hold its row, so one of the two comes first and is seen by the other.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("tokens")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it stands."""

    id: UUID
    project_id: int
    value: str | None
    """JSON text, once it is completed."""
    expires_at: datetime
    expired: bool
    run_ended: bool
    callback_key: bytes
    namespace: str


async def callback_key(connection: Connection, project_id: int, fresh: bytes) -> bytes:
    """Return the key from which the secrets of a project are derived; the first call keeps ``fresh``."""
    parameters = {"project_id": project_id, "key": fresh}
    for _ in range(2):
        row = await (await connection.execute(_SQL["callback_key"], parameters)).fetchone()
        if row is not None and row["callback_key"] is not None:
            return bytes(row["callback_key"])
        await connection.execute(_SQL["make_callback_key"], parameters)
    row = await (await connection.execute(_SQL["callback_key"], parameters)).fetchone()
    assert row is not None, "the project is the attempt's"
    return bytes(row["callback_key"])


async def make(
    connection: Connection, token_id: UUID, *, project_id: int, run_id: UUID, key: str, lasts: timedelta
) -> UUID:
    """Make the token of a step, or return the one that it has."""
    parameters = {
        "id": token_id,
        "project_id": project_id,
        "run_id": run_id,
        "key": key,
        "timeout": lasts.total_seconds(),
    }
    await connection.execute(_SQL["make_token"], parameters)
    row = await (await connection.execute(_SQL["token_of_step"], parameters)).fetchone()
    assert row is not None, "it was there or was made, and tokens of open runs are not deleted"
    return UUID(str(row["id"]))


async def find(database: Database, token_id: UUID) -> Token | None:
    """Return a token."""
    rows = await database.fetch(_SQL["find_token"], {"id": token_id})
    return _token(rows[0]) if rows else None


async def lock(connection: Connection, token_id: UUID) -> Token | None:
    """Lock a token in order to complete it."""
    row = await (await connection.execute(_SQL["lock_token"], {"id": token_id})).fetchone()
    return None if row is None else _token(row)


async def watch(connection: Connection, token_id: UUID, run_id: UUID, key: str) -> Token | None:
    """Return the token that a wait is for, if it is of the wait's project; it stays as it is until the commit."""
    parameters = {"id": token_id, "run_id": run_id, "key": key}
    row = await (await connection.execute(_SQL["watch_token"], parameters)).fetchone()
    return None if row is None else _token(row)


async def complete(connection: Connection, token_id: UUID, value: str) -> None:
    """Give a locked token its value."""
    await connection.execute(_SQL["complete_token"], {"id": token_id, "value": value})


async def end_with(connection: Connection, run_id: UUID, key: str, until: datetime) -> None:
    """Let a wait end at a time, if it does not end before."""
    await connection.execute(_SQL["end_with_token"], {"run_id": run_id, "key": key, "until": until})


async def waits_for(
    database: Database, token_id: UUID, project_id: int, *, after: tuple[UUID, str], limit: int
) -> list[tuple[UUID, str]]:
    """Return a page of the waits for a token: runs and keys, after those of the page before."""
    parameters = {
        "id": str(token_id),
        "project_id": project_id,
        "after_run": after[0],
        "after_key": after[1],
        "limit": limit,
    }
    return [(row["run_id"], row["key"]) for row in await database.fetch(_SQL["waits_for_token"], parameters)]


async def undelivered(database: Database) -> list[dict[str, Any]]:
    """Return completed tokens that may have waits left: id, project_id, value."""
    return await database.fetch(_SQL["undelivered_tokens"])


async def mark_delivered(database: Database, token_id: UUID) -> None:
    """Record that no wait is left which began before the token was completed."""
    await database.fetch(_SQL["token_delivered"], {"id": token_id})


async def forget(database: Database, keep: timedelta, *, limit: int) -> int:
    """Delete tokens of runs that ended longer than ``keep`` ago, a batch. Returns how many."""
    return len(await database.fetch(_SQL["forget_tokens"], {"keep": keep, "limit": limit}))


def _token(row: dict[str, Any]) -> Token:
    return Token(
        id=row["id"],
        project_id=row["project_id"],
        value=row["value"],
        expires_at=row["expires_at"],
        expired=row["expired"],
        run_ended=RunState(row["state"]).final,
        callback_key=bytes(row["callback_key"]),
        namespace=row["namespace"],
    )
