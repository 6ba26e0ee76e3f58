"""``@step``: a function whose result is checkpointed. Its body runs at least once, and never again after that."""

import hashlib
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from windlass import branches
from windlass.checkpoints import Running
from windlass.compensation import Compensation
from windlass.context import Active, active, is_shared
from windlass.errors import RunCancelled, StepError
from windlass.failures import failure_of, is_durable
from windlass.reruns import Past
from windlass.retry import Retry
from windlass.serialization import annotations_of, decode, encode, hash_arguments

if TYPE_CHECKING:
    from windlass.tries import Body, Options

P = ParamSpec("P")
R = TypeVar("R")


_UNKNOWN_THREAD: Final = (
    "Step {!r} is called from a thread that Windlass does not know. "
    "Start threads with windlass.to_thread() or windlass.ThreadPoolExecutor."
)


class Step(Generic[P, R]):
    """A step. Call it like the function; outside a run it is just the function.

    The first execution returns the function's own object; a later attempt returns what was saved, decoded by the return
    annotation. Annotate steps that return models, or later attempts see plain dicts.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str | None,
        options: "Options | None" = None,
        *,
        compensate: Any = None,
        protect: bool = False,
    ) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"@step wants a function, not {type(function).__name__}.")
        update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        if not self.name or len(self.name) > 200 or not self.name.isprintable() or set(self.name) & set("/#~"):
            raise TypeError(
                f"{self.name!r} cannot be a step's name: use 1 to 200 printable characters without '/', '#' and '~'."
            )
        self.is_async = inspect.iscoroutinefunction(function)
        self.options = options
        self.protect = protect
        self.compensation = None if compensate is None else Compensation(self, compensate)

    @cached_property
    def types(self) -> tuple[inspect.Signature, Any]:
        """Looked up at the first call: an annotation may name a class that the module defines further down."""
        return annotations_of(self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step, or return its saved result."""
        attempt = active()
        if attempt is None and branches.current() is None:
            if is_shared() and threading.current_thread() is not threading.main_thread():
                raise StepError(_UNKNOWN_THREAD.format(self.name))
            return cast("R", self._alone(args, kwargs))
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
            raise StepError(_UNKNOWN_THREAD.format(self.name))
        if branch.inside_step is not None:
            raise StepError(
                f"Step {self.name!r} is called inside step {branch.inside_step!r}. Steps do not nest: "
                f"call it from the task, or call {self.name}.function for the plain function."
            )
        if self.options is not None and self.options.timeout is not None and not self.is_async:
            from windlass.time_limits import check_thread

            check_thread(self.name)
        hashed = self._hashed(args, kwargs)
        running = Running(branch.key(self.name), self.name, hashed, branch=branch)
        if self.compensation is not None:
            running.compensation = self.compensation.save(running.key, self.types[0], args, kwargs)
        return running

    def _hashed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return hash_arguments(self.types[0], self.name, args, kwargs)

    def _encoded(self, result: Any, key: str) -> bytes:
        return encode(result, what=f"result of step {key!r}")

    def _saved(self, attempt: Active, running: Running) -> "Past | None":
        """Return what history has of the step, or None.

        Raises:
            DivergenceError: History has another step in its place, or has it with other arguments.
            RunCancelled: The run was cancelled; nothing new is started.
        """
        saved = attempt.checkpoints.recall(running)
        if saved is not None:
            if saved.state == "failed":
                from windlass.restoring import exception_of

                assert saved.error is not None, "a failed step has an error"
                return Past(error=exception_of(saved.error))
            data = attempt.checkpoints.value_of(saved)
            return Past(decode(data, self.types[1], what=f"saved result of step {running.key!r}"))
        if attempt.run.cancelled:
            raise RunCancelled(f"The run was cancelled before step {running.key!r}.")
        return None

    def _run(self, attempt: Active, running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        past = self._saved(attempt, running)
        if past is not None:
            return cast("R", past.again(attempt.failed, running.key))
        attempt.stop.before_step_sync()
        leave_span = self._begin(attempt, running)
        try:
            if self.options is None:
                token = branches.enter(branches.Branch(inside_step=running.key))
                try:
                    result: Any = self.function(*args, **kwargs)
                finally:
                    branches.leave(token)
            else:
                from windlass import tries

                result = tries.run(self._body(attempt, running, args, kwargs))
            data = self._encoded(result, running.key)
        except BaseException as error:  # sys.exit() included: the step is over
            if attempt.checkpoints.suspended:  # between two tries: the run waits without this process
                raise
            durable = is_durable(error)
            failure = failure_of(error, running.key, durable=durable)
            failed = attempt.failed.add(running.key, error)
            attempt.checkpoints.fail(running, failure, durable=durable)
            failed.raised()
            raise
        finally:
            if leave_span is not None:
                leave_span()
        try:
            attempt.checkpoints.finish(running, data)
        except Exception as error:  # nothing keeps so large a result
            attempt.failed.add(running.key, error).raised()
            raise
        return cast("R", result)

    async def _run_async(self, attempt: Active, running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import asyncio

        if attempt.checkpoints.at_hand(running.key):
            past = self._saved(attempt, running)
        else:  # history is fetched: the loop goes on meanwhile, and hears of a cancellation
            past = await asyncio.to_thread(self._saved, attempt, running)
        if past is not None:
            return past.again(attempt.failed, running.key)
        await attempt.stop.before_step()
        leave_span = await self._begin_async(attempt, running)
        try:
            if self.options is None:
                token = branches.enter(branches.Branch(inside_step=running.key))
                try:
                    result: Any = await cast("Awaitable[Any]", self.function(*args, **kwargs))
                finally:
                    branches.leave(token)
            else:
                from windlass import tries

                result = await tries.run_async(self._body(attempt, running, args, kwargs))
            data = self._encoded(result, running.key)
        except BaseException as error:
            if attempt.checkpoints.suspended:  # between two tries: the run waits without this process
                raise
            durable = is_durable(error)
            failure = failure_of(error, running.key, durable=durable)
            failed = attempt.failed.add(running.key, error)
            saved = attempt.checkpoints.fail_soon(running, failure, durable=durable)
            if isinstance(error, Exception):  # what is cancelled, by a timeout for example, may not wait
                await saved
            saved.cancel()  # where nobody has waited, nobody is to hear of it
            failed.raised()
            raise
        finally:
            if leave_span is not None:
                leave_span()
        try:
            await attempt.checkpoints.finish_soon(running, data)
        except Exception as error:  # nothing keeps so large a result
            attempt.failed.add(running.key, error).raised()
            raise
        return cast("R", result)

    def _begin(self, attempt: Active, running: Running) -> "Callable[[], None] | None":
        if self.protect:
            from windlass.protection import protect

            protect(attempt, running)
        return _begin(attempt, running)

    async def _begin_async(self, attempt: Active, running: Running) -> "Callable[[], None] | None":
        if self.protect:
            from windlass.protection import protect_async

            await protect_async(attempt, running)
        return _begin(attempt, running)

    def _body(self, attempt: Active, running: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Body":
        from windlass.tries import Body

        assert self.options is not None, "a step without options is called as it is"

        def arguments() -> dict[str, Any]:
            bound = self.types[0].bind(*args, **kwargs)
            bound.apply_defaults()
            return bound.arguments

        return Body(attempt, running, self.options, lambda: self.function(*args, **kwargs), arguments)

    def _alone(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the plain function, outside a run."""
        if self.is_async:
            return self._alone_async(args, kwargs)
        token = _ALONE.set(f"no-run-{os.urandom(12).hex()}")
        try:
            return self.function(*args, **kwargs)
        finally:
            _ALONE.reset(token)

    async def _alone_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = _ALONE.set(f"no-run-{os.urandom(12).hex()}")
        try:
            return await cast("Awaitable[Any]", self.function(*args, **kwargs))
        finally:
            _ALONE.reset(token)


def _begin(attempt: Active, running: Running) -> "Callable[[], None] | None":
    """Note that a step's body starts; return what ends its span, if it has one."""
    attempt.checkpoints.begin(running)
    return attempt.enter_span(running.key) if attempt.enter_span is not None else None


_ALONE: Final[ContextVar[str]] = ContextVar("windlass_step_alone")
"""Stands for the idempotency key in a step that is called outside a run."""


class StepDecorator:
    """Make a function a step: its result is saved, and a later attempt returns the saved result instead of running it.

    ``@step`` alone, or with options, all of them by name:

    - ``name``: In history; the function's by default. Keep it when you rename the function.
    - ``retry``: A :class:`Retry`: how often and how fast the body is tried before the step fails. Without it: once.
    - ``retry_if``: A function that gets the error and says whether it is worth another try.
    - ``timeout``: How long one try may take: a duration such as ``"30s"``. Then it fails with ``StepTimeoutError``.
    - ``compensate``: A function, or a step, that undoes what this one did, should the run not succeed. Its parameters
      are matched by name: ``result`` gets what the step returned, any other the step's argument of that name.
    - ``protect``: True: while the step runs, tools that scale or tidy the cluster are asked to leave its pod alone. The
      body begins when that is on record.
    - ``on_error``: A function whose value is the step's result when no further try follows. It gets, by name, what it
      asks for: ``error``, and the step's own arguments.

    Raises ``TypeError`` or ``ValueError`` where the function is decorated, if one of these cannot be.
    """

    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        retry_if: Callable[[Exception], object] | None = None,
        timeout: str | timedelta | None = None,
        on_error: Callable[..., Any] | None = None,
        compensate: Callable[..., Any] | None = None,
        protect: bool = False,
    ) -> Callable[[Callable[P, R]], Step[P, R]]: ...
    def __call__(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        retry_if: Callable[[Exception], object] | None = None,
        timeout: str | timedelta | None = None,
        on_error: Callable[..., Any] | None = None,
        compensate: Callable[..., Any] | None = None,
        protect: bool = False,
    ) -> Any:
        """Decorate a function."""
        if function is not None:
            return Step(function, None)
        if not isinstance(protect, bool):
            raise TypeError(f"@step(protect={protect!r}): write protect=True, or leave it out.")

        def decorate(wrapped: Callable[P, R]) -> Step[P, R]:
            made = Step(wrapped, name, compensate=compensate, protect=protect)
            if any(option is not None for option in (retry, retry_if, timeout, on_error)):
                from windlass.step_options import checked

                made.options = checked(
                    made.name, wrapped, retry=retry, retry_if=retry_if, timeout=timeout, on_error=on_error
                )
            return made

        return decorate

    @property
    def idempotency_key(self) -> str:
        """A word for the step whose body asks: the same in each of its tries, in all attempts of the run.

        Hand it to other systems with what the step asks of them: whatever they have done under this key, they do no
        second time, also where the pod died before the step was saved. Another step, another call of the same step, and
        another run have other keys. Letters, digits and ``-``; 35 characters.

        Raises:
            StepError: The code is not in a step's body.
        """
        attempt, branch = active(), branches.current()
        if attempt is not None and branch is not None and branch.inside_step is not None:
            return f"wl-{hashlib.sha256(f'{attempt.origin}/{branch.inside_step}'.encode()).hexdigest()[:32]}"
        alone = _ALONE.get(None)
        if alone is None:
            raise StepError(
                "step.idempotency_key is asked for outside a step's body. Each step has its own: "
                "read it in the function that is decorated with @step."
            )
        return alone


step: Final = StepDecorator()
