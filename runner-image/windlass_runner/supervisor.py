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
from windlass_runner import exit_codes
from windlass_runner.api import ApiClient, Refused, Unreachable
from windlass_runner.config import Config
from windlass_runner.heartbeats import Heartbeats, memory_of_group, oom_kills
from windlass_runner.logs import Lines, LogSender, Redactor
from windlass_runner.zygote_process import Zygote

_FLUSH: Final = 5.0


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
        self._logs = LogSender(config.url, attempt.token, Redactor([*config.secrets, attempt.token, credential]))
        self._selector = selectors.DefaultSelector()
        self._streams: dict[int, tuple[protocol.LogStream, Lines]] = {}
        self._result = b""
        self._pid: int | None = None
        self._exit: int | None = None
        self._why: str | None = None
        self._kill_at: float | None = None
        self._oom_before = oom_kills()
        self._zygote_gone = False

    def run(self) -> int:
        """Run the attempt to its end and return the runner's exit code."""
        self._start()
        heartbeats = Heartbeats(self._config.url, self._attempt, self._heard, self._memory)
        try:
            while not self._over():
                for key, _ in self._selector.select(self._until_next_timer()):
                    self._ready(key.fd)
                self._check_timers()
        finally:
            heartbeats.stop()
        return self._report()

    def _start(self) -> None:
        pipes = [os.pipe() for _ in range(3)]
        body = msgspec.json.encode(self._attempt)
        self._zygote.start(body, [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        streams: tuple[protocol.LogStream, ...] = ("stdout", "stderr")
        for (read, _), stream in zip(pipes, streams, strict=False):
            self._streams[read] = (stream, Lines())
            self._selector.register(read, selectors.EVENT_READ)
        self._result_fd = pipes[2][0]
        self._selector.register(self._result_fd, selectors.EVENT_READ)
        self._selector.register(self._zygote.socket, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def _over(self) -> bool:
        """Ended: the child is gone and its pipes are read, or what keeps them open is nobody we wait for."""
        return self._zygote_gone or (self._exit is not None and not self._streams) or self._why == "closed"

    def _ready(self, descriptor: int) -> None:
        if descriptor in self._streams:
            self._read_stream(descriptor)
        elif descriptor == self._result_fd:
            chunk = os.read(descriptor, 1 << 16)
            self._result += chunk
            if not chunk:
                self._selector.unregister(descriptor)
                os.close(descriptor)
                self._result_fd = -1
        elif descriptor == self._wake_read:
            os.read(descriptor, 1024)
            while self._answers:
                self._obey(self._answers.popleft())
        else:
            self._read_zygote()

    def _read_stream(self, descriptor: int) -> None:
        stream, lines = self._streams[descriptor]
        chunk = os.read(descriptor, 1 << 16)
        for line in lines.feed(chunk) if chunk else lines.end():
            self._logs.add(stream, line)
        if not chunk:
            del self._streams[descriptor]
            self._selector.unregister(descriptor)
            os.close(descriptor)

    def _read_zygote(self) -> None:
        messages = self._zygote.read()
        if messages is None:
            self._zygote_gone = True
            return
        for message in messages:
            if "pid" in message:
                self._pid = message["pid"]
            elif "exit" in message:
                self._exit = message["exit"]
                # Whatever the user's code left behind keeps the pipes open; it ends with its run.
                self._signal(signal.SIGKILL)

    def _heard(self, answer: protocol.BeatAnswer) -> None:
        self._answers.append(answer)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"h")

    def _obey(self, answer: protocol.BeatAnswer) -> None:
        if not answer.open:
            self._why = "closed"
            self._signal(signal.SIGKILL)
        elif answer.cancel and self._why is None:
            self._why = "cancelled"
            self._signal(signal.SIGUSR1, group=False)
            self._kill_at = time.monotonic() + self._attempt.grace_ms / 1000

    def _check_timers(self) -> None:
        now = time.monotonic()
        if self._why is None:
            ran = (now - self._claimed_at) * 1000
            if self._attempt.timeout_ms is not None and ran >= self._attempt.timeout_ms:
                self._end("run", now)
            elif self._attempt.attempt_timeout_ms is not None and ran >= self._attempt.attempt_timeout_ms:
                self._end("attempt", now)
        if self._stopping and self._kill_at is None and self._why is None:
            self._kill_at = self._stopping[0] + self._config.grace
        if self._kill_at is not None and now >= self._kill_at and self._exit is None:
            self._why = self._why or "released"
            self._signal(signal.SIGKILL)
            self._kill_at = now + 1

    def _end(self, why: str, now: float) -> None:
        self._why = why
        self._signal(signal.SIGTERM)
        self._kill_at = now + self._attempt.grace_ms / 1000

    def _until_next_timer(self) -> float:
        ends = [self._kill_at] if self._kill_at is not None else []
        if self._why is None:
            limits = (self._attempt.timeout_ms, self._attempt.attempt_timeout_ms)
            ends += [self._claimed_at + limit / 1000 for limit in limits if limit is not None]
        return min(60.0, max(0.0, min(ends) - time.monotonic())) if ends else 60.0

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:
        if self._pid is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(self._pid, number)

    def _memory(self) -> int | None:
        return None if self._pid is None else memory_of_group(self._pid)

    def _report(self) -> int:
        """Tell the API what came of the attempt."""
        if self._why == "closed" or (
            self._exit is not None and os.waitstatus_to_exitcode(self._exit) == exit_codes.LEASE_LOST
        ):
            self._logs.flush(_FLUSH)
            return exit_codes.LEASE_LOST
        path, message = self._outcome()
        self._logs.flush(_FLUSH)
        try:
            ApiClient(self._config.url).call(path, message, token=self._attempt.token, patience=self._config.report_patience)
        except Refused as refused:
            if refused.code != protocol.AttemptClosed:
                raise
            return exit_codes.LEASE_LOST
        except Unreachable:
            return exit_codes.API_UNREACHABLE
        return exit_codes.USER_FAILURE if path == "/fail" else exit_codes.DONE

    def _outcome(self) -> tuple[str, Any]:
        while self._result_fd >= 0:  # the child is gone: what it wrote is in the pipe
            self._ready(self._result_fd)
        if self._result:
            complete, fail = msgspec.json.decode(
                self._result, type=tuple[protocol.CompleteRequest | None, protocol.FailRequest | None]
            )
            if complete is not None:
                return "/complete", complete
            if fail is not None and self._why not in ("run", "attempt"):
                return "/fail", fail
        if self._why == "released" or self._zygote_gone:
            return "/release", protocol.ReleaseRequest(reason="PodTerminated")
        if self._why == "cancelled":
            failure = protocol.Failure(type="Cancelled", message="The code did not end within the grace period.")
            return "/fail", protocol.FailRequest(failure=failure, cancelled=True)
        if self._why in ("run", "attempt"):
            limit = self._attempt.timeout_ms if self._why == "run" else self._attempt.attempt_timeout_ms
            failure = protocol.Failure(
                type="TimedOut",
                message=f"The {self._why} used its {limit} ms.",
                failure_class="timeout",
                reason="TimedOut",
            )
            timed_out: Any = self._why
            return "/fail", protocol.FailRequest(failure=failure, timed_out=timed_out)
        return "/fail", protocol.FailRequest(failure=self._crash())

    def _crash(self) -> protocol.Failure:
        code = os.waitstatus_to_exitcode(self._exit) if self._exit is not None else 0
        if code == -signal.SIGKILL and oom_kills() > self._oom_before:
            message = (
                "The code used more memory than spec.resources.limits.memory allows. Raise the limit, or use less."
            )
            return protocol.Failure(type="OutOfMemory", message=message, reason="OutOfMemory")
        if code < 0:
            name = signal.Signals(-code).name
            return protocol.Failure(type="ChildCrashed", message=f"The code's process was ended by {name}.")
        return protocol.Failure(
            type="ChildCrashed", message=f"The code's process ended with exit code {code} and no result."
        )
