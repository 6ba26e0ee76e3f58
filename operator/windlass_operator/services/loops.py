"""Loops that look by themselves and are woken by hints: nothing depends on a wake-up."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from windlass_operator import metrics
from windlass_operator.domain.errors import WindlassError
from windlass_operator.ledger.projection import LeadershipLostError

log = structlog.get_logger()


async def each(*parts: Callable[[], Awaitable[object]]) -> None:
    """Do all of these, whatever becomes of the ones before; then raise the first error.

    One pod that cannot be deleted must not keep runs from being failed whose Task never came.
    """
    errors: list[Exception] = []
    for part in parts:
        try:
            await part()
        except LeadershipLostError:
            raise
        except Exception as error:  # raised below, when the others have had their turn
            errors.append(error)
    if errors:
        raise errors[0]


def end_if_cancelled() -> None:
    """Raise the cancellation of the current task if something has swallowed it.

    The connection pool does, when a cancellation and a connection arrive together: whoever loops for ever would go on,
    and who cancelled it would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Loop:
    """Calls ``work`` when woken, and every ``every`` at the latest.

    Args:
        name: For the log.
        work: Returns when it wants to be called again at the latest, or None for the usual time. ``timedelta(0)``
            means at once: there is more to do.
        every: The usual time; jittered, so that replicas do not look together.
        apart: The shortest time from one call to the next. Who comes alone waits for nothing; a hundred changes in a
            second share a few looks.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[timedelta | None]],
        *,
        every: timedelta,
        apart: timedelta = timedelta(0),
    ) -> None:
        self._name = name
        self._work = work
        self._every = every
        self._apart = apart.total_seconds()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    async def run(self) -> None:
        """Loop until cancelled. A failure is logged, waited out and tried again.

        Raises:
            LeadershipLostError: Another operator leads; this process must end.
        """
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            self._woken.clear()
            pause = self._every * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            try:
                soon = await self._work()
                pause = min(pause, soon) if soon is not None else pause
                failures = 0
                metrics.LOOP_SUCCESS.labels(self._name).set_to_current_time()
            except LeadershipLostError:
                raise
            except WindlassError as error:
                failures += 1
                metrics.LOOP_FAILURES.labels(self._name).inc()
                log.warning("loop waits", loop=self._name, error=error.message, failures=failures)
                pause = timedelta(seconds=min(0.2 * 2 ** min(failures, 8), 5.0))
            except Exception:
                failures += 1
                metrics.LOOP_FAILURES.labels(self._name).inc()
                log.exception("loop failed", loop=self._name)
                pause = timedelta(seconds=min(0.5 * 2 ** min(failures, 8), 10.0))
            end_if_cancelled()
            if pause > timedelta(0):
                try:
                    async with asyncio.timeout(pause.total_seconds()):
                        await self._woken.wait()
                except TimeoutError:
                    pass
            await asyncio.sleep(began + self._apart - asyncio.get_running_loop().time())
