"""``now()``, ``random()``, ``uuid()``: what differs from call to call, and must not differ from attempt to attempt.

``random()`` and ``uuid()`` are calculated from the run and the place of the call, so nothing need be saved. The time
cannot be calculated: ``now()`` is a step, written once. In a step's body, and outside a run, nothing is replayed: there
``now()`` and ``random()`` are the plain ones.
"""

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

from windlass import branches
from windlass.clock import utc_now
from windlass.context import active
from windlass.errors import StepError
from windlass.steps import Step

if TYPE_CHECKING:
    from uuid import UUID


def now() -> datetime:
    """Return the time, aware, in UTC: the same in every attempt of the run.

    The first call at a place is a step named ``now``, saved before it returns. It may be called from asynchronous code
    too, whose loop it holds for that one write, about a millisecond.

    Raises:
        StepError: Called where its place in the run is unknown, as for a step.
    """
    branch = branches.current()
    if branch is None and active() is None:
        return utc_now()
    if branch is not None and branch.inside_step is not None:
        return utc_now()
    return datetime.fromisoformat(_NOW())


def random() -> float:
    """Return a number of [0, 1): the same in every attempt of the run, another one at each call.

    Not for secrets: whoever knows the run's id can calculate it.

    Raises:
        StepError: As for :func:`now`.
    """
    place = _place("random", in_steps=False)
    if place is None:
        import random as plain

        return plain.random()  # noqa: S311 - documented
    return (int.from_bytes(_digest(place)[:7]) >> 3) / (1 << 53)


def uuid() -> "UUID":
    """Return a UUID (version 4 by its form): the same in every attempt of the run, another one at each call.

    In a step's body it is the same in each of its tries too: what they create has one id. Not for secrets: whoever
    knows the run's id can calculate it.

    Raises:
        StepError: As for :func:`now`.
    """
    from uuid import UUID, uuid4

    place = _place("uuid", in_steps=True)
    return uuid4() if place is None else UUID(bytes=_digest(place)[:16], version=4)


def _place(name: str, *, in_steps: bool) -> str | None:
    """Return where in the run it is called; None where the plain one will do."""
    branch, attempt = branches.current(), active()
    if branch is None and attempt is None:
        return None
    if branch is None or attempt is None or attempt.checkpoints.closed:
        raise StepError(f"{name}() is called where its place in the run is unknown: from a thread of the code's own.")
    if branch.inside_step is not None and not in_steps:
        return None
    return f"{attempt.origin}/{branch.inside_step or ''}~{branch.key('~' + name)}"


def _digest(place: str) -> bytes:
    return hashlib.sha256(place.encode()).digest()


def _time() -> str:
    return utc_now().isoformat()


_NOW: Final = Step(_time, "now")
