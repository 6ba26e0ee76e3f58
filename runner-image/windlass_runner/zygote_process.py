"""Process 1's end of the zygote: starts it, hands it attempts, hears of their end.

Imported before everything else, so it imports nothing that costs: msgspec only when there is something to say.
"""

import array
import contextlib
import os
import socket
from collections.abc import Collection, Mapping
from typing import Any, Final

from windlass_runner.spawned import Spawned
from windlass_runner.zygote_channel import LONGEST, SOCKET

TYPE_CHECKING = False  # as in the SDK
if TYPE_CHECKING:
    from windlass_runner.spares import Spares


class Zygote(Spawned):
    """The zygote process.

    Args:
        env: For user code: without the pod's credential.

    Attributes:
        socket: Readable when there are messages.
        outputs: What the user's module prints while it is imported.
        fresh: Modules whose attempts get an interpreter of their own instead of a fork.
        spares: Children that it has forked ahead, where it forks many.
    """

    program = "windlass_runner.zygote"
    kind = socket.SOCK_SEQPACKET  # whole messages, each with the descriptors that it came with
    channel = SOCKET

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.fresh: Collection[str] = ()
        self.spares: Spares | None = None
        self._files: dict[str, int] = {}
        """Attempts whose child has not been heard of."""
        self._unsent: list[tuple[bytes, list[int]]] = []

    def preload(self, module: str | None) -> None:
        """Let the zygote import the user's module. Not before process 1 is closed to other processes of its user."""
        self._say({"preload": module})

    def warm(self) -> None:
        """Let the zygote import what most attempts need, because it will fork many of them."""
        self._say({"warm": True})

    def fork_ahead(self, count: int) -> None:
        """Let the zygote fork children that wait for attempts."""
        self._say({"ahead": count})

    def start(self, name: str, module: str | None, attempt: bytes, descriptors: list[int]) -> None:
        """Let the zygote start a child. Never waits for it.

        Args:
            name: The attempt's id: messages about it carry it.
            module: To be imported in the zygote first, unless it has been; None: by the child itself.
            attempt: The attempt. Only the child reads it: a zygote that had would hand its token on to others.
            descriptors: Write ends of the child's three pipes; closed here.
        """
        import msgspec

        head = {"start": name, "module": module, "fresh": module in self.fresh}
        file = file_of(attempt)
        self._files[name] = os.dup(file)
        self._send(msgspec.json.encode(head), [file, *descriptors])

    def has_taken(self, name: str) -> bool:
        """Whether it has begun to start an attempt: its first deed is to go back to the beginning of the file."""
        file = self._files.get(name)
        return file is None or os.lseek(file, 0, os.SEEK_CUR) == 0

    def _forget_file(self, name: str | None) -> None:
        if name in self._files:
            os.close(self._files.pop(name))

    def _say(self, message: dict[str, Any]) -> None:
        import msgspec

        self._send(msgspec.json.encode(message), [])

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        self._unsent.append((message, descriptors))
        self._send_what_fits()

    def _send_what_fits(self) -> None:
        """Send what waits. What does not fit waits for the next answer: a full socket is one with attempts in it."""
        while self._unsent:
            message, descriptors = self._unsent[0]
            try:
                _send(self.socket, message, descriptors)
            except BlockingIOError:
                return
            except OSError:  # it has ended, as the next read shows
                pass
            del self._unsent[0]
            for descriptor in descriptors:
                os.close(descriptor)

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages that have come; None when the zygote is gone. Call it when the socket is readable."""
        import msgspec

        messages: list[dict[str, Any]] = []
        with contextlib.suppress(BlockingIOError):
            while len(messages) < 64:
                try:
                    body, descriptors = _receive(self.socket)
                except ConnectionResetError:
                    continue  # it died with something unread; that is said once, and before what it has said itself
                if not body:
                    return messages or None
                message = msgspec.json.decode(body)
                self.ready = self.ready or "ready" in message
                if "pid" in message:
                    self._forget_file(message.get("id"))
                heard = message if self.spares is None else self.spares.heard(message, descriptors)
                if heard is not None:
                    messages.append(heard)
        self._send_what_fits()
        return messages

    def close(self) -> None:
        """Let it end: it serves no more attempts. Children that it started live on."""
        for _, descriptors in self._unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self._unsent.clear()
        for name in list(self._files):
            self._forget_file(name)
        if self.spares is not None:
            self.spares.dismiss()
        self.socket.close()


_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_MOST_DESCRIPTORS: Final = 3
_INT: Final = 4


def _send(channel: socket.socket, message: bytes, descriptors: Collection[int]) -> None:
    # Not send_fds(): that of Python 3.11 ignores its flags, and would wait.
    rights = [(*_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([message], rights, socket.MSG_DONTWAIT)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    # Not recv_fds(), as above. Descriptors are not to be inherited: another zygote would hold the pipes of this one's
    # children open.
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    body, rights, _, _ = channel.recvmsg(LONGEST, socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT), flags)
    found = array.array("i")
    for _, _, data in rights:
        found.frombytes(data)
    return body, list(found)


def file_of(data: bytes) -> int:
    """Return a file in memory that holds the data, for a process that reads it by position."""
    descriptor = os.memfd_create("attempt")
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return descriptor
