"""What tasks of the scenarios do to the world: rows in a database that is not the ledger.

``effect`` is idempotent by run and word, as every effect of a durable step should be; ``begun`` counts how often a body
has begun, and never forgets.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from windlass import current_run

URI: Final = "WORLD_URI"
TABLES: Final = """
CREATE TABLE effect (key text PRIMARY KEY, word text NOT NULL);
CREATE TABLE begun (run_id uuid NOT NULL, word text NOT NULL, attempt integer NOT NULL,
                    at timestamptz NOT NULL DEFAULT clock_timestamp());
"""


def effect(word: str) -> int:
    """Do something that the world can see, and return how often it was begun, this time included."""
    run = current_run()
    with _world() as world:
        world.execute("INSERT INTO begun (run_id, word, attempt) VALUES (%s, %s, %s)", (run.id, word, run.attempt))
        world.execute("INSERT INTO effect VALUES (%s, %s) ON CONFLICT DO NOTHING", (f"{run.id}/{word}", word))
        found = world.execute("SELECT count(*) FROM begun WHERE run_id = %s AND word = %s", (run.id, word)).fetchone()
    assert found is not None, "a count has a row"
    return int(found[0])


@contextmanager
def _world() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(os.environ[URI], autocommit=True) as world:
        yield world
