"""The one duration syntax of Windlass: ``1h30m``, ``500ms``, ``2d``.

Used at every border where a person writes a duration: resources, decorators, the command line. Inside, a duration is
always a ``timedelta``.
"""

import re
from datetime import datetime, timedelta
from typing import Final

from windlass.clock import utc_now

PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
"""Regular expression of the syntax, also used in the CRDs."""

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_WHOLE: Final = re.compile(PATTERN)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LIMIT: Final = timedelta(days=3650)


class InvalidDurationError(ValueError):
    """A text is not a duration."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:40]!r} is not a duration. Write for example 500ms, 30s, 1h30m or 2d (at most 3650d).")


def parse_duration(text: str | timedelta) -> timedelta:
    """Return the duration that ``text`` names.

    Args:
        text: Number and unit, repeated: ``1h30m``. Units are ``ms``, ``s``, ``m``, ``h`` and ``d``. A ``timedelta``
            is returned as it is, so that decorators take both.

    Raises:
        InvalidDurationError: The text does not follow the syntax; or the duration is negative or longer than ten years.
    """
    if isinstance(text, timedelta):
        if not timedelta(0) <= text <= _LIMIT:
            raise InvalidDurationError(str(text))
        return text
    if not isinstance(text, str) or len(text) > 64 or not _WHOLE.fullmatch(text):
        raise InvalidDurationError(str(text))
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds > _LIMIT.total_seconds():
        raise InvalidDurationError(text)
    return timedelta(seconds=seconds)


def seconds_until(when: str | timedelta | datetime) -> float:
    """Return the seconds from now to ``when``: a duration, or an aware datetime; 0 for one that has passed."""
    delay = when - utc_now() if isinstance(when, datetime) else parse_duration(when)
    return max(0.0, delay.total_seconds())


def format_duration(duration: timedelta) -> str:
    """Return ``duration`` in the same syntax, with at most two units: ``1h30m``, ``4.2s``, ``12ms``."""
    seconds = max(duration.total_seconds(), 0.0)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    for unit, size, small_unit, small_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            count, rest = divmod(whole, size)
            small = rest // small_size
            return f"{count}{unit}{small}{small_unit}" if small else f"{count}{unit}"
    return f"{whole}s"


def write_duration(duration: timedelta) -> str:
    """Return ``duration`` in the same syntax, exact to the millisecond: what :func:`parse_duration` reads back.

    Raises:
        InvalidDurationError: It is negative or longer than ten years.
    """
    if not timedelta(0) <= duration <= _LIMIT:
        raise InvalidDurationError(str(duration))
    left = round(duration.total_seconds() * 1000)
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
