"""Connections to the ledger: a pool, transactions that are retried when that is safe, one kind of error.

Every transaction here is idempotent (natural keys, compare-and-set), because a commit whose acknowledgement was lost
looks like a failure and is run again. Nothing in this module knows a table.
"""

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection, errors
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from windlass_operator import metrics
from windlass_operator.domain.errors import LedgerUnavailableError, WindlassError

T = TypeVar("T")
log = structlog.get_logger()

SCHEMA: Final = "windlass"
_WAIT_FOR_CONNECTION: Final = 5.0
_PATIENCE: Final = 5.0
"""Seconds for which a transaction is tried again. Not a number of tries: a restart of the server breaks every
connection of the pool, and a request that tried them all in a tenth of a second would be refused for nothing."""
_LONGEST_PAUSE: Final = 0.4
_LONGEST: Final = timedelta(seconds=15)
"""What a transaction may take. Ours take milliseconds; a server that has the bytes and says nothing, such as one that
failed over without a farewell, must be left while the leases still hold."""
_RECONNECT: Final = 0.5
"""Seconds between looks for a server that is away. The pool's own pauses grow to seconds, which all runs would wait."""
LOST_LINK: Final[dict[str, Any]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""When the kernel gives up a connection whose other end has vanished; its own idea of that is a quarter of an hour."""
_PLANNED_ONCE: Final = " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off"
"""The plan of a statement is the same for all its parameters, and making it costs more than all the rest: of one that
takes lists the server would think each time that a plan for this very list is cheaper.

Every question about a large table has its index. A plan that was made while a table was small, as
all are on the first day, and those of the queue after each quiet night, would read it from end to end until the server
has counted again what is in it. (The price of a scan that is to be avoided would make any plan worth compiling.)"""
_KIND: Final = {False: "statement", True: "transaction"}
_SECONDS: Final = {flag: metrics.LEDGER_SECONDS.labels(kind) for flag, kind in _KIND.items()}
_FAILURES: Final = {flag: metrics.LEDGER_FAILURES.labels(kind) for flag, kind in _KIND.items()}


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is run again.

    A lost connection has no SQLSTATE at all, and may have committed; 25006 (read-only) is what a demoted primary
    answers and is not an OperationalError; 25P03 and 25P04 end a transaction whose process was paused in the middle of
    it; class 40 is a race that the server resolved against us.
    """
    if isinstance(error, PoolTimeout | ConnectionError | TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in ("08", "40", "53", "57", "58") or state in ("25006", "25P03", "25P04")


class Connection(AsyncConnection[DictRow]):
    """A connection to the ledger, lent to one transaction at a time."""

    startable: Counter[str]
    """What the transaction lets start, by pod key, for those who wait for that. A hint, told when it has committed."""

    def may_start(self, pod_key: str, runs: int = 1) -> None:
        """Note that so many runs of a pod key may start once the transaction has committed; 0: some, later."""
        self.startable[pod_key] += runs


class Database:
    """The pool of one process.

    Args:
        uri: libpq URI.
        size: Connections at most.
        now: Tests give a function that returns the ledger's time; None means the database's own clock.
        longest: What a statement, and a transaction as a whole, may take. Then it counts as failed, and is repeated.
        scans: It is asked about whole tables.
    """

    def __init__(
        self,
        uri: str,
        *,
        size: int = 8,
        now: Callable[[], datetime] | None = None,
        longest: timedelta = _LONGEST,
        scans: bool = False,
    ) -> None:
        self._now = now
        self._longest = longest.total_seconds()
        self._startable: list[Callable[[Mapping[str, int]], object]] = []
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            uri,
            connection_class=Connection,
            min_size=1,
            max_size=size,
            open=False,
            timeout=_WAIT_FOR_CONNECTION,
            max_idle=300,
            reconnect_timeout=_RECONNECT,
            reconnect_failed=_look_again,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": 2,
                "options": f"-c search_path={SCHEMA} -c idle_in_transaction_session_timeout=30000"
                f" -c statement_timeout={round(self._longest * 1000)}{'' if scans else _PLANNED_ONCE}",
                "connect_timeout": 5,
                **LOST_LINK,
                "application_name": "windlass",
            },
        )

    def on_startable(self, listener: Callable[[Mapping[str, int]], object]) -> None:
        """Call ``listener`` after each commit that lets runs start, with how many of each pod key."""
        self._startable.append(listener)

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
            async with self._pool.connection() as connection, self._limited(connection):
                connection.startable = Counter()
                if self._now is not None:
                    await connection.execute("SELECT set_config('windlass.now', %s, false)", (self._now().isoformat(),))
                yield connection
        except Exception as error:
            if is_transient(error):
                if isinstance(error, errors.ReadOnlySqlTransaction):
                    # A demoted primary, and the others in the pool lead there too. They work, so nothing else would
                    # ever end them; new ones find the primary.
                    await self._pool.drain()
                raise LedgerUnavailableError(f"The ledger does not answer: {_first_line(error)}") from error
            raise

    @asynccontextmanager
    async def _limited(self, connection: Connection) -> AsyncIterator[None]:
        """Cut a connection that has said nothing for too long: whoever waits for it sees it break, and tries another.

        To cancel would mean to talk to the same silent server.
        """
        cut = asyncio.get_running_loop().call_later(self._longest + 1, _cut, connection)
        try:
            yield
        except errors.ReadOnlySqlTransaction:
            await connection.close()
            raise
        finally:
            cut.cancel()

    async def fetch(self, statement: Any, parameters: dict[str, Any] | None = None) -> list[DictRow]:
        """Run one statement in its own transaction and return its rows. Retried when that is safe."""

        async def once(connection: Connection) -> list[DictRow]:
            cursor = await connection.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []

        return await self._retry(once, transaction=False)

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction; run it again as a whole when the server refused for a passing reason."""
        return await self._retry(work, transaction=True)

    async def statements(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` without a transaction around it: each of its statements is one by itself. Retried as a whole."""
        return await self._retry(work, transaction=False)

    async def _retry(self, work: Callable[[Connection], Awaitable[T]], *, transaction: bool) -> T:
        began = time.monotonic()
        startable: Counter[str] = Counter()  # over all tries: one whose commit was not acknowledged may have committed
        try:
            done = await self._tries(work, startable, transaction=transaction)
        finally:
            _SECONDS[transaction].observe(time.monotonic() - began)
        if startable:
            for listener in self._startable:
                listener(startable)
        return done

    async def _tries(
        self, work: Callable[[Connection], Awaitable[T]], startable: Counter[str], *, transaction: bool
    ) -> T:
        until = time.monotonic() + _PATIENCE
        pause = 0.05
        while True:
            try:
                async with self.connection() as connection:
                    connection.startable = startable
                    if not transaction:
                        return await work(connection)
                    async with connection.transaction():
                        return await work(connection)
            except LedgerUnavailableError as error:
                _FAILURES[transaction].inc()
                if isinstance(error.__cause__, PoolTimeout) or time.monotonic() >= until:
                    raise
                pause = min(2 * pause, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, not a secret

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


async def _look_again(pool: AsyncConnectionPool[Connection]) -> None:
    """Go on looking for the server, for those who wait; by itself the pool would rest until the next one comes."""
    await pool.check()


def _cut(connection: Connection) -> None:
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
