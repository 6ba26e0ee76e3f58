"""Output of code that shares its process: each line goes to the attempt whose code has written it."""

import io
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TextIO

from windlass_runner.worker_channel import STDERR, STDOUT, frame

_MOST: Final = 1 << 16
"""Characters of a line that are kept until its end, and bytes of one frame."""


class AttemptOutput:
    """What the code of one attempt writes, sent line by line.

    Args:
        number: Of the attempt.
        send: Sends a frame; may block.
    """

    def __init__(self, number: int, send: Callable[[bytes], None]) -> None:
        self._number = number
        self._send = send
        self._lock = threading.Lock()
        self._rest = {STDOUT: "", STDERR: ""}

    def write(self, kind: int, text: str) -> None:
        """Take text; what ends no line waits for more."""
        with self._lock:
            rest = self._rest[kind] + text
            if "\n" not in text and len(rest) < _MOST:
                self._rest[kind] = rest
                return
            self._rest[kind] = ""
            # Under the lock: two threads of one attempt do not overtake each other.
            self.pass_on(kind, rest.encode(errors="backslashreplace"))

    def pass_on(self, kind: int, data: bytes) -> None:
        """Send bytes as they are, in frames of a size that nobody has to wait for."""
        for at in range(0, len(data), _MOST):
            self._send(frame(kind, self._number, data[at : at + _MOST]))

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            for kind, rest in self._rest.items():
                if rest:
                    self._rest[kind] = ""
                    self.pass_on(kind, rest.encode(errors="backslashreplace"))


HERE: Final[ContextVar[AttemptOutput | None]] = ContextVar("windlass_output", default=None)
"""Where the calling code writes to; None for code of no attempt."""


class SharedStream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a process that runs several attempts at once.

    Args:
        kind: Of its frames.
        own: Takes what no attempt has written.
    """

    def __init__(self, kind: int, own: TextIO) -> None:
        self._kind = kind
        self._own = own
        self.buffer = _SharedBytes(kind, own)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the bytes that are written."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How what has no bytes is written."""
        return "backslashreplace"

    def write(self, text: str) -> int:
        """Write text to the log of the attempt whose code calls."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        here = HERE.get()
        if here is None:
            return self._own.write(text)
        here.write(self._kind, text)
        return len(text)

    def flush(self) -> None:
        """Write what waits for the end of its line."""
        here = HERE.get()
        if here is None:
            self._own.flush()
        else:
            here.flush()

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def fileno(self) -> int:
        """Return the process's own descriptor: what is written there is in the container's log, and in no attempt's."""
        return self._own.fileno()

    def reconfigure(self, **_: Any) -> None:
        """Do nothing: lines are sent when they end, whatever is asked for."""


class _SharedBytes(io.RawIOBase):
    """The stream for bytes beneath a stream for text."""

    def __init__(self, kind: int, own: TextIO) -> None:
        self._kind = kind
        self._own = own

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._own.fileno()

    def write(self, data: Any) -> int:
        data = bytes(data)
        here = HERE.get()
        if here is None:
            return self._own.buffer.write(data)
        here.flush()
        here.pass_on(self._kind, data)
        return len(data)
