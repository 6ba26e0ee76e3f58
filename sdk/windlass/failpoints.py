"""Failpoints: a process dies, or loses a reply, at one chosen call to somebody else. For proof by crashing (ADR 0025).

Nothing here is imported, and nothing is wrapped, unless ``WINDLASS_FAILPOINTS`` is set when a process starts. The
variable names a folder that all processes of a scenario share:

- ``passed``: a line for each call that was begun, ``role|call|n``: the n-th of its name in the scenario
- ``plan``: ``role|call|n|mode``, the one boundary at which something happens; no file, nothing happens
- ``struck``: made when it has happened
"""

import fcntl
import functools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import urlsplit

from windlass.connection import Answer, Connection
from windlass.errors import WindlassError
from windlass.protocol import PREFIX

VARIABLE: Final = "WINDLASS_FAILPOINTS"
RELEASE_MARK: Final = "windlass-release"
"""File beside the interpreter's environment by which an image says that it is a release."""

Role = Literal["runner", "child", "api", "operator"]
Mode = Literal["before", "after", "lost"]
"""``before``: the process dies and the call is not made. ``after``: it is made, and the process dies before it sees the
reply. ``lost``: it is made, and the process lives and sees a broken connection."""
MODES: Final[tuple[Mode, ...]] = ("before", "after", "lost")


class FailpointsRefusedError(WindlassError):
    """Failpoints were asked for where they must not be."""


class Failpoints:
    """The failpoints of one process.

    Args:
        folder: Shared by all processes of a scenario.
        role: What this process is.

    Raises:
        FailpointsRefusedError: The folder or its plan cannot be used.
    """

    def __init__(self, folder: Path, role: Role) -> None:
        self.role = role
        self._folder = folder
        self._seen: Counter[str] = Counter()
        self._read = 0
        self._lock = threading.Lock()
        try:
            # Appended to, so that calls of processes that die are still counted.
            self._passed = os.open(folder / "passed", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            plan = (folder / "plan").read_text() if (folder / "plan").exists() else ""
        except OSError as error:
            raise FailpointsRefusedError(f"{VARIABLE} must name a folder that can be written to: {error}") from None
        self._at, _, mode = plan.strip().rpartition("|")
        if plan and mode not in MODES:
            raise FailpointsRefusedError(f"{folder}/plan ends in {mode[:40]!r}; it must be one of {', '.join(MODES)}.")
        self._mode = cast("Mode", mode)

    def reach(self, call: str) -> Mode | None:
        """Note that a call is about to be made; return what its end must be. Does not return where the process dies."""
        name = f"{self.role}|{call}"
        with self._lock:
            fcntl.flock(self._passed, fcntl.LOCK_EX)
            try:
                self._read_on()
                number = self._seen[name] + 1
                os.write(self._passed, f"{name}|{number}\n".encode())
            finally:
                fcntl.flock(self._passed, fcntl.LOCK_UN)
        if f"{name}|{number}" != self._at:
            return None
        (self._folder / "struck").touch()
        if self._mode == "before":
            self.die()
        return self._mode

    def die(self) -> NoReturn:
        """End this process as the kernel would. Process 1 of a container takes the others with it."""
        for pid in [*(_descendants() if self.role == "runner" else ()), os.getpid()]:
            os.kill(pid, signal.SIGKILL)
        os._exit(137)

    def _read_on(self) -> None:
        """Count what other processes have added."""
        text = b""
        while chunk := os.pread(self._passed, 1 << 16, self._read):
            self._read += len(chunk)
            text += chunk
        for line in text.decode().splitlines():
            self._seen[line.rpartition("|")[0]] += 1


def prepare(role: Role) -> Failpoints:
    """Return the failpoints of this process.

    Raises:
        FailpointsRefusedError: This is a release image, or the variable names no usable folder.
    """
    if (Path(sys.prefix) / RELEASE_MARK).exists():
        raise FailpointsRefusedError(
            f"{VARIABLE} is set, and this is a release image, which has no failpoints. Take the variable away, or "
            "build an image with `--build-arg FAILPOINTS=allowed`."
        )
    return Failpoints(Path(os.environ[VARIABLE]), role)


def install(role: Role) -> Failpoints:
    """Put failpoints around every call to the API that this process makes.

    Raises:
        FailpointsRefusedError: See :func:`prepare`.
    """
    points = prepare(role)
    _wrap_connection(points)
    return points


def wrap(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method by one around it."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(around(original)))


def _wrap_connection(points: Failpoints) -> None:
    fates: dict[int, Mode | None] = {}

    def send(original: Callable[..., None]) -> Callable[..., None]:
        def around(self: Connection, method: str, path: str, headers: str, body: bytes | None = None) -> None:
            fates[id(self)] = points.reach(f"http {method} {route(path)}")
            original(self, method, path, headers, body)

        return around

    def receive(original: Callable[..., Answer]) -> Callable[..., Answer]:
        def around(self: Connection) -> Answer:
            fate = fates.pop(id(self), None)
            answer = original(self)
            if fate == "after":
                points.die()
            if fate == "lost":
                raise ConnectionResetError("the reply is lost, by a failpoint")
            return answer

        return around

    wrap(Connection, "send", send)
    wrap(Connection, "receive", receive)


def route(path: str) -> str:
    """Return a path without what differs from run to run: query, prefix and digests."""
    parts = urlsplit(path).path.removeprefix(PREFIX).split("/")
    return "/".join("…" if len(part) >= 32 else part for part in parts)


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, left = [], [os.getpid()]
    while left:
        under = children.get(left.pop(), [])
        found += under
        left += under
    return found
