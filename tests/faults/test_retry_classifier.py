"""Which errors of PostgreSQL are worth another try, over every SQLSTATE there is and could be."""

import string
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from psycopg_pool import PoolTimeout

from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.ledger.database import Connection, Database, is_transient

PASSING_CLASSES = {
    "08": "the connection",
    "40": "a race that the server resolved against us, or a commit that it cannot tell the end of",
    "53": "disk, memory or connections are short",
    "57": "somebody ended the statement or the server",
    "58": "the server's own disk",
}
PASSING_STATES = {"25006": "a demoted primary", "25P03": "paused in a transaction", "25P04": "paused in a transaction"}
KNOWN = sorted({state for kind in vars(errors).values() if isinstance(state := getattr(kind, "sqlstate", None), str)})
STATES = st.sampled_from(KNOWN) | st.text(string.digits + string.ascii_uppercase, min_size=5, max_size=5)


def with_state(sqlstate: str) -> psycopg.Error:
    """Return the error that psycopg raises for a SQLSTATE, also for one that it has no class for."""
    try:
        return errors.lookup(sqlstate)("told by the server")
    except KeyError:
        error = psycopg.DatabaseError("told by the server")
        error.sqlstate = sqlstate
        return error


@given(STATES)
def test_an_error_is_tried_again_exactly_where_its_state_says_that_it_passes(state: str) -> None:
    assert is_transient(with_state(state)) == (state[:2] in PASSING_CLASSES or state in PASSING_STATES)


def test_every_state_that_psycopg_knows_is_decided_by_its_number_and_not_by_its_class() -> None:
    assert len(KNOWN) > 200, "the list is there"
    assert not issubclass(errors.lookup("25006"), psycopg.OperationalError), "why the class decides nothing"
    for state in KNOWN:
        assert is_transient(with_state(state)) == (state[:2] in PASSING_CLASSES or state in PASSING_STATES), state


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError("gone"), psycopg.InterfaceError("closed"), PoolTimeout(), ConnectionResetError()],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_broke_has_no_state_and_is_tried_again(error: Exception) -> None:
    assert getattr(error, "sqlstate", None) is None
    assert is_transient(error)


@pytest.mark.parametrize("error", [psycopg.ProgrammingError("ours"), ValueError("ours"), psycopg.DataError("ours")])
def test_an_error_without_a_state_that_is_our_own_is_told(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("state", ["08006", "25006", "25P03", "40001", "40003", "40P01", "53300", "57P01", "58030"])
async def test_work_that_fails_once_for_a_passing_reason_is_done_by_the_second_try(
    database: Database, state: str
) -> None:
    tries: list[int] = []

    async def work(connection: Connection) -> str:
        tries.append(connection.pgconn.backend_pid)
        if len(tries) == 1:
            await connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
        return "done"

    assert await database.transaction(work) == "done"
    assert len(tries) == 2
    if state == "25006":
        assert tries[0] != tries[1], "that server stays what it is: another connection"


@pytest.mark.parametrize("state", ["22P02", "23505", "42P01", "XX000", "0A000", "25P02"])
async def test_work_that_fails_for_a_lasting_reason_is_not_done_again(database: Database, state: str) -> None:
    tries: list[int] = []

    async def work(connection: Connection) -> None:
        tries.append(1)
        await connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")

    with pytest.raises(psycopg.Error) as raised:
        await database.transaction(work)
    assert (raised.value.sqlstate, len(tries)) == (state, 1)


async def test_an_outage_that_lasts_is_told_as_one_and_names_what_the_server_said(database: Database) -> None:
    async def work(connection: Connection) -> None:
        await connection.execute("DO $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'no space left'; END $$")

    with pytest.raises(LedgerUnavailableError, match="no space left") as raised:
        await database.transaction(work)
    assert raised.value.http_status == 503
    assert raised.value.retry_after


def test_nobody_else_decides_what_is_worth_another_try() -> None:
    sources = Path(__file__).parents[2] / "operator/windlass_operator"
    deciding = {p.name for p in sources.rglob("*.py") if "sqlstate" in p.read_text()}
    assert deciding <= {"database.py"}
