"""Many attempts in one process: each has its own connection and its own token, and saves one step after the other.

Speaks the runners' protocol as a runner does, without the runner: what is measured is what a step costs the control
plane. Each line it reads is ``steps token token …``; it answers in JSON. Argument: host and port of the API.
"""

import asyncio
import json
import sys
import time
from typing import cast

import msgspec
import uvloop

from windlass import protocol

DONE = [0]
"""Steps whose body has run."""


class Attempt(asyncio.Protocol):
    """One attempt: so many steps, then the end of the run."""

    def __init__(self, host: str, token: str, count: int) -> None:
        self._head = f"Host: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._count = count
        self._step = 0
        self._data = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._next()

    def _next(self) -> None:
        if self._step < self._count:
            self._send("steps", protocol.SaveStepsRequest(steps=[self._tick()]))
        elif self._step == self._count:
            self._send("complete", protocol.CompleteRequest(result=msgspec.Raw(b"%d" % self._count)))
        else:
            self._transport.close()
            self.done.set_result(None)
            return
        self._step += 1

    def _tick(self) -> protocol.Step:
        DONE[0] += 1
        key = f"tick:{self._step}"
        result = msgspec.Raw(b"%d" % self._step)
        return protocol.Step(key=key, name="tick", args_hash="0" * 16, state="succeeded", result=result)

    def _send(self, path: str, message: protocol.Message) -> None:
        body = msgspec.json.encode(message)
        head = f"POST {protocol.PREFIX}/{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        """Take the answer and go on."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.find(b"content-length:")
        length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._data) < end + 4 + length:
            return
        if head[9:10] != b"2":
            self.done.set_exception(RuntimeError(self._data[:500].decode(errors="replace")))
            return
        self._data = b""
        self._next()


async def main() -> None:
    """Serve the rounds that standard input asks for."""
    host = sys.argv[1]
    name, _, port = host.partition(":")
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, *tokens = line.split()
        DONE[0], began = 0, time.perf_counter()

        def attempt(token: str, count: str = count) -> Attempt:
            return Attempt(host, token, int(count))

        made = [await loop.create_connection(lambda token=token: attempt(token), name, int(port)) for token in tokens]  # type: ignore[misc]
        await asyncio.gather(*(one.done for _, one in made))
        print(json.dumps({"seconds": time.perf_counter() - began, "effects": DONE[0]}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
