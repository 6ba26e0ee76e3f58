"""Large values as rows, where no object store is configured. Same contract as the object store."""

from typing import Final
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


class LedgerBlobs:
    """Keeps values as rows. For installations without an object store."""

    limit = BLOB_LIMIT_WITHOUT_STORE

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, project_uid: str, run_id: UUID, sha256: str, data: bytes) -> None:
        """Store a value. The project is implied by the run."""
        parameters = {"run_id": run_id, "sha256": sha256, "size": len(data), "data": data}
        await self._database.fetch(_SQL["put_blob"], parameters)

    async def get(self, project_uid: str, run_id: UUID, sha256: str) -> bytes | None:
        """Return a value, or None."""
        rows = await self._database.fetch(_SQL["get_blob"], {"run_id": run_id, "sha256": sha256})
        return bytes(rows[0]["data"]) if rows and rows[0]["data"] is not None else None

    async def check(self) -> None:
        """The ledger's own readiness covers this."""
