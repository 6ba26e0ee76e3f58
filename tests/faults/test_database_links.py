"""The way to PostgreSQL while it is slow, silent, cut, or leads to the wrong server."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.faults.conftest import through
from tests.support.eventually import eventually
from tests.support.faulty_link import PostgresLink
from tests.support.world import World
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.domain.ids import new_id
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.wakeups import Wakeups

IMPATIENT = timedelta(seconds=0.3)


@pytest.fixture
async def impatient(ledger_uri: str, link: PostgresLink) -> AsyncIterator[Database]:
    """A database that waits for no answer as long as the real one does."""
    database = Database(through(ledger_uri, link), size=4, longest=IMPATIENT)
    await database.open()
    yield database
    await database.close()


async def everywhere(database: Database, statement: str, connections: int = 4) -> None:
    """Run a statement in every connection of the pool."""
    together = asyncio.Barrier(connections)

    async def one(connection: Connection) -> None:
        await connection.execute(statement)
        await together.wait()

    await asyncio.gather(*(database.transaction(one) for _ in range(connections)))


async def test_connections_to_a_demoted_primary_are_left_and_nobody_hears_of_it(world: World) -> None:
    """They work, and refuse every write (25006): nothing else would ever end them."""
    await everywhere(world.database, "SET default_transaction_read_only = on")
    for _ in range(8):
        assert await world.submit()
    shown = await world.database.fetch("SHOW default_transaction_read_only")
    assert shown == [{"default_transaction_read_only": "off"}]


async def test_a_server_that_takes_everything_and_says_nothing_is_left_and_found_again(
    impatient: Database, link: PostgresLink
) -> None:
    await everywhere(impatient, "SELECT 1")
    link.black_hole = True
    with pytest.raises(LedgerUnavailableError):
        await impatient.fetch("SELECT 1")
    link.black_hole = False
    # As many as there are connections that were open in the dark: none of them may be waited for.
    found = await asyncio.gather(*(impatient.fetch("SELECT 1 AS n") for _ in range(4)))
    assert found == [[{"n": 1}]] * 4


async def test_a_statement_that_takes_too_long_is_ended_in_the_server_too(impatient: Database) -> None:
    with pytest.raises(LedgerUnavailableError, match="statement timeout"):
        await impatient.fetch("SELECT pg_sleep(20)")
    left = await impatient.fetch("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()")
    assert left == []


@pytest.mark.parametrize("bytes_", [1, 20, 200, 700])
async def test_an_answer_that_is_cut_is_asked_for_again(world: World, link: PostgresLink, bytes_: int) -> None:
    run_id = await world.submit()
    link.cut_after = bytes_
    link.reset()
    asking = asyncio.create_task(world.get(run_id))
    await eventually(lambda: _count(link), lambda n: n > 1)
    link.cut_after = None
    try:
        row = await asking
    except LedgerUnavailableError:  # told as what it is; the caller asks again
        row = await world.get(run_id)
    assert row["state"] == "Queued"


async def test_a_slow_way_is_only_slow(world: World, link: PostgresLink) -> None:
    link.latency = 0.03
    run_id = await world.submit()
    (attempt,) = await world.claim()
    assert attempt.run_id == str(run_id)


async def test_every_connection_broken_at_once_is_noticed_by_nobody(world: World, link: PostgresLink) -> None:
    await everywhere(world.database, "SELECT 1")
    link.reset()
    await asyncio.gather(*(world.submit() for _ in range(20)))


async def test_a_client_that_vanished_holds_no_lock_for_long(world: World, link: PostgresLink) -> None:
    """The server does not know that it is gone; only its own limit for idle transactions ends it."""
    run_id = await world.submit()
    shown = await world.database.fetch("SHOW idle_in_transaction_session_timeout")
    assert shown == [{"idle_in_transaction_session_timeout": "30s"}]
    held = asyncio.Event()

    async def hold(connection: Connection) -> None:
        await connection.execute("SET idle_in_transaction_session_timeout = '300ms'")
        await connection.execute("SELECT 1 FROM run WHERE id = %s FOR UPDATE", (run_id,))
        if not held.is_set():
            held.set()
            link.half_open()

    await world.database.transaction(hold)
    assert held.is_set()
    assert (await world.runs.cancel(run_id, reason="Cancelled", message="")) == "Cancelled"


async def test_an_outage_is_over_for_those_who_wait_when_the_server_is_back(world: World, link: PostgresLink) -> None:
    link.go_away()
    waiting = asyncio.create_task(world.database.fetch("SELECT 1"))
    seen = link.connections
    await eventually(lambda: _count(link), lambda n: n > seen + 2)
    link.away = False
    began = time.monotonic()
    await waiting
    assert time.monotonic() - began < 1.5, "it is looked for twice a second, and not with pauses that grow"


async def test_wake_ups_outlive_a_silent_connection(
    ledger_uri: str, link: PostgresLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass_operator.ledger.wakeups._ANSWERS_IN", 0.3)
    monkeypatch.setattr("windlass_operator.ledger.wakeups._ASK_EVERY", 0.3)
    heard: list[object] = []
    listener, speaker = Wakeups(through(ledger_uri, link), heard.append), Wakeups(ledger_uri, lambda _: None)
    tasks = [asyncio.create_task(listener.run()), asyncio.create_task(speaker.run())]
    try:
        await eventually(lambda: _heard(heard), bool)
        link.black_hole = True
        before = link.connections
        await eventually(lambda: _count(link), lambda n: n > before)
        link.black_hole = False
        run_id = new_id()
        await eventually(lambda: _say(speaker, run_id, heard), lambda found: run_id in found)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _count(link: PostgresLink) -> int:
    return link.connections


async def _heard(heard: list[object]) -> list[object]:
    return heard


async def _say(speaker: Wakeups, run_id: object, heard: list[object]) -> list[object]:
    speaker.changed(run_id)  # type: ignore[arg-type]  # it is one
    return heard
