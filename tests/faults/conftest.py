"""The real services with links between them that a test can break."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest

from tests.support.faulty_link import PostgresLink, serving_link
from tests.support.world import World
from windlass_operator.ledger.database import Database

ALL = os.environ.get("FAULTS") == "all"
"""Whether the long versions are wanted."""


def through(uri: str, link: PostgresLink) -> str:
    """Return the URI of a database as it is reached through a link."""
    parts = urlsplit(uri)
    return parts._replace(netloc=f"{parts.username}@127.0.0.1:{link.port}").geturl()


@pytest.fixture
async def link(ledger_uri: str) -> AsyncIterator[PostgresLink]:
    async with serving_link(PostgresLink("127.0.0.1", urlsplit(ledger_uri).port or 5432)) as link:
        yield link


@pytest.fixture
async def world(ledger_uri: str, link: PostgresLink) -> AsyncIterator[World]:
    """A world whose way to PostgreSQL can be broken."""
    database = Database(through(ledger_uri, link), size=4)
    await database.open()
    yield await World(database).start()
    await database.close()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print what was measured, also where the test passes."""

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {text}\n")

    return write
