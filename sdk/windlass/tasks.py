"""``@task``: a function that Windlass runs."""

import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, TypeVar, cast, overload

from windlass.context import active
from windlass.durations import parse_duration
from windlass.retry import Retry

if TYPE_CHECKING:
    from windlass.children import RunResult
    from windlass.client import Client, RunHandle, Timing
    from windlass.migration import History

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_TIMEOUTS: Final = ("timeout", "attempt_timeout", "total_timeout")
_YEAR: Final = 31_536_000
_MOST_STANDBY: Final = 100

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
        if options.get("checkpoint") is not None:
            from windlass.auto import make_awaits_steps

            make_awaits_steps(function)
        update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__.strip("_").replace("_", "-").lower()
        self.options = options
        self.migrate: Callable[[History], None] | None = options.get("migrate")
        self.is_async = inspect.iscoroutinefunction(function)

    @staticmethod
    def named(name: str) -> "Task[..., Any]":
        """Return a task whose code is not here, to trigger it by the name of its resource.

        Its results are plain JSON values.

        Raises:
            ValueError: No Task resource can have this name.
        """

        async def elsewhere(*_: Any, **__: Any) -> Any:
            raise TypeError(f"Task.named({name!r}) has no code to call: trigger it.")

        return _named(Task(elsewhere, name, {}))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function."""
        return cast("R", self.function(*args, **kwargs))

    def trigger(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        version: int | None = None,
        detached: bool = False,
        namespace: str | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "Coroutine[Any, Any, RunHandle]":
        """Start a run and return its handle, as soon as the run is durable.

        In the code of a run it is a durable step: one run, however often the code runs again.

        Args:
            payload: The argument of the task.
            tags: Words to find the run by.
            idempotency_key: A word for this run: one that was started with it before, and has not failed, is returned
                instead of a new one.
            version: A version of the Task; the current one by default.
            detached: In a run: the new one goes on when that is cancelled.
            namespace: Where the Task is; the caller's own by default, and always in a run.
            delay: Start no earlier than this long from now, such as ``"10m"``.
            start_at: Start no earlier than this time, which is aware, and no earlier than ``delay`` says.
            queue_ttl: End the run as Expired if no attempt has begun this long after it might have.

        Raises:
            ApiError: The API refused it (``code`` says why, such as ``TaskNotFound``) or cannot be reached.
            StepError: Called inside a step, or for another namespace in a run.
        """
        if active() is None:
            return self._triggered(payload, tags, idempotency_key, version, namespace, (delay, start_at, queue_ttl))
        from windlass import children

        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            "trigger", tags=tags, version=version, detached=detached, namespace=namespace, when=timing
        )
        return _first(children.trigger([children.Call(self, payload, options, idempotency_key, awaited=False)]))

    def trigger_sync(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        version: int | None = None,
        detached: bool = False,
        namespace: str | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "RunHandle":
        """Start a run from synchronous code; see :meth:`trigger`."""
        if active() is None:
            return self._client(namespace).trigger(
                self.name, payload, tags=tags, idempotency_key=idempotency_key, version=version,
                delay=delay, start_at=start_at, queue_ttl=queue_ttl,
            )  # fmt: skip
        from windlass import children

        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            "trigger_sync", tags=tags, version=version, detached=detached, namespace=namespace, when=timing
        )
        return children.trigger_sync([children.Call(self, payload, options, idempotency_key, awaited=False)])[0]

    def batch_trigger(
        self,
        payloads: Iterable[Any],
        *,
        tags: tuple[str, ...] = (),
        idempotency_keys: "Sequence[str | None] | None" = None,
        version: int | None = None,
        detached: bool = False,
        namespace: str | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "Coroutine[Any, Any, list[RunHandle]]":
        """Start a run for each payload in one call, up to 1,000: all of them or none. See :meth:`trigger`.

        In a run there may be more; then each 1,000, or 4 MiB, are all or none.

        Raises:
            ApiError: The API refused one of them, which ``field`` names.
            ValueError: Too many payloads, or another number of idempotency keys.
        """
        if active() is None:
            timing = (delay, start_at, queue_ttl)
            return self._all_triggered(list(payloads), tags, idempotency_keys, version, namespace, timing)
        from windlass import children

        name = "batch_trigger"
        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            name, tags=tags, version=version, detached=detached, namespace=namespace, when=timing
        )
        return children.trigger(children.calls_of(self, payloads, options, idempotency_keys, awaited=False))

    def batch_trigger_sync(
        self,
        payloads: Iterable[Any],
        *,
        tags: tuple[str, ...] = (),
        idempotency_keys: "Sequence[str | None] | None" = None,
        version: int | None = None,
        detached: bool = False,
        namespace: str | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "list[RunHandle]":
        """Start a run for each payload from synchronous code; see :meth:`batch_trigger`."""
        if active() is None:
            return self._client(namespace).batch_trigger(
                self.name, payloads, tags=tags, idempotency_keys=idempotency_keys, version=version,
                delay=delay, start_at=start_at, queue_ttl=queue_ttl,
            )  # fmt: skip
        from windlass import children

        name = "batch_trigger_sync"
        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            name, tags=tags, version=version, detached=detached, namespace=namespace, when=timing
        )
        return children.trigger_sync(children.calls_of(self, payloads, options, idempotency_keys, awaited=False))

    def trigger_and_wait(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        version: int | None = None,
        timeout: str | timedelta | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Start a run in a run and wait for its result, without a pod. The run and the wait are one durable step.

        Args:
            payload: The argument of the task.
            tags: Words to find the run by.
            idempotency_key: A word for the run; one that has it already is waited for.
            version: A version of the Task; the current one by default.
            timeout: How long to wait, a delay included; the run goes on after that.
            delay: As for :meth:`trigger`.
            start_at: The same.
            queue_ttl: The same. A run that expires is one that failed, for who waits for it.

        Raises:
            RunFailedError: The run ended without a result; it says which, why, and whose fault it was.
            WaitTimeoutError: It has not ended in time.
            ApiError: The API refused it; ``code`` says why, such as ``TaskNotFound``.
            NotInRunError: There is no run here: use :meth:`trigger` and the handle's ``result()``.
        """
        from windlass import children
        from windlass.waits import only_async

        only_async("trigger_and_wait")
        timing = (delay, start_at, queue_ttl)
        options = children.options_of("trigger_and_wait", tags=tags, version=version, timeout=timeout, when=timing)
        return children.trigger_and_wait(children.Call(self, payload, options, idempotency_key, awaited=True))

    def trigger_and_wait_sync(
        self,
        payload: Any = None,
        *,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
        version: int | None = None,
        timeout: str | timedelta | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> Any:
        """Start a run and wait for its result in synchronous code; see :meth:`trigger_and_wait`."""
        from windlass import children

        timing = (delay, start_at, queue_ttl)
        options = children.options_of("trigger_and_wait_sync", tags=tags, version=version, timeout=timeout, when=timing)
        return children.trigger_and_wait_sync(children.Call(self, payload, options, idempotency_key, awaited=True))

    def batch_trigger_and_wait(
        self,
        payloads: Iterable[Any],
        *,
        tags: tuple[str, ...] = (),
        idempotency_keys: "Sequence[str | None] | None" = None,
        version: int | None = None,
        timeout: str | timedelta | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "Coroutine[Any, Any, list[RunResult]]":
        """Start a run for each payload and wait for all of them, without a pod. The code goes on once, after the last.

        Returns:
            What came of each, in the order of the payloads: a run that fails is a result with an error, no exception.

        Raises:
            ApiError: The API refused one of them; nothing was started. See :meth:`batch_trigger`.
        """
        from windlass import children
        from windlass.waits import only_async

        only_async("batch_trigger_and_wait")
        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            "batch_trigger_and_wait", tags=tags, version=version, timeout=timeout, when=timing
        )
        calls = children.calls_of(self, payloads, options, idempotency_keys, awaited=True)
        return children.batch_trigger_and_wait(calls)

    def batch_trigger_and_wait_sync(
        self,
        payloads: Iterable[Any],
        *,
        tags: tuple[str, ...] = (),
        idempotency_keys: "Sequence[str | None] | None" = None,
        version: int | None = None,
        timeout: str | timedelta | None = None,
        delay: str | timedelta | None = None,
        start_at: datetime | None = None,
        queue_ttl: str | timedelta | None = None,
    ) -> "list[RunResult]":
        """Start runs and wait for all of them in synchronous code; see :meth:`batch_trigger_and_wait`."""
        from windlass import children

        timing = (delay, start_at, queue_ttl)
        options = children.options_of(
            "batch_trigger_and_wait_sync", tags=tags, version=version, timeout=timeout, when=timing
        )
        calls = children.calls_of(self, payloads, options, idempotency_keys, awaited=True)
        return children.batch_trigger_and_wait_sync(calls)

    @staticmethod
    def _client(namespace: str | None) -> "Client":
        from windlass.client import Client

        return Client(namespace=namespace)

    async def _triggered(
        self,
        payload: Any,
        tags: tuple[str, ...],
        key: str | None,
        version: int | None,
        namespace: str | None,
        timing: "Timing",
    ) -> "RunHandle":
        import asyncio

        client, (delay, start_at, queue_ttl) = self._client(namespace), timing
        return await asyncio.to_thread(
            client.trigger, self.name, payload, tags=tags, idempotency_key=key, version=version,
            delay=delay, start_at=start_at, queue_ttl=queue_ttl,
        )  # fmt: skip

    async def _all_triggered(
        self,
        payloads: list[Any],
        tags: tuple[str, ...],
        keys: "Sequence[str | None] | None",
        version: int | None,
        namespace: str | None,
        timing: "Timing",
    ) -> "list[RunHandle]":
        import asyncio

        client, (delay, start_at, queue_ttl) = self._client(namespace), timing
        return await asyncio.to_thread(
            client.batch_trigger, self.name, payloads, tags=tags, idempotency_keys=keys, version=version,
            delay=delay, start_at=start_at, queue_ttl=queue_ttl,
        )  # fmt: skip


async def _first(handles: "Coroutine[Any, Any, list[RunHandle]]") -> "RunHandle":
    return (await handles)[0]


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
    queue: str | None = None,
    priority: int = 0,
    standby: int = 0,
    pool: str | None = None,
    migrate: "Callable[[History], None] | None" = None,
    checkpoint: Literal["auto"] | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a function a task.

    Args:
        function: A function, ``def`` or ``async def``. Its one parameter gets the payload; with several, the payload is
            an object and its fields are the parameters.
        name: Of the Task resource; the function's name in kebab-case by default.
        **options: ``retry`` (a :class:`Retry`), ``timeout``, ``attempt_timeout`` and ``total_timeout`` (durations such
            as ``"1h"``), ``queue`` (name of a Queue), ``priority`` (seconds of head start in it),
            ``standby`` (pods to keep ready, each for one attempt) or ``pool`` (name of the WorkerPool whose pods take
            the runs): what ``windlass manifests`` writes into the Task
            resource. ``migrate``: a function that makes the history of runs that other code began fit this code; see
            :class:`windlass.History`.
            ``checkpoint="auto"``: each ``await f(...)`` of the function is a step.

    Raises:
        TypeError: Not a function, an unknown option, or code of which ``checkpoint="auto"`` cannot make steps.
        ValueError: The name is none that a Task resource can have, or an option's value is wrong.
    """
    unknown = set(options) - {"retry", "migrate", "checkpoint", "queue", "priority", "standby", "pool", *_TIMEOUTS}
    if unknown:
        raise TypeError(f"@task has no option {', '.join(sorted(unknown))}.")
    if not isinstance(options.get("retry"), Retry | None):
        raise TypeError(f"@task(retry={options['retry']!r}): write Retry(max_attempts=5), for example.")
    migrate = options.get("migrate")
    if migrate is not None and (not callable(migrate) or inspect.iscoroutinefunction(migrate)):
        raise TypeError(f"@task(migrate={migrate!r}): write a function, `def`, that gets the run's History.")
    if options.get("checkpoint") not in (None, "auto"):
        raise ValueError(f"@task(checkpoint={options['checkpoint']!r}): the one value there is is 'auto'.")
    _check_place(options)
    for option in _TIMEOUTS:
        if options.get(option) is not None and parse_duration(options[option]) <= timedelta(0):
            raise ValueError(f"@task({option}={options[option]!r}): write more than nothing, such as '1h'.")
    if function is not None:
        return _named(Task(function, None, {}))
    return lambda wrapped: _named(Task(wrapped, name, options))


def _check_place(options: dict[str, Any]) -> None:
    """Check where runs wait, and what is kept ready for them."""
    queue, priority = options.get("queue"), options.get("priority", 0)
    if queue is not None and not (isinstance(queue, str) and _NAME.fullmatch(queue)):
        raise ValueError(f"@task(queue={queue!r}): write the name of a Queue resource, such as 'payments'.")
    if not isinstance(priority, int) or abs(priority) > _YEAR:
        raise ValueError(f"@task(priority={priority!r}): write seconds of head start, at most a year.")
    standby = options.get("standby", 0)
    if type(standby) is not int or not 0 <= standby <= _MOST_STANDBY:
        raise ValueError(f"@task(standby={standby!r}): write how many pods to keep ready, 0 to {_MOST_STANDBY}.")
    pool = options.get("pool")
    if pool is not None and not (isinstance(pool, str) and _NAME.fullmatch(pool)):
        raise ValueError(f"@task(pool={pool!r}): write the name of a WorkerPool resource, such as 'fast'.")
    if pool is not None and standby:
        raise ValueError("@task(pool=…, standby=…): a pool keeps free slots ready; set standby of the WorkerPool.")


def _named(made: Task[P, R]) -> Task[P, R]:
    if len(made.name) > 63 or not _NAME.fullmatch(made.name):
        raise ValueError(
            f"{made.name!r} cannot be the name of a Task resource: up to 63 of a-z, 0-9, '-' and '.', "
            'beginning and ending with a letter or digit. Write @task(name="...").'
        )
    return made
