"""A network between runner and API that a test can break."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Loss = Literal["request", "answer"] | None


class Proxy:
    """Passes bytes on.

    Attributes:
        calls: How often each route of the runtime protocol was called, by the last part of its path.
        lose: Called with that part for each request; what it says is lost, silently, and so is all that follows in
            the same connection.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.calls: Counter[str] = Counter()
        self.lose: Callable[[str], Loss] = lambda _: None
        self.url = ""
        self._peers: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        up_reader, up_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        answers = asyncio.create_task(_copy(up_reader, writer))
        try:
            loss: Loss = None
            while data := await reader.read(1 << 16):
                if data.startswith((b"POST /runtime", b"GET /runtime", b"PUT /runtime")):
                    route = data.split(b" ", 2)[1].decode().rsplit("/", 1)[1]
                    self.calls[route] += 1
                    loss = loss or self.lose(route)
                if loss == "answer":
                    answers.cancel()
                if loss != "request":
                    up_writer.write(data)
                    await up_writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            answers.cancel()
            up_writer.close()
            writer.close()
            self._peers.discard(task)

    async def close(self) -> None:
        """Break every connection."""
        for peer in list(self._peers):
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[Proxy]:
    """Serve a proxy in front of ``target``."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield proxy
    server.close()
    await proxy.close()
