"""The run that the calling code belongs to."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windlass.errors import WindlassError

if TYPE_CHECKING:
    from windlass.checkpoints import Checkpoints
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

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled the run; long synchronous code looks here and ends early."""
        return self._cancelled.raised


class Active:
    """The attempt that this process runs. One process runs one attempt, so it is a plain module variable."""

    def __init__(self, run: CurrentRun, checkpoints: "Checkpoints") -> None:
        self.run = run
        self.checkpoints = checkpoints
        self.waits: Waits
        """Set before the code starts; it needs to know the attempt itself."""
        self.process = os.getpid()
        self.main_task: Any = None
        self.loop: Any = None
        self.enter_span: Callable[[str], Callable[[], None]] | None = None
        """Makes the user's spans children of a step's, by the step's key; None where the code has no OpenTelemetry."""


_active: Active | None = None


def active() -> Active | None:
    """Return the attempt of this process, or None outside a run."""
    return _active


def activate(attempt: Active | None) -> None:
    """Set or clear the attempt of this process."""
    global _active  # noqa: PLW0603 - one process, one attempt
    _active = attempt


def current_run() -> CurrentRun:
    """Return the run of the calling code.

    Raises:
        NotInRunError: The code does not run in a run.
    """
    if _active is None:
        raise NotInRunError("There is no run here: current_run() works inside a task that Windlass runs.")
    return _active.run
