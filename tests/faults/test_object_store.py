"""The object store away, slow, refusing and cut short, between a real runner, the real API and a real S3 server."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest

from tests.support.api_server import serving
from tests.support.eventually import eventually
from tests.support.faulty_link import HttpLink, linked
from tests.support.runner import beat_often, code, ended, run_once, runner
from tests.support.s3_server import S3Server, S3ServerMissingError, binary, s3_server
from tests.support.world import World
from windlass_operator.blobs.s3 import S3BlobStore
from windlass_operator.blobs.store import BlobMissingError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.services.blobs import BlobService
from windlass_runner import exit_codes

try:
    binary()
except S3ServerMissingError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SIZE = 100_000
LARGE = f"""
@step
def make():
    return "x" * {SIZE}
@task
def main():
    value = make()
    return len(value)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
async def way(s3: S3Server, world: World) -> AsyncIterator[HttpLink]:
    """The API's way to its store, which keeps the large values of this world."""
    config = s3.make_bucket(f"b{uuid4().hex[:12]}")
    async with linked(f"http://127.0.0.1:{s3.port}") as link:
        store = S3BlobStore(replace(config, endpoint=link.url))
        world.blobs = BlobService(world.database, store)
        yield link
        link.away = False
        await store.close()


async def _connections(way: HttpLink) -> int:
    return way.connections


async def test_a_store_that_comes_back_within_the_run_is_only_a_delay(
    world: World, way: HttpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat_often(monkeypatch)
    run_id = await world.submit(code(LARGE))
    way.go_away()
    async with serving(world, blobs=world.blobs) as url, runner(world, url) as process:
        await eventually(lambda: _connections(way), lambda n: n >= 3)
        assert (await world.get(run_id))["state"] == "Running", "the page of the run is there while its store is not"
        way.away = False
        assert (await ended(process))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["attempts"], json.loads(row["result"])) == ("Succeeded", 1, SIZE)
    (step,) = await world.runs.steps(run_id, after=0, limit=9)
    assert step["result_size"] == SIZE + 2


async def test_a_slow_store_is_only_slow(world: World, way: HttpLink) -> None:
    way.latency = 0.3
    run_id = await world.submit(code(LARGE))
    async with serving(world, blobs=world.blobs) as url:
        assert (await run_once(world, url))[0] == exit_codes.DONE
    assert (await world.get(run_id))["state"] == "Succeeded"


@pytest.mark.parametrize("fault", ["403", "cut"])
async def test_a_store_that_refuses_or_cuts_its_answers_for_a_while_costs_no_attempt(
    world: World, way: HttpLink, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_operator.blobs.store.BlobStoreConfigError.retry_after", 1)
    if fault == "cut":
        way.cut_after = 20
    else:
        way.edit = lambda data: data.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 403 No", 1)
    run_id = await world.submit(code(LARGE))
    async with serving(world, blobs=world.blobs) as url, runner(world, url) as process:
        await eventually(lambda: _connections(way), lambda n: n >= 1)
        await eventually(lambda: _calls(way), lambda n: n >= 2)
        way.cut_after, way.edit = None, lambda data: data
        way.reset()
        assert (await ended(process))[0] == exit_codes.DONE
    row = await world.get(run_id)
    assert (row["state"], row["attempts"]) == ("Succeeded", 1)


async def _calls(way: HttpLink) -> int:
    return way.calls.total()


@pytest.mark.usefixtures("way")
async def test_a_value_that_the_store_has_lost_is_named_and_the_run_still_answers(world: World, s3: S3Server) -> None:
    """The second attempt replays a step whose value is gone: it is told which value, and the run ends visibly."""
    retry = RetryPolicy(max_attempts=2, jitter="none", min_delay=RetryPolicy().min_delay * 0)
    body = LARGE.replace("    return len", "    if current_run().attempt == 1: raise ValueError\n    return len")
    run_id = await world.submit(code(body, retry=retry))
    async with serving(world, blobs=world.blobs) as url:
        assert (await run_once(world, url))[0] == exit_codes.USER_FAILURE
        (step,) = await world.runs.steps(run_id, after=0, limit=9)
        kept = [path for path in (s3.folder / "data").rglob(step["result_sha256"]) if path.is_file()]
        assert kept
        for path in kept:
            path.unlink()
        with pytest.raises(BlobMissingError, match=step["result_sha256"]):
            await world.blobs.get("uid-of-shop", run_id, step["result_sha256"])
        assert (await run_once(world, url))[0] != exit_codes.DONE
    row = await world.get(run_id)
    assert row["state"] == "Failed"
    assert "is not in the store" in row["message"]
