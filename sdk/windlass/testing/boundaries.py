"""The places where an attempt can be killed: seen in the process of the attempt, and written down before anything else.

A boundary is a call to the runtime API (``before`` it is sent, ``after`` it was applied but before the code has its
answer) or a step's body (its ``start``, its ``end``). It is named by run, attempt and what is done there, not by a
number of calls: branches of a run may come in another order the next time.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from windlass import protocol
from windlass.checkpoints import Checkpoints, Running
from windlass.testing.attempts import AttemptTransport
from windlass.testing.effects import append


class Points:
    """The boundaries of one attempt.

    Args:
        journal: Where they are written.
        place: Run and attempt, such as ``order, attempt 1``.
        kill: Where to end this process: name and moment, or None.
    """

    def __init__(self, journal: Path, place: str, kill: tuple[str, str] | None) -> None:
        self._journal = journal
        self._place = place
        self._kill = kill

    def reach(self, what: str, moment: str) -> None:
        """Note that the process is here; end it, if this is the place."""
        name = f"{self._place}: {what}"
        self.note({"at": [name, moment]})
        if (name, moment) == self._kill:
            self.note({"killed": [name, moment]})
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # it is on its way

    def note(self, entry: dict[str, Any]) -> None:
        """Write something down that survives this process."""
        append(self._journal, entry)

    @contextmanager
    def call(self, *names: str) -> Iterator[None]:
        """Mark a call to the API."""
        for name in names:
            self.reach(name, "before")
        yield
        for name in names:
            self.reach(name, "after")


class CrashingTransport(AttemptTransport):
    """The transport of an attempt whose calls are boundaries.

    Reads of what others have done, and notices that a step runs, are none: how many there are is a matter of time.
    """

    def __init__(self, url: str, token: str, points: Points, run: str) -> None:
        super().__init__(url, token)
        self._points = points
        self._run = run

    def save_steps(self, steps: Sequence[protocol.Step]) -> None:
        """Save steps; notes which are over for good as soon as they are."""
        over = [step for step in steps if step.state in ("succeeded", "failed")]
        with ExitStack() as stack:
            stack.enter_context(self._points.call(*(f"save {step.key}" for step in over)))
            super().save_steps(steps)
            for step in over:
                # A failed step may run again, with the next attempt: when it did, the ledger was asked to forget it.
                self._points.note({"saved": [self._run, step.key, step.state == "succeeded"]})

    def begin_waits(self, waits: Sequence[protocol.Wait], keys: Sequence[str]) -> list[protocol.Step]:
        """Begin waits."""
        with self._points.call(*(f"begin {wait.key}" for wait in waits)):
            return super().begin_waits(waits, keys)

    def suspend(
        self, waits: Sequence[str], groups: Sequence[Sequence[str]], together: Sequence[Sequence[str]] = ()
    ) -> protocol.SuspendAnswer:
        """End the attempt."""
        with self._points.call(f"wait for {', '.join(sorted(waits))}"):
            return super().suspend(waits, groups, together)

    def start_children(self, children: Sequence[protocol.Child]) -> list[str]:
        """Start runs."""
        with self._points.call(*(f"start {child.key}" for child in children)):
            return super().start_children(children)

    def send_event(self, request: protocol.SendEventRequest) -> protocol.EventAccepted:
        """Send an event."""
        with self._points.call(f"send event {request.name}"):
            return super().send_event(request)

    def create_token(self, request: protocol.CreateTokenRequest) -> protocol.TokenCreated:
        """Make a token."""
        with self._points.call(f"make token {request.key}"):
            return super().create_token(request)

    def save_checkpoint(self, request: protocol.CheckpointRequest) -> None:
        """Save the state of a loop."""
        with self._points.call(f"checkpoint {request.n}"):
            super().save_checkpoint(request)

    def extend_timeout(self, request: protocol.ExtendRequest) -> None:
        """Add running time."""
        with self._points.call("extend the timeout"):
            super().extend_timeout(request)

    def put_blob(self, data: bytes) -> protocol.BlobRef:
        """Store a large value."""
        with self._points.call("store a large value"):
            return super().put_blob(data)

    def complete(self, request: protocol.CompleteRequest) -> None:
        """Report the end."""
        with self._points.call("report the result"):
            super().complete(request)

    def fail(self, request: protocol.FailRequest) -> None:
        """Report a failure."""
        with self._points.call("report the failure"):
            super().fail(request)


class CrashingCheckpoints(Checkpoints):
    """The checkpoints of an attempt, with a boundary at each end of a step's body."""

    points: Points
    run: str

    def begin(self, running: Running) -> None:
        """A body starts."""
        super().begin(running)
        if running.kind == "step":
            self.points.reach(_body(running), "start")
            self.points.note({"body": [self.run, running.key]})

    def finish(self, running: Running, result: bytes) -> protocol.Step:
        """A body has ended, with a result."""
        self._ends(running)
        return super().finish(running, result)

    def finish_soon(self, running: Running, result: bytes) -> Any:
        """The same in asynchronous code."""
        self._ends(running)
        return super().finish_soon(running, result)

    def fail(self, running: Running, failure: protocol.Failure, *, durable: bool = False) -> None:
        """A body has ended, with an error."""
        self._ends(running)
        super().fail(running, failure, durable=durable)

    def fail_soon(self, running: Running, failure: protocol.Failure, *, durable: bool = False) -> Any:
        """The same in asynchronous code."""
        self._ends(running)
        return super().fail_soon(running, failure, durable=durable)

    def _ends(self, running: Running) -> None:
        if running.kind == "step":
            self.points.reach(_body(running), "end")


def watching(points: Points, run: str) -> type[CrashingCheckpoints]:
    """Return the checkpoints of an attempt, which tell these points of their boundaries."""
    return type("WatchedCheckpoints", (CrashingCheckpoints,), {"points": points, "run": run})


def _body(running: Running) -> str:
    again = f", try {running.tries}" if running.tries > 1 else ""
    return f"body of {running.key}{again}"
