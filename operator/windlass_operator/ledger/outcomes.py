"""How runs ended: the narrow look of those who wait for results."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("outcomes")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, or where it stands."""

    id: UUID
    project_uid: str
    state: RunState
    reason: str | None
    message: str | None
    result: str | None
    """JSON. None where the value is large, and where there is none."""
    result_sha256: str | None
    """Of a large result."""


async def of_runs(database: Database, run_ids: Collection[UUID]) -> dict[UUID, Outcome]:
    """Return how runs ended by their ids, without those that the ledger does not know."""
    rows = await database.fetch(_SQL["outcomes"], {"ids": msgspec.json.encode(list(run_ids)).decode()})
    return {row["id"]: Outcome(**row | {"state": RunState(row["state"])}) for row in rows}
