"""Steps whose pod must not be removed while they run, and what is known of their pods' annotations."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from windlass_operator.domain.pod_key import PodParts
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.pods import decode_parts
from windlass_operator.ledger.queries import load

_SQL: Final = load("protection")

PROTECTED: Final = "Protected"
"""The pod carries the annotations, and nobody is about to take them off."""


@dataclass(frozen=True, slots=True)
class PodToMark:
    """A pod whose annotations are to change.

    Attributes:
        wanted: Whether it is to carry them.
        parts: What it was made of, but for what a pool gives it.
    """

    id: UUID
    name: str
    namespace: str
    uid: str
    pod_key: str
    parts: PodParts
    wanted: bool


@dataclass(frozen=True, slots=True)
class Look:
    """Pods that carry annotations, or are to: how many, and which of them are to change."""

    pods: int
    to_change: list[UUID]


async def note(database: Database, attempt_id: UUID, token_hash: bytes, steps: Mapping[str, bool]) -> UUID | None:
    """Write that protected steps begin (True) or end (False).

    Returns:
        The run; None where the attempt is not open, and nothing was written.
    """
    parameters = {
        "attempt_id": attempt_id,
        "token_hash": token_hash,
        "keys": list(steps),
        "running": list(steps.values()),
    }
    rows = await database.fetch(_SQL["note"], parameters)
    return rows[0]["run_id"] if rows else None


async def is_on_pod(database: Database, attempt_id: UUID) -> bool | None:
    """Return whether the pod of an attempt is known to carry the annotations; None if there is no such pod."""
    rows = await database.fetch(_SQL["of_attempt"], {"attempt_id": attempt_id})
    return rows[0]["protection"] == PROTECTED if rows else None


async def look(database: Database, linger: timedelta) -> Look:
    """Return what there is to do. Reads only."""
    rows = await database.fetch(_SQL["look"], {"linger": linger})
    return Look(len(rows), [row["id"] for row in rows if row["to_change"]])


async def begin(connection: Connection, ids: list[UUID], linger: timedelta) -> list[PodToMark]:
    """Note that the annotations of pods are being changed, before they are; return those that still need it."""
    await connection.execute(_SQL["lock"], {"ids": ids})
    rows = await (await connection.execute(_SQL["begin"], {"ids": ids, "linger": linger})).fetchall()
    return [PodToMark(**{**row, "parts": decode_parts(row["parts"])}) for row in rows]


async def done(connection: Connection, pod_id: UUID, *, wanted: bool) -> None:
    """Note that a pod's annotations are as they are to be."""
    await connection.execute(_SQL["done"], {"id": pod_id, "wanted": wanted})


async def doubt(database: Database, pod_id: UUID, believed: str | None) -> None:
    """Note that a pod is not as it was believed to be, so that it is put right."""
    await database.fetch(_SQL["doubt"], {"id": pod_id, "believed": believed})


async def tidy(database: Database, linger: timedelta) -> None:
    """Forget what counts for nothing any more."""
    await database.fetch(_SQL["tidy"], {"linger": linger})


async def count(database: Database) -> int:
    """Return how many pods carry the annotations, or may."""
    return int((await database.fetch(_SQL["count"]))[0]["n"])
