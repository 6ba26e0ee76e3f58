"""Process 1's watch over one attempt: one loop for pipes, timers and signals.

Two threads stand beside it, each the only user of its own connection: heartbeats, which nothing may delay, and the log
sender, which may wait for the API. Everything they learn comes back to the loop through a pipe, so that only the loop
decides about the child.
"""

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from typing import Any, Final

import msgspec

from windlass import protocol
from windlass_runner import exit_codes, memory, outcome
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.config import Config
from windlass_runner.heartbeats import Heartbeats
from windlass_runner.logs import Allowance, Lines, LogSender, Redactor
from windlass_runner.zygote_process import Zygote

_STREAMS: Final[tuple[protocol.LogStream, ...]] = ("stdout", "stderr")
_LIMITS: Final = ("total", "run", "attempt")
_FLUSH: Final = 5.0
"""Seconds that the report of an attempt waits for its log."""
_LAST_FLUSH: Final = 30.0
"""Seconds that the pod waits for the rest of it, after the report."""
_LAST_WORD: Final = 2.0
"""Seconds that a look for more running time may take before the code is ended. An API that is away extends nothing."""
_LINGER: Final = 1.0
"""Seconds after the child's end that its output is waited for: who holds a pipe longer has left its group."""
_MOST_LEFT: Final = 1 << 20
"""Bytes of each pipe that are read after that."""


class Supervisor:
    """One attempt from claim to report.

    Args:
        config: Of the pod.
        zygote: Starts the child.
        attempt: What was claimed.
        claimed_at: Monotonic time of the claim: timeouts count from it.
        wake: Read and write end of the pipe that signals and threads write to.
    """

    def __init__(
        self,
        config: Config,
        zygote: Zygote,
        attempt: protocol.ClaimedAttempt,
        *,
        claimed_at: float,
        wake: tuple[int, int],
        stopping: "list[float]",
    ) -> None:
        self._config = config
        self._zygote = zygote
        self._attempt = attempt
        self._claimed_at = claimed_at
        self._wake_read, self._wake_write = wake
        self._stopping = stopping
        self._answers: deque[protocol.BeatAnswer] = deque()
        credential, _ = config.credential()
        self._redact = Redactor([*config.secrets, attempt.token, credential])
        self._logs = LogSender(config.url, attempt.token, self._redact)
        self._allowance = Allowance()
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, tuple[protocol.LogStream, Lines]] = {}
        self._waited_for: set[int] = set()
        self._result = b""
        self._result_fd = -1
        self._pid: int | None = None
        self._exit: int | None = None
        self._why: str | None = None
        self._kill_at: float | None = None
        self._over_at = float("inf")
        self._run_added_ms = attempt.added_ms
        self._attempt_added_ms = 0
        self._asked_until: float | None = None
        self._before = memory.container()
        self._used: int | None = None
        self._zygote_gone = False
        self._asked_to_pause = False

    def run(self) -> int:
        """Run the attempt to its end and return the runner's exit code."""
        # Before the start, which may wait for a zygote that is still importing: the first lease is short.
        heartbeats = self._heartbeats = Heartbeats(self._config.url, self._attempt, self._heard, self._memory)
        try:
            self._start()
            while not self._over():
                for key, _ in self._selector.select(self._until_next_timer()):
                    self._ready(key.fd)
                self._check_timers()
            self._read_what_is_left()
            return self._report()  # which may have to wait for the API: the lease is kept until it is done
        finally:
            heartbeats.stop()

    def _start(self) -> None:
        for read, stream in zip(self._zygote.outputs, _STREAMS, strict=True):
            self._add_stream(read, stream)
        self._result_fd = self._open_pipes(msgspec.json.encode(self._attempt), 3)[2]
        self._selector.register(self._result_fd, selectors.EVENT_READ)

    def _open_pipes(self, body: bytes, count: int) -> list[int]:
        """Start the code with the write ends of ``count`` pipes, output and errors first; return the read ends."""
        pipes = [os.pipe() for _ in range(count)]
        self._zygote.start(body, [write for _, write in pipes])
        for read, write in pipes:
            os.set_blocking(read, False)
            os.close(write)
        for (read, _), stream in zip(pipes, _STREAMS, strict=False):
            self._add_stream(read, stream)
            self._waited_for.add(read)
        self._selector.register(self._zygote.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        return [read for read, _ in pipes]

    def _add_stream(self, read: int, stream: protocol.LogStream) -> None:
        os.set_blocking(read, False)
        self._streams[read] = (stream, Lines(self._allowance))
        self._selector.register(read, selectors.EVENT_READ)

    def _over(self) -> bool:
        """Ended: the child is gone and its pipes are read, or what keeps them open is nobody we wait for."""
        if self._zygote_gone or self._why == "closed":
            return True
        return self._exit is not None and (not self._waited_for or time.monotonic() >= self._over_at)

    def _ready(self, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if descriptor in self._streams:
                self._read_stream(descriptor)
            elif descriptor == self._result_fd:
                self._read_result()
            elif descriptor == self._wake_read:
                os.read(descriptor, 1024)
                while self._answers:
                    self._obey(self._answers.popleft())
            else:
                self._read_zygote()

    def _read_stream(self, descriptor: int) -> int:
        """Read once; returns how many bytes, 0 at the end of the stream."""
        stream, lines = self._streams[descriptor]
        chunk = os.read(descriptor, 1 << 16)
        for line in lines.feed(chunk) if chunk else lines.end():
            self._line(stream, line)
        self._logs.pass_on()
        if not chunk:
            del self._streams[descriptor]
            self._waited_for.discard(descriptor)
            self._forget(descriptor)
        return len(chunk)

    def _line(self, stream: protocol.LogStream, text: str) -> None:
        self._logs.add(stream, text)

    def _read_result(self) -> int:
        chunk = os.read(self._result_fd, 1 << 16)
        self._result += chunk
        if not chunk or len(self._result) > outcome.MOST_RESULT:
            self._forget(self._result_fd)
            self._result_fd = -1
            return 0
        return len(chunk)

    def _forget(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def _read_what_is_left(self) -> None:
        """Read what the pipes hold, without waiting: the child is gone, or we end it."""
        self._signal(signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            while self._result_fd >= 0 and self._read_result():
                pass
        for descriptor in list(self._streams):
            left = _MOST_LEFT
            with contextlib.suppress(BlockingIOError):
                while left > 0 and (size := self._read_stream(descriptor)):
                    left -= size
            if descriptor in self._streams:
                stream, lines = self._streams[descriptor]
                for line in lines.end():
                    self._line(stream, line)

    def _read_zygote(self) -> None:
        messages = self._zygote.read()
        if messages is None:
            self._zygote_gone = True
            return
        for message in messages:
            self._told(message)

    def _told(self, message: dict[str, Any]) -> None:
        if "pid" in message:
            self._pid = message["pid"]
        elif "exit" in message:
            self._exit = message["exit"]
            self._over_at = time.monotonic() + _LINGER
            # Whatever the user's code left behind keeps the pipes open; it ends with its run.
            self._signal(signal.SIGKILL)

    def _heard(self, answer: protocol.BeatAnswer) -> None:
        self._answers.append(answer)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"h")

    def _obey(self, answer: protocol.BeatAnswer) -> None:
        self._run_added_ms = max(self._run_added_ms, answer.run_added_ms)
        self._attempt_added_ms = max(self._attempt_added_ms, answer.attempt_added_ms)
        if self._asked_until is not None:
            self._asked_until = 0.0  # answered: a limit that is still reached is final
        if not answer.open:
            self._why = "closed"
            self._signal(signal.SIGKILL)
        elif answer.cancel and self._why is None:
            self._why = "cancelled"
            self._ask_to_stop()
            self._kill_at = time.monotonic() + self._attempt.grace_ms / 1000

    def _ask_to_stop(self) -> None:
        self._signal(signal.SIGUSR1, group=False)

    def _ask_to_pause(self) -> None:
        """Ask the code once to stop before its next step; what does not hear has the grace."""
        if self._pid is not None and not self._asked_to_pause:
            self._asked_to_pause = True
            self._signal(signal.SIGUSR2, group=False)

    def _check_timers(self) -> None:
        now = time.monotonic()
        if self._exit is not None:
            return
        if self._why is None:
            self._check_limits(now)
        if self._stopping and self._why is None:
            self._ask_to_pause()
            if self._kill_at is None:
                self._kill_at = self._stopping[0] + self._config.grace
        if self._kill_at is not None and now >= self._kill_at:
            self._why = self._why or "released"
            self._signal(signal.SIGKILL)
            self._kill_at = now + 1

    def _limits(self) -> dict[str, int]:
        """Return the limits in milliseconds from the claim, the one that decides first, first."""
        attempt = self._attempt
        found = {}
        if attempt.deadline_ms is not None:
            found["total"] = attempt.deadline_ms
        if attempt.timeout_ms is not None:
            found["run"] = attempt.timeout_ms + self._run_added_ms - attempt.added_ms
        if attempt.attempt_timeout_ms is not None:
            found["attempt"] = attempt.attempt_timeout_ms + self._attempt_added_ms
        return found

    def _check_limits(self, now: float) -> None:
        """End what has reached a limit, after a look whether the code has added to it meanwhile."""
        ran = (now - self._claimed_at) * 1000
        why = next((why for why, limit in self._limits().items() if ran >= limit), None)
        if why is None:
            self._asked_until = None
        elif why == "total" or (self._asked_until is not None and now >= self._asked_until):
            self._end(why, now)
        elif self._asked_until is None:
            self._asked_until = now + _LAST_WORD
            self._heartbeats.beat_now()

    def _end(self, why: str, now: float) -> None:
        self._why = why
        self._signal(signal.SIGTERM)
        self._kill_at = now + self._attempt.grace_ms / 1000

    def _until_next_timer(self) -> float:
        ends = [self._kill_at] if self._kill_at is not None else []
        if self._exit is not None:
            ends = [self._over_at]
        elif self._why is None:
            waits_for = self._limits()
            if self._asked_until is not None:
                ends.append(self._asked_until)
                waits_for = {why: limit for why, limit in waits_for.items() if why == "total"}
            ends += [self._claimed_at + limit / 1000 for limit in waits_for.values()]
        return min(60.0, max(0.0, min(ends) - time.monotonic())) if ends else 60.0

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:
        if self._pid is None:
            self._zygote.kill()  # it is importing, and what it imports may never end: there is nothing to ask
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(self._pid, number)

    def _memory(self) -> int | None:
        self._used = (None if self._pid is None else memory.of_session(self._pid)) or self._used
        return self._used

    def _report(self) -> int:
        """Tell the API what came of the attempt."""
        if self._why == "closed":
            return self._lease_lost()
        if outcome.decode(self._result) == (
            None,
            None,
            "suspended",
        ):  # the run waits; the child has told the API itself
            self._logs.flush(_LAST_FLUSH)
            return exit_codes.DONE
        found = self._outcome()
        if found is None:
            return self._lease_lost()
        path, message = found
        flushed = self._logs.flush(_FLUSH)
        try:
            path = self._tell(path, message)
        except Refused as refused:
            if refused.code != protocol.AttemptClosed:
                raise
            return exit_codes.LEASE_LOST
        except Unreachable:
            return exit_codes.API_UNREACHABLE
        if not flushed:  # nobody waits for us any more
            self._logs.flush(_LAST_FLUSH)
        return exit_codes.USER_FAILURE if path == "/fail" else exit_codes.DONE

    def _tell(self, path: str, message: Any) -> str:
        """Send the report and return its path. A result that the API does not take is reported as a failure."""
        api, token, patience = ApiClient(self._config.url), self._attempt.token, self._config.report_patience
        try:
            api.call(path, message, token=token, patience=patience)
        except Refused as refused:
            if path != "/complete" or refused.code == protocol.AttemptClosed:
                raise
            # Told, not lost with this process: the run would be tried again, and refused again.
            path, message = "/fail", protocol.FailRequest(failure=outcome.not_taken(str(refused)))
            api.call(path, message, token=token, patience=patience)
        return path

    def _lease_lost(self) -> int:
        self._logs.flush(_FLUSH)
        return exit_codes.LEASE_LOST

    def _outcome(self) -> tuple[str, Any] | None:
        """Return the report; None when the child was told that its attempt is closed."""
        result = outcome.decode(self._result)
        if result == (None, None, ""):
            return None
        complete, fail, left = result or (None, None, "")
        if left == "stopped" and self._stopping and self._why is None:
            self._why = "released"
        if complete is not None:
            return "/complete", complete
        if fail is not None and self._why not in _LIMITS:
            return "/fail", fail
        return self._ended_by_us() or ("/fail", protocol.FailRequest(failure=self._crash()))

    def _ended_by_us(self) -> tuple[str, Any] | None:
        """Return the report of an attempt that we ended, None for one that ended by itself."""
        if self._why == "cancelled":
            return "/fail", protocol.FailRequest(failure=outcome.not_within_grace(), cancelled=True)
        if self._why in _LIMITS:
            which: Any = "attempt" if self._why == "attempt" else "run"
            failure = outcome.timed_out(self._why, self._limits()[self._why])
            return "/fail", protocol.FailRequest(failure=failure, timed_out=which)
        if self._why == "released" or (self._zygote_gone and self._stopping):
            return "/release", protocol.ReleaseRequest(reason="PodTerminated")
        return None

    def _crash(self) -> protocol.Failure:
        after = memory.container()
        if self._exit is None:
            code, imported = self._zygote.wait(), self._zygote.ready
            return outcome.zygote_died(code, self._before, after, self._used, imported=imported)
        return outcome.crash(os.waitstatus_to_exitcode(self._exit), self._before, after, self._used)
