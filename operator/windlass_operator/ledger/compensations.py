"""What is left to undo of a run: finished steps whose compensation is not finished. Read under the run's row lock."""

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from windlass_operator.domain.compensation import Ending
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Connection
from windlass_operator.ledger.queries import load

_SQL: Final = load("compensations")
_NAMED: Final = 20


async def any_not_undone(connection: Connection, run_ids: Collection[UUID]) -> set[UUID]:
    """Return those of some runs, which are about to end, that have finished steps with a compensation.

    A statement of its own, after the runs' rows are locked: it sees what was saved until then.
    """
    rows = await (await connection.execute(_SQL["any_not_undone"], {"run_ids": list(run_ids)})).fetchall()
    return {row["run_id"] for row in rows}


async def not_undone(connection: Connection, run_id: UUID, *, limit: int) -> list[dict[str, Any]]:
    """Return what is left to undo, the step that finished last first; each row says in ``n`` how many there are."""
    parameters = {"run_id": run_id, "limit": limit}
    return await (await connection.execute(_SQL["not_undone"], parameters)).fetchall()


async def ending(connection: Connection, row: dict[str, Any]) -> Ending:
    """Return what the run of ``row``, which is locked and being compensated, ends with, and what is left."""
    left = await not_undone(connection, row["id"], limit=_NAMED)
    return Ending(
        state=RunState(row["ends_as"]),
        reason=row["ends_reason"],
        message=row["ends_message"],
        failure_class=row["ends_class"],
        failures=row["compensation_failures"],
        claimed=row["undoing"],
        not_undone=tuple(step["key"] for step in left),
        left=left[0]["n"] if left else 0,
    )
