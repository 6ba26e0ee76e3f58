"""Runs that the code of a run starts: durable steps, one run for each however often the code runs again.

The step's key is taken where the call stands, and the run starts when the call is awaited. Calls of many branches that
come together share a request.
"""

import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from windlass import protocol
from windlass.client import RunHandle, Timing, keys_of
from windlass.client import when as timing
from windlass.context import active
from windlass.durations import parse_duration
from windlass.errors import (
    ApiError,
    DivergenceError,
    ProtocolError,
    RunCancelled,
    StepError,
)
from windlass.reruns import mark
from windlass.serialization import annotations_of, decode, encode
from windlass.waits import Pending, begin, block, only_async, only_sync

if TYPE_CHECKING:
    from windlass.tasks import Task
    from windlass.transport import Transport

_MOST: Final = 1000
"""Runs in one request."""


@dataclass(frozen=True)
class RunResult:
    """What came of one run of a batch.

    Attributes:
        run_id: The run's id.
        value: What it returned; None if it did not.
        error: Why there is no value: a :class:`RunFailedError`, or a :class:`WaitTimeoutError` for a run that goes on.
    """

    run_id: str
    value: Any = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the run has succeeded."""
        return self.error is None


@dataclass(frozen=True)
class Options:
    """What a caller may say besides the payload."""

    tags: tuple[str, ...] = ()
    version: int | None = None
    detached: bool = False
    timeout: timedelta | None = None
    when: Mapping[str, str] = field(default_factory=dict)
    """When it is to start, in the API's words. It is no argument of the step: a time that the code calculates is
    another one each time it runs, and the run that was started first is the one."""


class Call:
    """One run that the code asks for: its place in history, and what is sent to start it."""

    def __init__(
        self, task: "Task[Any, Any]", payload: Any, options: Options, key: str | None, *, awaited: bool
    ) -> None:
        value = msgspec.Raw(encode(payload, what=f"payload of {task.name}"))
        self.task = task
        # A step that only starts the run has another result than one that waits for it.
        self.pending: Pending = begin(task.name, "run", arguments=[awaited, payload], due_in=options.timeout)
        wait = self.pending.wait
        self.child = protocol.Child(
            key=wait.key,
            name=wait.name,
            args_hash=wait.args_hash,
            task=task.name,
            payload=value,
            version=options.version,
            tags=list(options.tags),
            idempotency_key=key,
            detached=options.detached,
            awaited=awaited,
            due_in_ms=wait.due_in_ms,
            delay=options.when.get("delay"),
            start_at=options.when.get("startAt"),
            queue_ttl=options.when.get("queueTTL"),
            place=wait.place,
            code_id=wait.code_id,
        )
        self.run_id: str | None = None

    def value(self, step: protocol.Step) -> Any:
        """Return what the run returned, by the return annotation of its function."""
        data = self.pending.attempt.checkpoints.value_of(step)
        return decode(data, annotations_of(self.task.function)[1], what=f"result of run {step.run_id}")

    def result(self, step: protocol.Step) -> RunResult:
        """Return what came of the run."""
        run_id = step.run_id or self.run_id or ""
        error = self.pending.error_of(step)
        if error is None:
            return RunResult(run_id, self.value(step))
        mark(error, step.key)  # the code has seen it: it is run again only if the code raises it
        return RunResult(run_id, error=error)

    def refuse_if_cancelled(self) -> None:
        """Start nothing new in a run that was cancelled."""
        if self.pending.attempt.run.cancelled:
            raise RunCancelled(f"The run was cancelled before it started {self.child.key!r}.")


class Starter:
    """Starts the runs of one attempt. What is asked for during a request goes in the next one."""

    def __init__(self, transport: "Transport") -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._queue: list[tuple[Sequence[Call], Future[None]]] = []
        self._busy = False

    def start(self, calls: Sequence[Call]) -> "Future[None]":
        """Start runs, all of them or none; the future is done when they are durable."""
        for call in calls:
            call.refuse_if_cancelled()
        future: Future[None] = Future()
        with self._lock:
            self._queue.append((calls, future))
            if self._busy:
                return future
            self._busy = True
        loop = _loop()
        if loop is None:
            self._begin()
        else:
            loop.call_soon(self._begin)  # behind the branches that ask in the same turn, as those of a gather do
        return future

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="windlass-children", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                units = self._take()
                if not units:
                    self._busy = False
                    return
            self._send(units)

    def _take(self) -> list[tuple[Sequence[Call], "Future[None]"]]:
        """Take what fits into one request; a larger batch is one by itself."""
        units: list[tuple[Sequence[Call], Future[None]]] = []
        size = 0
        while self._queue and (not units or size + len(self._queue[0][0]) <= _MOST):
            units.append(self._queue.pop(0))
            size += len(units[-1][0])
        return units

    def _send(self, units: list[tuple[Sequence[Call], "Future[None]"]]) -> None:
        calls = [call for unit, _ in units for call in unit]
        try:
            for first in range(0, len(calls), _MOST):
                some = calls[first : first + _MOST]
                ids = self._transport.start_children([call.child for call in some])
                for call, run_id in zip(some, ids, strict=True):
                    call.run_id = run_id
        except ProtocolError as error:
            if len(units) > 1:  # one bad call is its own problem and nobody else's
                for unit in units:
                    self._send([unit])
                return
            _settle(units, _refused(error, alone=len(calls) == 1))
        except BaseException as error:  # AttemptClosedError included: it belongs to whoever waits
            _settle(units, error)
        else:
            _settle(units, None)


def _loop() -> Any:
    import asyncio

    return asyncio._get_running_loop()  # noqa: SLF001 - public by asyncio's __all__


def _settle(units: list[tuple[Sequence[Call], "Future[None]"]], problem: BaseException | None) -> None:
    for _, future in units:
        if not future.set_running_or_notify_cancel():
            continue
        if problem is None:
            future.set_result(None)
        else:
            future.set_exception(problem)


def _refused(error: ProtocolError, *, alone: bool) -> BaseException:
    """Return what the code gets for a run that cannot be started: the same as outside a run, where it is the same."""
    if error.code == "RunCancelling":
        return RunCancelled(error.message)
    if error.code == "Divergence":
        return DivergenceError(error.message)
    field = error.field or ""
    field = field.partition("].")[2] if alone else field.replace("children[", "items[", 1)
    return ApiError(error.code, error.message, field=field or None)


class Together:
    """Waits of one call that needs all of them."""

    def __init__(self, waits: Sequence[Pending]) -> None:
        self.each = tuple(waits)


def in_run() -> bool:
    """Whether the caller is the code of a run."""
    return active() is not None


def options_of(
    name: str,
    *,
    tags: tuple[str, ...] = (),
    version: int | None = None,
    detached: bool = False,
    timeout: "str | timedelta | None" = None,
    namespace: str | None = None,
    when: Timing = (None, None, None),
) -> Options:
    """Return the options of a call.

    Raises:
        StepError: There is no run here, or the Task is to be another namespace's.
    """
    attempt = active()
    if attempt is not None and namespace not in (None, attempt.run.namespace):
        raise StepError(
            f"{name}(namespace={namespace!r}): a run starts runs of its own namespace, {attempt.run.namespace!r}. Call "
            "windlass.Client(namespace=...).trigger() in a step; that needs a token for the other one."
        )
    return Options(tuple(tags), version, detached, None if timeout is None else parse_duration(timeout), timing(*when))


def _starter(call: Call) -> Starter:
    attempt = call.pending.attempt
    with _MAKING:
        if attempt.starter is None:
            attempt.starter = Starter(attempt.transport)
        return attempt.starter


_MAKING: Final = threading.Lock()


def trigger(calls: Sequence[Call]) -> Coroutine[Any, Any, list[RunHandle]]:
    """Start runs in asynchronous code."""
    only_async("trigger")
    return _trigger(calls)


async def _trigger(calls: Sequence[Call]) -> list[RunHandle]:
    import asyncio

    missing = [call for call in calls if not _known(call, await call.pending.saved())]
    if missing:
        await asyncio.wrap_future(_starter(missing[0]).start(missing))
    return [_handle(call) for call in calls]


def trigger_sync(calls: Sequence[Call]) -> list[RunHandle]:
    """Start runs in synchronous code."""
    only_sync("trigger")
    missing = [call for call in calls if not _known(call, call.pending.saved_sync())]
    if missing:
        _starter(missing[0]).start(missing).result()
    return [_handle(call) for call in calls]


def _known(call: Call, step: protocol.Step | None) -> bool:
    if step is None:
        return False
    call.run_id = call.pending.ended(step).run_id
    return True


def _handle(call: Call) -> RunHandle:
    return RunHandle(None, call.run_id or "", call.pending.attempt.run.namespace)


async def trigger_and_wait(call: Call) -> Any:
    """Start a run and wait for its result in asynchronous code."""
    import asyncio

    step = await call.pending.result(partial(_start, call))
    if step.result_ref is None:
        return call.value(step)
    return await asyncio.to_thread(call.value, step)  # fetched: the loop goes on meanwhile


def trigger_and_wait_sync(call: Call) -> Any:
    """Do the same in synchronous code."""
    only_sync("trigger_and_wait")
    return call.value(call.pending.result_sync(partial(_start, call)))


def _start(call: Call) -> "Future[None]":
    return _starter(call).start([call])


async def batch_trigger_and_wait(calls: Sequence[Call]) -> list[RunResult]:
    """Start runs and wait for all of them in asynchronous code."""
    import asyncio

    steps = {call.child.key: await call.pending.saved() for call in calls}
    missing = [call for call in calls if steps[call.child.key] is None]
    if missing:
        await asyncio.wrap_future(_starter(missing[0]).start(missing))
        branch = block(_together(missing))
        try:
            for call in missing:
                step = await asyncio.wrap_future(call.pending.future)
                steps[call.child.key] = step
        finally:
            branch.waiting = None
    return await asyncio.to_thread(_results, calls, steps)


def batch_trigger_and_wait_sync(calls: Sequence[Call]) -> list[RunResult]:
    """Do the same in synchronous code."""
    only_sync("batch_trigger_and_wait")
    steps = {call.child.key: call.pending.saved_sync() for call in calls}
    missing = [call for call in calls if steps[call.child.key] is None]
    if missing:
        _starter(missing[0]).start(missing).result()
        branch = block(_together(missing))
        try:
            for call in missing:
                steps[call.child.key] = call.pending.over_sync()
        finally:
            branch.waiting = None
    return _results(calls, steps)


def _together(calls: Sequence[Call]) -> Together:
    for call in calls:
        call.pending.begun = True
    return Together([call.pending for call in calls])


def _results(calls: Sequence[Call], steps: dict[str, protocol.Step | None]) -> list[RunResult]:
    found = []
    for call in calls:
        step = steps[call.child.key]
        assert step is not None, "all of them are over"
        found.append(call.result(step))
    return found


def calls_of(
    task: "Task[Any, Any]",
    payloads: Iterable[Any],
    options: Options,
    keys: Sequence[str | None] | None = None,
    *,
    awaited: bool,
) -> list[Call]:
    """Return a call for each payload, their keys taken in this order."""
    items = list(payloads)
    keys = keys_of(items, keys)
    return [Call(task, payload, options, key, awaited=awaited) for payload, key in zip(items, keys, strict=True)]
