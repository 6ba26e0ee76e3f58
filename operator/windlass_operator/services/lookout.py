"""One look a second at all that may have to be done in a process that has nothing to do.

The loops of timers and deliveries sleep until it wakes them: by themselves they would ask six questions a second, each
with the same answer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog

from windlass_operator.ledger.attempts import Outlook
from windlass_operator.services.loops import end_if_cancelled

log = structlog.get_logger()

EVERY: Final = timedelta(seconds=1)
"""A timer whose replica has ended, and an event whose sender has, is found so much too late."""
_EARLY: Final = 0.001
"""Seconds: who looks a moment too early looks twice."""
_FRESH: Final = timedelta(seconds=1.5)
"""Of several replicas one says that heartbeats are served; a gap is several seconds."""


class Lookout:
    """Says that heartbeats are served here, and wakes who has something to do.

    Args:
        look: Does one look; see :meth:`AttemptService.serve_heartbeats`.
        ring: Called when a wait may be over by its time.
        deliver: Called when there may be an event or a token to deliver.
        every: From one look to the next; jittered, so that replicas do not look together.
    """

    def __init__(
        self,
        look: Callable[[timedelta], Awaitable[Outlook]],
        *,
        ring: Callable[[], None],
        deliver: Callable[[], None],
        every: timedelta = EVERY,
    ) -> None:
        self._look = look
        self._ring = ring
        self._deliver = deliver
        self._every = every.total_seconds()
        self._bell: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                outlook = await self._look(_FRESH)
            except Exception as error:  # Postgres is away: that is the gap which this records
                log.warning("heartbeat service interrupted", error=str(error)[:200])
            else:
                if outlook.due_in is not None:
                    self.timer_set(outlook.due_in)
                if outlook.undelivered:
                    self._deliver()
            end_if_cancelled()
            await asyncio.sleep(self._every * random.uniform(0.9, 1.2))  # noqa: S311 - jitter, not a secret

    def timer_set(self, seconds: float) -> None:
        """A wait is over in so many seconds, if nothing ends it before. What is far away is left to a later look."""
        if seconds > 2 * self._every:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, seconds) + _EARLY
        if self._bell is not None and self._bell.when() > loop.time():
            if self._bell.when() <= at:
                return
            self._bell.cancel()
        self._bell = loop.call_at(at, self._ring)
