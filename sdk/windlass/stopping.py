"""A pod that must end: the code stops where it would begin its next step, and the run goes on in another pod.

Steps that have begun end and are saved. What stands between steps is left where it is, as by a durable wait or a crash:
the next attempt runs it again.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from windlass.errors import RunCancelled, RunSuspended

if TYPE_CHECKING:
    import asyncio

    from windlass.checkpoints import Checkpoints
    from windlass.context import CurrentRun

_LOOK: Final = 0.01
"""Seconds between two looks at steps that have not ended."""
_HEAR: Final = 0.25
"""Seconds after which synchronous code that is held hears of a cancellation."""


class Stop:
    """Whether and how an attempt stops.

    Args:
        run: The run.
        checkpoints: Knows which steps have not ended.
        leave: Ends the process. One that returns leaves the code with :class:`RunSuspended`.

    Attributes:
        asked: The pod must end. Set by a signal handler, so nothing but a value.
    """

    def __init__(self, run: "CurrentRun", checkpoints: "Checkpoints", leave: Callable[[], None]) -> None:
        self.asked = False
        self._run = run
        self._checkpoints = checkpoints
        self._leave = leave
        self._left = threading.Event()
        self._held: list[asyncio.Future[Any]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    async def before_step(self) -> None:
        """If the pod must end, hold an asynchronous branch; the others go on to their own next step."""
        if not self.asked:
            return
        import asyncio

        future = asyncio.get_running_loop().create_future()
        self._held.append(future)
        self._begin()
        await future

    def before_step_sync(self) -> None:
        """If the pod must end, hold synchronous code.

        Raises:
            RunCancelled: The run is cancelled meanwhile.
        """
        if not self.asked:
            return
        self._begin()
        while not self._left.wait(_HEAR):
            if self._run.cancelled:
                raise RunCancelled("The run was cancelled while its pod was ending.")
        raise RunSuspended

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="windlass-stop", daemon=True)
                self._thread.start()

    def _wait(self) -> None:
        while not self._checkpoints.idle:
            time.sleep(_LOOK)
        if self._checkpoints.closed or self._checkpoints.suspended:
            return  # the code was cancelled meanwhile and has ended, or the run waits
        self._leave()
        self._checkpoints.suspended = True
        self._left.set()
        for future in self._held:
            future.get_loop().call_soon_threadsafe(_end, future)


def _end(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(RunSuspended("The pod ends."))
