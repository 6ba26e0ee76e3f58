"""Runs that runs have started: the steps that start them, the waits for them, and the tree that they make.

Never the rows of a parent and of its child are locked in one transaction, but for the parent's before the child exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("children")


@dataclass(frozen=True, slots=True)
class Parent:
    """A run whose open attempt starts others. Nobody can cancel it until the transaction ends."""

    run_id: UUID
    number: int
    """Of the attempt."""
    project_id: int
    state: RunState
    root_id: UUID
    depth: int


@dataclass(frozen=True, slots=True)
class Started:
    """A run that a step has started."""

    run_id: UUID
    args_hash: str
    again: bool = False
    """The wait for it was too short, and begins again."""


async def lock_parent(connection: Connection, writer: Writer) -> Parent:
    """Lock an attempt, which must be open, and its run.

    Raises:
        AttemptClosedError: It is closed.
    """
    fence = {"attempt_id": writer.attempt_id, "token_hash": writer.token_hash}
    attempt = await (await connection.execute(_SQL["lock_attempt"], fence)).fetchone()
    if attempt is None:
        raise AttemptClosedError
    run = await (await connection.execute(_SQL["lock_parent"], {"run_id": writer.run_id})).fetchone()
    assert run is not None, "an attempt has a run"
    return Parent(
        run_id=writer.run_id,
        number=attempt["number"],
        project_id=run["project_id"],
        state=RunState(run["state"]),
        root_id=run["root_id"],
        depth=run["depth"],
    )


async def trace_of(connection: Connection, run_id: UUID) -> str | None:
    """Return the trace that a run belongs to."""
    row = await (await connection.execute(_SQL["trace"], {"run_id": run_id})).fetchone()
    return None if row is None else row["traceparent"]


async def started(connection: Connection, run_id: UUID, keys: Sequence[str]) -> dict[str, Started]:
    """Return what steps of these keys have started before."""
    rows = await (await connection.execute(_SQL["started"], {"run_id": run_id, "keys": list(keys)})).fetchall()
    return {row["key"]: Started(row["child_id"], row["args_hash"], row["again"]) for row in rows}


async def note(connection: Connection, parent: Parent, children: Sequence[tuple[protocol.Child, UUID]]) -> bool:
    """Write the steps that have started runs, and begin to wait for those that are awaited.

    Returns:
        False if there is a step of one of the keys already: what was written must not be committed.
    """
    items = [
        {
            "ord": order,
            "key": child.key,
            "name": child.name,
            "args_hash": child.args_hash,
            "child_id": run_id,
            "awaited": child.awaited,
            "due_in": child.due_in_ms,
            "place": child.place,
            "code_id": child.code_id,
        }
        for order, (child, run_id) in enumerate(children)
    ]
    parameters = {
        "items": msgspec.json.encode(items).decode(),
        "run_id": parent.run_id,
        "number": parent.number,
        "project_id": parent.project_id,
    }
    row = await (await connection.execute(_SQL["note_children"], parameters)).fetchone()
    return row is not None and row["n"] == len(items)


async def ancestors(connection: Connection, run_id: UUID, among: Sequence[UUID]) -> set[UUID]:
    """Return which of these runs are the run itself or have led to it."""
    rows = await (await connection.execute(_SQL["ancestors"], {"run_id": run_id, "ids": list(among)})).fetchall()
    return {row["id"] for row in rows}


async def ended(database: Database, targets: Sequence[UUID] | None, *, limit: int) -> list[dict[str, Any]]:
    """Return waits for runs that have ended, with what came of those: for these runs, or (None) for any."""
    parameters: dict[str, Any] = {"limit": limit}
    if targets is None:
        return await database.fetch(f"{_SQL['ended']} {_SQL['limit']}", parameters)
    parameters["targets"] = [str(target) for target in targets]
    return await database.fetch(f"{_SQL['ended']} {_SQL['of_targets']} {_SQL['limit']}", parameters)


async def orphans(database: Database, parents: Sequence[UUID] | None, *, limit: int) -> list[UUID]:
    """Return unfinished children that must end because their parent was cancelled: of these runs, or (None) of any."""
    parameters: dict[str, Any] = {"limit": limit}
    if parents is None:
        rows = await database.fetch(f"{_SQL['orphans']} {_SQL['limit']}", parameters)
    else:
        parameters["parents"] = list(parents)
        rows = await database.fetch(f"{_SQL['orphans']} {_SQL['of_parents']} {_SQL['limit']}", parameters)
    return [row["id"] for row in rows]


async def tree(database: Database, run_id: UUID, *, limit: int) -> list[dict[str, Any]]:
    """Return a run and those that it has led to, up to ``limit``, parents before their children."""
    return await database.fetch(_SQL["tree"], {"run_id": run_id, "limit": limit})


async def source_of_value(database: Database, run_id: UUID, sha256: str) -> UUID | None:
    """Return the child whose large result is the result of a step of this run, or None."""
    rows = await database.fetch(_SQL["source_of_value"], {"run_id": run_id, "sha256": sha256})
    return rows[0]["child_id"] if rows else None
