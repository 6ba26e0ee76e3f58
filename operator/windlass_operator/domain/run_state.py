"""The states of a run: one table, one function, one error.

The diagram in ``docs/reference/state-machine.md`` is printed from the table.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from windlass_operator.domain.errors import WindlassError


class RunState(StrEnum):
    """Where a run stands. The value is what users read in status, API and CLI."""

    QUEUED = "Queued"
    """Accepted and not claimed. A claim moves it on; ``availableAt`` or a config problem may hold it."""
    RUNNING = "Running"
    """An attempt is open. Its runner moves it on; if that falls silent, the reaper does."""
    CANCELLING = "Cancelling"
    """Cancelled while an attempt is open. The runner confirms, or the reaper closes it after the lease."""
    WAITING = "Waiting"
    """Every branch of the code is blocked on a durable wait: no pod, no slot. The end of a wait moves it on."""
    SUSPENDED = "Suspended"
    """It needs a person: the code does not fit the history any more. ``resume`` or ``cancel`` moves it on."""
    COMPENSATING = "Compensating"
    """It will not succeed, and what its finished steps did is being undone. A claim opens an attempt for that."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"
    CANCELLED = "Cancelled"
    EXPIRED = "Expired"
    """It did not begin within its ``queueTTL``."""

    @property
    def final(self) -> bool:
        """Whether nothing can change any more."""
        return self in FINAL


FINAL: Final = frozenset(
    {RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED, RunState.EXPIRED}
)


class RunEvent(StrEnum):
    """What can happen to a run."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    RETRY = "retry"
    """An attempt ended without a result and another one is due (user failure, lost lease, hand-over)."""
    FAIL = "fail"
    TIME_OUT = "time out"
    EXPIRE = "expire"
    """It was to begin by a time that has come."""
    CANCEL = "cancel"
    """Somebody asked for the end."""
    CONFIRM_CANCEL = "confirm cancel"
    """The cancelled attempt has ended."""
    WAIT = "wait"
    """Every branch is blocked on a durable wait, and the attempt has ended."""
    WAKE = "wake"
    """A wait is over, and the code can go on."""
    SUSPEND = "suspend"
    """Only a person can say how it goes on."""
    RESUME = "resume"
    """A person said: go on."""
    COMPENSATE = "compensate"
    """It ends without success, and finished steps are to be undone first."""


S, E = RunState, RunEvent

TRANSITIONS: Final[Mapping[tuple[RunState, RunEvent], RunState]] = {
    (S.QUEUED, E.CLAIM): S.RUNNING,
    (S.QUEUED, E.FAIL): S.FAILED,  # a config problem outlasted startTimeout, or the payload is invalid
    (S.QUEUED, E.TIME_OUT): S.TIMED_OUT,  # running time was used up by earlier attempts
    (S.QUEUED, E.EXPIRE): S.EXPIRED,  # only before its first attempt
    (S.QUEUED, E.CANCEL): S.CANCELLED,
    (S.QUEUED, E.COMPENSATE): S.COMPENSATING,
    (S.RUNNING, E.SUCCEED): S.SUCCEEDED,
    (S.RUNNING, E.RETRY): S.QUEUED,
    (S.RUNNING, E.FAIL): S.FAILED,
    (S.RUNNING, E.TIME_OUT): S.TIMED_OUT,
    (S.RUNNING, E.CANCEL): S.CANCELLING,
    (S.RUNNING, E.WAIT): S.WAITING,
    (S.RUNNING, E.SUSPEND): S.SUSPENDED,
    (S.RUNNING, E.COMPENSATE): S.COMPENSATING,
    (S.WAITING, E.WAKE): S.QUEUED,
    (S.WAITING, E.TIME_OUT): S.TIMED_OUT,
    (S.WAITING, E.CANCEL): S.CANCELLED,
    (S.WAITING, E.COMPENSATE): S.COMPENSATING,
    (S.SUSPENDED, E.RESUME): S.QUEUED,
    (S.SUSPENDED, E.TIME_OUT): S.TIMED_OUT,
    (S.SUSPENDED, E.CANCEL): S.CANCELLED,
    (S.SUSPENDED, E.COMPENSATE): S.COMPENSATING,
    (S.CANCELLING, E.SUCCEED): S.SUCCEEDED,  # the result was there before the cancellation reached the child
    (S.CANCELLING, E.CONFIRM_CANCEL): S.CANCELLED,
    (S.CANCELLING, E.CANCEL): S.CANCELLING,  # asking twice changes nothing
    (S.CANCELLING, E.COMPENSATE): S.COMPENSATING,
    (S.COMPENSATING, E.CLAIM): S.COMPENSATING,
    (S.COMPENSATING, E.RETRY): S.COMPENSATING,  # an attempt ended, and some of its work is left
    (S.COMPENSATING, E.FAIL): S.FAILED,
    (S.COMPENSATING, E.TIME_OUT): S.TIMED_OUT,
    (S.COMPENSATING, E.CONFIRM_CANCEL): S.CANCELLED,
}


class IllegalTransitionError(WindlassError):
    """The table has no such arrow."""

    code, http_status = "IllegalTransition", 409

    def __init__(self, state: RunState, event: RunEvent) -> None:
        super().__init__(f"A run that is {state.value} cannot {event.value}.")


def transition(state: RunState, event: RunEvent) -> RunState:
    """Return the state after ``event``. Pure: no clock, no I/O.

    Raises:
        IllegalTransitionError: The table above has no such arrow.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(state, event) from None


def as_mermaid() -> str:
    """Return the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {S.QUEUED.value}"]
    lines += [f"    {a.value} --> {b.value}: {event.value}" for (a, event), b in TRANSITIONS.items()]
    lines += [f"    {state.value} --> [*]" for state in RunState if state.final]
    return "\n".join(lines) + "\n"
