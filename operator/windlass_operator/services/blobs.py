"""Large values: stored first, recorded after: a crash between the two leaves an orphan, never a dangling reference."""

import hashlib
import re
from typing import Final
from uuid import UUID

from windlass.protocol import BlobRef
from windlass_operator.blobs.store import BlobKey, BlobStore
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError
from windlass_operator.ledger import blobs
from windlass_operator.ledger.attempts import Writer
from windlass_operator.ledger.database import Database

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


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
            raise AttemptClosedError
        if not _SHA256.fullmatch(sha256) or hashlib.sha256(data).hexdigest() != sha256:
            raise InvalidRequestError("The body does not have the SHA-256 that the path names.", field="sha256")
        await self._store.put(BlobKey(writer.project_uid, writer.run_id, sha256), data)
        await blobs.record(self._database, writer.run_id, sha256, len(data))
        return BlobRef(sha256=sha256, size=len(data))

    async def get(self, project_uid: str, run_id: UUID, sha256: str) -> bytes:
        """Return a value of a run.

        Raises:
            BlobMissingError: The store has no such value.
        """
        if not _SHA256.fullmatch(sha256):
            raise InvalidRequestError("The path does not name a SHA-256.", field="sha256")
        return await self._store.get(BlobKey(project_uid, run_id, sha256))
