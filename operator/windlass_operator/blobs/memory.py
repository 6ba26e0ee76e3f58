"""A blob store in memory: the twin of the real ones for tests. It passes the same suite."""

from collections.abc import AsyncIterator
from uuid import UUID

from windlass_operator.blobs.store import BlobKey, BlobMissingError, verify
from windlass_operator.domain.errors import BlobStoreUnavailableError


class MemoryBlobStore:
    """Keeps blobs in a dict.

    Attributes:
        limit: Bytes of the largest blob.
        blobs: What is stored, for assertions.
        down: While true every call fails as if the store were away.
    """

    in_ledger = False

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self.blobs: dict[BlobKey, bytes] = {}
        self.down = False

    async def put(self, key: BlobKey, data: bytes) -> None:
        """Store the bytes."""
        verify(key, data, self.limit)
        self._answer()
        self.blobs[key] = bytes(data)

    async def get(self, key: BlobKey) -> bytes:
        """Return the bytes."""
        self._answer()
        try:
            return self.blobs[key]
        except KeyError:
            raise BlobMissingError(key) from None

    async def exists(self, key: BlobKey) -> bool:
        """Return whether the blob is there."""
        self._answer()
        return key in self.blobs

    async def delete_run(self, project_uid: str, run_id: UUID) -> int:
        """Delete every blob of a run."""
        self._answer()
        mine = [key for key in self.blobs if (key.project_uid, key.run_id) == (project_uid, run_id)]
        for key in mine:
            del self.blobs[key]
        return len(mine)

    async def runs(self) -> AsyncIterator[tuple[str, UUID]]:
        """Yield project and run of every run that has blobs."""
        self._answer()
        for run in sorted({(key.project_uid, key.run_id) for key in self.blobs}):
            yield run

    async def keys(self, project_uid: str, first: UUID, last: UUID) -> AsyncIterator[BlobKey]:
        """Yield the keys of all blobs of a project's runs from one id to another."""
        self._answer()
        for key in sorted(self.blobs, key=str):
            if key.project_uid == project_uid and first <= key.run_id <= last:
                yield key

    async def check(self) -> None:
        """Answer."""
        self._answer()

    def _answer(self) -> None:
        if self.down:
            raise BlobStoreUnavailableError("The blob store is down because a test says so.")
