"""Blobs in S3 or anything that speaks it.

boto3 blocks, so it runs in a small pool of threads of its own: a store that hangs fills that pool and never the event
loop, and callers beyond it wait in line instead of opening more connections.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

from windlass.protocol import BLOB_LIMIT
from windlass_operator.blobs.store import (
    BlobCorruptError,
    BlobKey,
    BlobMissingError,
    BlobStoreConfigError,
    prefix,
    verify,
)
from windlass_operator.config import S3Config
from windlass_operator.domain.errors import BlobStoreUnavailableError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef, ObjectIdentifierTypeDef

T = TypeVar("T")

THREADS: Final = 8
"""Calls in flight. A value of 100 MiB is held in memory while it passes, so this bounds memory too."""

TRIES: Final = 3
"""Quick tries of one call: one lost connection must not surface. A real outage goes back to the runner, which waits."""

_FIRST_PAUSE: Final = 0.1
_PAGE: Final = 1_000
"""Keys per listing and per bulk delete: the most that S3 takes."""

_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_REFUSED: Final = frozenset({"403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"})
_NO_BUCKET: Final = frozenset({"NoSuchBucket"})
_PASSING: Final = frozenset({"SlowDown", "Throttling", "TooManyRequests", "RequestTimeout", "InternalError"})


class S3BlobStore:
    """Keeps blobs in one bucket, which must exist: creating it would hide a wrong name and need one more permission.

    Args:
        config: Where the bucket is.
        limit: Bytes of the largest blob.
        pause: Waits between tries; a test passes its own.
    """

    in_ledger = False

    def __init__(
        self,
        config: S3Config,
        *,
        limit: int = BLOB_LIMIT,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.limit = limit
        self._config = config
        self._pause = pause
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="windlass-s3")
        self._s3 = _client(config)

    async def close(self) -> None:
        """Let running calls end and release threads and connections."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        self._s3.close()

    async def put(self, key: BlobKey, data: bytes) -> None:
        """Store the bytes. A repeat writes the same bytes under the same key."""
        # Hashing 100 MiB takes 0.2 s, which the event loop must not feel.
        await self._in_thread(lambda: verify(key, data, self.limit))
        bucket = self._config.bucket
        await self._call("write", lambda: self._s3.put_object(Bucket=bucket, Key=str(key), Body=data))

    async def get(self, key: BlobKey) -> bytes:
        """Return the bytes, checked against the key: a store may damage what it keeps, and a step must not see that."""

        def fetch() -> bytes:
            return self._s3.get_object(Bucket=self._config.bucket, Key=str(key))["Body"].read()

        try:
            data = await self._call("read", fetch)
        except _NoSuchKeyError:
            raise BlobMissingError(key) from None
        found = await self._in_thread(lambda: hashlib.sha256(data).hexdigest())
        if found != key.sha256:
            raise BlobCorruptError(key, found)
        return data

    async def exists(self, key: BlobKey) -> bool:
        """Return whether the blob is there."""
        try:
            await self._call("look up", lambda: self._s3.head_object(Bucket=self._config.bucket, Key=str(key)))
        except _NoSuchKeyError:
            return False
        return True

    async def delete_run(self, project_uid: str, run_id: UUID) -> int:
        """Delete every blob of a run, page by page: a crash in the middle leaves the rest for the next sweep."""
        start, deleted = prefix(project_uid, run_id), 0
        while keys := await self._call("list", lambda: self._keys(start)):
            await self._call("delete", lambda batch=keys: self._delete(batch))  # type: ignore[misc]
            deleted += len(keys)
        return deleted

    async def runs(self) -> AsyncIterator[tuple[str, UUID]]:
        """Yield project and run of every run that has blobs. Folders that are not ours are passed over."""
        async for project in self._folders(""):
            async for run in self._folders(project):
                try:
                    found = (project.rstrip("/"), UUID(run.split("/")[1]))
                except ValueError:
                    continue
                yield found

    async def keys(self, project_uid: str, first: UUID, last: UUID) -> AsyncIterator[BlobKey]:
        """Yield the keys of all blobs of a project's runs from one id to another. Objects not ours are passed over."""
        # Paths are listed in order of their bytes, and the texts of ids have the order of the ids.
        start = {"Prefix": f"{project_uid}/", "StartAfter": prefix(project_uid, first)}
        async for page in self._pages(start):
            for item in page.get("Contents", []):
                key = BlobKey.parse(item["Key"])
                if key is not None and key.run_id > last:
                    return
                if key is not None:
                    yield key

    async def check(self) -> None:
        """Prove that the bucket exists and that the credential may list it."""
        bucket = self._config.bucket
        await self._call("list", lambda: self._s3.list_objects_v2(Bucket=bucket, MaxKeys=1))

    async def _folders(self, start: str) -> AsyncIterator[str]:
        async for page in self._pages({"Prefix": start, "Delimiter": "/"}):
            for folder in page.get("CommonPrefixes", []):
                yield folder["Prefix"]

    async def _pages(self, wanted: dict[str, str]) -> AsyncIterator["ListObjectsV2OutputTypeDef"]:
        more: dict[str, Any] = dict(wanted)
        while True:
            page = await self._call(
                "list",
                lambda more=more: self._s3.list_objects_v2(  # type: ignore[misc]
                    Bucket=self._config.bucket, MaxKeys=_PAGE, **more
                ),
            )
            yield page
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return
            more = {**wanted, "ContinuationToken": token}

    def _keys(self, start: str) -> list[str]:
        page = self._s3.list_objects_v2(Bucket=self._config.bucket, Prefix=start, MaxKeys=_PAGE)
        return [item["Key"] for item in page.get("Contents", [])]

    def _delete(self, keys: list[str]) -> None:
        batch: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
        answer = self._s3.delete_objects(Bucket=self._config.bucket, Delete={"Objects": batch, "Quiet": True})
        for failed in answer.get("Errors", []):
            # Reported inside a 200; without this the loop above would list and delete the same keys for ever.
            raise ClientError(
                {"Error": {"Code": failed.get("Code", ""), "Message": failed.get("Message", "")}}, "Delete"
            )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        for tries_left in reversed(range(TRIES)):
            try:
                return await self._in_thread(work)
            except (BotoCoreError, ClientError) as error:
                ours = self._translate(what, error)
                if not isinstance(ours, BlobStoreUnavailableError) or not tries_left:
                    raise ours from error
            await self._pause(_FIRST_PAUSE * 2 ** (TRIES - 1 - tries_left) * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("the last try returns or raises")

    def _translate(self, what: str, error: BotoCoreError | ClientError) -> Exception:
        where = f"{self._config.endpoint or 'AWS'}, bucket {self._config.bucket!r}"
        if isinstance(error, ClientError):
            answer = error.response.get("Error", {})
            code, status = str(answer.get("Code", "")), _status(error)
            if code in _NO_BUCKET:
                return BlobStoreConfigError(
                    f"The object store ({where}) has no such bucket. Create it, or correct `bucket` in the Secret "
                    "`windlass-s3`; Windlass creates none."
                )
            if code in _MISSING:
                return _NoSuchKeyError()
            if code in _REFUSED:
                return BlobStoreConfigError(
                    f"The object store ({where}) refuses to {what}: {code}. Check `accessKey` and `secretKey` in the "
                    "Secret `windlass-s3`, and that they may list, read, write and delete in the bucket."
                )
            if code not in _PASSING and status < 500 and status != 429:
                return BlobStoreConfigError(f"The object store ({where}) refuses to {what}: {error}")
        elif isinstance(error, (NoCredentialsError, ParamValidationError)):
            return BlobStoreConfigError(
                f"The object store ({where}) cannot be used: {error}. See the Secret `windlass-s3`."
            )
        return BlobStoreUnavailableError(f"The object store ({where}) does not {what}: {error}. It is tried again.")


class _NoSuchKeyError(Exception):
    """The store says that there is no such object."""


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _client(config: S3Config) -> "S3Client":
    # Session of its own: the default one is shared by the process, and creating clients from it is not thread-safe.
    session = boto3.session.Session(
        aws_access_key_id=config.access_key, aws_secret_access_key=config.secret_key, region_name=config.region
    )
    return session.client(
        "s3",
        endpoint_url=config.endpoint,
        config=BotoConfig(
            connect_timeout=2,
            read_timeout=10,
            max_pool_connections=THREADS,
            # One layer retries: ours, which knows how long its caller can wait.
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Simple servers reject the trailing checksums that newer SDKs add; our own SHA-256 is checked anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version="s3v4",
            # An endpoint of one's own seldom has a DNS name for each bucket.
            s3={"addressing_style": "path" if config.endpoint else "auto"},
        ),
    )
