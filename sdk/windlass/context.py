"""The run that the calling code belongs to."""

import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from windlass.errors import WindlassError

if TYPE_CHECKING:
    from datetime import timedelta

    from windlass.checkpoints import Checkpoints
    from windlass.children import Starter
    from windlass.progress import Progress
    from windlass.reruns import FailedSteps
    from windlass.stopping import Stop
    from windlass.transport import Transport
    from windlass.waits import Waits


class NotInRunError(WindlassError):
    """Something that only a run has was asked for outside one."""


class Flag:
    """Something that a signal handler may raise: an ``Event`` has a lock, which the interrupted code may hold."""

    def __init__(self) -> None:
        self.raised = False


@dataclass(frozen=True)
class CurrentRun:
    """What user code may know of its run.

    Attributes:
        id: The run's id; stable over retries.
        task: Name of the Task.
        namespace: Where it runs.
        attempt: Number of this attempt, from 1.
        max_attempts: How many failures of the code end the run.
        name: Name of the Run resource, or None for a run without one.
        tags: Its tags.
        traceparent: W3C trace context of this attempt, for spans of your own: they become its children. The variable
            ``TRACEPARENT`` has it too. None where neither Windlass nor the caller traces.
        compensating: Whether finished steps are being undone: then the task function is not called, only compensations.
    """

    id: str
    task: str
    namespace: str
    attempt: int
    max_attempts: int
    name: str | None = None
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    compensating: bool = False
    _cancelled: Flag = field(default_factory=Flag, repr=False, compare=False)
    _progress: "Progress | None" = field(default=None, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled the run; long synchronous code looks here and ends early."""
        return self._cancelled.raised

    @property
    def last_checkpoint(self) -> Any:
        """What :meth:`checkpoint` has saved last, in this or an earlier attempt, as plain JSON values; else None."""
        return self._open_progress().last()

    async def checkpoint(self, state: Any) -> None:
        """Save where a long loop stands, in place of what was saved before. It is durable when this returns.

        Args:
            state: What the next attempt needs to go on, as JSON can say it. Over 64 KiB it goes to the object store.

        Raises:
            SerializationError: It has no JSON; the text names place and type.
            ValueTooLargeError: It has more bytes than the installation can store.
        """
        import asyncio

        await asyncio.to_thread(self.checkpoint_sync, state)

    def checkpoint_sync(self, state: Any) -> None:
        """Save where a long loop in synchronous code stands; see :meth:`checkpoint`."""
        self._open_progress().save(state)

    async def extend_timeout(self, duration: "str | timedelta") -> None:
        """Add running time to the run's timeout and to this attempt's, where the Task sets them.

        An attempt that runs the same code again adds nothing twice to the run's. ``totalTimeout`` is not extended.

        Args:
            duration: ``"10m"`` or a timedelta.

        Raises:
            ValueError: It is no duration, or nothing.
        """
        import asyncio

        await asyncio.to_thread(self.extend_timeout_sync, duration)

    def extend_timeout_sync(self, duration: "str | timedelta") -> None:
        """Add running time from synchronous code; see :meth:`extend_timeout`."""
        self._open_progress().extend(duration)

    def _open_progress(self) -> "Progress":
        if self._progress is None:
            raise NotInRunError("This run is not the one that the code runs in.")
        return self._progress


class Active:
    """An attempt that this process runs: its only one, or, where a pool's pods run in-process, one of several."""

    def __init__(
        self, run: CurrentRun, checkpoints: "Checkpoints", transport: "Transport", failed: "FailedSteps"
    ) -> None:
        self.run = run
        self.checkpoints = checkpoints
        self.waits: Waits
        """Set before the code starts; it needs to know the attempt itself."""
        self.stop: Stop
        """Set likewise."""
        self.transport = transport
        self.failed = failed
        self.origin = run.id
        """The run whose external effects this one shares: keys for other systems and random numbers come from it."""
        self.starter: Starter | None = None
        """Starts runs for this one; made with the first."""
        self.process = os.getpid()
        self.main_task: Any = None
        self.loop: Any = None
        self.enter_span: Callable[[str], Callable[[], None]] | None = None
        """Makes the user's spans children of a step's, by the step's key; None where the code has no OpenTelemetry."""


_active: Active | None = None
"""The attempt of a process that runs one: also in threads that know nothing of it."""
_shared = False
_OF_CONTEXT: Final[ContextVar[Active | None]] = ContextVar("windlass_attempt", default=None)
"""The attempt of the calling code, where a process runs several."""


def share_process() -> None:
    """From now on this process runs several attempts at once, and an attempt is found by the context of the caller."""
    global _shared  # noqa: PLW0603 - a property of the process, set when it starts
    _shared = True


def is_shared() -> bool:
    """Return whether this process runs several attempts at once."""
    return _shared


def active() -> Active | None:
    """Return the attempt of the calling code, or None outside a run."""
    return _OF_CONTEXT.get() if _shared else _active


def activate(attempt: Active | None) -> None:
    """Set or clear the attempt of this process, or of this context where a process runs several."""
    global _active  # noqa: PLW0603 - one process, one attempt
    if _shared:
        _OF_CONTEXT.set(attempt)
    else:
        _active = attempt


def current_run() -> CurrentRun:
    """Return the run of the calling code.

    Raises:
        NotInRunError: The code does not run in a run.
    """
    attempt = active()
    if attempt is None:
        raise NotInRunError("There is no run here: current_run() works inside a task that Windlass runs.")
    return attempt.run
