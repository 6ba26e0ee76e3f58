"""A process that process 1 starts beside itself, with a socket to it and pipes for its output.

Imported before everything else, so it imports nothing that costs.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

_UNTIL_DEAD: Final = 0.5


class Spawned:
    """One such process. Subclasses say what it is.

    Args:
        env: For user code: without the pod's credential.

    Attributes:
        program: Its module.
        kind: Of the socket.
        channel: The socket's descriptor there.
        socket: Our end.
        outputs: Read ends of its output and its errors: what belongs to no attempt.
        ready: Whether it has imported what it was to preload.
        status: Its wait status, once somebody has waited for it.
    """

    program: str
    kind: socket.SocketKind
    channel: int

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, self.kind)
        pipes = [os.pipe(), os.pipe()]
        self.socket = ours
        self.pid = self._spawn(theirs, [write for _, write in pipes], env)
        theirs.close()
        for _, write in pipes:
            os.close(write)
        self.outputs = [read for read, _ in pipes]
        self.ready = False
        self.status: int | None = None

    def _spawn(self, theirs: socket.socket, outputs: list[int], env: Mapping[str, str]) -> int:
        """Start the process with its end of the socket and of its output; return its id."""
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), self.channel)]
        actions += [(os.POSIX_SPAWN_DUP2, write, 1 + n) for n, write in enumerate(outputs)]
        command = [sys.executable, "-m", self.program]
        # setsigmask: signals that we hold back while we start are not to be held back there.
        return os.posix_spawn(sys.executable, command, dict(env), file_actions=actions, setsigmask=())

    def kill(self) -> None:
        """End it, whatever it does. Children that it started live on."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return the exit code of a process whose socket is closed; one that only closed it is ended."""
        until = time.monotonic() + _UNTIL_DEAD
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                break
            if time.monotonic() > until:
                self.kill()
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(self.status)


def kill_group(pid: int) -> None:
    """End a process and its group; it may not have become the group's leader yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
