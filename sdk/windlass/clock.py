"""The time that the SDK reads. Decisions are the ledger's, by its own clock; this is what user code is told."""

from collections.abc import Callable
from datetime import UTC, datetime

_source: Callable[[], datetime] | None = None
_skip: Callable[[float], None] | None = None


def utc_now() -> datetime:
    """Return the time, aware, in UTC."""
    return datetime.now(UTC) if _source is None else _source()


def follow(source: Callable[[], datetime] | None, skip: Callable[[float], None] | None = None) -> None:
    """Read another clock from now on, or the machine's again. The testing kit moves the ledger's, and this with it.

    Args:
        source: Returns the time.
        skip: Lets seconds pass at once.
    """
    global _source, _skip
    _source, _skip = source, skip


def is_moved() -> bool:
    """Whether somebody else moves the time: then nothing may wait for it to pass by itself."""
    return _source is not None


def skip(seconds: float) -> None:
    """Let time pass, where somebody else moves it."""
    if _skip is not None:
        _skip(seconds)
