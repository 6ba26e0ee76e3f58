"""The checkpoints of one attempt: what history has, and how new results join it.

One thread sends the steps of asynchronous code: whatever was queued during the last request goes in the next one, so
a crowd of parallel steps shares a commit and a lone one waits for nobody. Synchronous code sends by itself, which
saves it the way through the thread.
"""

import threading
import time
from concurrent.futures import Future
from typing import Final

import msgspec

from windlass import protocol
from windlass.transport import Transport

ANNOUNCE_AFTER: Final = 0.2
"""Seconds a step runs before it is shown as running: shorter ones would only cost writes."""


class Running:
    """A step whose body runs."""

    def __init__(self, key: str, name: str, args_hash: str) -> None:
        self.key = key
        self.name = name
        self.args_hash = args_hash
        self.started = time.monotonic()
        self.announced = False

    def as_step(self, state: protocol.StepState) -> protocol.Step:
        """Return the step as it travels."""
        age = (time.monotonic() - self.started) * 1000
        duration = None if state == "running" else age
        return protocol.Step(
            key=self.key, name=self.name, args_hash=self.args_hash, state=state, age_ms=age, duration_ms=duration
        )


class Checkpoints:
    """History and its growth.

    Args:
        attempt: What the claim brought.
        transport: To the API.
    """

    def __init__(self, attempt: protocol.ClaimedAttempt, transport: Transport) -> None:
        self._transport = transport
        self._saved = {step.key: step for step in attempt.steps}
        self._next = attempt.next_steps
        self._sending = threading.Lock()
        self._wake = threading.Condition()
        self._queue: list[tuple[protocol.Step, bytes, Future[None]]] = []
        self._open: dict[str, Running] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def find(self, key: str) -> protocol.Step | None:
        """Return the finished step of this key, fetching the rest of the history if it is not here yet."""
        found = self._saved.get(key)
        while found is None and self._next is not None:
            with self._sending:
                if self._next is not None:
                    page = self._transport.load_steps(self._next)
                    self._saved.update({step.key: step for step in page.steps})
                    self._next = page.next_steps
            found = self._saved.get(key)
        return found

    def value_of(self, step: protocol.Step) -> bytes:
        """Return the JSON of a finished step's result."""
        if step.result_ref is not None:
            return self._transport.get_blob(step.result_ref)
        return bytes(step.result) or b"null"

    def begin(self, running: Running) -> None:
        """A step's body starts."""
        with self._wake:
            self._open[running.key] = running
            self._start_thread()  # looks by itself: to wake it for each step would cost two switches of threads

    def finish(self, running: Running, result: bytes) -> None:
        """Save a result from synchronous code; it is durable when this returns."""
        step = self._finished(running, result)
        with self._sending:
            self._transport.save_steps([step])
        self._saved[step.key] = step

    def finish_soon(self, running: Running, result: bytes) -> "Future[None]":
        """Save a result from asynchronous code; it is durable when the future is done."""
        future: Future[None] = Future()
        with self._wake:
            self._open.pop(running.key, None)
            self._queue.append((running.as_step("succeeded"), result, future))
            self._wake.notify()
        return future

    def fail(self, running: Running, failure: protocol.Failure) -> None:
        """Record that a step's body failed. It runs again with the next attempt."""
        with self._wake:
            self._open.pop(running.key, None)
        step = running.as_step("failed")
        step.error = failure
        with self._sending:
            self._transport.save_steps([step])

    def close(self) -> None:
        """End the thread, after what is queued."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _finished(self, running: Running, result: bytes) -> protocol.Step:
        with self._wake:
            self._open.pop(running.key, None)
        return self._with_value(running.as_step("succeeded"), result)

    def _with_value(self, step: protocol.Step, result: bytes) -> protocol.Step:
        if len(result) <= protocol.INLINE_LIMIT:
            step.result = msgspec.Raw(result)
        else:
            # Uploaded before the step that names it: a crash between the two leaves an orphan, no dangling reference.
            step.result_ref = self._transport.put_blob(result)
        return step

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="windlass-checkpoints", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closed and not self._due():
                    self._wake.wait(self._pause())
                queue, self._queue = self._queue, []
                if self._closed and not queue:
                    return
            self._send(queue)

    def _send(self, queue: list[tuple[protocol.Step, bytes, Future[None]]]) -> None:
        with self._sending:
            with self._wake:  # decided under both locks: a finish that waits for us is sent after, never before
                due = self._due()
            try:
                steps = [self._with_value(step, result) for step, result, _ in queue]
                steps += [running.as_step("running") for running in due]
                if steps:
                    self._transport.save_steps(steps)
            except BaseException as error:  # AttemptClosedError included: it belongs to whoever waits
                for running in due:
                    running.announced = True
                for _, _, future in queue:
                    future.set_exception(error)
                return
        for running in due:
            running.announced = True
        for step, _, future in queue:
            self._saved[step.key] = step
            future.set_result(None)

    def _due(self) -> list[Running]:
        now = time.monotonic()
        return [r for r in self._open.values() if not r.announced and now - r.started >= ANNOUNCE_AFTER]

    def _pause(self) -> float:
        waiting = [r.started + ANNOUNCE_AFTER for r in self._open.values() if not r.announced]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else ANNOUNCE_AFTER
