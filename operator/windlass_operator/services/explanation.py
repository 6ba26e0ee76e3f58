"""Why a run is not running: every gate that it waits for, in the words of its status."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windlass_operator.domain.gates import Gate, gates
from windlass_operator.domain.run_state import RunState
from windlass_operator.domain.waits import Blocked, explain
from windlass_operator.ledger import pods, queues, runs, waits
from windlass_operator.ledger.database import Database

_WAITS = 50
"""Waits that are named; a run with more waits for its children, of which the tree tells."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a run waits for.

    Attributes:
        waits_for: In the order in which to look at them; empty where it runs, or has ended.
        ahead: Runs that its queue lets start before it; None where it is in no queue.
        queue: Name of its queue.
    """

    waits_for: list[Gate]
    ahead: int | None = None
    queue: str | None = None


class ExplanationService:
    """Explains runs. Decides nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explain(self, row: Mapping[str, Any]) -> Explanation:
        """Return what a run waits for.

        Args:
            row: A full row, as :meth:`RunService.get` returns it.
        """
        state = RunState(row["state"])
        if state is RunState.WAITING:
            return Explanation(await self._waits(row))
        if state is RunState.SUSPENDED:
            return Explanation([Gate(row["reason"] or state.value, row["message"] or "")])
        if state is RunState.QUEUED or (state is RunState.COMPENSATING and not row["undoing"]):
            return await self._queued(row)
        return Explanation([])

    async def _queued(self, row: Mapping[str, Any]) -> Explanation:
        found = gates(runs.facts_of(row), row["now"])
        ahead = await queues.ahead(self._database, row["id"])
        if not found:
            starting = await pods.starting_for(self._database, row["id"])
            way = f"{starting} on their way" if starting != 1 else "one on its way"
            found = [Gate("PodPending", f"Nothing holds it. It starts with the next free pod of its kind; {way}.")]
        return Explanation(found, ahead, row["queue"])

    async def _waits(self, row: Mapping[str, Any]) -> list[Gate]:
        async with self._database.connection() as connection:
            found = await waits.of_run(connection, row["id"], limit=_WAITS)
        return [Gate(*explain([Blocked(wait.kind, wait.due_at, wait.target)], 1)) for wait in found]
