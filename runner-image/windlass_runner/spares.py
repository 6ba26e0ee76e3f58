"""Children that a zygote has forked ahead of need, as process 1 sees them: each waits at a socket of its own.

A spare is nobody's attempt. It becomes one's when it goes back to the beginning of the file that it was handed, which
is its first deed; until then its death concerns no run.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from windlass_runner.zygote_channel import SPARE
from windlass_runner.zygote_process import file_of

_MOST: Final = 4
"""Children that wait. More would only help a crowd, whose throughput gains nothing by them, and each has megabytes."""
_QUIET, _CALM = 0.003, 0.02
"""Seconds without a start until others are forked, so as to take no time from the code that starts; and in a crowd."""
_MOST_DEATHS: Final = 3


class Spare:
    """A child that waits for an attempt.

    Attributes:
        pid: Its process.
        result: Our end of its socket; its result comes from there.
        outputs: Read ends of its output and its errors.
        file: The attempt, once it was handed one.
    """

    def __init__(self, pid: int, descriptors: Sequence[int]) -> None:
        self.pid = pid
        self.result, *self.outputs = descriptors
        self.file = -1
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)

    def hand(self, attempt: bytes) -> bool:
        """Hand it an attempt; returns whether it can still get it."""
        file = file_of(attempt)
        channel = socket.socket(fileno=self.result)
        try:
            socket.send_fds(channel, [b"a"], [file])
        except OSError:  # it has died, and the zygote is about to say so
            os.close(file)
            return False
        finally:
            channel.detach()
        self.file = file
        return True

    def has_begun(self) -> bool:
        """Whether it has begun with its attempt."""
        return os.lseek(self.file, 0, os.SEEK_CUR) == 0

    def dismiss(self) -> None:
        """Let it end: it ends when its socket does."""
        for descriptor in (self.result, *self.outputs):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Spares:
    """The waiting children of one zygote."""

    def __init__(self) -> None:
        self._waiting: deque[Spare] = deque()
        self._attempts: dict[str, str] = {}
        """Attempts of spares by the names that the zygote has for these."""
        self._modules: set[str] = set()
        self._asked = 0
        self._deaths = 0
        self._taken_at = 0.0

    def missing(self, now: float, slots: int, running: int) -> tuple[int, float]:
        """Return how many are to be forked now, and the monotonic time at which to look again.

        Args:
            now: Monotonic time.
            slots: Attempts that the pod may hold.
            running: Attempts that it holds.
        """
        most = min(_MOST, slots)
        missing = most - len(self._waiting) - self._asked
        if missing <= 0 or self._deaths >= _MOST_DEATHS:
            return 0, float("inf")
        due = self._taken_at + (_QUIET if running <= most else _CALM)
        if now < due:
            return 0, due
        self._asked += missing
        return missing, float("inf")

    def take(self, name: str, module: str | None, attempt: bytes, now: float) -> Spare | None:
        """Return a child that was handed the attempt, if there is one that has its module."""
        self._taken_at = now
        while self._waiting and (module is None or module in self._modules):
            spare = self._waiting.popleft()
            if spare.hand(attempt):
                self._attempts[f"{SPARE}{spare.pid}"] = name
                return spare
            spare.dismiss()
        return None

    def heard(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        """Take in a message of the zygote; return what of it concerns an attempt, or others than us."""
        if "spare" in message:
            self._asked -= 1
            self._waiting.append(Spare(message["spare"], descriptors))
            return None
        if "imported" in message:
            self._modules.add(message["imported"])
            self.dismiss()  # they were forked before
            return None
        name = message.get("id", "")
        if not name.startswith(SPARE):
            if "exit" in message:
                self._deaths = 0  # children can live here
            return message
        attempt = self._attempts.pop(name, None)
        if attempt is not None:
            self._deaths = 0
            return {**message, "id": attempt}
        self._bury(int(name.removeprefix(SPARE)))
        return None

    def _bury(self, pid: int) -> None:
        for spare in [spare for spare in self._waiting if spare.pid == pid]:
            self._deaths += 1  # it was not told to: they are not forked without end, only to die
            self._waiting.remove(spare)
            spare.dismiss()

    def dismiss(self) -> None:
        """Let all that wait end."""
        while self._waiting:
            self._waiting.popleft().dismiss()
