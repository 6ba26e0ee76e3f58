"""Running one attempt in its process: load the code, decode the payload, call the task, report what came of it."""

import contextlib
import importlib
import inspect
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from windlass import branches, protocol
from windlass.arguments import PayloadInvalidError, arguments_of
from windlass.checkpoints import Checkpoints
from windlass.code_ids import code_id
from windlass.context import Active, CurrentRun, Flag, activate, active
from windlass.durations import seconds_until
from windlass.errors import (
    AttemptClosedError,
    DivergenceError,
    LoadError,
    PermanentError,
    RetryAt,
    RunCancelled,
    SerializationError,
    ValueTooLargeError,
)
from windlass.failures import OURS, failure_of, text_of
from windlass.liveness import Blocked, blocked
from windlass.progress import Progress
from windlass.reruns import FailedSteps
from windlass.serialization import encode
from windlass.stopping import Stop
from windlass.tasks import Task
from windlass.transport import Transport
from windlass.waits import Waits

_IMPORTLIB: Final = os.path.dirname(importlib.__file__) + os.sep  # noqa: PTH120 - as in steps


@dataclass(frozen=True)
class Finished:
    """What came of an attempt: exactly one of the three, or nothing if it was closed."""

    complete: protocol.CompleteRequest | None = None
    fail: protocol.FailRequest | None = None
    suspended: bool = False
    """The run waits, and the API knows."""
    stopped: bool = False
    """The pod must end, and the code has stopped before a step: the run is to be handed back."""


def preload(module: str) -> None:
    """Import the user's module.

    Raises:
        LoadError: It does not import; the failure names file and line.
    """
    try:
        importlib.import_module(module)
    except BaseException as error:  # whatever the user's module does while it is imported
        raise _load_error(error, f"Module {module!r} does not import") from None


def load_task(entrypoint: str, source: str | None) -> Task[Any, Any]:
    """Return the task that ``module:function`` names.

    Args:
        entrypoint: ``module:function``.
        source: Text of the module, if the Task carries it; else it is imported from the image.

    Raises:
        LoadError: The code does not import or has no such function; the failure names file and line.
    """
    module_name, _, attribute = entrypoint.partition(":")
    if source is None:
        preload(module_name)
    else:
        _compile(module_name, source)
    found: Any = sys.modules[module_name]
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Task):
        return found
    if inspect.isfunction(found):
        return Task(found, None, {})
    has = "is not a function" if found is not None else "does not exist"
    message = f"{attribute!r} {has} in module {module_name!r}; the entrypoint is {entrypoint!r}."
    raise LoadError(_permanent("EntrypointImportFailed", message))


def _compile(name: str, source: str) -> None:
    filename = f"{name.replace('.', '/')}.py"
    # Filled so that tracebacks show the lines of a file that does not exist.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(name)
    module.__file__ = filename
    try:
        code = compile(source, filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        line = f"{filename}:{error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else text_of(error)
        raise LoadError(_permanent("SourceSyntaxError", f"{line}{said}")) from None
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - to run the user's code is what we are for
    except BaseException as error:
        del sys.modules[name]
        raise _load_error(error, f"Module {name!r} does not import") from None


def _load_error(error: BaseException, what: str) -> LoadError:
    if isinstance(error, SyntaxError):
        return LoadError(_permanent("SourceSyntaxError", f"{error.filename}:{error.lineno}: {error.msg}"))
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((OURS, _IMPORTLIB, "<frozen importlib"))
    ]
    where = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    failure = _permanent("EntrypointImportFailed", f"{where}{what}: {type(error).__name__}: {text_of(error)}")
    failure.traceback = failure_of(error).traceback
    return LoadError(failure)


def _permanent(reason: str, message: str) -> protocol.Failure:
    message = message.encode(errors="replace").decode()[:4096]
    return protocol.Failure(type=reason, message=message, failure_class="permanent", reason=reason)


_cancelled_early = Flag()
"""Cancelled while the code was still being loaded: the attempt learns of it when it starts."""


_stop_early = Flag()
"""The same for a pod that must end."""


def request_stop() -> None:
    """Ask the running task to stop before its next step. Safe in a signal handler."""
    attempt = active()
    if attempt is None:
        _stop_early.raised = True
    else:
        attempt.stop.asked = True


def request_cancel() -> None:
    """Ask the running task to stop; see :func:`cancel`. Safe in a signal handler."""
    attempt = active()
    if attempt is None:
        _cancelled_early.raised = True
    else:
        cancel(attempt)


def cancel(attempt: Active) -> None:
    """Ask the code of an attempt to stop.

    Asynchronous code gets ``asyncio.CancelledError`` once; synchronous code :class:`RunCancelled` at its next step.
    """
    if attempt.run.cancelled:
        return  # a second cancellation would end the cleanup that the first one began
    attempt.run._cancelled.raised = True  # noqa: SLF001 - user code reads it through the property
    if attempt.loop is not None and attempt.main_task is not None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the code has just ended by itself
            attempt.loop.call_soon_threadsafe(attempt.main_task.cancel)


def prepare(
    attempt: protocol.ClaimedAttempt,
    transport: Transport,
    leave: Callable[[], None],
    hand_back: Callable[[], None],
    *,
    code: str | None,
    origin: str | None = None,
    checkpoints_of: type[Checkpoints] = Checkpoints,
) -> tuple[Active, branches.Branch, Progress]:
    """Return what an attempt consists of while it runs, and the branch of its task function.

    Args:
        attempt: As for :func:`execute`; so are the others.
        transport: To the API.
        leave: Ends the process of a run that waits.
        hand_back: Ends the process of a run whose pod must end.
        code: Id of the code that runs.
        origin: Whose external effects it shares.
        checkpoints_of: The class of its checkpoints.
    """
    progress = Progress(attempt, transport)
    run = CurrentRun(
        id=attempt.run_id,
        task=attempt.task,
        namespace=attempt.namespace,
        attempt=attempt.number,
        max_attempts=attempt.max_attempts,
        name=attempt.run_name,
        tags=tuple(attempt.tags),
        traceparent=attempt.traceparent,
        compensating=attempt.compensating,
        _progress=progress,
    )
    checkpoints = checkpoints_of(attempt, transport, code)
    activated = Active(run, checkpoints, transport, FailedSteps())
    activated.origin = origin or run.id
    root = branches.Branch()
    activated.waits = Waits(transport, checkpoints, partial(_look, activated, root), leave)
    activated.stop = Stop(run, checkpoints, hand_back)
    return activated, root, progress


def execute(
    task: Task[Any, Any],
    attempt: protocol.ClaimedAttempt,
    transport: Transport,
    leave: Callable[[], None] = lambda: None,
    hand_back: Callable[[], None] = lambda: None,
    *,
    origin: str | None = None,
    checkpoints_of: type[Checkpoints] = Checkpoints,
    begun: Callable[[Active], None] = lambda _: None,
) -> Finished:
    """Run an attempt and return what came of it.

    Args:
        task: What to call.
        attempt: What the claim brought.
        transport: To the API.
        leave: Called once the run waits without this process, in a thread. It should end the process: code that is
            left by an exception would clean up as if it had ended.
        hand_back: Called likewise once the code has stopped because the pod must end.
        origin: The run whose external effects this one shares; by default it is one of its own.
        checkpoints_of: The class of its checkpoints. The testing kit has one that looks on.
        begun: Called before the code starts.

    Raises:
        AttemptClosedError: Another attempt may be running; nothing may be reported.
    """
    code = code_id(attempt.entrypoint, attempt.source)
    activated, root, progress = prepare(
        attempt, transport, leave, hand_back, code=code, origin=origin, checkpoints_of=checkpoints_of
    )
    activate(activated)
    begun(activated)
    activated.stop.asked = activated.stop.asked or _stop_early.raised
    if _cancelled_early.raised:  # looked at after activate(): a signal between the two must not be lost
        _cancelled_early.raised = False
        activated.run._cancelled.raised = True  # noqa: SLF001 - as in cancel
    join_trace(activated, attempt)
    root.claim()
    token = branches.enter(root)
    try:
        if not attempt.compensating:
            progress.load()
            if task.migrate is not None:
                activated.checkpoints.migrate(task.migrate)
        args, kwargs = ([], {}) if attempt.compensating else arguments_of(task, attempt, transport)
        value: Any = None
        try:
            with forks_end_here():
                if attempt.compensating:
                    _undo(activated, attempt, transport)
                else:
                    value = _call(activated, root, task, args, kwargs)
        finally:
            activated.waits.close()
            activated.checkpoints.close()  # what is finished is saved, whatever comes of the rest
        if activated.checkpoints.suspended:
            return Finished(suspended=True)
        activated.checkpoints.insist()
        return Finished(complete=completed(encode(value, what="result"), transport))
    except BaseException as error:  # the edge between the user's code and us
        return finished_by(activated, error)
    finally:
        branches.leave(token)
        activate(None)


def finished_by(activated: Active, error: BaseException) -> Finished:
    """Return what came of an attempt that an error ended.

    Raises:
        AttemptClosedError: That was the error.
    """
    decisive = _decisive(error)
    if isinstance(decisive, AttemptClosedError):
        raise decisive from None
    if activated.checkpoints.suspended:
        return Finished(suspended=True)
    return Finished(fail=_failed(activated, error, activated.checkpoints.diverged or decisive))


def _failed(activated: Active, error: BaseException, decisive: BaseException) -> protocol.FailRequest:
    """Return the report of an attempt that an error ended, and which failed steps the next one runs again."""
    report = _report(decisive, activated.run)
    report.rerun = activated.failed.to_rerun(error, history_left=activated.checkpoints.unused())
    return report


def _look(activated: Active, root: branches.Branch, answer: Callable[[Blocked | None], None]) -> None:
    """Find out whether anything but waits is left; in the loop's thread, where there is a loop."""
    if activated.loop is None:
        answer(blocked(activated, root))
        return
    with contextlib.suppress(RuntimeError):  # the loop is closed: the code has just ended by itself
        activated.loop.call_soon_threadsafe(lambda: answer(blocked(activated, root)))


def join_trace(activated: Active, attempt: protocol.ClaimedAttempt) -> None:
    """Make the spans of user code children of the attempt's, and inside a step of the step's."""
    if attempt.traceparent is None or "opentelemetry.trace" not in sys.modules:
        return
    from windlass import traces

    place = traces.parse(attempt.traceparent)
    if place is not None:
        # Not taken back: the process, or the context, ends with the attempt.
        traces.attach(place)
        activated.enter_span = lambda key: traces.attach(place.under(traces.step_span_id(attempt.attempt_id, key)))


def completed(data: bytes, transport: Transport) -> protocol.CompleteRequest:
    """Return the report of a result, which is uploaded first if it is large.

    Raises:
        ValueTooLargeError: Nothing keeps so large a result.
    """
    if len(data) <= protocol.INLINE_LIMIT:
        return protocol.CompleteRequest(result=msgspec.Raw(data))
    try:
        return protocol.CompleteRequest(result_ref=transport.put_blob(data))
    except ValueTooLargeError as error:
        raise ValueTooLargeError(f"The result cannot be saved: {error}") from None


@contextlib.contextmanager
def forks_end_here() -> Iterator[None]:
    """End a process that the user's code forked where it would return to us: the run's own process alone may report."""
    home, code = os.getpid(), 0
    try:
        yield
    except BaseException as error:
        if os.getpid() == home:
            raise
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif error.code is None:
            code = 0
    finally:
        if os.getpid() != home:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code & 0xFF)


def _call(
    activated: Active, root: branches.Branch, task: Task[Any, Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    if activated.run.cancelled:
        raise RunCancelled("The run was cancelled before its code started.")
    if not task.is_async:
        return task.function(*args, **kwargs)
    import asyncio

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        activated.loop, activated.main_task = loop, asyncio.current_task()
        root.claim(activated.main_task)
        if activated.run.cancelled:  # announced before there was a loop to tell
            raise asyncio.CancelledError
        loop.set_task_factory(branches.task_factory)
        try:
            return await task.function(*args, **kwargs)
        finally:
            root.ended = True

    return asyncio.run(main())


def _undo(activated: Active, attempt: protocol.ClaimedAttempt, transport: Transport) -> None:
    """Undo the finished steps of a run that will not succeed; its task function is not called any more."""
    from windlass.compensating import undo_all  # late: most attempts undo nothing

    undo_all(activated, attempt, transport)


def _decisive(error: BaseException) -> BaseException:
    """Return the one of a group's errors that decides what becomes of the run: a TaskGroup wraps even a lone error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_decisive(inner) for inner in error.exceptions]
    for kind in (
        AttemptClosedError,
        RunCancelled,
        DivergenceError,
        PermanentError,
        SerializationError,
        ValueTooLargeError,
        RetryAt,
    ):
        found = next((leaf for leaf in leaves if isinstance(leaf, kind)), None)
        if found is not None:
            return found
    return leaves[0] if len(leaves) == 1 else error


def _report(error: BaseException, run: CurrentRun) -> protocol.FailRequest:
    failure = failure_of(error)
    if type(error).__name__ == "CancelledError" or isinstance(error, RunCancelled):
        if run.cancelled:
            return protocol.FailRequest(failure=failure, cancelled=True)
    elif isinstance(error, PayloadInvalidError):
        failure = _permanent("PayloadInvalid", str(error))
    elif isinstance(error, SerializationError):
        failure.failure_class, failure.reason = "permanent", "ResultNotSerializable"
    elif isinstance(error, ValueTooLargeError):
        failure.failure_class, failure.reason = "permanent", "ResultTooLarge"
    elif isinstance(error, DivergenceError):
        failure.failure_class, failure.reason = "permanent", "Divergence"
    elif isinstance(error, PermanentError):
        failure.failure_class = "permanent"
    elif isinstance(error, SystemExit):
        failure.message = f"The code called sys.exit({error.code!r})."
    elif isinstance(error, RetryAt):
        return protocol.FailRequest(failure=failure, retry_after_ms=_milliseconds(error))
    return protocol.FailRequest(failure=failure)


def _milliseconds(error: RetryAt) -> int | None:
    when = getattr(error, "when", None)  # one that was made again from history may have lost it
    return None if when is None else min(round(seconds_until(when) * 1000), protocol.TEN_YEARS)
