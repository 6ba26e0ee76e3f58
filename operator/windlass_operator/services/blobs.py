"""Large values: stored first, recorded after: a crash between the two leaves an orphan, never a dangling reference."""

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from windlass.protocol import BlobRef
from windlass_operator.blobs.store import BlobKey, BlobMissingError, BlobStore, verify
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError
from windlass_operator.ledger import blobs, children
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.services.recorder import Recorder

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
SETTLED: Final = timedelta(days=1)
"""Age from which a value without a run is an orphan: the run it was stored for will not be accepted any more."""
SWEEP_EVERY: Final = timedelta(hours=6)
"""An orphan costs room and nothing else, and a sweep lists the whole bucket."""
_SWEPT_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Staged:
    """A value that was brought to the store ahead of its run, or waits to be written with it."""

    ref: BlobRef
    data: bytes | None
    """Its bytes, where the ledger keeps them."""


class BlobService:
    """Stores and finds large values of runs."""

    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database = database
        self._store = store

    @property
    def limit(self) -> int:
        """Bytes of the largest value."""
        return self._store.limit

    async def put(self, writer: Writer, sha256: str, data: bytes) -> BlobRef:
        """Store a value of the attempt's run.

        Raises:
            AttemptClosedError: The attempt is no longer open.
            InvalidRequestError: The bytes do not have that digest.
        """
        if writer.closed_at is not None:
            Recorder.refused("blobs")
            raise AttemptClosedError
        if not _SHA256.fullmatch(sha256) or hashlib.sha256(data).hexdigest() != sha256:
            raise InvalidRequestError("The body does not have the SHA-256 that the path names.", field="sha256")
        await self._store.put(BlobKey(writer.project_uid, writer.run_id, sha256), data)
        await blobs.record(self._database, writer.run_id, sha256, len(data))
        return BlobRef(sha256=sha256, size=len(data))

    async def stage(self, project_uid: str, run_id: UUID, data: bytes) -> Staged:
        """Bring a value to the object store ahead of its run. A row is written with the run, by :meth:`record`.

        A run that is then refused leaves an orphan, which :meth:`sweep` removes.

        Raises:
            BlobTooLargeError: It is over the store's limit.
            BlobStoreUnavailableError: The store does not answer; the run must not be accepted.
        """
        key = BlobKey.of(project_uid, run_id, data)
        verify(key, data, self._store.limit)
        if not self._store.in_ledger:
            await self._store.put(key, data)
        return Staged(BlobRef(sha256=key.sha256, size=len(data)), data if self._store.in_ledger else None)

    @staticmethod
    async def record(connection: Connection, run_id: UUID, staged: Staged) -> None:
        """Record a staged value in the transaction that makes its run."""
        await blobs.add(connection, run_id, staged.ref.sha256, staged.ref.size, staged.data)

    async def sweep(self) -> int:
        """Delete the values of runs that were never accepted. Returns of how many runs."""
        if self._store.in_ledger:
            return 0
        swept, some = 0, []
        async for found in self._store.runs():
            some.append(found)
            if len(some) == _SWEPT_AT_ONCE:
                swept += await self._sweep(some)
                some = []
        return swept + await self._sweep(some)

    async def _sweep(self, found: list[tuple[str, UUID]]) -> int:
        orphans = await blobs.orphans(self._database, found, SETTLED)
        for project_uid, run_id in orphans:
            await self._store.delete_run(project_uid, run_id)
        return len(orphans)

    async def get_for(self, writer: Writer, sha256: str) -> bytes:
        """Return a value of the attempt's run, or one that a run returned to it which it has waited for.

        Raises:
            BlobMissingError: The store has no such value.
        """
        try:
            return await self.get(writer.project_uid, writer.run_id, sha256)
        except BlobMissingError:
            child = await children.source_of_value(self._database, writer.run_id, sha256)
            if child is None:
                raise
        return await self.get(writer.project_uid, child, sha256)

    async def get(self, project_uid: str, run_id: UUID, sha256: str) -> bytes:
        """Return a value of a run.

        Raises:
            BlobMissingError: The store has no such value.
        """
        if not _SHA256.fullmatch(sha256):
            raise InvalidRequestError("The path does not name a SHA-256.", field="sha256")
        return await self._store.get(BlobKey(project_uid, run_id, sha256))
