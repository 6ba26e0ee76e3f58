"""A contestant's processes: spoken to in lines, put to rest while others have their turn, and what they use."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.peers.installed import PYTHON, ROOT

_LINE: Final = 64 * 1024 * 1024
"""Bytes of an answer: three numbers for each run."""
OURS: Final = sys.executable
THEIRS: Final = str(PYTHON)


class Piped:
    """A process that says ``ready``, and then answers each line with one."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, order: dict[str, Any]) -> Any:
        """Send an order and return the answer."""
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return json.loads(await self.line())

    async def line(self) -> str:
        """Return the next line that it says.

        Raises:
            RuntimeError: It has ended.
        """
        assert self._process.stdout is not None, "it is a pipe"
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended; what it said stands above")
        return line.decode().strip()


@asynccontextmanager
async def piped(python: str, *arguments: str) -> AsyncIterator[Piped]:
    """Run a module with a Python for the duration of the block, which begins when it is ready."""
    process = await asyncio.create_subprocess_exec(
        python, "-m", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, limit=_LINE
    )
    try:
        found = Piped(process, arguments[0])
        while await found.line() != "ready":  # libraries greet on standard output
            pass
        yield found
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await process.wait()


def free_ports(count: int, *, among: Sequence[int] = (0,)) -> list[int]:
    """Return so many different ports of the loopback interface that nobody listens on.

    Args:
        count: How many.
        among: Which; any that the kernel offers, if nothing is said.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        while len(sockets) < count:
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", random.choice(among)))
                sockets.append(one)
        return [one.getsockname()[1] for one in sockets]


def rest(pids: Sequence[int], *, awake: bool) -> None:
    """Stop processes and their descendants, or let them go on. Who polls would take CPU from who has the turn."""
    for pid in _family(pids)[0]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if awake else signal.SIGSTOP)


def tree_cpu(pids: Sequence[int]) -> float:
    """Return the seconds of CPU that processes and all their descendants have used, those that have ended included."""
    found, used = _family(pids)
    return sum(used.get(pid, 0.0) for pid in found)


def _family(pids: Sequence[int]) -> tuple[list[int], dict[int, float]]:
    """Return processes with all their descendants, and the seconds of CPU of every process."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
            # Its own time and that of those whose end it has been told.
            used[int(folder.name)] = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found, used
