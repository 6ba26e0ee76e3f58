"""What must be the same after every crash: the end of each run and its effects; and what must hold in every ledger."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.rows import DictRow, dict_row

from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import InvariantService

_OUTCOMES: Final = """
SELECT run.task, run.state, run.reason, run.result, run.result_sha256, run.user_failures,
       (SELECT string_agg(name || ' ' || state, ', ' ORDER BY name, key) FROM step WHERE step.run_id = run.id) AS steps
  FROM run ORDER BY run.task, run.state
"""
_LEFT: Final = "SELECT name FROM pod WHERE deleted_at IS NULL OR ended_at IS NULL"
_AT_ONCE: Final = 0.05


@dataclass(frozen=True)
class Seen:
    """What one repetition led to.

    Attributes:
        outcomes: For each run: task, state, reason, result, failures of its code, steps.
        effects: Every effect, once for each time that it was done under another key.
    """

    outcomes: tuple[tuple[Any, ...], ...]
    effects: tuple[str, ...]

    def difference(self, other: "Seen", *, failures_too: bool) -> list[str]:
        """Say what is different in ``other``.

        Args:
            other: The repetition with a crash.
            failures_too: Also the number of failures that the user's code is charged with. A child that dies is one.
        """
        found = []
        if self.effects != other.effects:
            found.append(f"effects are {other.effects} and not {self.effects}")
        ours, theirs = self.outcomes, other.outcomes
        if not failures_too:
            ours, theirs = (tuple((*row[:5], *row[6:]) for row in rows) for rows in (ours, theirs))
        if ours != theirs:
            found.append(f"runs are {_short(theirs)} and not {_short(ours)}")
        return found


def _short(rows: tuple[tuple[Any, ...], ...]) -> str:
    return str(
        [tuple(v[:60] if isinstance(v, str) and i != len(row) - 1 else v for i, v in enumerate(row)) for row in rows]
    )


async def look(ledger: psycopg.AsyncConnection[DictRow], world: str) -> Seen:
    """Return what a repetition led to."""
    rows = await (await ledger.execute(_OUTCOMES)).fetchall()
    async with await psycopg.AsyncConnection.connect(world) as connection:
        words = await (await connection.execute("SELECT word FROM effect ORDER BY word")).fetchall()
    return Seen(tuple(tuple(row.values()) for row in rows), tuple(word for (word,) in words))


async def broken(ledger: psycopg.AsyncConnection[DictRow], uri: str, world: str) -> list[str]:
    """Return what does not hold, now that everything has ended."""
    database = Database(uri, size=1)
    await database.open()
    try:
        # Nothing is late any more: whatever had to follow has been waited for.
        service = InvariantService(database, late=timedelta(0), again=_AT_ONCE)
        found = [f"{violation.code} {violation.check}: {violation.message}" for violation in await service.check()]
    finally:
        await database.close()
    found += [f"pod {row['name']} is believed to be there" for row in await (await ledger.execute(_LEFT)).fetchall()]
    return found + await _begun_again(ledger, world)


async def _begun_again(ledger: psycopg.AsyncConnection[DictRow], world: str) -> list[str]:
    """A step's body never begins in an attempt after the one that saved its result."""
    steps = await (await ledger.execute("SELECT run_id, name, attempt FROM step WHERE state = 'succeeded'")).fetchall()
    saved = {(row["run_id"], row["name"]): row["attempt"] for row in steps}
    async with await psycopg.AsyncConnection.connect(world, row_factory=dict_row) as connection:
        begun = await (await connection.execute("SELECT run_id, word, attempt FROM begun")).fetchall()
    return [
        f"{row['word']} began in attempt {row['attempt']} although attempt {saved[key]} saved its result"
        for row in begun
        if (key := (row["run_id"], row["word"].split()[0])) in saved and row["attempt"] > saved[key]
    ]
