"""What every blob store promises. The fake that unit tests use passes the same suite as the real ones."""

import asyncio
import os
from uuid import UUID, uuid4

import pytest

from tests.contracts.conftest import LIMIT
from windlass_operator.blobs.store import (
    BlobCorruptError,
    BlobKey,
    BlobMissingError,
    BlobStore,
    BlobTooLargeError,
)

PROJECT = "6f1c9f5e-0000-4000-8000-000000000001"


async def put(store: BlobStore, data: bytes, *, project: str = PROJECT, run: UUID | None = None) -> BlobKey:
    key = BlobKey.of(project, run or uuid4(), data)
    await store.put(key, data)
    return key


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x00\xff\r\n" * 7, os.urandom(LIMIT)], ids=["empty", "one", "raw", "limit"]
)
async def test_what_was_put_comes_back_byte_for_byte(store: BlobStore, data: bytes) -> None:
    assert await store.get(await put(store, data)) == data


async def test_a_second_put_of_the_same_bytes_changes_nothing(store: BlobStore) -> None:
    key = await put(store, b"value")
    await store.put(key, b"value")
    assert await store.get(key) == b"value"
    assert await store.delete_run(key.project_uid, key.run_id) == 1


async def test_bytes_that_the_key_does_not_name_are_refused_and_not_stored(store: BlobStore) -> None:
    key = BlobKey.of(PROJECT, uuid4(), b"right")
    with pytest.raises(BlobCorruptError):
        await store.put(key, b"wrong")
    assert not await store.exists(key)


async def test_a_value_over_the_limit_is_refused_and_not_stored(store: BlobStore) -> None:
    data = bytes(LIMIT + 1)
    key = BlobKey.of(PROJECT, uuid4(), data)
    with pytest.raises(BlobTooLargeError, match=str(LIMIT)):
        await store.put(key, data)
    assert not await store.exists(key)


async def test_an_absent_blob_is_missing_and_does_not_exist(store: BlobStore) -> None:
    key = BlobKey.of(PROJECT, uuid4(), b"never stored")
    assert not await store.exists(key)
    with pytest.raises(BlobMissingError, match=str(key.run_id)):
        await store.get(key)


async def test_a_stored_blob_exists(store: BlobStore) -> None:
    assert await store.exists(await put(store, b"value"))


async def test_equal_values_of_two_runs_are_two_blobs(store: BlobStore) -> None:
    ended, running = await put(store, b"same"), await put(store, b"same")
    assert await store.delete_run(ended.project_uid, ended.run_id) == 1
    assert not await store.exists(ended)
    assert await store.get(running) == b"same"


async def test_deleting_a_run_leaves_the_same_run_id_of_another_project(store: BlobStore) -> None:
    run = uuid4()
    mine = await put(store, b"v", run=run)
    other = await put(store, b"v", run=run, project="6f1c9f5e-0000-4000-8000-000000000002")
    assert await store.delete_run(mine.project_uid, run) == 1
    assert await store.exists(other)


async def test_deleting_a_run_without_blobs_deletes_nothing(store: BlobStore) -> None:
    assert await store.delete_run(PROJECT, uuid4()) == 0


async def test_deleting_a_run_counts_all_its_blobs(store: BlobStore) -> None:
    run = uuid4()
    keys = [await put(store, str(i).encode(), run=run) for i in range(7)]
    assert await store.delete_run(PROJECT, run) == 7
    assert not any([await store.exists(key) for key in keys])


async def test_runs_names_each_run_with_blobs_once(store: BlobStore) -> None:
    keys = [await put(store, b"a"), await put(store, b"b", project="6f1c9f5e-0000-4000-8000-000000000002")]
    await put(store, b"c", run=keys[0].run_id)
    found = [run async for run in store.runs()]
    assert sorted(found) == sorted((key.project_uid, key.run_id) for key in keys)


async def test_runs_of_an_empty_store_are_none(store: BlobStore) -> None:
    assert [run async for run in store.runs()] == []


async def test_a_deleted_run_is_not_named_any_more(store: BlobStore) -> None:
    key = await put(store, b"a")
    await store.delete_run(key.project_uid, key.run_id)
    assert [run async for run in store.runs()] == []


async def test_keys_are_those_of_the_runs_from_one_to_another_in_order(store: BlobStore) -> None:
    runs = sorted(uuid4() for _ in range(5))
    stored = [[await put(store, str(i).encode(), run=run) for i in range(3)] for run in runs]
    await put(store, b"x", run=runs[2], project="6f1c9f5e-0000-4000-8000-000000000002")
    found = [key async for key in store.keys(PROJECT, runs[1], runs[3])]
    assert found == sorted((key for keys in stored[1:4] for key in keys), key=str)
    assert [key async for key in store.keys(PROJECT, runs[4], runs[4])] == sorted(stored[4], key=str)


async def test_keys_of_a_project_without_blobs_are_none(store: BlobStore) -> None:
    await put(store, b"x", project="6f1c9f5e-0000-4000-8000-000000000002")
    assert [key async for key in store.keys(PROJECT, UUID(int=0), UUID(int=2**128 - 1))] == []


async def test_many_calls_at_once_all_succeed(store: BlobStore) -> None:
    run = uuid4()
    keys = await asyncio.gather(*(put(store, str(i).encode(), run=run) for i in range(50)))
    values = await asyncio.gather(*(store.get(key) for key in keys))
    assert values == [str(i).encode() for i in range(50)]


async def test_a_usable_store_passes_its_check(store: BlobStore) -> None:
    await store.check()
