"""Log lines. Written without waiting for the disk: a crash of Postgres may lose the last half second of them."""

from typing import Any, Final
from uuid import UUID

import msgspec

from windlass.protocol import LogLine
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("logs")


async def save(database: Database, attempt_id: UUID, token_hash: bytes, lines: list[LogLine]) -> bool:
    """Save lines that are not there yet. Returns False when the attempt no longer takes any."""
    text = msgspec.json.encode(lines).decode()

    async def work(connection: Connection) -> bool:
        await connection.execute("SET LOCAL synchronous_commit = off")
        cursor = await connection.execute(
            _SQL["save_logs"], {"attempt_id": attempt_id, "token_hash": token_hash, "lines": text}
        )
        return await cursor.fetchone() is not None

    return await database.transaction(work)


async def list_of_run(database: Database, run_id: UUID, *, after: tuple[int, int], limit: int) -> list[dict[str, Any]]:
    """Return lines of all attempts in order, after (attempt, seq)."""
    parameters = {"run_id": run_id, "attempt": after[0], "seq": after[1], "limit": limit}
    return await database.fetch(_SQL["list_logs"], parameters)
