"""Connections to the ledger: a pool, transactions that are retried when that is safe, one kind of error.

Every transaction here is idempotent (natural keys, compare-and-set), because a commit whose acknowledgement was lost
looks like a failure and is run again. Nothing in this module knows a table.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection, errors
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from windlass_operator import metrics
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError

T = TypeVar("T")
Connection = AsyncConnection[DictRow]
log = structlog.get_logger()

SCHEMA: Final = "windlass"
_TRIES: Final = 4
_WAIT_FOR_CONNECTION: Final = 5.0
_KIND: Final = {False: "statement", True: "transaction"}
_SECONDS: Final = {flag: metrics.LEDGER_SECONDS.labels(kind) for flag, kind in _KIND.items()}
_FAILURES: Final = {flag: metrics.LEDGER_FAILURES.labels(kind) for flag, kind in _KIND.items()}


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is run again.

    A lost connection has no SQLSTATE at all; 25006 (read-only) is what a demoted primary answers and is not an
    OperationalError; 40001 and 40P01 are lost races that the server resolved against us.
    """
    if isinstance(error, PoolTimeout | ConnectionError | TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in ("08", "53", "57", "58") or state in ("25006", "40001", "40P01")


class Database:
    """The pool of one process.

    Args:
        uri: libpq URI.
        size: Connections at most.
        now: Tests give a function that returns the ledger's time; None means the database's own clock.
    """

    def __init__(self, uri: str, *, size: int = 8, now: Callable[[], datetime] | None = None) -> None:
        self._now = now
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            uri,
            min_size=1,
            max_size=size,
            open=False,
            timeout=_WAIT_FOR_CONNECTION,
            max_idle=300,
            reconnect_timeout=5,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": 2,
                "options": f"-c search_path={SCHEMA} -c idle_in_transaction_session_timeout=30000",
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "application_name": "windlass",
            },
        )

    async def open(self) -> None:
        """Start to connect. Does not wait: a process starts while Postgres is away, and says so in its readiness."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode; a broken one never returns to the pool.

        Raises:
            LedgerUnavailableError: Postgres does not answer, or refused for a reason that may pass.
        """
        try:
            async with self._pool.connection() as connection:
                if self._now is not None:
                    await connection.execute("SELECT set_config('windlass.now', %s, false)", (self._now().isoformat(),))
                yield connection
        except Exception as error:
            if is_transient(error):
                if isinstance(error, errors.ReadOnlySqlTransaction):
                    await self._pool.check()  # this connection leads to a demoted primary
                raise LedgerUnavailableError(f"The ledger does not answer: {_first_line(error)}") from error
            raise

    async def fetch(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[DictRow]:
        """Run one statement in its own transaction and return its rows. Retried when that is safe."""

        async def once(connection: Connection) -> list[DictRow]:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []

        return await self._retry(once, transaction=False)

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction; run it again as a whole when the server refused for a passing reason."""
        return await self._retry(work, transaction=True)

    async def _retry(self, work: Callable[[Connection], Awaitable[T]], *, transaction: bool) -> T:
        began = time.monotonic()
        try:
            return await self._tries(work, transaction=transaction)
        finally:
            _SECONDS[transaction].observe(time.monotonic() - began)

    async def _tries(self, work: Callable[[Connection], Awaitable[T]], *, transaction: bool) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                async with self.connection() as connection:
                    if not transaction:
                        return await work(connection)
                    async with connection.transaction():
                        return await work(connection)
            except LedgerUnavailableError as error:
                _FAILURES[transaction].inc()
                if attempt == _TRIES or isinstance(error.__cause__, PoolTimeout):
                    raise
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    async def check(self) -> None:
        """Ask Postgres for a sign of life, quickly.

        Raises:
            LedgerUnavailableError: It does not answer.
        """
        async with self.connection() as connection:
            await connection.execute("SELECT 1")


@contextmanager
def broken_reference(constraint: str, error: WindlassError) -> Iterator[None]:
    """Raise ``error`` where the server refuses a write because of this foreign key."""
    try:
        yield
    except errors.ForeignKeyViolation as violation:
        if violation.diag.constraint_name != constraint:
            raise
        raise error from violation


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
