"""Process 1's end of the zygote: starts it, hands it attempts, hears of their end.

Imported before everything else, so it imports nothing that costs: msgspec only when there is something to say.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from windlass_runner.zygote_channel import SOCKET

_AT_ONCE: Final = 64 * 1024
"""Bytes that the socket takes although nobody reads yet."""
_UNTIL_DEAD: Final = 0.5


class Zygote:
    """The zygote process.

    Args:
        env: For user code: without the pod's credential.

    Attributes:
        socket: Readable when there are messages.
        outputs: Read ends of its output and its errors: what the user's module prints while it is imported.
        ready: Whether it has imported.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        pipes = [os.pipe(), os.pipe()]
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET)]
        actions += [(os.POSIX_SPAWN_DUP2, write, 1 + n) for n, (_, write) in enumerate(pipes)]
        command = [sys.executable, "-m", "windlass_runner.zygote"]
        # setsigmask: signals that we hold back while we start are not to be held back there.
        self.pid = os.posix_spawn(sys.executable, command, dict(env), file_actions=actions, setsigmask=())
        theirs.close()
        for _, write in pipes:
            os.close(write)
        self.outputs = [read for read, _ in pipes]
        self.ready = False
        self.socket = ours
        self._buffer = b""

    def preload(self, module: str | None) -> None:
        """Let the zygote import the user's module. Not before process 1 is closed to other processes of its user."""
        import msgspec

        with contextlib.suppress(OSError):  # it has ended, as the next read shows
            self._send(msgspec.json.encode({"preload": module}))

    def start(self, attempt: bytes, descriptors: list[int]) -> None:
        """Let the zygote start a child with this attempt and the write ends of its three pipes. Never waits for it."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.socket, [_head(attempt)], descriptors)
        if len(attempt) <= _AT_ONCE:
            self._body(attempt)
        else:  # it may be importing for minutes yet, and read nothing
            import threading

            threading.Thread(target=self._body, args=(attempt,), name="attempt", daemon=True).start()

    def _body(self, body: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(body)

    def _send(self, body: bytes) -> None:
        self.socket.sendall(_head(body) + body)

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that have come; None when the zygote is gone. Call it when the socket is readable."""
        import msgspec

        try:
            chunk = self.socket.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        if not chunk:
            return None
        self._buffer += chunk
        messages = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < 4 + size:
                break
            message = msgspec.json.decode(self._buffer[4 : 4 + size])
            self.ready = self.ready or "ready" in message
            messages.append(message)
            self._buffer = self._buffer[4 + size :]
        return messages

    def kill(self) -> None:
        """End it, whatever it does. Children that it started live on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return the exit code of a zygote whose socket is closed; one that only closed it is ended."""
        until = time.monotonic() + _UNTIL_DEAD
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > until:
                self.kill()
            time.sleep(0.005)


def _head(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big")
