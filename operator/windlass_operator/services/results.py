"""Waiting for the ends of runs: however many wait, they look together."""

import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from windlass_operator.domain.errors import RunNotFoundError
from windlass_operator.domain.project import Project
from windlass_operator.ledger import outcomes
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.outcomes import Outcome
from windlass_operator.services.batch import Batch
from windlass_operator.services.runs import Changes

_LOOK_AGAIN: Final = 1.0
"""Seconds after which a wait looks although nobody has told it anything."""
_AT_ONCE: Final = 100
"""Runs of one look: each may have a result of 64 KiB."""


class ResultService:
    """Waits for runs to end. One instance a process.

    Args:
        database: The ledger.
        changes: Tells of changed runs.
    """

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes
        self._look = Batch(self._look_at, limit=_AT_ONCE)

    async def wait(
        self, project: Project, run_id: UUID, seconds: float, gone: Callable[[], Awaitable[bool]], *, new: bool = False
    ) -> Outcome | None:
        """Return how a run ended, or None if it has not when the time is over.

        Args:
            project: That the run must be one of.
            run_id: Of the run.
            seconds: To wait; 0 for one look.
            gone: Asks whether nobody waits for the answer any more.
            new: This process has accepted the run just now: there is nothing to see until it tells of a change.

        Raises:
            RunNotFoundError: The project has no such run.
        """
        until, told = time.monotonic() + seconds, True
        with self._changes.follow(run_id) as changed:  # before the first look: no change falls between the two
            if new:
                told = await changed.wait(min(seconds, _LOOK_AGAIN))
            while True:
                changed.clear()
                outcome = await self._look(run_id)
                if outcome is None or outcome.project_uid != project.uid:
                    raise RunNotFoundError(str(run_id), project.namespace)
                left = until - time.monotonic()
                if outcome.state.final:
                    return outcome
                if left <= 0 or (not told and await gone()):
                    return None
                told = await changed.wait(min(left, _LOOK_AGAIN))

    async def _look_at(self, run_ids: list[UUID]) -> list[Outcome | None]:
        found = await outcomes.of_runs(self._database, run_ids)
        return [found.get(run_id) for run_id in run_ids]
