"""``windlass dev`` as a user starts it: a process in a folder, whose output is read, and the command line beside it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.eventually import eventually

_VARIABLES = ("WINDLASS_URL", "WINDLASS_TOKEN", "WINDLASS_NAMESPACE", "WINDLASS_DEV_TOKEN", "PYTHONPATH")


class Dev:
    """A running ``windlass dev``.

    Attributes:
        folder: Where it was started.
        process: It.
    """

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, output: Path) -> None:
        self.folder = folder
        self.process = process
        self._output = output

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return self._output.read_text()

    async def says(self, text: str, *, seconds: float = 100) -> str:
        """Wait until it has printed something, and return all that it has printed."""

        async def look() -> str:
            assert self.process.returncode is None or text in self.said, self.said
            return self.said

        return await eventually(look, lambda said: text in said, seconds=seconds)

    async def cli(self, *arguments: str) -> tuple[int, str]:
        """Run the command line in the same folder; return exit code and output."""
        return await cli(self.folder, *arguments)

    def below(self) -> set[int]:
        """Return the processes that came from it, and the server's."""
        return _descendants(self.process.pid)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 60)


@asynccontextmanager
async def dev(folder: Path, *arguments: str, ready: str = "Ctrl-C stops") -> AsyncIterator[Dev]:
    """Start ``windlass dev`` in a folder and wait until it says that it runs."""
    output = folder.parent / f"{folder.name}.out"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "windlass.cli",
            "dev",
            *arguments,
            cwd=folder,
            env=_env(),
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    made = Dev(folder, process, output)
    try:
        if ready:
            await made.says(ready)
        yield made
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 30)


async def cli(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command line in a folder; return exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "windlass.cli",
        *arguments,
        cwd=folder,
        env=_env(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def alive(pids: set[int]) -> set[int]:
    """Return those of these processes that still run."""
    return {pid for pid in pids if pid in {found for found, _ in _processes()}}


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _VARIABLES} | {"PYTHONUNBUFFERED": "1"}


def _descendants(root: int) -> set[int]:
    found, look_at = set[int](), [root]
    processes = _processes()
    while look_at:
        parent = look_at.pop()
        below = [pid for pid, above in processes if above == parent]
        found.update(below)
        look_at += below
    return found


def _processes() -> list[tuple[int, int]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found.append((int(entry.name), int(fields[1])))
    return found
