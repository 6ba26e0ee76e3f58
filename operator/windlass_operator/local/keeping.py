"""Programs that end with this process, even where it is killed: each has a keeper, and all hold one lifeline."""

import os
import signal
import sys
from pathlib import Path

_KEEPER = str(Path(__file__).with_name("keeper.py"))


class Lifeline:
    """A pipe whose write end nobody else ever has: its end is the end of this process.

    Attributes:
        read: The end for keepers; pass it on with ``pass_fds``.
    """

    def __init__(self) -> None:
        self.read, self._write = os.pipe()  # not inherited by programs that we start

    def close(self) -> None:
        """Let go: every program that hangs on it is told to stop."""
        os.close(self._write)
        os.close(self.read)

    def command(
        self, program: list[str], *, stop: signal.Signals = signal.SIGTERM, grace: float, user: int = 0
    ) -> list[str]:
        """Return the command that runs a program under a keeper.

        Args:
            program: An absolute path, and arguments.
            stop: The signal that asks it to stop.
            grace: Seconds until it is killed after that.
            user: Id of the user and group that it gets; 0 for ours.
        """
        # Isolated and without site packages: neither the user's variables nor their modules have a say in this.
        keeper = [sys.executable, "-I", "-S", _KEEPER, str(self.read), str(int(stop)), str(grace), str(user)]
        return [*keeper, *program]
