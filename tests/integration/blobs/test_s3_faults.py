"""The object store while it is away, wrongly configured, or damaged. Against a real S3 server."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.support.s3_server import S3Server, S3ServerMissingError, binary, s3_server
from windlass_operator.blobs.s3 import TRIES, S3BlobStore
from windlass_operator.blobs.store import BlobCorruptError, BlobKey, BlobStoreConfigError
from windlass_operator.config import S3Config
from windlass_operator.domain.errors import BlobStoreUnavailableError

DATA = b"value"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(shared: S3Server) -> S3Config:
    return shared.make_bucket(f"b{uuid4().hex[:12]}")


class Pauses:
    """Stands in for sleeping between tries, and may do something meanwhile."""

    def __init__(self, server: S3Server | None = None) -> None:
        self.seconds: list[float] = []
        self.server = server

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if self.server and len(self.seconds) == 1:
            self.server.start()


@pytest.fixture
async def closing() -> AsyncIterator[list[S3BlobStore]]:
    stores: list[S3BlobStore] = []
    yield stores
    for store in stores:
        await store.close()


def key() -> BlobKey:
    return BlobKey.of("6f1c9f5e-0000-4000-8000-000000000001", uuid4(), DATA)


async def test_a_store_that_is_away_is_unavailable_after_three_quick_tries(
    tmp_path: Path, closing: list[S3BlobStore]
) -> None:
    pauses = Pauses()
    server = S3Server(tmp_path)
    closing.append(store := S3BlobStore(server.config("bucket"), pause=pauses))
    for call in (store.put(key(), DATA), store.get(key()), store.exists(key()), store.check()):
        pauses.seconds.clear()
        with pytest.raises(BlobStoreUnavailableError) as raised:
            await call
        assert raised.value.retryable
        assert raised.value.retry_after
        assert len(pauses.seconds) == TRIES - 1
        assert sum(pauses.seconds) < 1


async def test_a_store_that_comes_back_between_tries_is_not_noticed(tmp_path: Path, closing: list[S3BlobStore]) -> None:
    with s3_server(tmp_path) as server:
        config = server.make_bucket("bucket")
        server.stop()
        closing.append(store := S3BlobStore(config, pause=Pauses(server)))
        stored = key()
        await store.put(stored, DATA)
        assert await store.get(stored) == DATA


async def test_blobs_survive_a_restart_of_the_store(tmp_path: Path, closing: list[S3BlobStore]) -> None:
    with s3_server(tmp_path) as server:
        closing.append(store := S3BlobStore(server.make_bucket("bucket")))
        stored = key()
        await store.put(stored, DATA)
        server.stop()
        server.start()
        assert await store.get(stored) == DATA


async def test_a_missing_bucket_is_named_and_not_created(shared: S3Server, closing: list[S3BlobStore]) -> None:
    closing.append(store := S3BlobStore(shared.config("nowhere")))
    for call in (store.check(), store.put(key(), DATA)):
        with pytest.raises(BlobStoreConfigError, match=r"'nowhere'.*no such bucket.*Create it") as raised:
            await call
        assert raised.value.retryable, "a person mends it, and no run should fail for it"


async def test_a_wrong_secret_key_is_called_that_and_does_not_appear_in_the_text(
    bucket: S3Config, closing: list[S3BlobStore]
) -> None:
    closing.append(store := S3BlobStore(replace(bucket, secret_key="not-the-one")))
    with pytest.raises(BlobStoreConfigError, match=r"`secretKey`.*`windlass-s3`") as raised:
        await store.check()
    assert "not-the-one" not in str(raised.value)


async def test_bytes_that_the_store_damaged_are_never_returned(
    shared: S3Server, bucket: S3Config, closing: list[S3BlobStore]
) -> None:
    closing.append(store := S3BlobStore(bucket))
    stored = key()
    await store.put(stored, DATA)
    (shared.folder / "data" / bucket.bucket / str(stored)).write_bytes(b"other")
    with pytest.raises(BlobCorruptError):
        await store.get(stored)


async def test_objects_that_are_not_ours_are_passed_over(
    shared: S3Server, bucket: S3Config, closing: list[S3BlobStore]
) -> None:
    closing.append(store := S3BlobStore(bucket))
    stored = key()
    await store.put(stored, DATA)
    foreign = shared.folder / "data" / bucket.bucket / "backups" / "monday"
    foreign.mkdir(parents=True)
    (foreign / "dump").write_bytes(b"x")
    (foreign.parents[1] / stored.project_uid / "notes").write_bytes(b"x")
    assert [run async for run in store.runs()] == [(stored.project_uid, stored.run_id)]
    assert [found async for found in store.keys(stored.project_uid, UUID(int=0), stored.run_id)] == [stored]


async def test_more_blobs_than_one_page_are_all_deleted(
    bucket: S3Config, closing: list[S3BlobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_operator.blobs.s3._PAGE", 3)
    closing.append(store := S3BlobStore(bucket))
    run, project = uuid4(), "6f1c9f5e-0000-4000-8000-000000000001"
    for i in range(8):
        data = str(i).encode()
        await store.put(BlobKey.of(project, run, data), data)
    assert await store.delete_run(project, run) == 8
    assert [found async for found in store.runs()] == []


async def test_runs_are_paged(bucket: S3Config, closing: list[S3BlobStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_operator.blobs.s3._PAGE", 2)
    closing.append(store := S3BlobStore(bucket))
    keys = [key() for _ in range(5)]
    for one in keys:
        await store.put(one, DATA)
    found = [run async for run in store.runs()]
    assert sorted(found) == sorted((k.project_uid, k.run_id) for k in keys)


async def test_keys_are_paged(bucket: S3Config, closing: list[S3BlobStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_operator.blobs.s3._PAGE", 2)
    closing.append(store := S3BlobStore(bucket))
    keys = sorted((BlobKey.of("p", uuid4(), str(i).encode()) for i in range(7)), key=str)
    for i in range(7):
        data = str(i).encode()
        await store.put(next(key for key in keys if key == BlobKey.of("p", key.run_id, data)), data)
    assert [key async for key in store.keys("p", keys[1].run_id, keys[5].run_id)] == keys[1:6]


def test_a_machine_without_the_server_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.s3_server._CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(S3ServerMissingError, match=re.escape("make cluster-up")):
        binary({"WINDLASS_CACHE": str(tmp_path)})
