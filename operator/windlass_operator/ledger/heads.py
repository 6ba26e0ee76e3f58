"""Heads of Tasks: the newest version of each Task that exists. Pods are kept ready for these and for no other."""

from dataclasses import dataclass
from typing import Final

from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load
from windlass_operator.ledger.runs import Version

_SQL: Final = load("heads")


@dataclass(frozen=True, slots=True)
class Head:
    """A Task that the ledger believes to exist."""

    namespace: str
    task: str
    uid: str
    generation: int


async def put(
    connection: Connection, project_id: int, task: str, *, uid: str, generation: int, version: Version, standby: int
) -> bool:
    """Record what a Task says now. False: nothing new, or news that are older than what is known.

    Args:
        connection: In a transaction that made the version.
        project_id: Of the Task.
        task: Its name.
        uid: Of the resource.
        generation: Of the resource when it was seen.
        version: Of what it says.
        standby: Single-use pods to keep ready.
    """
    parameters = {
        "project_id": project_id,
        "task": task,
        "resource_uid": uid,
        "generation": generation,
        "version_id": version.id,
        "standby": standby,
    }
    return await (await connection.execute(_SQL["put_head"], parameters)).fetchone() is not None


async def drop(database: Database, uid: str) -> bool:
    """Record that a Task is gone. Returns whether it was known."""
    return bool(await database.fetch(_SQL["drop_head"], {"resource_uid": uid}))


async def known(database: Database) -> list[Head]:
    """Return all heads."""
    rows = await database.fetch(_SQL["heads"])
    return [Head(row["namespace"], row["task"], row["resource_uid"], row["generation"]) for row in rows]
