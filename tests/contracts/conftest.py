"""The blob stores that the contract is tested with.

A store joins by one entry in ``STORES``: a name, and a fixture of that name that returns an empty store whose ``limit``
is :data:`LIMIT`.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final
from uuid import uuid4

import pytest

from tests.support.s3_server import S3Server, s3_server
from windlass_operator.blobs.memory import MemoryBlobStore
from windlass_operator.blobs.s3 import S3BlobStore
from windlass_operator.blobs.store import BlobStore

LIMIT: Final = 1024 * 1024

STORES: Final = ["memory_store", "s3_store"]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def memory_store() -> BlobStore:
    return MemoryBlobStore(limit=LIMIT)


@pytest.fixture
async def s3_store(s3: S3Server) -> AsyncIterator[BlobStore]:
    store = S3BlobStore(s3.make_bucket(f"b{uuid4().hex[:12]}"), limit=LIMIT)
    yield store
    await store.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> BlobStore:
    found: BlobStore = request.getfixturevalue(request.param)
    return found
