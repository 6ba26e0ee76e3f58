"""What only a rehearsal asks of the ledger: to be emptied, and what is waited for. See ``local/rehearsal.py``."""

from datetime import datetime
from typing import Any, Final

from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("rehearsal")


async def empty(database: Database) -> None:
    """Forget every project with all its runs."""
    await database.fetch(_SQL["empty"])


async def open_waits(database: Database) -> list[dict[str, Any]]:
    """Return the waits of all runs that wait, the next one due first."""
    return await database.fetch(_SQL["open_waits"])


async def next_try(database: Database) -> datetime | None:
    """Return when the next delayed run may start."""
    rows = await database.fetch(_SQL["next_try"])
    return rows[0]["at"] if rows else None


async def next_deadline(database: Database) -> datetime | None:
    """Return when the next run is over its ``totalTimeout``."""
    rows = await database.fetch(_SQL["next_deadline"])
    return rows[0]["at"] if rows else None
