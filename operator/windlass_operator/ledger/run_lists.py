"""Lists of runs: filters, two orders in both directions, and pages that go on where the last one ended."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

from psycopg import errors

from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("run_lists")
_SECONDS: Final = 5
"""How long one page may take. A search for a text may have to read every run of a project."""

Order = Literal["created_desc", "created_asc", "finished_desc", "finished_asc"]


class ListTooSlowError(WindlassError):
    """A list needs to look at more runs than fit into its time."""

    code, http_status = "ListTooSlow", 400

    def __init__(self) -> None:
        super().__init__(
            f"The list was not ready after {_SECONDS} s: too many runs must be looked at.",
            hint="Narrow it down with createdAfter or finishedAfter, task, state or tag.",
        )


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the time that the list is ordered by, and the run's id."""

    at: datetime
    id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs. Every condition that is set must hold."""

    states: frozenset[RunState] = frozenset()
    """In one of these states; empty means in any."""
    task: str | None = None
    parent: UUID | None = None
    """Started by the code of this run."""
    tags: tuple[str, ...] = ()
    """With all of these tags."""
    created_after: datetime | None = None
    """Created at this time or later."""
    created_before: datetime | None = None
    """Created earlier than this."""
    finished_after: datetime | None = None
    finished_before: datetime | None = None
    error: str | None = None
    """Text within the message or the last failure, upper and lower case alike; or the whole reason."""


_PLANNED_EACH_TIME: Final = "SET LOCAL plan_cache_mode = force_custom_plan"
"""How many runs a condition leaves depends on its value: most have succeeded, and few are of a rare task."""


async def page(
    database: Database, project_id: int, wanted: RunFilter, *, order: Order, after: Position | None, limit: int
) -> list[tuple[UUID, Position]]:
    """Return ids in order, each with its position.

    Raises:
        ListTooSlowError: It takes longer than a list may.
    """
    statement, parameters = _statement(project_id, wanted, order, after, limit)
    column = "finished_at" if order.startswith("finished") else "created_at"

    async def work(connection: Connection) -> list[dict[str, Any]]:
        await connection.execute(_PLANNED_EACH_TIME)
        if wanted.error is None:
            return await (await connection.execute(statement, parameters)).fetchall()
        await connection.execute(f"SET LOCAL statement_timeout = '{_SECONDS}s'")
        try:
            return await (await connection.execute(statement, parameters)).fetchall()
        except errors.QueryCanceled:
            raise ListTooSlowError from None

    rows = await database.transaction(work)
    return [(row["id"], Position(row[column], row["id"])) for row in rows]


def _statement(
    project_id: int, wanted: RunFilter, order: Order, after: Position | None, limit: int
) -> tuple[LiteralString, dict[str, Any]]:
    """Return the statement of just these conditions: one that has them all, switched off by NULL, plans badly."""
    values: dict[str, Any] = {"project_id": project_id, "limit": limit}
    parts = ["select"]
    if wanted.states:
        parts.append(_states(wanted.states))
        values["states"] = sorted(wanted.states)
    if order.startswith("finished"):
        parts.append("finished")
    conditions = {
        "task": wanted.task,
        "parent": wanted.parent,
        "tags": list(wanted.tags) or None,
        "created_after": wanted.created_after,
        "created_before": wanted.created_before,
        "finished_after": wanted.finished_after,
        "finished_before": wanted.finished_before,
        "error": wanted.error,
    }
    for name, value in conditions.items():
        if value is not None:
            parts.append(name)
            values[name] = value
    if wanted.error is not None:
        values["error_json"] = json.dumps(wanted.error, ensure_ascii=False)[1:-1]
    if after is not None:
        parts.append(f"after_{order}")
        values |= {"at": after.at, "id": after.id}
    parts.append(order)
    return " ".join(_SQL[part] for part in parts), values


def _states(states: frozenset[RunState]) -> str:
    if not any(state.final for state in states):
        return "unfinished"
    if all(state.final and state is not RunState.SUCCEEDED for state in states):
        return "unsuccessful"
    return "states"
