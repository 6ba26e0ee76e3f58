"""Large values as rows: the store's contract, and the fence."""

import hashlib

import pytest

from tests.support.world import SHOP, World, a_failure
from windlass import protocol
from windlass_operator.blobs.store import BlobKey, BlobMissingError
from windlass_operator.domain.errors import AttemptClosedError, InvalidRequestError, ValueNotStoredError
from windlass_operator.ledger.blobs import LedgerBlobs
from windlass_operator.ledger.database import Database
from windlass_operator.services.blobs import BlobService

DATA = b'"' + b"x" * 100_000 + b'"'
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


@pytest.fixture
def blobs(database: Database) -> BlobService:
    return BlobService(database, LedgerBlobs(database, BlobMissingError))


async def test_a_value_is_found_under_its_digest_and_only_in_its_run(world: World, blobs: BlobService) -> None:
    run_id, other = await world.submit(), await world.submit()
    (attempt,) = await world.claim()
    writer = await world.attempts.authenticate(attempt.token)
    for _ in range(2):
        assert (await blobs.put(writer, DIGEST, DATA)).size == len(DATA)
    mine, theirs = (run_id, other) if str(run_id) == attempt.run_id else (other, run_id)
    assert await blobs.get(SHOP.uid, mine, DIGEST) == DATA
    with pytest.raises(BlobMissingError):
        await blobs.get(SHOP.uid, theirs, DIGEST)


async def test_bytes_that_do_not_have_the_digest_are_refused(world: World, blobs: BlobService) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    with pytest.raises(InvalidRequestError):
        await blobs.put(await world.attempts.authenticate(attempt.token), DIGEST, b"other")


async def test_a_closed_attempt_stores_nothing(world: World, blobs: BlobService) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.attempts.fail(attempt.token, a_failure())
    with pytest.raises(AttemptClosedError):
        await blobs.put(await world.attempts.authenticate(attempt.token), DIGEST, DATA)


async def test_values_of_a_run_are_deleted_together(world: World, database: Database, blobs: BlobService) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    writer = await world.attempts.authenticate(attempt.token)
    await blobs.put(writer, DIGEST, DATA)
    store = LedgerBlobs(database, BlobMissingError)
    assert [run async for run in store.runs()] == [(SHOP.uid, writer.run_id)]
    assert await store.exists(BlobKey(SHOP.uid, writer.run_id, DIGEST))
    keys = [key async for key in store.keys(SHOP.uid, writer.run_id, writer.run_id)]
    assert [(key.project_uid, key.run_id, key.sha256) for key in keys] == [(SHOP.uid, writer.run_id, DIGEST)]
    assert await store.delete_run(SHOP.uid, writer.run_id) == 1
    assert [run async for run in store.runs()] == []


async def test_a_result_that_was_never_stored_is_refused_and_the_run_goes_on(world: World, blobs: BlobService) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    ref = protocol.BlobRef(sha256=DIGEST, size=len(DATA))
    step = protocol.Step(key="big", name="big", args_hash="a", state="succeeded", result_ref=ref)
    with pytest.raises(ValueNotStoredError, match="Upload it"):
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
    with pytest.raises(ValueNotStoredError):
        await world.attempts.complete(attempt.token, protocol.CompleteRequest(result_ref=ref))
    await blobs.put(await world.attempts.authenticate(attempt.token), DIGEST, DATA)
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
    outcome = await world.attempts.complete(attempt.token, protocol.CompleteRequest(result_ref=ref))
    assert outcome.state == "Succeeded"
