"""Races made certain: a row is held until those who race for it wait for its lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg

from tests.support.eventually import eventually
from windlass_operator.ledger.database import SCHEMA

_WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


class Holder:
    """Another process in the middle of its transaction."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    async def waited_for(self, by: int = 1) -> None:
        """Return when so many others wait for a lock."""
        async with await psycopg.AsyncConnection.connect(self._uri, autocommit=True) as look:

            async def waiting() -> int:
                row = await (await look.execute(_WAITING)).fetchone()
                return int(row[0]) if row else 0

            await eventually(waiting, lambda n: n >= by)


@asynccontextmanager
async def holding(uri: str, statement: LiteralString, *parameters: Any) -> AsyncIterator[Holder]:
    """Run a statement and keep its locks to the end of the block."""
    options = f"-c search_path={SCHEMA}"
    async with await psycopg.AsyncConnection.connect(uri, options=options) as connection:
        await connection.execute(statement, parameters)
        yield Holder(uri)
        await connection.commit()
