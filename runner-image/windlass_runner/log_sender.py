"""The log lines of all attempts of a runner: numbered, echoed, and sent in batches by one thread."""

import collections
import contextlib
import sys
import threading
import time
from typing import Final, TextIO

from windlass import protocol
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.logs import Redactor

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Lines of one attempt that wait for the API; beyond that they are dropped with a marker: user code is never blocked by
its log."""
_MOST_OF_ALL: Final = 32 * 1024 * 1024
"""The same for all attempts of this runner, those that have ended too."""
_BATCH_LINES: Final = 500
_BATCH_BYTES: Final = 256 * 1024
_EVERY: Final = 0.2
_PATIENCE: Final = 5.0
"""Seconds that the thread waits for the API before it turns to the next attempt."""
_GIVEN_UP_AFTER: Final = 600.0
"""Seconds after which a line that the API did not take is dropped."""

_Waiting = tuple[float, protocol.LogLine]


class AttemptLog:
    """The lines of one attempt. Added by the loop's thread; sent by whichever thread holds the right to send.

    Args:
        token: The attempt's.
        redact: Takes secrets out.
        sender: Sends what :meth:`flush` does not.
    """

    def __init__(self, token: str, redact: Redactor, sender: "LogSender") -> None:
        self._token = token
        self.redact = redact
        self._sender = sender
        self._new: list[tuple[protocol.LogStream, str]] = []
        self._seq = 0
        self._dropped = 0
        self._bytes = 0
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        """Held while a batch is on its way: batches arrive in order."""

    def add(self, stream: protocol.LogStream, text: str) -> None:
        """Take a line. It is shown and sent after the next :meth:`pass_on`: once for a chunk, not for each line."""
        self._new.append((stream, self.redact(text)))

    def pass_on(self) -> None:
        """Print what was added, for ``kubectl logs``, and let it be sent soon."""
        if not self._new:
            return
        new, self._new = self._new, []
        _echo(sys.stdout, [text for stream, text in new if stream == "stdout"])
        _echo(sys.stderr, [text for stream, text in new if stream == "stderr"])
        now = time.monotonic()
        with self._lock:
            for stream, text in new:
                if self._bytes > _MOST_BYTES or self._sender.full():
                    self._dropped += 1
                    continue
                self._append_marker(now)
                self._append(stream, text, now)
            batch = len(self._waiting) >= _BATCH_LINES or self._bytes >= _BATCH_BYTES
        self._sender.take(self, now=batch)

    def _append_marker(self, now: float) -> None:
        if self._dropped:
            marker, self._dropped = f"… {self._dropped} lines dropped: the API did not take them in time", 0
            self._append("system", marker, now)

    def _append(self, stream: protocol.LogStream, text: str, now: float) -> None:
        self._seq += 1
        size = len(text) + 50
        self._bytes += size
        self._sender.count(size)
        self._waiting.append((now, protocol.LogLine(seq=self._seq, stream=stream, text=text)))

    def flush(self, api: ApiClient, seconds: float) -> bool:
        """Send everything that was passed on, for some seconds at most. Returns whether the API has it.

        Args:
            api: The calling thread's.
            seconds: Beyond them the sender's thread goes on.
        """
        until = time.monotonic() + seconds
        with self._lock:
            self._append_marker(time.monotonic())
            if not self._seq:
                return True
        while self._sending.acquire(timeout=max(0.0, until - time.monotonic())):
            try:
                if not self._waiting:
                    return True
                if not self._send(api, until - time.monotonic()):
                    return False
            finally:
                self._sending.release()
        return False

    @property
    def is_silent(self) -> bool:
        """Whether nothing was ever passed on: nothing need be waited for."""
        return not (self._seq or self._dropped)

    def is_empty(self) -> bool:
        """Return whether no line waits."""
        return not self._waiting

    def send_batch(self, api: ApiClient, patience: float) -> bool:
        """Send one batch. Returns whether there is more."""
        with self._sending:
            self._send(api, patience)
            return bool(self._waiting)

    def _send(self, api: ApiClient, patience: float) -> bool:
        """Send one batch; returns whether it is done with."""
        with self._lock:
            batch = self._take()
        if not batch:
            return True
        now = time.monotonic()
        for taken, line in batch:
            line.age_ms = (now - taken) * 1000
        request = protocol.LogsRequest(lines=[line for _, line in batch])
        try:
            api.call("/logs", request, token=self._token, patience=max(0.0, patience), stop=self._sender.is_closed)
        except Unreachable as error:
            if now - batch[0][0] < _GIVEN_UP_AFTER:
                with self._lock:
                    self._waiting.extendleft(reversed(batch))
                    self._count(batch, 1)
                return False
            _say_lost(batch, error)
        except Refused as error:
            _say_lost(batch, error)
        return True

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_LINES and size < _BATCH_BYTES:
            entry = self._waiting.popleft()
            size += len(entry[1].text) + 50
            batch.append(entry)
        self._count(batch, -1)
        return batch

    def _count(self, batch: list[_Waiting], sign: int) -> None:
        size = sign * sum(len(line.text) + 50 for _, line in batch)
        self._bytes += size
        self._sender.count(size)


class LogSender:
    """The thread that sends lines while their attempts run. It is started with the first line.

    Args:
        url: Of the API.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._logs: dict[AttemptLog, None] = {}
        """Those with lines that wait, in the order in which they came."""
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._now = threading.Event()
        self._bytes = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def open(self, token: str, redact: Redactor) -> AttemptLog:
        """Return the log of one attempt."""
        return AttemptLog(token, redact, self)

    def full(self) -> bool:
        """Return whether too much waits already."""
        return self._bytes > _MOST_OF_ALL

    def count(self, size: int) -> None:
        """Note that so many bytes more wait."""
        with self._lock:
            self._bytes += size

    def is_closed(self) -> bool:
        """Return whether nothing is sent any more."""
        return self._closed

    def take(self, log: AttemptLog, *, now: bool) -> None:
        """Send the lines of a log soon, or now: lines that come together go together."""
        with self._lock:
            self._logs[log] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
                self._thread.start()
        self._some.set()
        if now:
            self._now.set()

    def _run(self) -> None:
        api = ApiClient(self._url)
        while not self._closed:
            self._some.wait()
            self._now.wait(_EVERY)
            self._some.clear()
            self._now.clear()
            for log in list(self._logs):  # one batch of each in turn: a talkative one delays nobody
                more = log.send_batch(api, _PATIENCE)
                with self._lock:
                    if not more and log.is_empty():
                        self._logs.pop(log, None)
                        continue
                self._some.set()
                self._now.set()

    def flush(self, seconds: float) -> None:
        """Send what is left of all attempts, for some seconds at most."""
        until = time.monotonic() + seconds
        api = ApiClient(self._url)
        with self._lock:
            logs = list(self._logs)
        for log in logs:
            log.flush(api, until - time.monotonic())

    def close(self) -> None:
        """Stop sending."""
        self._closed = True
        self._some.set()
        self._now.set()


def _echo(output: TextIO, lines: list[str]) -> None:
    if lines:
        lines.append("")
        with contextlib.suppress(OSError):  # whoever reads our output is gone, or its disk is full
            output.write("\n".join(lines))
            output.flush()


def _say_lost(batch: list[_Waiting], error: Exception) -> None:
    print(f"windlass-runner: {len(batch)} log lines were not taken: {error}", file=sys.stderr)  # noqa: T201 - the only place left to say it
