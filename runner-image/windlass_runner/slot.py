"""One attempt from its claim to its end: the pipes of its child, its timers, and what may end it."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from windlass import protocol
from windlass_runner import outcome
from windlass_runner.endings import NOTHING_TO_TELL, SUSPENDED, Ending
from windlass_runner.limits import LIMITS, Limits
from windlass_runner.logs import Allowance, Lines
from windlass_runner.memory import Sessions
from windlass_runner.shared import Shared

STREAMS: Final[tuple[protocol.LogStream, ...]] = ("stdout", "stderr")
_LINGER: Final = 1.0
"""Seconds after the child's end that its output is waited for: who holds a pipe longer has left its group."""
_MOST_LEFT: Final = 1 << 20
"""Bytes of each pipe that are read after that."""
UNKNOWN_EXIT: Final = -1
"""The child has ended, and how is not known: the process that would know has ended too."""


class Starter(Protocol):
    """What starts the code of an attempt: the zygote, or the shim of a container task."""

    ready: bool

    def start(self, name: str, module: str | None, attempt: bytes, descriptors: list[int]) -> None:
        """Start it with these write ends of its pipes, which are the starter's from now on."""

    def kill(self) -> None:
        """End the starter."""

    def wait(self) -> int:
        """Return the exit code of a starter that has ended."""


class Slot:
    """One attempt.

    Args:
        shared: What all attempts of the runner share; everything here happens in its loop's thread.
        starter: Starts the child.
        attempt: What was claimed.
        claimed_at: Monotonic time of the claim: timeouts count from it.

    Attributes:
        pid: Of the child; None until it is started.
        importing: The zygote imports the attempt's module before it starts the child.
        ended: Whether the child is gone.
    """

    module: str | None = None
    """Module for the zygote to import first."""

    def __init__(
        self, shared: Shared, starter: Starter, attempt: protocol.ClaimedAttempt, *, claimed_at: float
    ) -> None:
        self.starter = starter
        self.attempt = attempt
        self.log = shared.log_of(attempt)
        self.pid: int | None = None
        self.importing = False
        self._loop = shared.loop
        self._shared = shared
        self._stopping = shared.stopping
        self._limits = Limits(attempt, claimed_at)
        self._allowance = Allowance()
        self._streams: dict[int, tuple[protocol.LogStream, Lines]] = {}
        self._waited_for: set[int] = set()
        self._result = b""
        self._result_fd = -1
        self._exit: int | None = None
        self._why: str | None = None
        self._kill_at: float | None = None
        self._over_at = float("inf")
        self._used: int | None = None
        self._starter_gone = False
        self._asked_to_pause = False

    @property
    def ended(self) -> bool:
        """Whether the child is gone."""
        return self._exit is not None

    def start(self) -> None:
        """Let the code be started."""
        self._begin(msgspec.json.encode(self.attempt))

    def _begin(self, body: bytes) -> None:
        self._result_fd = self._open_pipes(body, 3)[2]
        self._loop.watch(self._result_fd, self._read_result)

    def _open_pipes(self, body: bytes, count: int) -> list[int]:
        """Start the code with the write ends of ``count`` pipes, output and errors first; return the read ends."""
        pipes = [os.pipe() for _ in range(count)]
        self.starter.start(self.attempt.attempt_id, self.module, body, [write for _, write in pipes])
        for read, _ in pipes:
            os.set_blocking(read, False)
        self._add_outputs([read for read, _ in pipes])
        return [read for read, _ in pipes]

    def _add_outputs(self, reads: Sequence[int]) -> None:
        for read, stream in zip(reads, STREAMS, strict=False):
            self.add_stream(read, stream)
            self._waited_for.add(read)

    def add_stream(self, read: int, stream: protocol.LogStream) -> None:
        """Take what comes from a descriptor, which does not block, for the attempt's output."""
        self._streams[read] = (stream, Lines(self._allowance))
        self._loop.watch(read, self._read_stream)

    def restart(self, starter: Starter) -> None:
        """Begin anew with another starter: the one before has ended before it had read the attempt."""
        self._forget_all()
        self.starter = starter
        self._starter_gone = False
        self.start()

    def is_over(self, now: float) -> bool:
        """Ended: the child is gone and its pipes are read, or what keeps them open is nobody we wait for."""
        if self._starter_gone or self._why == "closed":
            return True
        return self._exit is not None and (not self._waited_for or now >= self._over_at)

    def _read_stream(self, descriptor: int) -> int:
        """Read once; returns how many bytes, 0 at the end of the stream."""
        stream, lines = self._streams[descriptor]
        chunk = os.read(descriptor, 1 << 16)
        for line in lines.feed(chunk) if chunk else lines.end():
            self._line(stream, line)
        self.log.pass_on()
        if not chunk:
            del self._streams[descriptor]
            self._waited_for.discard(descriptor)
            self._loop.forget(descriptor)
        return len(chunk)

    def _line(self, stream: protocol.LogStream, text: str) -> None:
        self.log.add(stream, text)

    def _read_result(self, descriptor: int) -> int:
        chunk = os.read(descriptor, 1 << 16)
        self._result += chunk
        if not chunk or len(self._result) > outcome.MOST_RESULT:
            self._loop.forget(descriptor)
            self._result_fd = -1
            return 0
        return len(chunk)

    def _read_what_is_left(self) -> None:
        """Read what the pipes hold, without waiting: the child is gone, or we end it."""
        self._signal(signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            while self._result_fd >= 0 and self._read_result(self._result_fd):
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
        self.log.pass_on()

    def _forget_all(self) -> None:
        for descriptor in [*self._streams, *([self._result_fd] if self._result_fd >= 0 else [])]:
            self._loop.forget(descriptor)
        self._streams.clear()
        self._waited_for.clear()
        self._result_fd = -1

    def told(self, message: dict[str, Any]) -> None:
        """Take in what the starter says of this attempt."""
        if "pid" in message:
            self.pid = message["pid"]
            self.importing = False
        elif "importing" in message:
            self.importing = True
        elif "exit" in message:
            self.exited(message["exit"])

    def exited(self, status: int) -> None:
        """Take in that the child has ended with a wait status."""
        self._exit = status
        self._over_at = time.monotonic() + _LINGER
        # Whatever the user's code left behind keeps the pipes open; it ends with its run.
        self._signal(signal.SIGKILL)

    def starter_ended(self) -> None:
        """Take in that the starter is gone, and nobody else can tell of a child."""
        self._starter_gone = True

    def heard(self, answer: protocol.BeatAnswer) -> None:
        """Take in an answer to a heartbeat, in a thread of its own."""
        self._loop.post(lambda: self.obey(answer))

    def obey(self, answer: protocol.BeatAnswer) -> None:
        """Do what an answer to a heartbeat asks for."""
        self._limits.heard(answer)
        if not answer.open:
            self._why = "closed"
            self._signal(signal.SIGKILL)
        elif answer.cancel and self._why is None:
            self._why = "cancelled"
            self._ask_to_stop()
            self._kill_at = time.monotonic() + self.attempt.grace_ms / 1000

    def _ask_to_stop(self) -> None:
        self._signal(signal.SIGUSR1, group=False)

    def _ask_to_pause(self) -> None:
        """Ask the code once to stop before its next step; what does not hear has the grace."""
        if self.pid is not None and not self._asked_to_pause:
            self._asked_to_pause = True
            self._signal(signal.SIGUSR2, group=False)

    def check_timers(self, now: float) -> None:
        """Do what is due."""
        if self._exit is not None:
            return
        if self._why is None:
            why, ask = self._limits.check(now)
            if ask:
                self._shared.heartbeats.beat_now()
            if why is not None:
                self._why = why
                self._signal(signal.SIGTERM)
                self._kill_at = now + self.attempt.grace_ms / 1000
        if self._stopping and self._why is None:
            self._ask_to_pause()
            if self._kill_at is None:
                self._kill_at = self._stopping[0] + self._shared.config.grace
        if self._kill_at is not None and now >= self._kill_at:
            self._why = self._why or "released"
            self._signal(signal.SIGKILL)
            self._kill_at = now + 1

    def next_timer(self) -> float:
        """Return the monotonic time at which something is due."""
        if self._exit is not None:
            return self._over_at
        ends = [self._kill_at] if self._kill_at is not None else []
        if self._why is None:
            ends += self._limits.next()
        return min(ends, default=float("inf"))

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:
        if self.pid is None:
            self._give_up_start()
            return
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            if group and self._exit is None:  # it has only just begun, and leads no group yet
                self._signal(number, group=False)
        except PermissionError:
            pass

    def _give_up_start(self) -> None:
        """End a starter that is importing, and what it imports may never end: there is nothing to ask."""
        self.starter.kill()

    def memory(self, sessions: Sessions) -> int | None:
        """Return the bytes that the code uses. Called by the thread of the heartbeats."""
        self._used = (None if self.pid is None else sessions.of(self.pid)) or self._used
        return self._used

    def close(self) -> Ending:
        """Read what is left, and decide what came of the attempt."""
        self._read_what_is_left()
        self._forget_all()
        return self.ending()

    def ending(self) -> Ending:
        """Return what came of the attempt."""
        if self._why == "closed":
            return NOTHING_TO_TELL
        result = outcome.decode(self._result)
        if result == (None, None, "suspended"):
            return SUSPENDED
        found = self._outcome(result)
        return NOTHING_TO_TELL if found is None else Ending(*found)

    def _outcome(self, result: outcome.Result | None) -> tuple[str, Any] | None:
        """Return the report; None when the child was told that its attempt is closed."""
        if result == (None, None, ""):
            return None
        complete, fail, left = result or (None, None, "")
        if left == "stopped" and self._stopping and self._why is None:
            self._why = "released"
        if complete is not None:
            return "/complete", complete
        if fail is not None and self._why not in LIMITS:
            return "/fail", fail
        return self._ended_by_us() or ("/fail", protocol.FailRequest(failure=self._crash()))

    def _ended_by_us(self) -> tuple[str, Any] | None:
        """Return the report of an attempt that we ended, None for one that ended by itself."""
        if self._why == "cancelled":
            return "/fail", protocol.FailRequest(failure=outcome.not_within_grace(), cancelled=True)
        if self._why in LIMITS:
            which: Any = "attempt" if self._why == "attempt" else "run"
            failure = outcome.timed_out(self._why, self._limits.all()[self._why])
            return "/fail", protocol.FailRequest(failure=failure, timed_out=which)
        if self._why == "released" or (self._starter_gone and self._stopping):
            return "/release", protocol.ReleaseRequest(reason="PodTerminated")
        return None

    def _crash(self) -> protocol.Failure:
        if self._exit is None or self._exit == UNKNOWN_EXIT:
            code = self.starter.wait()
            before, after = self._shared.kills.take(killed=code == -signal.SIGKILL)
            return outcome.zygote_died(code, before, after, self._used, imported=self._imported())
        code = os.waitstatus_to_exitcode(self._exit)
        before, after = self._shared.kills.take(killed=code == -signal.SIGKILL)
        return outcome.crash(code, before, after, self._used)

    def _imported(self) -> bool:
        """Whether the starter had imported the code's module when it ended."""
        return self.starter.ready
