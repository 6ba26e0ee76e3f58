"""What bodies leave behind: one line for each time one ran. Standard library only: peers' processes import it too."""

import os
import time
from pathlib import Path


class Effects:
    """Appends to a file that several processes share; a line this short is written as one piece."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, key: str) -> None:
        """Say that the body of this key runs now: the first line of user code."""
        os.write(self._file, f"{key} {time.monotonic_ns()}\n".encode())


def read_effects(path: Path) -> list[tuple[str, int]]:
    """Return key and time, in nanoseconds of the machine's monotonic clock, of everything that was noted."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [(key, int(at)) for key, at in lines]
