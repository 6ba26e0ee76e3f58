"""The runner's end of the shim's socket: the shim runs a container task's command, in the main container.

The messages are described in ``shim/shim.h``. The socket lies in a folder that both containers mount; whoever connects
first is the shim, because nothing else runs in the pod before the shim has started it.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from windlass_runner.memory import UNLIMITED, Container

SOCKET_NAME: Final = "runner.sock"
_LONGEST: Final = 256 * 1024


class Shim:
    """The shim, once it has connected. What a :class:`~windlass_runner.slot.Slot` needs of a starter.

    Attributes:
        secrets: Values that must not appear in the log; only the main container has the variables.
        memory: Bytes that the main container used when it told last.
        ready: Whether it has said all that it says before the command starts.
        stopping: Whether its container was asked to end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.secrets: list[str] = []
        self.memory: int | None = None
        self.ready = False
        self.stopping = False
        self._env: bytes = b""

    def set_environment(self, env: dict[str, str]) -> None:
        """Say what the command gets beside its container's own variables."""
        self._env = b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items())

    def start(self, name: str, module: str | None, attempt: bytes, descriptors: list[int]) -> None:  # noqa: ARG002 - a command gets its payload as a file
        """Let the shim start the command with these ends for its output, which are closed here."""
        with contextlib.suppress(OSError):  # its container has ended, as it shows at the next read
            socket.send_fds(self.socket, [b"G" + self._env], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def signal(self, number: int) -> None:
        """Signal the command's process group."""
        self._send(b"K", number)

    @contextlib.contextmanager
    def interrupting(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` as soon as the shim says anything or is gone; it says nothing before a start, but to stop."""
        before = signal.signal(signal.SIGIO, lambda *_: stop())
        fcntl.fcntl(self.socket, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self.socket, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.socket, fcntl.F_SETFL, flags | os.O_ASYNC)
            if select.select([self.socket], [], [], 0)[0]:  # it came before we listened
                stop()
            yield
        finally:
            fcntl.fcntl(self.socket, fcntl.F_SETFL, flags)
            signal.signal(signal.SIGIO, before)

    def catch_up(self) -> bool:
        """Read what has come already. Returns False when the shim is gone."""
        while select.select([self.socket], [], [], 0)[0]:
            if self.read() is None:
                return False
        return True

    def leave(self, code: int) -> None:
        """Let the main container end: what there was to commit is committed."""
        self._send(b"B", code)

    def _send(self, tag: bytes, number: int) -> None:
        with contextlib.suppress(OSError):  # as above
            self.socket.send(tag + str(int(number)).encode())

    def read(self) -> list[dict[str, Any]] | None:
        """Return what the shim has said; None when it is gone. Waits for a message."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self.socket, _LONGEST, 1)
        except ConnectionError:
            return None
        if not message:
            return None
        tag, body = message[:1], message[1:]
        if tag == b"S":
            self.secrets.append(body.decode(errors="replace"))
        elif tag == b"M":
            self.memory = int(body)
        elif tag == b"R":
            self.ready = True
        elif tag == b"T":
            self.stopping = True
            return [{"stop": True}]
        elif tag == b"E":
            return [{"refused": body.decode(errors="replace")}]
        elif tag == b"X":
            status, why, signalled, kills, limit, peak = (int(word) for word in body.split())
            memory = Container(kills, None if limit >= UNLIMITED else limit or None, peak or None)
            result = descriptors[0] if descriptors else None
            return [{"exit": status, "result": result, "errno": why, "signalled": signalled, "memory": memory}]
        return []


def listen(folder: str) -> socket.socket:
    """Return a socket at which the shim finds us."""
    path = os.path.join(folder, SOCKET_NAME)  # noqa: PTH118 - as below
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.path.exists(path):  # noqa: PTH110 - pathlib would cost milliseconds of every start
        os.unlink(path)  # noqa: PTH108 - of a runner before us in this pod
    listener.bind(path)
    os.chmod(path, 0o777)  # noqa: PTH101, S103 - the main container may run as any user
    listener.listen(1)
    return listener


def accept(listener: socket.socket) -> Shim:
    """Wait for a shim that is ready to start its command."""
    while True:
        connection, _ = listener.accept()
        shim = Shim(connection)
        while not shim.ready:
            if shim.read() is None:
                connection.close()
                break
        else:
            return shim
