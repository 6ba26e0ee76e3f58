"""The interface of every blob store. Only the API and the sweeper use it; runners stream to the API.

A blob is written before the row that points to it and deleted only with its whole run, so a pointer never dangles. It
belongs to one run: equal values of two runs are two objects, and ending one run never touches the other's.
"""

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from windlass_operator.domain.errors import WindlassError

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


class BlobMissingError(WindlassError):
    """A pointer leads to nothing: the blob was never uploaded, or retention has removed its run."""

    code, http_status = "BlobMissing", 404

    def __init__(self, key: "BlobKey") -> None:
        super().__init__(
            f"Blob {key.sha256} of run {key.run_id} is not in the store. It is removed with its run, 30 days after the "
            "end by default; if the run is younger, compare the configured bucket with the one it was written to."
        )


class BlobCorruptError(WindlassError):
    """The bytes are not the ones that the key names: an upload was cut, or the store damaged them."""

    code, http_status = "BlobCorrupt", 422

    def __init__(self, key: "BlobKey", found: str) -> None:
        super().__init__(f"Blob {key.sha256} of run {key.run_id} has the SHA-256 {found}. Upload it again.")


class BlobTooLargeError(WindlassError):
    """A value over the store's limit."""

    code, http_status = "PayloadTooLarge", 413

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The value has {size} bytes; this installation keeps up to {limit}. "
            "Store it yourself and pass its address."
        )


class BlobStoreConfigError(WindlassError):
    """The store answers, but not as configured: no such bucket, or a credential that it refuses.

    Retryable, and slowly: a rotated key or a renamed bucket is mended by a person, and no run should fail for it.
    """

    code, http_status, retryable, retry_after = "BlobStoreConfigInvalid", 503, True, 30


@dataclass(frozen=True, slots=True)
class BlobKey:
    """Where a blob lies. Checked here, because the parts come from URLs and become a path.

    Attributes:
        project_uid: UID of the namespace.
        run_id: The run that the blob belongs to.
        sha256: SHA-256 of the bytes, 64 lower-case hexadecimal digits.
    """

    project_uid: str
    run_id: UUID
    sha256: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or not _PROJECT.fullmatch(self.project_uid):
            raise ValueError(f"not a blob key: {self.project_uid[:80]!r}, {self.sha256[:80]!r}")

    @classmethod
    def parse(cls, path: str) -> "BlobKey | None":
        """Return the key that a path is; None for what is not ours."""
        parts = path.split("/")
        try:
            key = cls(parts[0], UUID(parts[1]), parts[2])
        except (ValueError, IndexError):
            return None
        return key if str(key) == path else None

    @classmethod
    def of(cls, project_uid: str, run_id: UUID, data: bytes) -> "BlobKey":
        """Return the key of these bytes."""
        return cls(project_uid, run_id, hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{prefix(self.project_uid, self.run_id)}{self.sha256}"


def prefix(project_uid: str, run_id: UUID) -> str:
    """Return what the paths of all blobs of a run begin with, ending in a slash."""
    return f"{project_uid}/{run_id}/"


def verify(key: BlobKey, data: bytes, limit: int) -> None:
    """Check bytes before they are stored.

    Raises:
        BlobTooLargeError: More than ``limit`` bytes.
        BlobCorruptError: Not the bytes that the key names.
    """
    if len(data) > limit:
        raise BlobTooLargeError(len(data), limit)
    found = hashlib.sha256(data).hexdigest()
    if found != key.sha256:
        raise BlobCorruptError(key, found)


class BlobStore(Protocol):
    """What a blob store offers. Every implementation passes the suite in ``tests/contracts``.

    Each method raises :class:`~windlass_operator.domain.errors.BlobStoreUnavailableError` while the store does not
    answer; repeating any of them is safe.
    """

    limit: int
    """Bytes of the largest blob."""
    in_ledger: bool
    """Whether blobs are rows of the ledger: written with the row that points to them, in one transaction."""

    async def put(self, key: BlobKey, data: bytes) -> None:
        """Store the bytes. A repeat changes nothing.

        Raises:
            BlobTooLargeError: More than :attr:`limit` bytes.
            BlobCorruptError: Not the bytes that the key names.
        """

    async def get(self, key: BlobKey) -> bytes:
        """Return the bytes.

        Raises:
            BlobMissingError: There is no such blob.
            BlobCorruptError: The store returned other bytes.
        """

    async def exists(self, key: BlobKey) -> bool:
        """Return whether the blob is there."""

    async def delete_run(self, project_uid: str, run_id: UUID) -> int:
        """Delete every blob of a run and return how many there were."""

    def runs(self) -> AsyncIterator[tuple[str, UUID]]:
        """Yield project and run of every run that has blobs, so that the sweeper finds those the ledger has not."""

    def keys(self, project_uid: str, first: UUID, last: UUID) -> AsyncIterator[BlobKey]:
        """Yield the keys of all blobs of a project's runs from one id to another, both included, in order of the runs.

        What was stored before the first is asked for is among them. It is listed, and not looked up one by one.
        """

    async def check(self) -> None:
        """Prove that the store can be used as configured.

        Raises:
            BlobStoreConfigError: It answers, but refuses; the text says what to change.
        """
