"""Large values as rows, where no object store is configured. Same contract as the object store."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from windlass.protocol import BLOB_LIMIT_WITHOUT_STORE
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("blobs")


async def record(database: Database, run_id: UUID, sha256: str, size: int) -> None:
    """Record that a blob of the run exists in the object store. After the upload, never before."""
    await database.fetch(_SQL["put_blob"], {"run_id": run_id, "sha256": sha256, "size": size, "data": None})


async def size_of(database: Database, run_id: UUID, sha256: str) -> int | None:
    """Return the size of a recorded blob of this run, or None."""
    rows = await database.fetch(_SQL["has_blob"], {"run_id": run_id, "sha256": sha256})
    return int(rows[0]["size"]) if rows else None
