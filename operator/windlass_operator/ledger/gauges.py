"""What the ledger holds now, in numbers: a few statements that read only what is unfinished."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from windlass_operator.ledger import protection
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.queries import load

_SQL: Final = load("gauges")


@dataclass(frozen=True, slots=True)
class Counts:
    """One look at the ledger.

    Attributes:
        runs: Unfinished runs by namespace, task and state.
        held: Queued runs that something holds, by reason.
        pods: Pods that were not deleted yet, by state.
        standby: Single-use pods that are kept ready and have taken nothing: those that start, and those that wait.
        protected: Pods that carry the annotations of a protected step, or may.
        pool_runs: Runs of worker pools by namespace, pool, and whether they are queued or running.
        pool_pods: Pods of worker pools by namespace, pool, and whether they are busy, idle or starting.
        oldest_queued: Seconds for which the run that waits longest could have been claimed.
        projection_backlog: Resources whose status is behind.
        projection_lag: Seconds for which the one that is behind the most has been.
        heartbeat_age: Seconds since heartbeats were last served by anybody.
    """

    runs: list[tuple[tuple[str, str, str], int]]
    held: dict[str, int]
    pods: dict[str, int]
    standby: dict[str, int]
    protected: int
    pool_runs: dict[tuple[str, ...], float]
    pool_pods: dict[tuple[str, ...], float]
    oldest_queued: float
    projection_backlog: int
    projection_lag: float
    heartbeat_age: float


async def count(database: Database) -> Counts:
    """Look once."""
    states = ("queued_runs", "runs_without_task", "open_runs", "idle_runs")
    found = [await database.fetch(_SQL[name]) for name in states]
    runs: Counter[tuple[str, str, str]] = Counter()
    for row in chain(*found):  # one that is being compensated is in the queue or open, under the same state
        runs[row["namespace"], row["task"], row["state"]] += int(row["n"])
    (standby,) = await database.fetch(_SQL["standby_pods"])
    pools = await database.fetch(_SQL["pools"])
    (ages,) = await database.fetch(_SQL["ages"])
    return Counts(
        runs=list(runs.items()),
        held={row["reason"]: int(row["n"]) for row in await database.fetch(_SQL["held_by_reason"])},
        pods={row["state"]: int(row["n"]) for row in await database.fetch(_SQL["pods_by_state"])},
        standby={doing: int(n) for doing, n in standby.items()},
        protected=await protection.count(database),
        pool_runs=_by_pool(pools, "queued", "running"),
        pool_pods=_by_pool(pools, "busy", "idle", "starting"),
        oldest_queued=ages["oldest_queued"],
        projection_backlog=int(ages["backlog"]),
        projection_lag=ages["lag"],
        heartbeat_age=ages["heartbeat_age"],
    )


def _by_pool(rows: list[dict[str, Any]], *doing: str) -> dict[tuple[str, ...], float]:
    return {(row["namespace"], row["name"], what): int(row[what]) for row in rows for what in doing}
