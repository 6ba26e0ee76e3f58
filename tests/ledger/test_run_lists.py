"""Lists of runs: what filters show, what pages do while runs are created, and that no list reads the whole table."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.clock import Clock
from tests.support.postgres import PostgresServer
from tests.support.world import SHOP, World, a_failure, a_task
from windlass_operator.domain.errors import InvalidRequestError
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import run_lists
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.run_lists import ListTooSlowError, Order, RunFilter
from windlass_operator.services.submitted import Submission

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def submit(world: World, task: str = "order", **wanted: Any) -> UUID:
    world.cluster.tasks[(SHOP.namespace, task)] = a_task(retry=a_task().retry.__class__(max_attempts=1))
    return (await world.submissions.trigger(SHOP, Submission(task=task, **wanted))).run_id


async def listed(world: World, order: Order = "created_desc", **wanted: Any) -> list[UUID]:
    rows, _ = await world.runs.list_page(SHOP, RunFilter(**wanted), order=order, cursor=None, limit=100)
    return [row["id"] for row in rows]


async def fail(world: World, message: str) -> None:
    [attempt] = await world.claim(claim_id=message)
    failure = a_failure()
    failure.failure.message = message
    await world.attempts.fail(attempt.token, failure)


async def test_every_filter_that_is_given_must_hold(world: World, clock: Clock) -> None:
    plain = await submit(world)
    clock.advance(MINUTE)
    tagged = await submit(world, tags=("eu", "gold"))
    other = await submit(world, "mail", tags=("eu",))
    assert await listed(world) == [other, tagged, plain]
    assert await listed(world, task="order") == [tagged, plain]
    assert await listed(world, tags=("eu",)) == [other, tagged]
    assert await listed(world, tags=("eu", "gold")) == [tagged]
    assert await listed(world, tags=("eu",), task="mail") == [other]
    assert await listed(world, states=frozenset({RunState.QUEUED}), task="mail") == [other]
    assert await listed(world, states=frozenset({RunState.RUNNING})) == []
    assert await listed(world, created_after=clock.now()) == [other, tagged]
    assert await listed(world, created_before=clock.now()) == [plain]


async def test_a_text_is_found_in_what_failed_whatever_its_case(world: World) -> None:
    run = await submit(world)
    await fail(world, 'Connection REFUSED by "db-1"')
    await submit(world)
    assert await listed(world, error="connection refused") == [run]
    assert await listed(world, error='by "db-1"') == [run], "quotes are spelled differently in JSON"
    assert await listed(world, error="100%_") == [], "no wildcards"
    assert await listed(world, error="attemptsexhausted") == [run], "the reason, whole"
    assert await listed(world, error="valueerror") == [run], "the exception's type"


async def test_finished_runs_are_listed_in_the_order_in_which_they_ended(world: World, clock: Clock) -> None:
    younger, older = await submit(world), await submit(world)
    ended = []
    for run_id in (older, younger):
        clock.advance(MINUTE)
        await world.runs.cancel(run_id, reason="Cancelled", message="Enough.")
        ended.append(clock.now())
    await submit(world)
    assert await listed(world, "finished_asc") == [older, younger]
    assert await listed(world, "finished_desc") == [younger, older]
    assert await listed(world, finished_after=ended[1]) == [younger]
    assert await listed(world, finished_before=ended[1]) == [older]
    assert set(await listed(world, states=frozenset({RunState.CANCELLED, RunState.TIMED_OUT}))) == {younger, older}
    assert len(await listed(world, states=frozenset({RunState.CANCELLED, RunState.QUEUED}))) == 3


@pytest.mark.parametrize("order", ["created_desc", "created_asc"])
async def test_pages_show_each_run_once_though_runs_are_created_meanwhile(world: World, order: Order) -> None:
    made = [await submit(world) for _ in range(7)]  # all within one moment of the stopped clock: ties
    shown: list[UUID] = []
    cursor = None
    while True:
        rows, cursor = await world.runs.list_page(SHOP, RunFilter(), order=order, cursor=cursor, limit=3)
        shown += [row["id"] for row in rows]
        if cursor is None:
            break
        if len(shown) < 7:
            await submit(world)
    assert len(set(shown)) == len(shown)
    assert set(made) <= set(shown)


async def test_the_last_page_has_no_cursor_even_if_it_is_full(world: World) -> None:
    await submit(world)
    await submit(world)
    _, cursor = await world.runs.list_page(SHOP, RunFilter(), order="created_desc", cursor=None, limit=2)
    assert cursor is None


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "bnVsbA", "WyJjcmVhdGVkX2Rlc2MiLCIyMDI2IiwxXQ", "é", "W1tbW1tbW1s" * 40]
)
async def test_a_cursor_that_no_list_returned_is_refused(world: World, cursor: str) -> None:
    await submit(world)
    with pytest.raises(InvalidRequestError, match="not one that a list returned") as refused:
        await world.runs.list_page(SHOP, RunFilter(), order="created_desc", cursor=cursor, limit=2)
    assert refused.value.field == "cursor"


async def test_a_cursor_of_another_order_is_refused(world: World) -> None:
    for _ in range(2):
        await submit(world)
    _, cursor = await world.runs.list_page(SHOP, RunFilter(), order="created_desc", cursor=None, limit=1)
    with pytest.raises(InvalidRequestError, match="belongs to a list in another order"):
        await world.runs.list_page(SHOP, RunFilter(), order="created_asc", cursor=cursor, limit=1)


FINISHED, UNFINISHED, OTHERS = 100_000, 200, 1000


@pytest.fixture(scope="module")
def crowded_uri(postgres: PostgresServer, template_uri: str) -> Iterator[str]:
    """A ledger with 100,000 finished runs, 200 unfinished ones, and another project."""
    uri = postgres.create_database(template=template_uri.rsplit("/", 1)[1])
    with psycopg.connect(uri, autocommit=True, options="-c search_path=windlass") as connection:
        connection.execute("INSERT INTO project (uid, namespace) VALUES ('uid-of-shop', 'shop'), ('other', 'other')")
        connection.execute(
            """
            INSERT INTO run (id, project_id, task, state, message, error, tags, created_at, finished_at)
            SELECT gen_random_uuid(), CASE WHEN n > %(ours)s THEN 2 ELSE 1 END,
                   'task-' || n %% 50,
                   CASE WHEN n <= %(unfinished)s THEN 'Running' WHEN n %% 100 = 0 THEN 'Failed' ELSE 'Succeeded' END,
                   CASE WHEN n %% 100 = 0 THEN 'boom ' || n END, NULL,
                   CASE WHEN n %% 1000 = 0 THEN ARRAY['tag-' || n %% 10000] ELSE '{}' END,
                   now() - n * interval '1 second',
                   CASE WHEN n > %(unfinished)s THEN now() - n * interval '1 second' + interval '5 seconds' END
              FROM generate_series(1, %(all)s) AS n
            """,
            {"unfinished": UNFINISHED, "ours": UNFINISHED + FINISHED, "all": UNFINISHED + FINISHED + OTHERS},
        )
        connection.execute("ANALYZE run")
    yield uri
    with psycopg.connect(postgres.uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {uri.rsplit('/', 1)[1]} WITH (FORCE)")


@pytest.fixture
async def crowded(crowded_uri: str) -> AsyncIterator[Database]:
    database = Database(crowded_uri, size=2)
    await database.open()
    yield database
    await database.close()


def _states(*names: str) -> frozenset[RunState]:
    return frozenset(map(RunState, names))


@pytest.mark.parametrize("order", ["created_desc", "created_asc", "finished_desc", "finished_asc"])
@pytest.mark.parametrize(
    "wanted",
    [
        RunFilter(),
        RunFilter(states=_states("Running", "Queued")),
        RunFilter(states=_states("Failed", "TimedOut")),
        RunFilter(states=_states("Succeeded")),
        RunFilter(task="task-7"),
        RunFilter(task="task-7", states=_states("Running")),
        RunFilter(tags=("tag-3000",)),
    ],
    ids=["all", "unfinished", "dead letters", "succeeded", "task", "running of a task", "tag"],
)
@pytest.mark.parametrize("paged", [False, True], ids=["first page", "later page"])
async def test_no_list_reads_the_whole_table(crowded: Database, wanted: RunFilter, order: Order, paged: bool) -> None:
    after = None
    if paged:
        middle = await crowded.fetch("SELECT id, created_at FROM run WHERE project_id = 1 OFFSET 50000 LIMIT 1")
        after = run_lists.Position(middle[0]["created_at"], middle[0]["id"])
    statement, values = run_lists._statement(1, wanted, order, after, 51)
    [row] = await crowded.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
    plan = row["QUERY PLAN"][0]["Plan"]
    nodes = list(_nodes(plan))
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}, json.dumps(plan, indent=1)
    read = sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes if "Plans" not in node)
    assert read <= 12_000, json.dumps(plan, indent=1)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


async def test_a_search_that_takes_too_long_says_how_to_narrow_it_down(
    crowded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lists, "_SECONDS", 0.001)
    with pytest.raises(ListTooSlowError) as refused:
        await run_lists.page(crowded, 1, RunFilter(error="no such text"), order="created_desc", after=None, limit=10)
    assert "too many runs must be looked at" in refused.value.message
    assert refused.value.hint == "Narrow it down with createdAfter or finishedAfter, task, state or tag."
