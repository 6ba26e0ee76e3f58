"""What the pods of WorkerPools have to do."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from windlass_operator.domain.gates import Waiting, admitted
from windlass_operator.ledger import queues
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("worker_pools")


@dataclass(frozen=True, slots=True)
class Backlog:
    """What pools have to do.

    Attributes:
        ready: Runs of each key that may start now.
        oldest: Rank of the first of them.
        next_in: After what time that changes, because a retry or a backoff is due then.
    """

    ready: dict[str, int]
    oldest: dict[str, datetime]
    next_in: timedelta | None


async def read_backlog(database: Database) -> Backlog:
    """Return what the keys of all pools have to do, as far as their queues let them."""
    rows = await database.fetch(_SQL["pool_backlog"])
    facts = await queues.facts(database, {row["queue_id"] for row in rows})
    due = [Waiting(row["key"], row["queue_id"], row["ready"], row["oldest"]) for row in rows if row["ready"]]
    pooled = {row["key"] for row in rows if row["pooled"]}
    oldest: dict[str, datetime] = {}
    for part in due:
        oldest[part.pod_key] = min(part.oldest, oldest.get(part.pod_key, part.oldest))
    dates = [at for row in rows if row["pooled"] for at in (row["next_at"], row["backoff_until"]) if at is not None]
    return Backlog(
        ready={key: n for key, n in admitted(due, facts).items() if key in pooled},
        oldest=oldest,
        next_in=min((at - rows[0]["now"] for at in dates if at > rows[0]["now"]), default=None),
    )
