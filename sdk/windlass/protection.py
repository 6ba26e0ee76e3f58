"""Steps whose pod must stay while they run: on record before the body begins, and told to the cluster within moments.

The ledger learns of the step as of any that runs. The operator carries that to the pod, as annotations which tools that
scale or tidy a cluster respect.
"""

import time
from typing import TYPE_CHECKING, Final

from windlass.errors import ProtocolError, RunCancelled
from windlass.log import logger

if TYPE_CHECKING:
    from windlass.checkpoints import Running
    from windlass.context import Active
    from windlass.transport import Transport

WITHIN: Final = 5.0
"""Seconds that a step waits for its pod to be marked. It begins then: runs do not depend on the operator."""
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 0.2


def protect(attempt: "Active", running: "Running") -> None:
    """Say that a step is about to begin whose pod must stay. It is in the ledger when this returns.

    Raises:
        RunCancelled: The run was cancelled meanwhile; the step does not begin.
        RunSuspended: The run waits, or goes on in another pod; this process is of no use to it any more.
    """
    _protect(attempt, running)
    attempt.stop.before_step_sync()


async def protect_async(attempt: "Active", running: "Running") -> None:
    """Do the same while the loop goes on."""
    import asyncio

    await asyncio.to_thread(_protect, attempt, running)
    await attempt.stop.before_step()


def _protect(attempt: "Active", running: "Running") -> None:
    running.protect = True
    attempt.checkpoints.announce(running)
    marked = _is_marked(attempt)
    if attempt.run.cancelled:
        raise RunCancelled(f"The run was cancelled before step {running.key!r}.")
    if not marked:
        logger.warning("Step %r begins, although its pod is not marked as one to keep (yet).", running.key)


def _is_marked(attempt: "Active") -> bool:
    until, pause = time.monotonic() + WITHIN, _FIRST_LOOK
    while not _asked(attempt.transport):
        if attempt.run.cancelled or attempt.stop.asked or time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)
    return True


def _asked(transport: "Transport") -> bool:
    try:
        return transport.pod_is_protected()
    except ProtocolError as error:
        if error.code == "NotFound":  # an API of a release that protects nothing
            return False
        raise
