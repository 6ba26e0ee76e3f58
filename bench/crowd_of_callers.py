"""Callers of the public API in one process: so many connections, each with one request under way.

Speaks just enough HTTP, because a client that costs more than the server would be what is measured. Reads lines
``connections requests path``, repeats one request that often, and answers with the milliseconds of each.
"""

import asyncio
import json
import sys
import time
from itertools import count
from typing import cast

import uvloop


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._next()

    def _next(self) -> None:
        request = self._crowd.request()
        if request is None:
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take the answer and send the next request."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        length = int(head[head.find(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
        if len(self._data) < end + 4 + length:
            return
        self._crowd.answered(head[9:12], self._data[end + 4 :], time.perf_counter() - self._began)
        self._data = b""
        self._next()


class Crowd:
    """One round of many callers."""

    def __init__(self, requests: int, make: "Template") -> None:
        self._left = requests
        self._make = make
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted = requests

    def request(self) -> bytes | None:
        """Return the next request, or None when all are sent."""
        if self._left == 0:
            return None
        self._left -= 1
        return self._make()

    def answered(self, status: bytes, body: bytes, seconds: float) -> None:
        """Take note of an answer; anything but success ends the round."""
        if status[:1] != b"2" and not self.done.done():
            self.done.set_exception(RuntimeError(f"{status.decode()}: {body[:300].decode()}"))
        self.times.append(seconds * 1000)
        if len(self.times) == self._wanted and not self.done.done():
            self.done.set_result(None)


class Template:
    """Makes requests that differ in a number."""

    def __init__(self, host: str, path: str, token: str, body: str) -> None:
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            "User-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        )
        self._body = body
        self._number = count()

    def __call__(self) -> bytes:
        """Return a request."""
        body = self._body.replace("$N", str(next(self._number)))
        return f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def main() -> None:
    """Serve the rounds that standard input asks for."""
    host, path, token, body = sys.argv[1:5]
    name, _, port = host.partition(":")
    make = Template(host, path, token, body)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        connections, requests = map(int, line.split())
        crowd = Crowd(requests, make)
        began = time.perf_counter()
        for _ in range(connections):
            await loop.create_connection(lambda crowd=crowd: Caller(crowd), name, int(port))  # type: ignore[misc]
        await crowd.done
        print(json.dumps({"seconds": time.perf_counter() - began, "times": crowd.times}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
