"""``@step``: a function whose result is checkpointed. Its body runs at least once, and never again after that."""

import inspect
import os
import traceback
from collections.abc import Awaitable, Callable
from functools import cached_property, update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from windlass import branches, protocol
from windlass.checkpoints import Running
from windlass.compensation import Compensation
from windlass.context import Active, active
from windlass.errors import RunCancelled, StepError
from windlass.serialization import annotations_of, decode, encode, hash_arguments

OURS: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - pathlib would cost milliseconds of every start
"""Folder of the SDK: its frames are left out of tracebacks."""

P = ParamSpec("P")
R = TypeVar("R")


class Step(Generic[P, R]):
    """A step. Call it like the function; outside a run it is just the function.

    The first execution returns the function's own object; a later attempt returns what was saved, decoded by the return
    annotation. Annotate steps that return models, or later attempts see plain dicts.
    """

    def __init__(self, function: Callable[P, R], name: str | None, *, compensate: Any = None) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"@step wants a function, not {type(function).__name__}.")
        update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        if not self.name or len(self.name) > 200 or not self.name.isprintable() or "/" in self.name or "#" in self.name:
            raise TypeError(
                f"{self.name!r} cannot be a step's name: use 1 to 200 printable characters without '/' and '#'."
            )
        self.is_async = inspect.iscoroutinefunction(function)
        self.compensation = None if compensate is None else Compensation(self, compensate)

    @cached_property
    def types(self) -> tuple[inspect.Signature, Any]:
        """Looked up at the first call: an annotation may name a class that the module defines further down."""
        return annotations_of(self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step, or return its saved result."""
        attempt = active()
        if attempt is None and branches.current() is None:
            return cast("R", self.function(*args, **kwargs))
        if attempt is None or attempt.checkpoints.closed:
            raise StepError(
                f"Step {self.name!r} is called after the task function has ended. Wait for the threads that it starts."
            )
        running = self._enter(attempt, args, kwargs)
        if self.is_async:
            return cast("R", self._run_async(attempt, running, args, kwargs))
        return self._run(attempt, running, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> "Step[P, R]":
        """Refuse methods: ``self`` would have to be saved and hashed with every call."""
        raise TypeError(f"@step {self.name!r} is a method. Make it a function and pass what it needs.")

    def _enter(self, attempt: Active, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Running:
        """Take the key when the step is called, not when it is awaited: that is the order of the code."""
        if attempt.process != os.getpid():
            raise StepError(
                f"Step {self.name!r} is called in a process that the run's own has forked, whose place nobody knows. "
                f"Call it from the task, or call {self.name}.function for the plain function."
            )
        branch = branches.current()
        if branch is None:
            raise StepError(
                f"Step {self.name!r} is called from a thread that Windlass does not know. "
                "Start threads with windlass.to_thread() or windlass.ThreadPoolExecutor."
            )
        if branch.inside_step is not None:
            raise StepError(
                f"Step {self.name!r} is called inside step {branch.inside_step!r}. Steps do not nest: "
                f"call it from the task, or call {self.name}.function for the plain function."
            )
        hashed = hash_arguments(self.types[0], self.name, args, kwargs)
        running = Running(branch.key(self.name), self.name, hashed, branch=branch)
        if self.compensation is not None:
            running.compensation = self.compensation.save(running.key, self.types[0], args, kwargs)
        return running

    def _saved(self, attempt: Active, running: Running) -> tuple[bool, Any]:
        """Return whether history has the step, and its value.

        Raises:
            DivergenceError: History has another step in its place, or has it with other arguments.
            RunCancelled: The run was cancelled; nothing new is started.
        """
        saved = attempt.checkpoints.recall(running)
        if saved is not None:
            data = attempt.checkpoints.value_of(saved)
            return True, decode(data, self.types[1], what=f"saved result of step {running.key!r}")
        if attempt.run.cancelled:
            raise RunCancelled(f"The run was cancelled before step {running.key!r}.")
        return False, None

    def _run(self, attempt: Active, running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        known, value = self._saved(attempt, running)
        if known:
            return cast("R", value)
        attempt.checkpoints.begin(running)
        token = branches.enter(branches.Branch(inside_step=running.key))
        leave_span = attempt.enter_span(running.key) if attempt.enter_span is not None else None
        try:
            result = self.function(*args, **kwargs)
            data = encode(result, what=f"result of step {running.key!r}")
        except BaseException as error:  # sys.exit() included: the step is over
            attempt.checkpoints.fail(running, failure_of(error, running.key))
            raise
        finally:
            branches.leave(token)
            if leave_span is not None:
                leave_span()
        attempt.checkpoints.finish(running, data)
        return cast("R", result)

    async def _run_async(self, attempt: Active, running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import asyncio

        if attempt.checkpoints.at_hand(running.key):
            known, value = self._saved(attempt, running)
        else:  # history is fetched: the loop goes on meanwhile, and hears of a cancellation
            known, value = await asyncio.to_thread(self._saved, attempt, running)
        if known:
            return value
        attempt.checkpoints.begin(running)
        token = branches.enter(branches.Branch(inside_step=running.key))
        leave_span = attempt.enter_span(running.key) if attempt.enter_span is not None else None
        try:
            result = await cast("Awaitable[Any]", self.function(*args, **kwargs))
            data = encode(result, what=f"result of step {running.key!r}")
        except Exception as error:
            await asyncio.wrap_future(attempt.checkpoints.fail_soon(running, failure_of(error, running.key)))
            raise
        except BaseException as error:  # cancelled, by a timeout for example: what is cancelled may not wait
            attempt.checkpoints.fail_soon(running, failure_of(error, running.key))
            raise
        finally:
            branches.leave(token)
            if leave_span is not None:
                leave_span()
        await asyncio.wrap_future(attempt.checkpoints.finish_soon(running, data))
        return cast("R", result)


def failure_of(error: BaseException, step: str | None = None) -> protocol.Failure:
    """Return what the ledger keeps of an exception: without the frames of Windlass itself, at most 32 KiB."""
    told = traceback.TracebackException(type(error), error, error.__traceback__)
    _leave_out_ours(told)
    text = "".join(told.format()).encode(errors="replace")[-32_768:].decode(errors="ignore")
    message = text_of(error).encode(errors="replace").decode()[:4096]
    return protocol.Failure(type=type(error).__name__, message=message, traceback=text, step=step)


def text_of(error: BaseException) -> str:
    """Return what an exception says, even if its own text cannot be made."""
    try:
        return str(error) or type(error).__name__
    except Exception as broken:
        return f"{type(error).__name__}, whose text cannot be made: {type(broken).__name__}"


def _leave_out_ours(told: traceback.TracebackException) -> None:
    rest: list[traceback.TracebackException | None] = [told]
    while rest:  # a loop of retries that chains its errors makes thousands of them
        one = rest.pop()
        if one is not None:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(OURS)]
            rest += [one.__cause__, one.__context__, *(one.exceptions or ())]


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *, name: str | None = None, compensate: Callable[..., Any] | None = None
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(function: Any = None, /, *, name: str | None = None, compensate: Any = None) -> Any:
    """Make a function a step: its result is saved, and a later attempt returns the saved result instead of running it.

    Args:
        function: A function, ``def`` or ``async def``.
        name: Name in history; the function's by default. Keep it when you rename the function.
        compensate: A function, or a step, that undoes what this one did, should the run not succeed. Its parameters are
            matched by name: ``result`` gets what the step returned, any other the step's argument of that name.

    Raises:
        TypeError: Not a function, a name that cannot be one, or a compensation that can never be called.
    """
    if function is not None:
        return Step(function, None)
    return lambda wrapped: Step(wrapped, name, compensate=compensate)
