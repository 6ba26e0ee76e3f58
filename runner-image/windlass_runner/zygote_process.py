"""Process 1's end of the zygote: starts it, hands it attempts, hears of their end."""

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from windlass_runner.zygote_channel import SOCKET


class Zygote:
    """The zygote process.

    Args:
        env: For user code: without the pod's credential.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET)]
        command = [sys.executable, "-m", "windlass_runner.zygote"]
        # setsigmask: signals that we hold back while we start are not to be held back there.
        self.pid = os.posix_spawn(sys.executable, command, dict(env), file_actions=actions, setsigmask=())
        theirs.close()
        self.socket = ours
        self._buffer = b""

    def preload(self, module: str | None) -> None:
        """Let the zygote import the user's module. Not before process 1 is closed to other processes of its user."""
        self._send(msgspec.json.encode({"preload": module}))

    def start(self, attempt: bytes, descriptors: list[int]) -> None:
        """Let the zygote start a child with this attempt and the write ends of its three pipes."""
        self._send(attempt, descriptors)

    def _send(self, body: bytes, descriptors: list[int] | None = None) -> None:
        head = len(body).to_bytes(4, "big")
        if descriptors:
            socket.send_fds(self.socket, [head], descriptors)
        else:
            self.socket.sendall(head)
        self.socket.sendall(body)

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that have come; None when the zygote is gone. Call it when the socket is readable."""
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            return None
        self._buffer += chunk
        messages = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < 4 + size:
                break
            messages.append(msgspec.json.decode(self._buffer[4 : 4 + size]))
            self._buffer = self._buffer[4 + size :]
        return messages
