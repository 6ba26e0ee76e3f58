"""A limit on how long one try of a step may take."""

import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from windlass.durations import format_duration, parse_duration
from windlass.errors import StepError, StepTimeoutError

R = TypeVar("R")

_AT_LEAST: Final = 0.001
"""Seconds: a timer of 0 is none."""


class _TimeUp(BaseException):
    """Interrupts the body. No ``Exception``: a body that catches those would never hear of it."""


def check_thread(name: str) -> None:
    """Refuse a limit where nothing can keep it.

    Raises:
        StepError: A synchronous step is called in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise StepError(
            f"Step {name!r} has a timeout and is called in a thread, where nothing can interrupt it. Make the step "
            "`async def`, call it in the main thread, or drop timeout= and give its own calls timeouts."
        )


def call_within(seconds: float, what: str, call: Callable[[], R]) -> R:
    """Call synchronous code in the main thread, and interrupt it when its time is over.

    A body that is inside a call of C code which retries by itself when a signal comes is interrupted only after that.

    Raises:
        StepTimeoutError: It took too long.
    """

    def ring(*_: object) -> None:
        raise _TimeUp

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    left, interval = 0.0, 0.0
    try:
        try:
            left, interval = signal.setitimer(signal.ITIMER_REAL, max(seconds, _AT_LEAST))
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:
        raise _too_long(what, seconds) from None
    finally:
        signal.signal(signal.SIGALRM, before)
        if left > 0:  # the code has a timer of its own, and its time went on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), _AT_LEAST), interval)


async def await_within(seconds: float, what: str, body: Awaitable[R]) -> R:
    """Await asynchronous code, and cancel it when its time is over.

    Raises:
        StepTimeoutError: It took too long.
    """
    import asyncio

    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await body
    except TimeoutError as error:
        if scope.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            raise _too_long(what, seconds) from None
        raise


def seconds_of(name: str, timeout: Any) -> float:
    """Return a step's ``timeout`` in seconds.

    Raises:
        TypeError: It is no duration.
        ValueError: The same for a text, or it is not more than nothing.
    """
    seconds = parse_duration(timeout).total_seconds()
    if seconds <= 0:
        raise ValueError(f"@step(timeout={timeout!r}) of {name!r}: write more than nothing, such as '30s'.")
    return seconds


def _too_long(what: str, seconds: float) -> StepTimeoutError:
    from datetime import timedelta

    return StepTimeoutError(f"{what} took longer than its timeout of {format_duration(timedelta(seconds=seconds))}.")
