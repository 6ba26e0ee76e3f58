"""A network between two parts that a test can break: runner and API, API and PostgreSQL, API and object store, ...

Bytes that a fault has taken are lost, so whatever follows them in the same connection is lost as well: no connection
comes back from a fault. New ones do, when the fault is over.
"""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

Loss = Literal["request", "answer"] | None
Side = Literal["request", "answer"]

_CHUNK: Final = 1 << 16
_IDLE: Final = b"Z\x00\x00\x00\x05I"
"""PostgreSQL's last message of an answer, when no transaction is open (any more)."""
_ROUTES: Final = (b"POST /", b"GET /", b"PUT /", b"PATCH /", b"DELETE /", b"HEAD /")


class Pair:
    """One connection: a client, and the server that it believes to talk to.

    Attributes:
        lost: The sides of which nothing passes any more.
        passed: Bytes that passed on each side.
        ready: Answers of PostgreSQL after which no transaction was open.
    """

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.lost: set[Side] = set()
        self.passed: Counter[Side] = Counter()
        self.ready = 0
        self.tail = b""

    def reset(self, *, keep_server: bool = False) -> None:
        """Break the client's connection off, and the server's unless that is to know nothing of it."""
        _abort(self.client)
        if not keep_server:
            _abort(self.server)


class FaultyLink:
    """Passes bytes on, unless told otherwise.

    Attributes:
        port: Where clients connect.
        latency: Seconds that each piece takes in each direction.
        black_hole: Connections are accepted, and no byte passes.
        away: New connections are reset at once, as if nobody listened.
        cut_after: Answer bytes after which a connection is reset; None for no limit.
        edit: Changes each piece of an answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.port = 0
        self.latency = 0.0
        self.black_hole = False
        self.away = False
        self.cut_after: int | None = None
        self.edit: Callable[[bytes], bytes] = lambda data: data
        self.connections = 0
        self._pairs: dict[Pair, asyncio.Task[None]] = {}

    def reset(self) -> None:
        """Break every connection off."""
        for pair in list(self._pairs):
            pair.reset()

    def half_open(self) -> None:
        """Break every client's connection off and leave the server's ends open: a client that lost its power."""
        for pair in list(self._pairs):
            pair.lost.add("request")
            pair.reset(keep_server=True)

    def go_away(self) -> None:
        """Break every connection off and take no new one, until :attr:`away` is taken back."""
        self.away = True
        self.reset()

    def before(self, pair: Pair, side: Side, data: bytes) -> None:
        """Look at a piece before it passes; subclasses decide here what is lost."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        if self.away:
            _abort(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _abort(writer)
            return
        pair = Pair(writer, up_writer)
        self._pairs[pair] = task
        answers = asyncio.create_task(self._copy(pair, "answer", up_reader, writer))
        try:
            await self._copy(pair, "request", reader, up_writer)
            if "request" in pair.lost:
                await answers  # the server has not heard that the client is gone
        except asyncio.CancelledError:
            pass
        finally:
            answers.cancel()
            up_writer.close()
            writer.close()
            del self._pairs[pair]

    async def _copy(self, pair: Pair, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                self.before(pair, side, data)
                if self.latency:
                    await asyncio.sleep(self.latency)
                if self.black_hole:
                    pair.lost |= {"request", "answer"}
                if side in pair.lost:
                    continue
                if side == "answer":
                    data = self.edit(data)
                    if self.cut_after is not None and pair.passed[side] + len(data) >= self.cut_after:
                        writer.write(data[: self.cut_after - pair.passed[side]])
                        await writer.drain()
                        pair.reset()
                        return
                pair.passed[side] += len(data)
                writer.write(data)
                await writer.drain()
            if side not in pair.lost:
                writer.close()

    async def close(self) -> None:
        """Break every connection, and wait until none is left."""
        tasks = list(self._pairs.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class PostgresLink(FaultyLink):
    """A link to PostgreSQL on which the word of a commit can be lost.

    Attributes:
        lost_words: How many answers were swallowed.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.lost_words = 0
        self._lose: int | None = None

    def lose_commit(self, number: int) -> None:
        """Let the server do everything, and swallow its answer to the ``number``-th transaction or lone statement.

        The client's connection is reset instead: it cannot know whether it was committed. 0 loses none any more.
        """
        self._lose = number or None

    def before(self, pair: Pair, side: Side, data: bytes) -> None:
        """Count the transactions that end; lose the one that is due."""
        if side == "request":
            return
        pair.tail = (pair.tail + data)[-len(_IDLE) :]
        if pair.tail != _IDLE:
            return
        pair.ready += 1
        if pair.ready == 1 or self._lose is None:  # the first one ends the greeting
            return
        self._lose -= 1
        if self._lose == 0:
            self._lose = None
            self.lost_words += 1
            pair.lost.add("answer")
            pair.reset()


class HttpLink(FaultyLink):
    """A link to an HTTP server on which single requests or answers can be lost.

    Attributes:
        url: What to call instead of the server.
        calls: How often each route was called, by the last part of its path.
        lose: Called with that part for each request; what it says is lost, silently, and so is all that follows in
            the same connection.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        super().__init__(parts.hostname or "", parts.port or 80)
        self.calls: Counter[str] = Counter()
        self.lose: Callable[[str], Loss] = lambda _: None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def before(self, pair: Pair, side: Side, data: bytes) -> None:
        """Count a request, and lose what is to be lost."""
        if side == "request" and data.startswith(_ROUTES):
            path = data.split(b" ", 2)[1].split(b"?")[0].decode()
            route = path.rsplit("/", 1)[1]
            self.calls[route] += 1
            loss = self.lose(route)
            if loss == "request":
                pair.lost |= {"request", "answer"}
            elif loss == "answer":
                pair.lost.add("answer")


L = TypeVar("L", bound=FaultyLink)


@asynccontextmanager
async def serving_link(link: L) -> AsyncIterator[L]:
    """Let clients connect to a link while the block runs."""
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.close()


def linked(target: str) -> AbstractAsyncContextManager[HttpLink]:
    """Return a link to an HTTP server, served while the block runs."""
    return serving_link(HttpLink(target))


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of a farewell."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
