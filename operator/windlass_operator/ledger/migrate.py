"""Migrations: numbered SQL files, planned by yoyo, forward only.

Run as an init container of every control-plane pod: each waits for the others' run to end, then finds nothing to do.
"""

import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog
from yoyo import get_backend, read_migrations

from windlass_operator.domain.errors import WindlassError
from windlass_operator.ledger.database import SCHEMA

log = structlog.get_logger()

_LOCK: Final = 0x77696E64
"""Key of the advisory lock that one migrator at a time holds."""


class SchemaUnknownError(WindlassError):
    """The ledger was migrated by a newer release than this one."""

    code = "SchemaUnknown"


def _backend(uri: str) -> Any:
    scheme, rest = uri.split("://", 1)
    if scheme not in ("postgres", "postgresql"):
        raise WindlassError(f"The ledger's URI starts with {scheme!r}; it must be postgresql://…")
    separator = "&" if "?" in rest else "?"
    connect: Any = get_backend  # yoyo carries no annotations
    return connect(f"postgresql+psycopg://{rest}{separator}schema={SCHEMA}")


def _migrations(folder: Path) -> Any:
    read: Any = read_migrations
    return read(str(folder))


def migrate(uri: str, *, wait: float = 0) -> list[str]:
    """Bring the ledger to this release's schema. Idempotent.

    Args:
        uri: libpq URI of the ledger.
        wait: Seconds to wait for a Postgres that does not answer yet.

    Returns:
        The names of the migrations that were applied now.

    Raises:
        SchemaUnknownError: The ledger has migrations that this release does not know.
        psycopg.OperationalError: Postgres did not answer in time.
    """
    _create_schema(uri, deadline=time.monotonic() + wait)
    with as_file(files(__package__) / "migrations") as folder:
        known = _migrations(folder)
        # An advisory lock of our own: yoyo's knows its holder by process id, and in a container that is always 1.
        with psycopg.connect(uri, autocommit=True) as guard:
            guard.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            names = _apply(_backend(uri), known)
    log.info("schema is current", applied=names)
    return names


def _apply(backend: Any, known: Any) -> list[str]:
    try:
        unknown = set(backend.get_applied_migration_hashes()) - {m.hash for m in known}
        if unknown:
            raise SchemaUnknownError(
                f"The ledger has {len(unknown)} migrations that this release does not know: "
                "it was used by a newer one. Install that release again; migrations only go forward."
            )
        pending = backend.to_apply(known)
        names = [m.id for m in pending]
        for migration in pending:
            # Statements and mark in one transaction. yoyo's own `apply` marks in a second one, after a log entry that
            # fails for a user without a name: what is between the two is then neither applied nor to be applied again.
            with backend.transaction():
                migration.process_steps(backend, "apply")
                backend.mark_one(migration, log=False)
    finally:
        backend.connection.close()
    return names


@dataclass(frozen=True, slots=True)
class SchemaGap:
    """What lies between the ledger's schema and this release's.

    Attributes:
        pending: Names of the migrations that are still to be applied.
        unknown: How many the ledger has that this release does not know.
    """

    pending: list[str]
    unknown: int


def schema_gap(uri: str) -> SchemaGap:
    """Compare the ledger's schema with this release's. Changes nothing.

    Raises:
        psycopg.OperationalError: Postgres does not answer.
    """
    with as_file(files(__package__) / "migrations") as folder:
        known = _migrations(folder)
        with psycopg.connect(uri, autocommit=True, connect_timeout=5) as connection:
            # yoyo creates its tables where they are missing, which looking must not do.
            if connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}._yoyo_migration",)).fetchone() == (None,):
                return SchemaGap([m.id for m in known], 0)
        backend = _backend(uri)
        try:
            unknown = set(backend.get_applied_migration_hashes()) - {m.hash for m in known}
            return SchemaGap([m.id for m in backend.to_apply(known)], len(unknown))
        finally:
            backend.connection.close()


def pending_migrations(uri: str) -> list[str]:
    """Return the names of the migrations that are still to be applied."""
    return schema_gap(uri).pending


def _create_schema(uri: str, *, deadline: float) -> None:
    waiting = False
    while True:
        try:
            with psycopg.connect(uri, autocommit=True, connect_timeout=3) as connection:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        except psycopg.errors.UniqueViolation:
            continue  # two migrators met in IF NOT EXISTS, which is not atomic
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                log.info("waiting for Postgres", error=str(error).strip().splitlines()[0])
            waiting = True
            time.sleep(0.3)
        else:
            return
