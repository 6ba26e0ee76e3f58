"""What is kept of an exception in words: for the status of a run, its steps, its log."""

import os
import traceback
from collections.abc import Iterator
from typing import Final

from windlass import protocol
from windlass.errors import AttemptClosedError, RunCancelled, RunSuspended

OURS: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - pathlib would cost milliseconds of every start
"""Folder of the SDK: its frames are left out of tracebacks."""
_INTERRUPTED: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, RunCancelled, RunSuspended, AttemptClosedError)
_CANCELLED: Final = ("CancelledError", "Cancelled")
"""By name: to import asyncio would be most of what a synchronous attempt takes to start. The second is trio's."""


def failure_of(error: BaseException, step: str | None = None, *, durable: bool = False) -> protocol.Failure:
    """Return what the ledger keeps of an exception: without the frames of Windlass itself, at most 32 KiB.

    Args:
        error: The exception.
        step: Key of the step in which it happened.
        durable: Keep what is needed to make it again.
    """
    told = traceback.TracebackException(type(error), error, error.__traceback__)
    _leave_out_ours(told)
    text = "".join(told.format()).encode(errors="replace")[-32_768:].decode(errors="ignore")
    failure = in_words(error)
    failure.traceback, failure.step = text, step
    if durable:
        from windlass import restoring  # late: most attempts see no failure

        failure.restore = restoring.restore_of(error)
    return failure


def text_of(error: BaseException) -> str:
    """Return what an exception says, even if its own text cannot be made."""
    try:
        return str(error) or type(error).__name__
    except Exception as broken:
        return f"{type(error).__name__}, whose text cannot be made: {type(broken).__name__}"


def members_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, or the members of a group, of groups in it too."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from members_of(inner)
    else:
        yield error


def is_durable(error: BaseException) -> bool:
    """Return whether a failure is history. A step that was interrupted has not failed: who knows how it would end."""
    return not any(isinstance(one, _INTERRUPTED) or type(one).__name__ in _CANCELLED for one in members_of(error))


def in_words(error: BaseException) -> protocol.Failure:
    """Return class and text of an exception."""
    message = text_of(error).encode(errors="replace").decode()[:4096]
    return protocol.Failure(type=type(error).__name__, message=message)


def _leave_out_ours(told: traceback.TracebackException) -> None:
    rest: list[traceback.TracebackException | None] = [told]
    while rest:  # a loop of retries that chains its errors makes thousands of them
        one = rest.pop()
        if one is not None:
            one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(OURS)]
            rest += [one.__cause__, one.__context__, *(one.exceptions or ())]
