"""Large values as rows, where no object store is configured. Same contract as the object store."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from windlass.protocol import BLOB_LIMIT_WITHOUT_STORE
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("blobs")


async def record(database: Database, run_id: UUID, sha256: str, size: int) -> None:
    """Record that a blob of the run exists in the object store. After the upload, never before."""
    await database.fetch(_SQL["put_blob"], {"run_id": run_id, "sha256": sha256, "size": size, "data": None})


async def add(connection: Connection, run_id: UUID, sha256: str, size: int, data: bytes | None) -> None:
    """Record a blob in the transaction that makes its run; with its bytes where there is no object store."""
    await connection.execute(_SQL["put_blob"], {"run_id": run_id, "sha256": sha256, "size": size, "data": data})


async def orphans(database: Database, candidates: list[tuple[str, UUID]], age: timedelta) -> list[tuple[str, UUID]]:
    """Return those of these projects and runs whose run the ledger does not have although it knows the project.

    Args:
        database: The ledger.
        candidates: UID of the project, and id of the run.
        age: A run's id says when it was made; one that is younger may still be on its way.
    """
    parameters = {"uids": [uid for uid, _ in candidates], "ids": [run_id for _, run_id in candidates], "age": age}
    return [(row["uid"], row["id"]) for row in await database.fetch(_SQL["orphaned_runs"], parameters)]


async def size_of(database: Database, run_id: UUID, sha256: str) -> int | None:
    """Return the size of a recorded blob of this run, or None."""
    rows = await database.fetch(_SQL["has_blob"], {"run_id": run_id, "sha256": sha256})
    return int(rows[0]["size"]) if rows else None


class Key(Protocol):
    """Which value: see ``blobs.store.BlobKey``."""

    @property
    def run_id(self) -> UUID:
        """The run it belongs to."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class KeyOfRow:
    """The key of a value that is a row. See :class:`Key`."""

    project_uid: str
    run_id: UUID
    sha256: str


class LedgerBlobs:
    """Keeps values as rows, for installations without an object store. The project is implied by the run.

    Args:
        database: The ledger.
        missing: Makes the error for a value that is not there.
    """

    limit = BLOB_LIMIT_WITHOUT_STORE
    in_ledger = True

    def __init__(self, database: Database, missing: Callable[[Any], Exception]) -> None:
        self._database = database
        self._missing = missing

    async def put(self, key: Key, data: bytes) -> None:
        """Store a value; doing it twice changes nothing."""
        parameters = {"run_id": key.run_id, "sha256": key.sha256, "size": len(data), "data": data}
        await self._database.fetch(_SQL["put_blob"], parameters)

    async def get(self, key: Key) -> bytes:
        """Return a value."""
        rows = await self._database.fetch(_SQL["get_blob"], {"run_id": key.run_id, "sha256": key.sha256})
        if not rows or rows[0]["data"] is None:
            raise self._missing(key)
        return bytes(rows[0]["data"])

    async def exists(self, key: Key) -> bool:
        """Whether the value is there."""
        return await size_of(self._database, key.run_id, key.sha256) is not None

    async def delete_run(self, project_uid: str, run_id: UUID) -> int:  # noqa: ARG002 - part of the store's contract
        """Delete all values of a run and return how many there were."""
        return len(await self._database.fetch(_SQL["delete_blobs"], {"run_id": run_id}))

    async def runs(self) -> AsyncIterator[tuple[str, UUID]]:
        """Yield the runs that have values."""
        for row in await self._database.fetch(_SQL["blob_runs"]):
            yield row["uid"], row["run_id"]

    async def keys(self, project_uid: str, first: UUID, last: UUID) -> AsyncIterator[Any]:
        """Yield the keys of all values of a project's runs from one id to another."""
        place = {"project_uid": project_uid, "first": first, "last": last}
        for row in await self._database.fetch(_SQL["blob_keys"], place):
            yield KeyOfRow(project_uid, row["run_id"], row["sha256"])

    async def check(self) -> None:
        """The ledger's own readiness covers this."""
