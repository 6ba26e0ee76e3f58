"""The checkpoints of one attempt: what history has, and how new results join it.

One thread sends the steps of asynchronous code: whatever was queued during the last request goes in the next one, so
a crowd of parallel steps shares a commit and a lone one waits for nobody. Synchronous code sends by itself, which
saves it the way through the thread.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from windlass import protocol
from windlass.branches import Branch
from windlass.errors import DivergenceError, RunSuspended, ValueTooLargeError
from windlass.failures import failure_of
from windlass.migration import History, migrated
from windlass.places import Places, other_arguments, other_step
from windlass.transport import Transport

if TYPE_CHECKING:
    import asyncio

PAUSE: Final = "~try"
"""Between a step's key and the number of the try that a durable pause followed."""

ANNOUNCE_AFTER: Final = 0.2
"""Seconds a step runs before it is shown as running: shorter ones would only cost writes."""


class Running:
    """A step that was called, and whose body may run.

    Args:
        key: Its key.
        name: Its name.
        args_hash: Hash of its arguments.
        kind: A step, or what kind of wait.
        branch: Which has taken the key, just now.
    """

    def __init__(
        self, key: str, name: str, args_hash: str, kind: protocol.StepKind = "step", branch: Branch | None = None
    ) -> None:
        self.key = key
        self.name = name
        self.args_hash = args_hash
        self.kind = kind
        self.branch = branch
        self.place = None if branch is None else branch.place
        self.settled = branch is not None and branch.settled
        self.code_id: str | None = None
        self.replaces = False
        self.started = time.monotonic()
        self.announced = False
        self.compensation = b""
        """What undoes the step, saved when it has succeeded; empty for most."""
        self.protect = False
        """Nothing must remove the pod while it runs."""
        self.tries = 1
        self.error: protocol.Failure | None = None
        """Of the last try, while another one is to come."""

    def as_step(self, state: protocol.StepState) -> protocol.Step:
        """Return the step as it travels."""
        age = (time.monotonic() - self.started) * 1000
        duration = None if state == "running" else age
        step = protocol.Step(
            key=self.key, name=self.name, args_hash=self.args_hash, state=state, kind=self.kind,
            place=self.place, code_id=self.code_id, replaces=self.replaces, protect=self.protect,
            age_ms=age, duration_ms=duration, tries=self.tries, error=self.error if state == "running" else None,
        )  # fmt: skip
        if self.compensation and state == "succeeded":
            step.compensation = msgspec.Raw(self.compensation)
        return step

    def failed(self, failure: protocol.Failure, *, durable: bool) -> protocol.Step:
        """Return the failed step as it travels."""
        step = self.as_step("failed")
        step.error, step.durable = failure, durable
        return step

    def try_again(self, failure: protocol.Failure) -> None:
        """Show the next try, and why there is one."""
        self.error, self.announced = failure, False
        self.tries += 1


class _Queued:
    """A step that asynchronous code has ended: on its way to the ledger. Made in the event loop that waits for it."""

    def __init__(self, step: protocol.Step, result: bytes | None) -> None:
        import asyncio

        self.step = step
        self.result = result
        self._loop = asyncio.get_running_loop()
        # The loop's own: one of concurrent.futures, wrapped, costs a lone step twice the way back.
        self.future: asyncio.Future[None] = self._loop.create_future()

    def settle(self, problem: BaseException | None) -> None:
        """Tell whoever waits, from another thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._tell, problem)

    def _tell(self, problem: BaseException | None) -> None:
        if self.future.done():  # whoever waited was cancelled; the step is saved all the same
            return
        if problem is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(problem)


class Checkpoints:
    """History and its growth.

    Args:
        attempt: What the claim brought.
        transport: To the API.
        code_id: Of the code that runs.
    """

    def __init__(self, attempt: protocol.ClaimedAttempt, transport: Transport, code_id: str | None = None) -> None:
        self._transport = transport
        self._run_id = attempt.run_id
        self.code_id = code_id
        self._saved = {step.key: step for step in attempt.steps}
        self._places = Places()
        self._places.add(attempt.steps)
        self._next = attempt.next_steps
        self._sending = threading.Lock()
        self._wake = threading.Condition()
        self._queue: list[_Queued] = []
        self._open: dict[str, Running] = {}
        self._thread: threading.Thread | None = None
        self._accepted: frozenset[str] = frozenset()
        self._dropped: frozenset[str] = frozenset()
        self.closed = False
        """The task function has ended."""
        self.diverged: DivergenceError | None = None
        """The code does not fit history: it goes no further, whatever it catches."""
        self.suspended = False
        """The run waits without this process. What its code still does is not part of the run."""

    @property
    def idle(self) -> bool:
        """Whether no step's body runs and nothing is on its way."""
        with self._wake:
            return not self._open and not self._queue and not self._sending.locked()

    @property
    def needs_closing(self) -> bool:
        """Whether :meth:`close` has a thread to wait for."""
        return self._thread is not None

    def at_hand(self, key: str) -> bool:
        """Return whether nothing need be fetched to say if a step is finished, and with what result."""
        found = self._saved.get(key)
        return self._next is None if found is None else found.result_ref is None

    def find(self, key: str) -> protocol.Step | None:
        """Return the step of this key that an earlier attempt finished, fetching the rest of the history if need be.

        Only once: a task asks for no key twice, and what was given out need not be kept.
        """
        found = self._saved.pop(key, None)
        while found is None and self._next is not None:
            self._load_page()
            found = self._saved.pop(key, None)
        return found

    def _load_page(self) -> None:
        with self._sending:
            if self._next is not None:
                page = self._transport.load_steps(self._next)
                self._saved.update({step.key: step for step in page.steps})
                self._places.add(page.steps)
                self._next = page.next_steps

    def migrate(self, function: Callable[[History], None]) -> None:
        """Let a task's ``migrate`` function make history fit, if other code has written any of it.

        Raises:
            DivergenceError: The function failed.
        """
        while self._next is not None:
            self._load_page()
        if all(step.code_id == self.code_id for step in self._saved.values()):
            return
        made = migrated(function, self._saved.values())
        self._saved = {step.key: step for step in made.steps}
        self._places = Places()
        self._places.add(made.steps)
        self._accepted, self._dropped = made.accepted, made.dropped

    def recall(self, running: Running) -> protocol.Step | None:
        """Return what history has of a step that the code asks for; None: it is to be run.

        Raises:
            DivergenceError: History has another step at its place, or has it with other arguments.
        """
        self.insist()
        saved = self.find(running.key)
        running.code_id = self.code_id
        running.replaces = running.key in self._dropped
        self._refuse(self._other_place(running, saved))
        if saved is not None:
            self.check(running, saved)
        return saved

    def check(self, running: Running, saved: protocol.Step) -> None:
        """Hold what the ledger has of a step against what the code asks for.

        Raises:
            DivergenceError: It was saved with other arguments, or is something else.
        """
        same = saved.args_hash == running.args_hash or running.key in self._accepted
        if not same or (saved.name, saved.kind) != (running.name, running.kind):
            self._refuse(other_arguments(saved, running.name, running.args_hash, self.code_id, self._run_id))

    def _refuse(self, found: DivergenceError | None) -> None:
        self.diverged = self.diverged or found  # another thread may have found one
        self.insist()

    def insist(self) -> None:
        """Raise the divergence that was found, also where the code has caught it: it got nothing of what it asked for.

        Raises:
            DivergenceError: As :meth:`recall` did.
        """
        if self.diverged is not None:
            raise self.diverged

    def _other_place(self, running: Running, saved: protocol.Step | None) -> DivergenceError | None:
        if not running.settled or running.place is None:
            return None
        if saved is not None and saved.place not in (None, running.place):
            while self._next is not None:  # the code has changed: what stands at its new place decides
                self._load_page()
        held = self._places.at(running.key, running.place)
        if held is None or held[0] == running.key:
            return None
        return other_step(held, running.key, running.place, self.code_id, self._run_id)

    def unused(self) -> bool:
        """Return whether history has steps that this attempt has not asked for (yet), pauses between tries aside."""
        return self._next is not None or any(PAUSE not in key for key in self._saved)

    def value_of(self, step: protocol.Step) -> bytes:
        """Return the JSON of a finished step's result."""
        if step.result_ref is not None:
            return self._transport.get_blob(step.result_ref)
        return bytes(step.result) or b"null"

    def begin(self, running: Running) -> None:
        """A step's body starts.

        Raises:
            RunSuspended: The run waits; this process is of no use to it any more.
        """
        if self.suspended:
            raise RunSuspended
        with self._wake:
            running.started = time.monotonic()  # an asynchronous step may have been called long before
            self._open[running.key] = running
            self._start_thread()  # looks by itself: to wake it for each step would cost two switches of threads

    def announce(self, running: Running) -> None:
        """Show that a step's body is about to run; it is in the ledger when this returns.

        Raises:
            RunSuspended: The run waits; this process is of no use to it any more.
        """
        if self.suspended:
            raise RunSuspended
        running.announced, running.started = True, time.monotonic()
        self._transport.save_steps([running.as_step("running")])

    def finish(self, running: Running, result: bytes) -> protocol.Step:
        """Save a result from synchronous code; it is durable when this returns the step as it was saved.

        Raises:
            ValueTooLargeError: Nothing keeps so large a result; the step has failed.
        """
        self._ended(running)
        step = running.as_step("succeeded")
        problem = self._attach(step, result)
        with self._sending:
            self._transport.save_steps([step])
        if problem is not None:
            raise problem
        return step

    def finish_soon(self, running: Running, result: bytes) -> "asyncio.Future[None]":
        """Save a result from asynchronous code; it is durable when the future is done. Errors are those of finish."""
        return self._enqueue(running, _Queued(running.as_step("succeeded"), result))

    def fail_soon(
        self, running: Running, failure: protocol.Failure, *, durable: bool = False
    ) -> "asyncio.Future[None]":
        """Record from asynchronous code that a step's body failed; what is cancelled does not wait for the future."""
        return self._enqueue(running, _Queued(running.failed(failure, durable=durable), None))

    def fail(self, running: Running, failure: protocol.Failure, *, durable: bool = False) -> None:
        """Record from synchronous code that a step's body failed.

        Args:
            running: The step.
            failure: Why.
            durable: Later attempts fail here in the same way, unless the run's retry asks for another try.
        """
        self._ended(running)
        with self._sending:
            self._transport.save_steps([running.failed(failure, durable=durable)])

    def forget(self, running: Running) -> None:
        """Something that leaves no trace if it does not end: it begins again with the next attempt."""
        with self._wake:
            self._open.pop(running.key, None)

    def close(self) -> None:
        """End the thread, after what is queued."""
        with self._wake:
            self.closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _ended(self, running: Running) -> None:
        with self._wake:
            self._open.pop(running.key, None)
        if running.branch is not None and running.kind == "step":
            running.branch.unsettle()

    def _enqueue(self, running: Running, queued: _Queued) -> "asyncio.Future[None]":
        self._ended(running)
        with self._wake:
            self._queue.append(queued)
            self._start_thread()
            self._wake.notify()
        return queued.future

    def _attach(self, step: protocol.Step, result: bytes) -> ValueTooLargeError | None:
        """Give a step its value. One that nothing keeps makes it a failed step, and is returned as the error."""
        if len(result) <= protocol.INLINE_LIMIT:
            step.result = msgspec.Raw(result)
            return None
        try:
            # Uploaded before the step that names it: a crash between the two leaves an orphan, no dangling reference.
            step.result_ref = self._transport.put_blob(result)
        except ValueTooLargeError as error:
            problem = ValueTooLargeError(f"The result of step {step.key!r} cannot be saved: {error}")
            step.state, step.durable, step.error = "failed", True, failure_of(problem, step.key, durable=True)
            step.error.failure_class, step.error.reason = "permanent", "ResultTooLarge"
            return problem
        return None

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="windlass-checkpoints", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self.closed and not self._due():
                    self._wake.wait(self._pause())
                queue, self._queue = self._queue, []
                if self.closed and not queue:
                    return
            self._send(queue)

    def _send(self, queue: list[_Queued]) -> None:
        problems: list[BaseException | None]
        with self._sending:
            with self._wake:  # decided under both locks: a finish that waits for us is sent after, never before
                due = self._due()
            for running in due:
                running.announced = True
            try:
                # One value that is too large is its own step's problem and nobody else's.
                problems = [None if q.result is None else self._attach(q.step, q.result) for q in queue]
                steps = [q.step for q in queue] + [running.as_step("running") for running in due]
                if steps:
                    self._transport.save_steps(steps)
            except BaseException as error:  # AttemptClosedError included: it belongs to whoever waits
                problems = [error] * len(queue)
        for queued, problem in zip(queue, problems, strict=True):
            queued.settle(problem)

    def _due(self) -> list[Running]:
        now = time.monotonic()
        return [r for r in self._open.values() if not r.announced and now - r.started >= ANNOUNCE_AFTER]

    def _pause(self) -> float:
        waiting = [r.started + ANNOUNCE_AFTER for r in self._open.values() if not r.announced]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else ANNOUNCE_AFTER
