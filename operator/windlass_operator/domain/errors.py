"""The base of every error that a user may read. Edges translate it once: HTTP body, Run reason, log line."""


class WindlassError(Exception):
    """An expected refusal or failure.

    Attributes:
        code: Stable PascalCase code, the same in the API's body, ``status.reason`` and the log.
        http_status: What the API answers.
        retryable: Whether the same request may succeed later without a change.
        field: Path of the offending field, if there is one.
        hint: What to do next, if the message does not say it already.
        retry_after: Seconds for the ``Retry-After`` header.
    """

    code = "InternalError"
    http_status = 500
    retryable = False
    retry_after: int | None = None

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint


class LedgerUnavailableError(WindlassError):
    """Postgres does not answer. Nothing is lost and nothing advances until it does."""

    code, http_status, retryable, retry_after = "LedgerUnavailable", 503, True, 2


class BlobStoreUnavailableError(WindlassError):
    """The object store does not answer."""

    code, http_status, retryable, retry_after = "BlobStoreUnavailable", 503, True, 2


class AttemptClosedError(WindlassError):
    """A write came from an attempt that is no longer open."""

    code, http_status = "AttemptClosed", 409

    def __init__(self) -> None:
        super().__init__("This attempt is closed; another one may be running. Stop and discard what was not saved.")


class UnauthorizedError(WindlassError):
    """No credential, or one that nobody vouches for."""

    code, http_status = "Unauthorized", 401


class ForbiddenError(WindlassError):
    """A known caller without the permission."""

    code, http_status = "Forbidden", 403


class NamespaceForbiddenError(WindlassError):
    """A Task in the namespace of the control plane."""

    code, http_status = "NamespaceForbidden", 403

    def __init__(self, namespace: str) -> None:
        super().__init__(
            f"Tasks in {namespace!r} are refused: their pods could use the control plane's credentials. "
            "Create them in a namespace of their own."
        )


class RunNotFoundError(WindlassError):
    """No run with that id in that namespace."""

    code, http_status = "RunNotFound", 404

    def __init__(self, run: str, namespace: str) -> None:
        super().__init__(
            f"Run {run[:253]!r} is not in namespace {namespace!r}. See `windlass runs list -n {namespace}`."
        )


class TaskNotFoundError(WindlassError):
    """A run names a Task that is not in its namespace."""

    code, http_status = "TaskNotFound", 404

    def __init__(self, task: str, namespace: str, *, field: str = "spec.taskRef.name") -> None:
        super().__init__(
            f"Task {task[:253]!r} is not in namespace {namespace!r}. Create it, "
            f"or pick one from `kubectl get tasks.windlass.dev -n {namespace}`.",
            field=field,
        )


class InvalidRequestError(WindlassError):
    """A request that cannot be understood."""

    code, http_status = "InvalidRequest", 400


class PayloadInvalidError(WindlassError):
    """A payload that breaks the Task's schema, or is not JSON that every reader accepts."""

    code, http_status = "PayloadInvalid", 422


class PayloadTooLargeError(WindlassError):
    """A body or value over its limit."""

    code, http_status = "PayloadTooLarge", 413


class ValueNotStoredError(WindlassError):
    """A result refers to a large value that was never stored."""

    code, http_status = "ValueNotStored", 422

    def __init__(self) -> None:
        super().__init__("The result refers to a value that is not stored. Upload it with PUT blobs/{sha256} first.")


class PodUnknownError(WindlassError):
    """A pod asks for work whose UID the operator has not recorded (yet)."""

    code, http_status, retryable = "PodUnknown", 404, True


class TaskInvalidError(WindlassError):
    """A Task that cannot be run as it is written."""

    code, http_status = "TaskInvalid", 422


class QueueFullError(WindlassError):
    """As many runs wait in a queue as its ``maxLength`` allows."""

    code, http_status, retry_after = "QueueFull", 429, 10

    def __init__(self, queue: str, limit: int) -> None:
        super().__init__(
            f"As many runs wait in queue {queue!r} as its maxLength allows ({limit}). Try again later, or raise it."
        )
