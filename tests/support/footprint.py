"""What an operation left in the ledger, in numbers: two that had the same effect left the same."""

from collections import Counter
from typing import Final

from windlass_operator.ledger.database import Database

_COUNTED: Final = {
    "run": "concat_ws(' ', state, reason, attempts, user_failures, infra_failures, undoing, result IS NOT NULL)",
    "attempt": "concat_ws(' ', coalesce(outcome, 'open'), timeout_added_ms)",
    "step": "concat_ws(' ', kind, state)",
    "event": "type",
    "wait": "kind",
    "pod": "concat_ws(' ', state, protection)",
    "protection": "ended_at IS NOT NULL",
    "queue_entry": "''",
    "log": "''",
    "blob": "''",
    "checkpoint": "n",
    "idempotency_key": "''",
    "run_handle": "''",
    "sent_event": "''",
    "event_taken": "''",
    "token": "completed_at IS NOT NULL",
    "projection_entry": "''",
}


async def footprint(database: Database) -> Counter[str]:
    """Return how many rows of which kind there are, and how often runs were written."""
    counts = " UNION ALL ".join(
        f"SELECT '{table}' AS what, ({kind})::text AS kind, count(*) AS n FROM {table} GROUP BY 2"  # noqa: S608 - ours
        for table, kind in _COUNTED.items()
    )
    written = "SELECT 'revisions', '', coalesce(sum(revision), 0)::bigint FROM run"
    rows = await database.fetch(f"{counts} UNION ALL {written}")
    return Counter({f"{row['what']} {row['kind']}".strip(): row["n"] for row in rows})


def change(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Return what is more or less than before."""
    return {kind: n for kind in sorted(before | after) if (n := after[kind] - before[kind])}
