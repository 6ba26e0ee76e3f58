"""What runners cost that wait for work, and how soon they have it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final
from uuid import uuid4

import aiohttp
import msgspec
import psycopg

from bench.measured import quiet
from bench.report import Figure, figure, single
from tests.support.postgres import postgres_server
from tests.support.world import World
from windlass import protocol
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.migrate import migrate
from windlass_operator.ledger.wakeups import Wakeups
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.claims import PodIdentity

_RUNNERS: Final = 50
_APIS: Final = 2
_SECONDS: Final = 20.0
_SETTLE: Final = 4.0
_SAMPLES: Final = 200
_TRANSACTIONS: Final = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
_DONE: Final = protocol.CompleteRequest(result=msgspec.Raw(b"null"))


class Runner:
    """Waits for work as the runner of a reusable pod does, and says when it got some."""

    def __init__(self, http: aiohttp.ClientSession, url: str, pod: PodIdentity) -> None:
        self._http = http
        self._url = url + protocol.PREFIX
        self._pod = pod
        self._session: str | None = None

    async def claim(self) -> protocol.ClaimResponse:
        """Ask once."""
        request = protocol.ClaimRequest(
            claim_id=str(uuid4()),
            pod_name=self._pod.pod_name,
            pod_uid=self._pod.pod_uid,
            credential="session" if self._session else "secret",
        )
        bearer = {"Authorization": f"Bearer {self._session or self._pod.secret}"}
        body = msgspec.json.encode(request)
        async with self._http.post(f"{self._url}/claim", data=body, headers=bearer) as answer:
            text = await answer.read()
            if answer.status != 200:
                raise RuntimeError(text.decode())
        found = msgspec.json.decode(text, type=protocol.ClaimResponse)
        self._session = found.session or self._session
        return found

    async def wait(self) -> protocol.ClaimedAttempt:
        """Ask until there is something."""
        while True:
            found = await self.claim()
            if found.attempts:
                return found.attempts[0]


def _transactions(admin: str, uri: str) -> int:
    with psycopg.connect(admin, autocommit=True) as connection:
        row = connection.execute(_TRANSACTIONS, [uri.rsplit("/", 1)[1]]).fetchone()
        assert row is not None, "the database is there"
        return int(row[0])


async def _rate(admin: str, uri: str) -> float:
    """Return the transactions a second of the ledger. A statement by itself is one; ours of several are one too."""
    await asyncio.sleep(_SETTLE)
    before, began = _transactions(admin, uri), time.monotonic()
    await asyncio.sleep(_SECONDS)
    await asyncio.sleep(1.1)  # backends report what they did after a second
    return (_transactions(admin, uri) - before) / (time.monotonic() - began)


@asynccontextmanager
async def _api(uri: str) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.idle_process", uri, stdout=subprocess.PIPE
    )
    assert process.stdout is not None, "it is a pipe"
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _idle(admin: str, uri: str) -> list[Figure]:
    database = Database(uri)
    await database.open()
    world = World(database)
    wakeups = Wakeups(uri, lambda _: None)
    database.on_startable(wakeups.startable)
    async with (
        _api(uri) as one,
        _api(uri) as two,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        pods = [await world.reusable_pod() for _ in range(_RUNNERS)]
        alone = await _rate(admin, uri)
        runners = [Runner(http, (one, two)[n % _APIS], pod) for n, pod in enumerate(pods)]
        waiting = {asyncio.create_task(runner.wait()): runner for runner in runners}
        with_runners = await _rate(admin, uri)
        telling = asyncio.create_task(wakeups.run())
        committed: list[float] = []
        database.on_startable(lambda _: committed.append(time.perf_counter()))
        far = []
        await asyncio.sleep(0.5)
        for _ in range(_SAMPLES // 4):
            await world.submit()
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            far.append((time.perf_counter() - committed[-1]) * 1000)
            (answer,) = done
            runner = waiting.pop(answer)
            await world.attempts.complete(answer.result().token, _DONE)
            waiting[asyncio.create_task(runner.wait())] = runner
            await asyncio.sleep(0.02)
        for task in (*waiting, telling):
            task.cancel()
        await asyncio.gather(*waiting, telling, return_exceptions=True)
    await database.close()
    return [
        single(f"queries/s of {_APIS} API processes on a ledger with nothing to do", alone, "/s"),
        single(f"queries/s more with {_RUNNERS} idle runners", with_runners - alone, "/s", goal="<=5"),
        figure("commit in one process → attempt at a runner of another, over HTTP", far, "ms"),
    ]


async def _near(uri: str) -> list[Figure]:
    """In one process, from the commit of a run to the committed claim of a pod that waits for it."""
    database = Database(uri)
    await database.open()
    world = World(database)
    desk = ClaimDesk(world.attempts.claims)
    pod = await world.reusable_pod()
    first = await desk.ask(pod, "first", 1, wait=timedelta(0))
    pod = PodIdentity(pod.pod_uid, pod.pod_name, session=first.session)
    committed: list[float] = []
    database.on_startable(lambda _: committed.append(time.perf_counter()))
    database.on_startable(desk.wake)
    took = []
    for _ in range(_SAMPLES):
        waiting = asyncio.create_task(desk.ask(pod, str(uuid4()), 1, wait=timedelta(seconds=10)))
        await asyncio.sleep(0.01)
        await world.submit()
        (attempt,) = (await waiting).attempts
        took.append((time.perf_counter() - committed[-1]) * 1000)
        await world.attempts.complete(attempt.token, _DONE)
    await desk.close()
    await database.close()
    return [figure("commit of a run → claimed by a pod that waits, in one process", took[10:], "ms", goal="<=3")]


async def measure() -> list[Figure]:
    """Measure on a server of our own."""
    quiet()
    with postgres_server() as server:
        uris = [server.create_database() for _ in range(2)]
        for uri in uris:
            migrate(uri)
        return [*await _near(uris[0]), *await _idle(server.uri(), uris[1])]


def main() -> list[Figure]:
    """Measure."""
    return asyncio.run(measure())
