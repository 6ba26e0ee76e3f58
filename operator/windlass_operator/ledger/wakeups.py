"""Wake-ups between processes: one coalesced NOTIFY on a connection of its own.

Never inside the writing transaction: a NOTIFY holds an instance-wide lock over the commit. A wake-up is a hint; every
loop that is woken also looks by itself.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import psycopg
import structlog

from windlass_operator.domain.ids import new_id
from windlass_operator.ledger.database import LOST_LINK

log = structlog.get_logger()

_CHANNEL: Final = "windlass_changed"
_COALESCE: Final = 0.003
_MOST: Final = 100
"""Run ids, and pod keys, in one message (a payload holds 8,000 bytes); beyond that everybody looks."""
_EVERYTHING: Final = "*"
_ANSWERS_IN: Final = 10.0
"""Seconds that the server may take for a call that does nothing. A silent connection would wake nobody ever again."""
_ASK_EVERY: Final = 30.0


class Wakeups:
    """Tells other processes of changed runs, and is told of theirs.

    Args:
        uri: libpq URI of the ledger.
        woken: Called with each changed run of other processes; None means "look at everything".
        startable: Called with how many runs of which pod keys others have let start; None means "look at everything".
    """

    def __init__(
        self,
        uri: str,
        woken: Callable[[UUID | None], None],
        startable: Callable[[Mapping[str, int] | None], None] = lambda _: None,
    ) -> None:
        self._uri = uri
        self._woken = woken
        self._start = startable
        self._me = new_id().hex[-12:]
        self._pending: set[UUID] = set()
        self._keys: Counter[str] = Counter()
        self._flag = asyncio.Event()

    def changed(self, run_id: UUID) -> None:
        """Tell the others, soon."""
        self._pending.add(run_id)
        self._flag.set()

    def startable(self, keys: Mapping[str, int]) -> None:
        """Tell the others, soon, how many runs of which pod keys may start."""
        self._keys.update(keys)
        self._flag.set()

    async def run(self) -> None:
        """Send and listen until cancelled; connect again after every failure, and look at everything then."""
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._send())
                    group.create_task(self._listen())
            except* (psycopg.Error, OSError) as errors:
                log.info("wake-ups interrupted", error=str(errors.exceptions[0])[:200])
            await asyncio.sleep(1)
            self._all()

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(
            self._uri, autocommit=True, connect_timeout=5, application_name="windlass-wakeups", **LOST_LINK
        )

    async def _send(self) -> None:
        async with await self._connect() as connection:
            while True:
                await self._flag.wait()
                await asyncio.sleep(_COALESCE)
                self._flag.clear()
                ids, self._pending = self._pending, set()
                keys, self._keys = self._keys, Counter()
                changed = ",".join(i.hex for i in ids) if len(ids) <= _MOST else _EVERYTHING
                start = ",".join(f"{k}={n}" for k, n in keys.items()) if len(keys) <= _MOST else _EVERYTHING
                async with asyncio.timeout(_ANSWERS_IN):
                    await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, f"{self._me}:{changed}:{start}"))

    async def _listen(self) -> None:
        async with await self._connect() as connection:
            await connection.execute(f"LISTEN {_CHANNEL}")
            self._all()  # whatever was said before we listened
            while True:
                async for message in connection.notifies(timeout=_ASK_EVERY):
                    self._told(message.payload)
                async with asyncio.timeout(_ANSWERS_IN):
                    await connection.execute("SELECT 1")

    def _all(self) -> None:
        self._woken(None)
        self._start(None)

    def _told(self, payload: str) -> None:
        sender, _, rest = payload.partition(":")
        if sender == self._me:
            return
        changed, said, start = rest.partition(":")
        if changed == _EVERYTHING:
            self._woken(None)
        else:
            for text in changed.split(","):
                with contextlib.suppress(ValueError):
                    self._woken(UUID(text))
        if start == _EVERYTHING or not said:  # a release before this one names no keys
            self._start(None)
        elif start:
            pairs = (part.partition("=") for part in start.split(","))
            self._start({key: int(n) for key, _, n in pairs if n.isdecimal()})
