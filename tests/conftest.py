"""Fixtures that need a real PostgreSQL."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from tests.support.clock import Clock
from tests.support.postgres import PostgresServer, postgres_server
from windlass_operator.ledger.database import SCHEMA, Database
from windlass_operator.ledger.migrate import migrate


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def template_uri(postgres: PostgresServer) -> str:
    uri = postgres.create_database()
    migrate(uri)
    return uri


@pytest.fixture
def ledger_uri(postgres: PostgresServer, template_uri: str) -> Iterator[str]:
    """An empty, migrated database of its own: copied from a template, which is faster than to migrate again."""
    template = template_uri.rsplit("/", 1)[1]
    uri = postgres.create_database(template=template)
    yield uri
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {uri.rsplit('/', 1)[1]} WITH (FORCE)")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(ledger_uri: str, clock: Clock) -> AsyncIterator[Database]:
    database = Database(ledger_uri, size=12, now=clock.now)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def schema() -> str:
    return SCHEMA
