"""The harness's end of the forge."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """A process of the scenario.

    Attributes:
        pid: Of its process 1.
        ended: Exit code when it has ended; below 0 the signal that ended it.
    """

    pid: int
    ended: "asyncio.Future[int]"

    def signal(self, number: int) -> None:
        """Send a signal, if it still lives."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it."""
        self.signal(signal.SIGKILL)
        await self.ended


class Forge:
    """Starts processes. See :mod:`tests.crash.forge`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = count(1)
        self._asked: dict[int, asyncio.Future[Process]] = {}
        self._running: dict[int, Process] = {}

    async def start(self, role: str, env: Mapping[str, str], log: Path) -> Process:
        """Start a process of a role."""
        number = next(self._ids)
        answer: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        message = {"id": number, "role": role, "env": dict(env), "log": str(log)}
        self._writer.write(json.dumps(message).encode() + b"\n")
        return await answer

    async def listen(self) -> None:
        """Hear of starts and ends, until cancelled."""
        while line := await self._reader.readline():
            said = json.loads(line)
            if "id" in said:
                process = Process(said["pid"], asyncio.get_running_loop().create_future())
                self._running[process.pid] = process
                self._asked.pop(said["id"]).set_result(process)
            else:
                self._running.pop(said["pid"]).ended.set_result(said["exit"])


@contextlib.asynccontextmanager
async def forge() -> AsyncIterator[Forge]:
    """Keep a forge for the duration of the block."""
    ours, theirs = socket.socketpair()
    actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
    command = [sys.executable, "-m", "tests.crash.forge"]
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    pid = await asyncio.to_thread(os.posix_spawn, sys.executable, command, env, file_actions=actions)
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    made = Forge(reader, writer)
    await reader.readline()  # it has imported everything
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        writer.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await asyncio.to_thread(os.waitpid, pid, 0)
