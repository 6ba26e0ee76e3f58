"""Migrations on a real PostgreSQL."""

import concurrent.futures
import re

import psycopg
import pytest

from tests.support.postgres import PostgresServer
from windlass_operator.ledger.migrate import SchemaUnknownError, migrate, pending_migrations
from windlass_operator.ledger.queries import load


def test_of_many_migrators_at_once_one_migrates_and_the_others_find_nothing_to_do(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(lambda _: migrate(uri), range(6)))
    assert sorted(map(len, applied))[:5] == [0] * 5
    assert max(map(len, applied)) > 0
    assert pending_migrations(uri) == []


def test_a_migration_that_was_cut_short_leaves_nothing_behind(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA windlass")
        connection.execute("CREATE TABLE windlass.step (in_the_way int)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP TABLE windlass.step")
    assert migrate(uri)[0] == "0001.schema"


def test_a_crash_before_the_mark_leaves_nothing_behind(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = postgres.create_database()

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crashed here")

    with monkeypatch.context() as patch:
        patch.setattr("yoyo.backends.base.DatabaseBackend.mark_one", crash)
        with pytest.raises(RuntimeError):
            migrate(uri)
    assert migrate(uri)[0] == "0001.schema"


def test_a_schema_of_a_newer_release_is_refused(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    migrate(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO windlass._yoyo_migration (migration_hash, migration_id, applied_at_utc)"
            " VALUES ('x', '9999', now())"
        )
    with pytest.raises(SchemaUnknownError, match="newer"):
        migrate(uri)


def test_a_rehearsal_forgets_every_table_but_who_leads_and_the_heartbeats(postgres: PostgresServer) -> None:
    uri = postgres.create_database()
    migrate(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'windlass'").fetchall()
    left_out = {"leader", "heartbeat_service"}
    forgotten = set(re.findall(r"DELETE FROM (\w+)", load("rehearsal")["empty"]))
    assert forgotten == {name for (name,) in tables if "yoyo" not in name} - left_out
