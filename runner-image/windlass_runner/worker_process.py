"""Process 1's end of a worker process: starts it, hands it attempts, hears of their end.

Imported before everything else, as the zygote's end is.
"""

import socket
from collections.abc import Mapping

from windlass_runner.spawned import Spawned, kill_group
from windlass_runner.worker_channel import PRELOAD, READ, SOCKET, Frames, frame

TYPE_CHECKING = False  # to import `typing`'s costs milliseconds of every start
if TYPE_CHECKING:
    from windlass_runner.in_process_slot import InProcessSlot


class Worker(Spawned):
    """One worker process.

    Args:
        env: For user code: without the pod's credential.

    Attributes:
        socket: Readable when there are frames.
        present: Attempts whose code runs in it, by their numbers.
        begun: Attempts that it was ever given.
        importing: The number of the attempt whose module it imports, 0 for none.
        ended_by_us: It was killed because code in it did not end.
    """

    program = "windlass_runner.worker"
    kind = socket.SOCK_STREAM
    channel = SOCKET

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.present: dict[int, InProcessSlot] = {}
        self.begun = 0
        self.importing = 0
        self.ended_by_us = False
        self._frames = Frames()
        self._unsent = bytearray()

    def preload(self, module: str | None) -> None:
        """Let it import the users' module. Not before process 1 is closed to other processes of its user."""
        self.send(PRELOAD, 0, (module or "").encode())

    def add(self, slot: "InProcessSlot") -> int:
        """Count an attempt as its own, and return its number."""
        self.begun += 1
        self.present[self.begun] = slot
        return self.begun

    def send(self, kind: int, number: int = 0, body: bytes = b"") -> None:
        """Send a frame. Never waits: what does not fit goes with :meth:`send_what_fits`."""
        self._unsent += frame(kind, number, body)
        self.send_what_fits()

    def send_what_fits(self) -> bool:
        """Send what waits; returns whether something is left."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return True
        except OSError:  # it has ended, as the next read shows
            self._unsent.clear()
        return False

    def read(self) -> list[tuple[int, int, bytes]] | None:
        """Return the frames that have come; None when the process is gone."""
        try:
            chunk = self.socket.recv(READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            chunk = b""
        self.send_what_fits()
        return list(self._frames.feed(chunk)) if chunk else None

    def kill(self) -> None:
        """End it with all that its code has started in its group."""
        if self.status is None:
            kill_group(self.pid)

    def close(self) -> None:
        """Let it end: it gets no more attempts."""
        self.socket.close()
