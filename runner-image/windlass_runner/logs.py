"""Log lines: split, redacted, numbered, echoed, and sent in batches by a thread of their own."""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, TextIO

from windlass import protocol
from windlass_runner.api import ApiClient, Refused, Unreachable

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Lines that wait for the API; beyond that they are dropped with a marker: user code is never blocked by its log."""
BURST_BYTES: Final = 8 << 20
"""What an attempt may log at once; see :class:`Allowance`."""
BYTES_PER_SECOND: Final = 1 << 20
"""What it may log after that: 86 GB a day, which is a lot for reading."""
_BATCH_LINES: Final = 500
_BATCH_BYTES: Final = 256 * 1024
_EVERY: Final = 0.2
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


def _echo(output: TextIO, lines: list[str]) -> None:
    if lines:
        lines.append("")
        with contextlib.suppress(OSError):  # whoever reads our output is gone, or its disk is full
            output.write("\n".join(lines))
            output.flush()


class LogSender:
    """Numbers the lines of one attempt and sends them.

    Args:
        url: Of the API.
        token: The attempt's.
        redact: Takes secrets out.
    """

    def __init__(self, url: str, token: str, redact: Redactor) -> None:
        self._api = ApiClient(url)
        self._token = token
        self._redact = redact
        self._new: list[tuple[protocol.LogStream, str]] = []
        self._seq = 0
        self._dropped = 0
        self._bytes = 0
        self._waiting: collections.deque[tuple[float, protocol.LogLine]] = collections.deque()
        self._wake = threading.Condition()
        self._flush = False
        self._idle = True
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def add(self, stream: protocol.LogStream, text: str) -> None:
        """Take a line. It is shown and sent after the next :meth:`pass_on`: once for a chunk, not for each line."""
        self._new.append((stream, self._redact(text)))

    def pass_on(self) -> None:
        """Print what was added, for ``kubectl logs``, and let it be sent soon."""
        if not self._new:
            return
        new, self._new = self._new, []
        _echo(sys.stdout, [text for stream, text in new if stream == "stdout"])
        _echo(sys.stderr, [text for stream, text in new if stream == "stderr"])
        now = time.monotonic()
        with self._wake:
            for stream, text in new:
                if self._bytes > _MOST_BYTES:
                    self._dropped += 1
                    continue
                self._append_marker(now)
                self._append(stream, text, now)
            if len(self._waiting) >= _BATCH_LINES or self._bytes >= _BATCH_BYTES:
                self._wake.notify()

    def _append_marker(self, now: float) -> None:
        if self._dropped:
            marker, self._dropped = f"… {self._dropped} lines dropped: the API did not take them in time", 0
            self._append("system", marker, now)

    def _append(self, stream: protocol.LogStream, text: str, now: float) -> None:
        self._seq += 1
        self._bytes += len(text) + 50
        self._waiting.append((now, protocol.LogLine(seq=self._seq, stream=stream, text=text)))

    def flush(self, seconds: float) -> bool:
        """Wait until everything was sent, for some seconds at most. Returns whether it was."""
        self.pass_on()
        until = time.monotonic() + seconds
        with self._wake:
            self._append_marker(time.monotonic())
            self._flush = True
            self._wake.notify()
            while (self._waiting or not self._idle) and time.monotonic() < until:
                self._wake.wait(max(0.0, until - time.monotonic()))
            return not self._waiting and self._idle

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._flush and len(self._waiting) < _BATCH_LINES:
                    self._wake.wait(_EVERY)
                if self._closed:
                    return
                if not self._waiting:
                    self._flush = False
                    self._idle = True
                    self._wake.notify_all()
                    continue
                batch = self._take()
                self._idle = False
            self._send(batch)
            with self._wake:
                self._idle = True
                self._wake.notify_all()

    def _take(self) -> list[tuple[float, protocol.LogLine]]:
        batch: list[tuple[float, protocol.LogLine]] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_LINES and size < _BATCH_BYTES:
            entry = self._waiting.popleft()
            size += len(entry[1].text) + 50
            batch.append(entry)
        self._bytes -= size
        return batch

    def _send(self, batch: list[tuple[float, protocol.LogLine]]) -> None:
        now = time.monotonic()
        for taken, line in batch:
            line.age_ms = (now - taken) * 1000
        request = protocol.LogsRequest(lines=[line for _, line in batch])
        try:
            self._api.call("/logs", request, token=self._token, patience=600, stop=lambda: self._closed)
        except (Refused, Unreachable) as error:
            print(f"windlass-runner: {len(batch)} log lines were not taken: {error}", file=sys.stderr)  # noqa: T201 - the only place left to say it

    def close(self) -> None:
        """Stop sending."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
