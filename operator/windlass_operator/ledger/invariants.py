"""Looks for what breaks the ledger's rules: read only, page by page, each page within one snapshot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import errors

from windlass_operator.domain.compensation import COMPENSATION_BUDGET
from windlass_operator.domain.errors import WindlassError
from windlass_operator.domain.retry import INFRA_BUDGET
from windlass_operator.domain.run_state import FINAL, TRANSITIONS, RunState
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.handles import KEEP_KEYS
from windlass_operator.ledger.queries import load
from windlass_operator.ledger.runs import event_name

_SQL: Final = load("invariants")
_SECONDS: Final = 60
FIRST: Final = UUID(int=0)
"""Before every run."""
LAST: Final = UUID(int=2**128 - 1)
"""After every run."""

_INDEXES: Final = (
    *("run_pkey", "run_resource_uid_key", "run_handle_pkey", "project_uid_key", "blob_pkey", "checkpoint_pkey"),
    *("task_version_project_id_task_spec_hash_key", "task_version_project_id_task_version_key", "queue_entry_pkey"),
    *("attempt_pkey", "attempt_run_id_number_key", "attempt_open", "step_pkey", "event_pkey", "log_pkey", "wait_pkey"),
    *("pod_uid_key", "pod_project_id_name_key", "idempotency_key_pkey", "projection_entry_pkey", "approval_pkey"),
    *("event_taken_pkey", "sent_event_project_id_id_key", "token_run_id_key_key"),
)
"""Each of them is a rule: at most one row of its kind."""


class InvariantsTooSlowError(WindlassError):
    """One look takes longer than a look at a busy database may."""

    code = "LedgerCheckTooSlow"

    def __init__(self, name: str, size: int) -> None:
        super().__init__(
            f"Check {name!r} had no answer for a page of {size} runs within {_SECONDS} s.",
            hint="Take smaller pages (--page), or check when PostgreSQL has less to do. `VACUUM ANALYZE` helps too.",
        )


@dataclass(frozen=True, slots=True)
class Broken:
    """One thing that must not be."""

    check: str
    """Name of the statement that found it."""
    run_id: UUID | None
    message: str
    namespace: str | None = None
    """Where it is, of what lies outside of the ledger."""


@dataclass(frozen=True, slots=True)
class Page:
    """A look at the runs of a page: all statements saw the same moment."""

    until: UUID
    """The last run of the page; :data:`LAST` for the last page."""
    runs: int
    broken: list[Broken]


def _legal() -> tuple[list[str], list[str]]:
    """Return which event may come in which state: the table of states, in the words of the timeline."""
    pairs = {(state.value, event_name(event, after)) for (state, event), after in TRANSITIONS.items()}
    pairs.add(("", RunState.QUEUED.value))  # accepted
    return [state for state, _ in sorted(pairs)], [kind for _, kind in sorted(pairs)]


def _led() -> tuple[list[str], list[str]]:
    """Return to which state an event leads."""
    pairs = {(event_name(event, after), after.value) for (_, event), after in TRANSITIONS.items()}
    pairs.add((RunState.QUEUED.value, RunState.QUEUED.value))
    return [kind for kind, _ in sorted(pairs)], [state for _, state in sorted(pairs)]


_FROM, _TO = _legal()
_LED_BY, _LED_TO = _led()
_PARAMETERS: Final[Mapping[str, Any]] = {
    "final": sorted(state.value for state in FINAL),
    "types": sorted(set(_LED_BY)),
    "from_states": _FROM,
    "to_types": _TO,
    "led_types": _LED_BY,
    "led_states": _LED_TO,
    "infra_budget": INFRA_BUDGET + 1,
    "compensation_budget": COMPENSATION_BUDGET,
    "keep_keys": KEEP_KEYS,
    "indexes": list(_INDEXES),
}


async def look(
    database: Database, names: Sequence[str], *, after: UUID, size: int, late: timedelta, limit: int
) -> Page:
    """Look at one page of runs by all these statements.

    Args:
        database: The ledger.
        names: Of the statements.
        after: The last run of the page before.
        size: Runs of a page.
        late: How long what follows from something else may take.
        limit: Findings of each statement at most.

    Raises:
        InvariantsTooSlowError: A statement takes too long.
    """

    async def work(connection: Connection) -> Page:
        await only_look(connection)
        ended = await rows_of(connection, _SQL, "page_end", {"after": after, "size": size}, size)
        until = UUID(str(ended[0]["id"])) if ended else LAST
        place = {"after": after, "until": until}
        counted = await rows_of(connection, _SQL, "count_page", place, size)
        parameters = {**_PARAMETERS, **place, "late": late, "limit": limit}
        broken: list[Broken] = []
        for name in names:
            rows = await rows_of(connection, _SQL, name, parameters, size)
            broken.extend(Broken(name, row["run_id"], row["message"]) for row in rows)
        return Page(until, counted[0]["n"], broken)

    return await database.transaction(work)


async def only_look(connection: Connection) -> None:
    """Let the transaction see one moment, write nothing, and give up rather than weigh on the database."""
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await connection.execute(f"SET LOCAL statement_timeout = '{_SECONDS}s'")


async def rows_of(
    connection: Connection, sql: Mapping[str, LiteralString], name: str, parameters: Mapping[str, Any], size: int
) -> list[dict[str, Any]]:
    """Return what a statement answers.

    Raises:
        InvariantsTooSlowError: It takes longer than :func:`only_look` allows.
    """
    try:
        return await (await connection.execute(sql[name], parameters)).fetchall()
    except errors.QueryCanceled:
        raise InvariantsTooSlowError(name, size) from None
