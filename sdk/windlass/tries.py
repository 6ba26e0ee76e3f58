"""The tries of one step: call its body until it succeeds, its retry policy is used up, or the error says stop.

All of it is inside the step: the task sees one result or one error, and history one checkpoint.
"""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

from windlass import branches, clock, protocol
from windlass.checkpoints import PAUSE, Running
from windlass.context import Active
from windlass.durations import format_duration, parse_duration, seconds_until
from windlass.errors import (
    DivergenceError,
    PermanentError,
    RetryAt,
    RunCancelled,
    SerializationError,
    StepError,
    ValueTooLargeError,
)
from windlass.failures import failure_of, members_of, text_of
from windlass.retry import Retry
from windlass.waits import Pending, in_loop, stays

R = TypeVar("R")

_MISUSED: Final = (StepError, SerializationError, ValueTooLargeError, DivergenceError)
"""The step's own code is wrong: no other try would end better, and no fallback should hide it."""

_LOOK: Final = 0.1
"""Seconds between looks at a cancellation, which synchronous code does not get as an exception."""


@dataclass(frozen=True)
class Options:
    """What a step does about errors of its body; checked by ``step_options``.

    Attributes:
        retry: How often and how fast it is tried again; None: one try.
        retry_if: Which errors are worth another try.
        timeout: Seconds that one try may take.
        on_error: Called when no further try follows; its value is the step's.
        takes: The names of what it wants to know.
    """

    retry: Retry | None = None
    retry_if: Callable[[Exception], object] | None = None
    timeout: float | None = None
    on_error: Callable[..., Any] | None = None
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Body:
    """One call of a step: what is tried.

    Attributes:
        attempt: The attempt that runs it.
        running: The step.
        options: Its options.
        call: Calls the function with its arguments.
        arguments: These by name, defaults included.
    """

    attempt: Active
    running: Running
    options: Options
    call: Callable[[], Any]
    arguments: Callable[[], dict[str, Any]]

    def pause_after(self, error: Exception) -> float | None:
        """Return the seconds before the next try; None if none follows."""
        retry, tries = self.options.retry, self.running.tries
        members = tuple(members_of(error))
        if retry is None or tries >= retry.max_attempts:
            return None
        if any(isinstance(one, (PermanentError, *_MISUSED)) for one in members):
            return None
        chosen = next((one for one in members if isinstance(one, RetryAt)), None)
        if chosen is not None:
            return seconds_until(chosen.when)
        if self.options.retry_if is not None and not self.options.retry_if(error):
            return None
        return pause(retry, tries, random.random())  # noqa: S311 - jitter

    def begun(self) -> Pending | None:
        """Note the tries that earlier attempts used, as durable pauses tell. Returns the pause that lasts still."""
        last = None
        for used in range(1, self.options.retry.max_attempts if self.options.retry is not None else 1):
            found = self.attempt.checkpoints.find(f"{self.running.key}{PAUSE}{used}")
            if found is not None:
                last, self.running.tries = found, used + 1
        return self._pending(0.0) if last is not None and last.state == "waiting" else None

    def pause(self, seconds: float) -> Pending | None:
        """Return the durable wait for a pause that is too long to stay in the process."""
        return None if stays(timedelta(seconds=seconds)) else self._pending(seconds)

    def _pending(self, seconds: float) -> Pending:
        running = self.running
        key = f"{running.key}{PAUSE}{running.tries - 1}"
        checkpoints = self.attempt.checkpoints
        wait = protocol.Wait(
            key=key, name=running.name, args_hash=running.args_hash, kind="sleep", code_id=checkpoints.code_id,
            due_in_ms=round(seconds * 1000),
        )  # fmt: skip
        pending = Pending(self.attempt, Running(key, running.name, running.args_hash, "sleep"), wait)
        pending.in_step = True
        checkpoints.forget(running)  # a step that runs would hold the pod
        return pending

    def again(self, error: Exception, seconds: float) -> None:
        """Show and say that another try follows."""
        from windlass.log import logger

        running = self.running
        logger.warning(
            "Step %r: try %d of %d failed (%s: %s). The next one comes in %s.",
            running.key, running.tries, self.options.retry.max_attempts if self.options.retry else 1,
            type(error).__name__, text_of(error)[:200], format_duration(timedelta(seconds=seconds)),
        )  # fmt: skip
        running.try_again(failure_of(error, running.key))

    def fallback(self, error: Exception) -> Callable[[], Any] | None:
        """Return the call of ``on_error``, if the step has one and it may stand in for this error."""
        call = self.options.on_error
        if call is None or any(isinstance(one, _MISUSED) for one in members_of(error)):
            return None
        known = {**self.arguments(), "error": error}
        return lambda: call(**{name: known[name] for name in self.options.takes})

    @property
    def what(self) -> str:
        """Words for the current try."""
        return f"Try {self.running.tries} of step {self.running.key!r}"


def run(body: Body) -> Any:
    """Try a synchronous step; raises the last error."""
    pending = body.begun()
    while True:
        if pending is not None:
            pending.result_sync()
            body.attempt.checkpoints.begin(body.running)
        try:
            return _inside(body, lambda: _once(body))
        except Exception as error:
            seconds = body.pause_after(error)
            if seconds is None:
                fallback = body.fallback(error)
                if fallback is None:
                    raise
                return _inside(body, fallback)
            body.again(error, seconds)
        if clock.is_moved() and in_loop():  # it holds the loop, and with it whatever could move the time meanwhile
            clock.skip(seconds)
            pending = None
            continue
        pending = body.pause(seconds)
        if pending is None:
            _sleep(body.attempt, body.running.key, seconds)


async def run_async(body: Body) -> Any:
    """Try an asynchronous step; raises the last error."""
    import asyncio

    pending = body.begun()
    while True:
        if pending is not None:
            await pending.result()
            body.attempt.checkpoints.begin(body.running)
        try:
            return await _inside_async(body, _once_async(body))
        except Exception as error:
            seconds = body.pause_after(error)
            if seconds is None:
                fallback = body.fallback(error)
                if fallback is None:
                    raise
                return await _inside_async(body, _awaited(fallback))
            body.again(error, seconds)
        pending = body.pause(seconds)
        if pending is None:
            await asyncio.sleep(seconds)


def pause(retry: Retry, failures: int, draw: float) -> float:
    """Return the seconds before the next try after so many failures: as the control plane does it for a run's attempts.

    Args:
        retry: The policy.
        failures: At least 1.
        draw: A number of [0, 1).
    """
    # Bounded exponent: factor ** 1000 overflows a float.
    seconds = parse_duration(retry.min_delay).total_seconds() * retry.factor ** min(failures - 1, 64)
    ceiling = min(seconds, parse_duration(retry.max_delay).total_seconds())
    return ceiling * draw if retry.jitter == "full" else ceiling


def _inside(body: Body, call: Callable[[], R]) -> R:
    """Call what belongs to the step's body. A branch for each try: what it starts is numbered from the first again."""
    token = branches.enter(branches.Branch(inside_step=body.running.key))
    try:
        return call()
    finally:
        branches.leave(token)


async def _inside_async(body: Body, call: Awaitable[R]) -> R:
    token = branches.enter(branches.Branch(inside_step=body.running.key))
    try:
        return await call
    finally:
        branches.leave(token)


def _once(body: Body) -> Any:
    if body.options.timeout is None:
        return body.call()
    from windlass.time_limits import call_within

    return call_within(body.options.timeout, body.what, body.call)


async def _once_async(body: Body) -> Any:
    made = cast("Awaitable[Any]", body.call())
    if body.options.timeout is None:
        return await made
    from windlass.time_limits import await_within

    return await await_within(body.options.timeout, body.what, made)


async def _awaited(call: Callable[[], Any]) -> Any:
    import inspect

    value = call()
    return await value if inspect.isawaitable(value) else value


def _sleep(attempt: Active, key: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not attempt.run.cancelled:
        time.sleep(min(left, _LOOK))
    if attempt.run.cancelled:
        raise RunCancelled(f"The run was cancelled between two tries of step {key!r}.")
