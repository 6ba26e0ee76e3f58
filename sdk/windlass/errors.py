"""Errors that user code raises to steer Windlass, and errors that it meets.

Those that are not made from their text alone say how to make them again: a pool of processes pickles what it raises.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # names only: msgspec and datetime would double what the command line takes to start
    from datetime import datetime, timedelta

    from windlass.protocol import Failure


class WindlassError(Exception):
    """Base of the errors that user code may catch."""


class PermanentError(WindlassError):
    """Raise it to fail the run at once: another attempt would fail in the same way."""


class RetryAt(WindlassError):  # noqa: N818 - reads as an instruction: raise RetryAt("5m")
    """Raise it to fail this attempt and choose when the next one starts, instead of the backoff.

    Args:
        when: A duration (``"5m"`` or a timedelta), or an aware datetime.
        message: What the status shows.

    Raises:
        ValueError: ``when`` is not a duration, or a datetime without a time zone.
    """

    def __init__(self, when: "str | timedelta | datetime", message: str = "") -> None:
        from datetime import datetime

        from windlass.durations import parse_duration

        if isinstance(when, datetime):
            if when.tzinfo is None:
                raise ValueError(f"RetryAt({when!r}) has no time zone: use datetime.now(UTC) and the like.")
        else:
            parse_duration(when)
        super().__init__(message or f"retry at {when}")
        self.when = when

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.when, str(self))


class SerializationError(WindlassError):
    """A value cannot become JSON that every reader accepts; the text names the place and the type."""


class ValueTooLargeError(WindlassError):
    """A result has more bytes than can be stored."""


class StepError(WindlassError):
    """A step is used in a way that cannot be made durable."""


class StepFailedError(WindlassError):
    """A step failed in an earlier attempt, with an exception that cannot be made again here.

    Its class is not to be found (defined inside a function, renamed, gone), or wants to be made in a way of its own.

    Attributes:
        type: Name of the class.
        message: What it said.
    """

    def __init__(self, type: str, message: str) -> None:  # noqa: A002 - as in the step's error everywhere
        super().__init__(f"{type}: {message}")
        self.type, self.message = type, message

    def __reduce__(self) -> tuple[Any, ...]:
        return StepFailedError, (self.type, self.message)


class StepTimeoutError(WindlassError):
    """A try of a step took longer than the step's ``timeout``. It is tried again like any other error."""


class DivergenceError(WindlassError):
    """History has another step in this place, or this step with other arguments: the code changed under the run."""


class WaitError(WindlassError):
    """A durable wait ended otherwise than it was meant to."""


class WaitTimeoutError(WaitError):
    """What was waited for did not come within the wait's timeout."""


class ApiError(WindlassError):
    """The API refused a request.

    Attributes:
        code: Stable code, such as ``TaskNotFound``; ``ApiUnreachable`` when there was no answer.
        status: HTTP status, 0 without an answer.
        field: Path of the offending field.
        hint: What to do next.
    """

    def __init__(
        self, code: str, message: str, *, status: int = 0, field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.field, self.hint = code, message, status, field, hint

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(type(self), status=self.status, field=self.field, hint=self.hint)
        return again, (self.code, self.message)


class RunFailedError(WindlassError):
    """A run whose result was asked for ended without one.

    Attributes:
        state: ``Failed``, ``TimedOut`` or ``Cancelled``.
        run_id: The run's id, where a run waited for it.
        failure_type: Of its last failure there: the name of an exception's class, or a reason.
        failure_class: Who had to answer for that: ``user``, ``permanent``, ``timeout``, ``infra``.
        failure_message: What it said.
    """

    def __init__(
        self,
        state: str,
        message: str,
        *,
        run_id: str | None = None,
        failure_type: str | None = None,
        failure_class: str | None = None,
        failure_message: str | None = None,
    ) -> None:
        super().__init__(message)
        self.state, self.run_id = state, run_id
        self.failure_type, self.failure_class, self.failure_message = failure_type, failure_class, failure_message

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(
            type(self),
            run_id=self.run_id,
            failure_type=self.failure_type,
            failure_class=self.failure_class,
            failure_message=self.failure_message,
        )
        return again, (self.state, str(self))


class RunCancelled(BaseException):
    """The run was cancelled; raised by the next step of synchronous code so that it can clean up.

    Not an ``Exception``: ``except Exception`` in user code must not swallow it.
    """


class RunSuspended(BaseException):
    """The run waits, and this process is of no use to it any more. Ends the process; not for user code."""


class AttemptClosedError(BaseException):
    """This attempt may write no more: another one may be running. Ends the process; not for user code."""


class ProtocolError(WindlassError):
    """The API refused what the SDK sent; a fault of one of the two.

    Attributes:
        code: Code of the answer.
        message: Its text.
        field: Path of the offending field.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.field = code, message, field

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.field)


class LoadError(WindlassError):
    """The task's code cannot be loaded.

    Attributes:
        failure: What the run's status shows.
    """

    def __init__(self, failure: "Failure") -> None:
        super().__init__(failure.message)
        self.failure = failure
