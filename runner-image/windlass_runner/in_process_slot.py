"""An attempt whose code runs in a worker process, beside others: nothing but the end of the process can force it."""

import signal
import time
from typing import Final, cast

import msgspec

from windlass import protocol
from windlass_runner.logs import Lines
from windlass_runner.shared import Shared
from windlass_runner.slot import Slot, Starter
from windlass_runner.worker_channel import CANCEL, START, STDERR, STDOUT, STOP
from windlass_runner.worker_process import Worker

_STREAMS: Final[dict[int, protocol.LogStream]] = {STDOUT: "stdout", STDERR: "stderr"}


class InProcessSlot(Slot):
    """One attempt in a worker process.

    Args:
        shared: What all attempts of the runner share.
        worker: Runs the code.
        attempt: What was claimed.
        claimed_at: Monotonic time of the claim.

    Attributes:
        given_up_at: Monotonic time at which nobody waits for the code any more, although it may go on; None before.
    """

    def __init__(self, shared: Shared, worker: Worker, attempt: protocol.ClaimedAttempt, *, claimed_at: float) -> None:
        super().__init__(shared, cast("Starter", worker), attempt, claimed_at=claimed_at)
        self.worker = worker
        self.given_up_at: float | None = None
        self._number = 0
        self._lines: dict[int, Lines] = {}
        self._failure: protocol.Failure | None = None

    @property
    def used(self) -> int | None:
        """Bytes that the process used at the last heartbeat."""
        return self._used

    def start(self) -> None:
        """Let the code be started."""
        self.pid = self.worker.pid
        self._number = self.worker.add(self)
        self.worker.send(START, self._number, msgspec.json.encode(self.attempt))

    def move_to(self, worker: Worker) -> None:
        """Begin in another process: the one before has ended before it had read the attempt."""
        self.worker = worker
        self.start()

    def wrote(self, kind: int, data: bytes) -> None:
        """Take in what the code has written."""
        lines = self._lines.get(kind)
        if lines is None:
            lines = self._lines[kind] = Lines(self._allowance)
        for line in lines.feed(data):
            self._line(_STREAMS[kind], line)
        self.log.pass_on()

    def finished(self, result: bytes) -> None:
        """Take in that the code has ended, and with what."""
        self._result = result
        self._exit = 0

    def process_ended(self, failure: protocol.Failure | None) -> None:
        """Take in that the process has ended.

        Args:
            failure: What the attempt is charged with; None: nothing, the run goes on elsewhere.
        """
        self._failure = failure
        if failure is None and self._why is None:
            self._why = "released"
        self._starter_gone = True

    def is_over(self, now: float) -> bool:
        """Ended, or given up."""
        return self.given_up_at is not None or super().is_over(now)

    def _signal(self, number: signal.Signals, *, group: bool = True) -> None:  # noqa: ARG002 - as the base has it
        """Ask the code for what a signal would ask a process for."""
        if self._exit is not None or self.given_up_at is not None or self._starter_gone:
            return
        if number == signal.SIGUSR2:
            self.worker.send(STOP, self._number)
            return
        self.worker.send(CANCEL, self._number)
        if number == signal.SIGKILL:
            # Whoever was not asked before has its grace now.
            grace = self.attempt.grace_ms / 1000 if self._why == "closed" else 0.0
            self.given_up_at = time.monotonic() + grace

    def _read_what_is_left(self) -> None:
        for kind, lines in self._lines.items():
            for line in lines.end():
                self._line(_STREAMS[kind], line)
        self.log.pass_on()

    def _crash(self) -> protocol.Failure:
        return self._failure or super()._crash()
