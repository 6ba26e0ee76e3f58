"""Output becomes lines: split, cut, held to an allowance, without secrets."""

import time
from collections.abc import Callable
from typing import Final

from windlass import protocol

BURST_BYTES: Final = 8 << 20
"""What an attempt may log at once; see :class:`Allowance`."""
BYTES_PER_SECOND: Final = 1 << 20
"""What it may log after that: 86 GB a day, which is a lot for reading."""
_SHORTEST_SECRET: Final = 6
_HIDDEN: Final = "[redacted]"


class Allowance:
    """How much an attempt may log: a burst, and then a rate. One for all of its streams.

    Without it one run that prints in a loop would fill the ledger and its node's disk at the expense of all others.

    Args:
        burst: Bytes at once.
        rate: Bytes a second.
        now: Seconds, for tests.
    """

    def __init__(
        self, burst: float = BURST_BYTES, rate: float = BYTES_PER_SECOND, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._rate, self._now = burst, rate, now
        self._left, self._at = burst, now()
        self._least = 0.0

    def take(self, size: int) -> bool:
        """Return whether ``size`` bytes may be logged now, and count them if so."""
        at = self._now()
        self._left = min(self._burst, self._left + (at - self._at) * self._rate)
        self._at = at
        if self._left < max(size, self._least):
            self._least = min(self._rate, self._burst)  # a second of silence, not a marker between any two lines
            return False
        self._least = 0.0
        self._left -= size
        return True


class Lines:
    """Splits one stream into lines, whatever the chunks are.

    Args:
        allowance: What is over it is dropped, with a marker in its place.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._rest = b""
        self._cut = False
        self._dropped = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that ``chunk`` completes. A line over the limit is cut, with a marker."""
        if self._cut and not self._dropped and b"\n" not in chunk:
            return []  # the rest of a line that was cut
        if not self._allowance.take(len(chunk)):
            self._drop(chunk)
            return []
        lines = self._marker()
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            if self._cut:
                self._cut = False
                continue
            lines.append(_text(line))
        if len(self._rest) > protocol.MAX_LOG_LINE:
            if not self._cut:
                lines.append(_text(self._rest))
            self._cut = True
            self._rest = b""
        return lines

    def end(self) -> list[str]:
        """Return what is left without a line end."""
        rest, self._rest = self._rest, b""
        return self._marker() + ([_text(rest)] if rest and not self._cut else [])

    def _drop(self, chunk: bytes) -> None:
        """Count and forget: to look at each line is what there is no time for."""
        self._dropped += len(self._rest) + len(chunk)
        self._rest = b""
        self._cut = not chunk.endswith(b"\n")

    def _marker(self) -> list[str]:
        if not self._dropped:
            return []
        dropped, self._dropped = self._dropped, 0
        limits = f"{BURST_BYTES >> 20} MiB at once and {BYTES_PER_SECOND >> 20} MiB/s after that"
        return [f"… {dropped} bytes dropped: an attempt may log {limits}"]


def _text(line: bytes) -> str:
    text = line.rstrip(b"\r")[: protocol.MAX_LOG_LINE].decode(errors="replace")
    return f"{text} … line cut at {protocol.MAX_LOG_LINE} bytes" if len(line) > protocol.MAX_LOG_LINE else text


class Redactor:
    """Takes secrets out of lines."""

    def __init__(self, secrets: list[str]) -> None:
        parts = {part for secret in secrets for part in secret.splitlines() if len(part) >= _SHORTEST_SECRET}
        self._secrets = sorted(parts, key=len, reverse=True)

    def __call__(self, line: str) -> str:
        """Return the line without secrets."""
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, _HIDDEN)
        return line
