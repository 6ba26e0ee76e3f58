"""Durable waits: ``sleep`` and its kin hold no pod.

A wait is a step that somebody else ends. Its key is taken when it is called, as a step's; it begins when it is awaited.
While any branch of the run can go on, the process stays and asks after its waits. When every branch is blocked on one,
the attempt ends, and the run goes on in another process when the first of them is over.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from windlass import branches, protocol
from windlass.checkpoints import Checkpoints, Running
from windlass.clock import is_moved, utc_now
from windlass.context import Active, NotInRunError, active
from windlass.durations import parse_duration
from windlass.errors import (
    RunCancelled,
    RunFailedError,
    RunSuspended,
    StepError,
    WaitError,
    WaitTimeoutError,
)
from windlass.serialization import hash_value

if TYPE_CHECKING:
    from windlass.branches import Branch
    from windlass.liveness import Blocked
    from windlass.transport import Transport

SHORT: Final = timedelta(seconds=5)
"""A sleep of up to this long stays in the process: to end it and start another would take about as long."""

_MOST: Final = 500
"""Waits that are begun in one request."""
_OFTEN, _SELDOM = 0.05, 1.0
"""Seconds between two looks at waits that are not over: at first, and after a while."""
_HEAR: Final = 0.25
"""Seconds after which synchronous code that waits hears of a cancellation."""

ERRORS: Final[dict[str, Callable[[protocol.Step, protocol.Failure], Exception]]] = {
    "RunFailedError": lambda _, failure: _run_failed(failure),
    "WaitTimeoutError": lambda _, failure: WaitTimeoutError(failure.message),
}
"""What the code gets for a wait that has failed, by the type of the failure; :class:`WaitError` for any other."""


Start = Callable[[], "Future[Any]"]


class Blocking(Protocol):
    """What a branch can be blocked on."""

    @property
    def each(self) -> "tuple[Pending, ...]":
        """The durable waits that it is made of; the branch goes on when all of them are over."""
        ...


class Pending:
    """A wait that was called. Await :meth:`result`, or call :meth:`result_sync`.

    Attributes:
        attempt: Whose wait it is.
        wait: What is sent when it begins.
    """

    def __init__(self, attempt: Active, running: Running, wait: protocol.Wait) -> None:
        self.attempt = attempt
        self._running = running
        self.wait = wait
        self.future: Future[protocol.Step] = Future()
        self.begun = False
        self.in_step = False
        """A step's pause between two tries: when it is over, code runs in the branch, whoever joins it."""

    @property
    def each(self) -> "tuple[Pending, ...]":
        """The waits that a branch is blocked on when it is blocked on this."""
        return (self,)

    async def result(self, start: "Start | None" = None) -> protocol.Step:
        """Return the step that the wait has become.

        Args:
            start: What begins it, where that is more than to write it down.

        Raises:
            WaitError: It ended otherwise than it was meant to; see :data:`ERRORS`.
            DivergenceError: History has something else under this key.
        """
        import asyncio

        saved = await self.saved()
        if saved is not None:
            return self.ended(saved, restored=True)
        if start is not None:
            await asyncio.wrap_future(start())
            self.begun = True
        branch = block(self)
        try:
            return self.ended(await asyncio.wrap_future(self.future))
        finally:
            branch.waiting = None

    def result_sync(self, start: "Start | None" = None) -> protocol.Step:
        """Do the same in synchronous code, which gets :class:`RunCancelled` when the run is cancelled."""
        saved = self.saved_sync()
        if saved is not None:
            return self.ended(saved, restored=True)
        if start is not None:
            start().result()
            self.begun = True
        branch = block(self)
        try:
            return self.ended(self.over_sync())
        finally:
            branch.waiting = None

    def over_sync(self) -> protocol.Step:
        """Block the thread until the wait is over, and return what it has become."""
        while True:
            self._refuse_if_cancelled()
            try:
                return self.future.result(_HEAR)
            except StillWaiting:
                if self.future.done():
                    raise

    def saved_sync(self) -> protocol.Step | None:
        """Return what history has of it, in synchronous code."""
        return self.attempt.checkpoints.recall(self._running)

    async def in_process(self, seconds: float) -> None:
        """Sleep here instead, and keep that it is over."""
        import asyncio

        saved = await self.saved()
        if saved is not None:
            self.ended(saved)
            return
        checkpoints, running = self.attempt.checkpoints, self._running
        checkpoints.begin(running)
        try:
            await asyncio.sleep(seconds)
        except BaseException:
            checkpoints.forget(running)
            raise
        await checkpoints.finish_soon(running, b"null")

    def in_process_sync(self, seconds: float) -> None:
        """Do the same in synchronous code."""
        saved = self.saved_sync()
        if saved is not None:
            self.ended(saved)
            return
        checkpoints, running = self.attempt.checkpoints, self._running
        checkpoints.begin(running)
        try:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                self._refuse_if_cancelled()
                time.sleep(min(left, _HEAR))
        except BaseException:
            checkpoints.forget(running)
            raise
        checkpoints.finish(running, b"null")

    def _refuse_if_cancelled(self) -> None:
        if self.attempt.run.cancelled:
            raise RunCancelled(f"The run was cancelled while it waited for {self.wait.key!r}.")

    async def saved(self) -> protocol.Step | None:
        """Return what history has of it."""
        import asyncio

        checkpoints, running = self.attempt.checkpoints, self._running
        if checkpoints.at_hand(running.key):
            return checkpoints.recall(running)
        return await asyncio.to_thread(checkpoints.recall, running)  # the loop goes on meanwhile

    def ended(self, step: protocol.Step, *, restored: bool = False) -> protocol.Step:
        """Return the step that the wait has become, or raise what it stands for.

        Args:
            step: As the ledger has it.
            restored: It was over before this attempt began.
        """
        error = self.error_of(step)
        if error is not None:
            self.attempt.failed.add(self.wait.key, error, restored=restored).raised()
            raise error
        return step

    def error_of(self, step: protocol.Step) -> Exception | None:
        """Return what a wait that has failed stands for.

        Raises:
            DivergenceError: The step is something else than what the code asks for.
        """
        # One that an earlier attempt began keeps what it was begun with, and is in no history before it is over.
        self.attempt.checkpoints.check(self._running, step)
        if step.state != "failed":
            return None
        failure = step.error or protocol.Failure(type="WaitError", message=f"{step.key} failed.")
        make = ERRORS.get(failure.type)
        return make(step, failure) if make is not None else WaitError(failure.message)


class Waits:
    """The waits of one attempt: begins them, asks after them, and ends the attempt when nothing else is left.

    Args:
        transport: To the API.
        checkpoints: Of the attempt.
        look: Tells what the run waits for if nothing else is left of it.
        leave: Ends the process once the run waits without it. One that returns leaves the code with
            :class:`RunSuspended`, which ends it in the same way as a crash would.
    """

    def __init__(
        self,
        transport: "Transport",
        checkpoints: Checkpoints,
        look: "Callable[[Callable[[Blocked | None], None]], None]",
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._checkpoints = checkpoints
        self._look = look
        self._leave = leave
        self._wake = threading.Condition()
        self._new: list[Pending] = []
        self._open: dict[str, Pending] = {}
        self._found: Blocked | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, pending: Pending) -> None:
        """Begin a wait; its future is done when it is over."""
        with self._wake:
            self._new.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="windlass-waits", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Ask no more: the task function has ended."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _run(self) -> None:
        pause = _OFTEN
        try:
            while True:
                with self._wake:
                    if not self._new and not self._closed and self._found is None:
                        self._wake.wait(pause if self._open else None)
                    new, self._new = self._new[:_MOST], self._new[_MOST:]
                    found, self._found = self._found, None
                    if self._closed:
                        return
                pause = _OFTEN if new else min(pause * 1.3, _SELDOM)
                for pending in new:
                    self._open[pending.wait.key] = pending
                if found is not None and not new and self._suspend(found):
                    return
                if new or found is None:
                    self._settle(self._ask(new))
                if self._open and not self._new:
                    self._look(self._answer)
        except BaseException as error:  # AttemptClosedError included: it belongs to whoever waits
            for pending in [*self._open.values(), *self._new]:
                _fail(pending, error)

    def _ask(self, new: list[Pending]) -> list[protocol.Step]:
        known = [key for key, pending in self._open.items() if pending.begun]
        over = self._transport.begin_waits([pending.wait for pending in new if not pending.begun], known[:1000])
        for pending in new:
            pending.begun = True
        return over

    def _answer(self, found: "Blocked | None") -> None:
        """Take the answer of a look; in asynchronous runs from the loop's thread."""
        if found is None:
            return
        with self._wake:
            self._found = found
            self._wake.notify()

    def _suspend(self, found: "Blocked") -> bool:
        if not all(pending.begun for pending in found.waits):
            return False
        groups = [[pending.wait.key for pending in group] for group in found.groups]
        together = [[pending.wait.key for pending in group] for group in found.together]
        answer = self._transport.suspend([pending.wait.key for pending in found.waits], groups, together)
        if not answer.suspended:
            self._settle(answer.over)
            return False
        self._checkpoints.suspended = True
        self._leave()
        for pending in self._open.values():
            _fail(pending, RunSuspended("The run waits."))
        return True

    def _settle(self, over: list[protocol.Step]) -> None:
        for step in over:
            pending = self._open.pop(step.key, None)
            if pending is not None and pending.future.set_running_or_notify_cancel():
                pending.future.set_result(step)


def block(waits: "Blocking") -> "Branch":
    """Begin to wait in the calling branch, which is blocked from here on, and return it."""
    first = waits.each[0]
    attempt, branch = first.attempt, branches.current()
    if branch is None or branch.inside_step is not None:
        raise StepError(f"{first.wait.name!r} is awaited outside the code of the task.")
    if attempt.checkpoints.suspended:
        raise RunSuspended
    branch.waiting = waits
    for pending in waits.each:
        attempt.waits.add(pending)
    return branch


def _fail(pending: Pending, error: BaseException) -> None:
    if not pending.future.done() and pending.future.set_running_or_notify_cancel():
        pending.future.set_exception(error)


def _run_failed(failure: protocol.Failure) -> RunFailedError:
    run = failure.run or protocol.FailedRun(run_id="", state="Failed", type=failure.type, message=failure.message)
    return RunFailedError(
        run.state,
        failure.message,
        run_id=run.run_id,
        failure_type=run.type,
        failure_class=run.failure_class,
        failure_message=run.message,
    )


def begin(
    name: str,
    kind: protocol.StepKind,
    *,
    arguments: Any,
    due_in: timedelta | None = None,
    due_at: datetime | None = None,
    target: str | None = None,
    detail: Any = None,
) -> Pending:
    """Take the key of a durable wait where it is called, in the order of the code. It begins when it is awaited.

    Args:
        name: In history, such as ``sleep``.
        kind: Of the wait.
        arguments: Whatever must be the same in every attempt, as JSON can say it.
        due_in: When it is over at the latest, from its beginning.
        due_at: The same as an aware time.
        target: What it waits for.
        detail: What the kind of wait wants to know, as JSON can say it.

    Raises:
        NotInRunError: There is no run here.
        StepError: Called inside a step, or from beside the branches of the run.
    """
    attempt = _attempt(name)
    branch = _branch(name)
    hashed = hash_value(arguments, what=f"arguments of {name}")
    running = Running(branch.key(name), name, hashed, kind, branch)
    wait = protocol.Wait(
        key=running.key,
        name=name,
        args_hash=hashed,
        kind=kind,
        place=running.place,
        code_id=attempt.checkpoints.code_id,
        due_in_ms=None if due_in is None else due_in.total_seconds() * 1000,
        due_at=None if due_at is None else due_at.astimezone(UTC).isoformat(),
        target=target,
        detail=protocol.ABSENT if detail is None else msgspec.Raw(msgspec.json.encode(detail)),
    )
    return Pending(attempt, running, wait)


def _attempt(name: str) -> Active:
    attempt = active()
    if attempt is None:
        raise NotInRunError(f"There is no run here: {name}() works inside a task that Windlass runs.")
    if attempt.checkpoints.closed:
        raise StepError(f"{name}() is called after the task function has ended. Wait for the threads that it starts.")
    if attempt.process != os.getpid():
        raise StepError(f"{name}() is called in a process that the run's own has forked. Call it from the task.")
    return attempt


def _branch(name: str) -> "Branch":
    branch = branches.current()
    if branch is None:
        raise StepError(
            f"{name}() is called from a thread that Windlass does not know. "
            "Start threads with windlass.to_thread() or windlass.ThreadPoolExecutor."
        )
    if branch.inside_step is not None:
        raise StepError(
            f"{name}() is called inside step {branch.inside_step!r}. A step runs in one go; wait between two steps."
        )
    return branch


def in_loop() -> bool:
    """Whether the caller is asynchronous code."""
    # Where nobody has imported it no loop runs, and synchronous code need not pay for the import.
    asyncio: Any = sys.modules.get("asyncio")
    return hasattr(asyncio, "_get_running_loop") and asyncio._get_running_loop() is not None  # noqa: SLF001 - public by its __all__


def only_async(name: str) -> None:
    """Refuse a call from synchronous code, which would get a coroutine and go on without waiting."""
    if not in_loop():
        raise StepError(f"{name}() is for asynchronous code; here, call {name}_sync().")


def only_sync(name: str) -> None:
    """Refuse a call that would stop the event loop, and with it every other branch."""
    if in_loop():
        raise StepError(f"{name}_sync() would stop the event loop; here, write `await {name}()`.")


def sleep(duration: "str | timedelta") -> Coroutine[Any, Any, None]:
    """Sleep for a time, for seconds or for months. More than five seconds hold no pod.

    Outside a run it is a plain sleep.

    Args:
        duration: ``"24h"``, ``"90s"`` or a timedelta; at most ten years.

    Raises:
        StepError: Called in synchronous code (use :func:`sleep_sync`), or inside a step.
        InvalidDurationError: It is no duration.
    """
    only_async("sleep")
    return _sleep(_begin_sleep(parse_duration(duration), None))


def sleep_sync(duration: "str | timedelta") -> None:
    """Sleep in synchronous code; see :func:`sleep`."""
    only_sync("sleep")
    _sleep_sync(_begin_sleep(parse_duration(duration), None))


def sleep_until(when: datetime) -> Coroutine[Any, Any, None]:
    """Sleep until a time; one that has passed ends at once. See :func:`sleep`.

    Args:
        when: With a time zone.

    Raises:
        ValueError: It has no time zone.
    """
    only_async("sleep_until")
    return _sleep(_begin_sleep(_left(when), when))


def sleep_until_sync(when: datetime) -> None:
    """Sleep until a time in synchronous code; see :func:`sleep_until`."""
    only_sync("sleep_until")
    _sleep_sync(_begin_sleep(_left(when), when))


def _left(when: datetime) -> timedelta:
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ValueError(f"sleep_until({when!r}): use a datetime with a time zone, such as datetime.now(UTC) + …")
    return max(timedelta(0), when - utc_now())


def stays(left: timedelta) -> bool:
    """Whether a wait of this length stays in the process."""
    return left <= SHORT and not is_moved()


class _Sleep:
    """A sleep that was called: plain outside a run, kept in the process if it is short, else durable."""

    def __init__(self, left: timedelta, pending: Pending | None) -> None:
        self.left = left
        self.pending = pending
        self.short = pending is None or stays(left)


def _begin_sleep(left: timedelta, until: datetime | None) -> _Sleep:
    if active() is None and branches.current() is None:
        return _Sleep(left, None)
    name = "sleep" if until is None else "sleep_until"
    arguments = left.total_seconds() if until is None else until.astimezone(UTC).isoformat()
    due_in, due_at = (left, None) if until is None else (None, until)
    return _Sleep(left, begin(name, "sleep", arguments=arguments, due_in=due_in, due_at=due_at))


async def _sleep(asked: _Sleep) -> None:
    import asyncio

    if asked.pending is None:
        await asyncio.sleep(asked.left.total_seconds())
        return
    if not asked.short:
        await asked.pending.result()
        return
    await asked.pending.in_process(asked.left.total_seconds())


def _sleep_sync(asked: _Sleep) -> None:
    if asked.pending is None:
        time.sleep(asked.left.total_seconds())
    elif asked.short:
        asked.pending.in_process_sync(asked.left.total_seconds())
    else:
        asked.pending.result_sync()
