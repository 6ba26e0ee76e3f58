"""``@task``: a function that Windlass runs."""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from windlass.durations import parse_duration
from windlass.retry import Retry

if TYPE_CHECKING:
    from windlass.client import RunHandle
    from windlass.migration import History

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_TIMEOUTS: Final = ("timeout", "attempt_timeout", "total_timeout")

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A task. Call it like the function, in tests for example; trigger it to have Windlass run it.

    Attributes:
        name: Of the Task resource: the function's, in kebab-case.
        function: The function itself.
    """

    def __init__(self, function: Callable[P, R], name: str | None, options: dict[str, Any]) -> None:
        if not inspect.isfunction(function):
            raise TypeError(f"@task wants a function, not {type(function).__name__}.")
        update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__.strip("_").replace("_", "-").lower()
        self.options = options
        self.migrate: Callable[[History], None] | None = options.get("migrate")
        self.is_async = inspect.iscoroutinefunction(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function."""
        return cast("R", self.function(*args, **kwargs))

    async def trigger(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        namespace: str | None = None,
    ) -> "RunHandle":
        """Start a run and return its handle, as soon as the run is durable.

        Args:
            payload: The argument of the task.
            tags: Words to find the run by.
            idempotency_key: A word for this run: one that was started with it before, and has not failed, is returned
                instead of a new one.
            namespace: Where the Task is; the caller's own by default.

        Raises:
            ApiError: The API refused it or cannot be reached.
        """
        import asyncio

        return await asyncio.to_thread(
            self.trigger_sync, payload, tags=tags, idempotency_key=idempotency_key, namespace=namespace
        )

    def trigger_sync(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        namespace: str | None = None,
    ) -> "RunHandle":
        """Start a run from synchronous code; see :meth:`trigger`."""
        from windlass.client import Client

        client = Client(namespace=namespace)
        return client.trigger(self.name, payload, tags=tags, idempotency_key=idempotency_key)


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: str | timedelta | None = None,
    attempt_timeout: str | timedelta | None = None,
    total_timeout: str | timedelta | None = None,
    migrate: "Callable[[History], None] | None" = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a function a task.

    Args:
        function: A function, ``def`` or ``async def``. Its one parameter gets the payload; with several, the payload is
            an object and its fields are the parameters.
        name: Of the Task resource; the function's name in kebab-case by default.
        **options: ``retry`` (a :class:`Retry`), ``timeout``, ``attempt_timeout`` and ``total_timeout`` (durations such
            as ``"1h"``): what ``windlass manifests`` writes into the Task resource. ``migrate``: a function that makes
            the history of runs that other code began fit this code; see :class:`windlass.History`.

    Raises:
        TypeError: Not a function, or an unknown option.
        ValueError: The name is none that a Task resource can have, or an option's value is wrong.
    """
    unknown = set(options) - {"retry", "migrate", *_TIMEOUTS}
    if unknown:
        raise TypeError(f"@task has no option {', '.join(sorted(unknown))}.")
    if not isinstance(options.get("retry"), Retry | None):
        raise TypeError(f"@task(retry={options['retry']!r}): write Retry(max_attempts=5), for example.")
    migrate = options.get("migrate")
    if migrate is not None and (not callable(migrate) or inspect.iscoroutinefunction(migrate)):
        raise TypeError(f"@task(migrate={migrate!r}): write a function, `def`, that gets the run's History.")
    for option in _TIMEOUTS:
        if options.get(option) is not None and parse_duration(options[option]) <= timedelta(0):
            raise ValueError(f"@task({option}={options[option]!r}): write more than nothing, such as '1h'.")
    if function is not None:
        return _named(Task(function, None, {}))
    return lambda wrapped: _named(Task(wrapped, name, options))


def _named(made: Task[P, R]) -> Task[P, R]:
    if len(made.name) > 63 or not _NAME.fullmatch(made.name):
        raise ValueError(
            f"{made.name!r} cannot be the name of a Task resource: up to 63 of a-z, 0-9, '-' and '.', "
            'beginning and ending with a letter or digit. Write @task(name="...").'
        )
    return made
