"""Triggers that come at the same time share a transaction, and nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.world import SHOP, World, a_task
from windlass_operator import failpoints
from windlass_operator.api.public import run_json
from windlass_operator.domain.errors import LedgerUnavailableError, QueueFullError, TaskNotFoundError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.ledger import handles, runs
from windlass_operator.ledger.database import Connection, Database
from windlass_operator.ledger.intake import When
from windlass_operator.services.submitted import Accepted, Submission


@pytest.fixture(params=["first", "known"])
async def world(database: Database, request: pytest.FixtureRequest) -> World:
    """A Task that the ledger has never seen, or whose version it knows."""
    world = await World(database).start()
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    if request.param == "known":
        await world.know("order")
    return world


@pytest.fixture
def transactions(world: World, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each transaction that was begun."""
    begun: list[None] = []
    usual: Callable[..., Awaitable[object]] = world.database.transaction

    async def noted(work: object) -> object:
        begun.append(None)
        return await usual(work)

    monkeypatch.setattr(world.database, "transaction", noted)
    return begun


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each statement of the ledger that is sent."""
    sent: list[str] = []
    names = failpoints.statements()
    usual = Connection.execute

    async def noted(self: Connection, query: Any, *rest: Any, **more: Any) -> Any:
        if query in names:
            sent.append(names[query])
        return await usual(self, query, *rest, **more)

    monkeypatch.setattr(Connection, "execute", noted)
    return sent


async def at_once(world: World, *wanted: Submission) -> list[Accepted | BaseException]:
    return await asyncio.gather(*(world.submissions.trigger(SHOP, one) for one in wanted), return_exceptions=True)


def made(answers: list[Accepted | BaseException]) -> list[UUID]:
    return [answer.run_id for answer in answers if isinstance(answer, Accepted)]


async def in_queue(world: World) -> list[UUID]:
    rows = await world.database.fetch("SELECT run_id FROM queue_entry ORDER BY rank, run_id")
    return [row["run_id"] for row in rows]


async def test_a_crowd_shares_one_transaction_and_keeps_its_order(world: World, transactions: list[None]) -> None:
    answers = await at_once(world, *(Submission(task="order", payload=n) for n in range(40)))

    assert len(transactions) <= 1
    assert await in_queue(world) == made(answers)
    rows = [await world.get(run_id) for run_id in made(answers)]
    assert [row["payload"] for row in rows] == [str(n) for n in range(40)]
    for answer, row in zip(answers, rows, strict=True):
        assert isinstance(answer, Accepted)
        assert answer.row is not None
        assert run_json(answer.row) == run_json(row)


async def test_the_answer_says_what_a_run_waits_for_as_any_other_does(world: World) -> None:
    await world.put_queue(paused=True)
    wanted = Submission(
        task="order",
        tags=("eu",),
        idempotency_key="k",
        when=When(delay=timedelta(hours=1)),
        traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
    )
    for answer in await at_once(world, wanted, Submission(task="order")):
        assert isinstance(answer, Accepted)
        assert answer.row is not None
        assert answer.row["reason"] is not None
        assert run_json(answer.row) == run_json(await world.get(answer.run_id))


async def test_who_is_refused_is_refused_alone(world: World) -> None:
    unknown = Submission(task="order", version=9)
    answers = await at_once(world, Submission(task="order"), unknown, Submission(task="order"))

    assert isinstance(answers[1], TaskNotFoundError)
    assert answers[1].field == "version"
    assert len(made(answers)) == 2
    assert await in_queue(world) == made(answers)


async def test_a_full_queue_takes_the_first_ones_of_a_crowd(world: World) -> None:
    await world.put_queue(paused=True, maxLength=3)
    answers = await at_once(world, *(Submission(task="order", payload=n) for n in range(8)))

    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 3 + [False] * 5
    assert all(isinstance(answer, QueueFullError) for answer in answers[3:])
    assert await in_queue(world) == made(answers)


async def test_a_full_queue_refuses_nothing_to_other_queues(world: World) -> None:
    world.cluster.tasks[SHOP.namespace, "refund"] = a_task()
    await world.put_queue(paused=True, maxLength=1)
    answers = await at_once(world, *(Submission(task=task) for task in ("order", "refund", "order", "refund")))

    assert [isinstance(answer, Accepted) for answer in answers] == [True, True, False, True]


async def test_of_equal_keys_in_a_crowd_one_is_run(world: World) -> None:
    one = Submission(task="order", idempotency_key="k")
    answers = await at_once(world, one, Submission(task="order"), one, one)

    runs = made(answers)
    assert runs[0] == runs[2] == runs[3] != runs[1]
    assert [a.deduplicated for a in answers if isinstance(a, Accepted)] == [False, False, True, True]
    assert await in_queue(world) == runs[:2]


async def test_the_key_of_who_is_refused_is_as_it_was(world: World) -> None:
    refused = Submission(task="order", idempotency_key="k", version=9)
    answers = await at_once(world, refused, Submission(task="order", idempotency_key="k"))

    assert isinstance(answers[0], TaskNotFoundError)
    [run_id] = made(answers)
    again = await world.submissions.trigger(SHOP, Submission(task="order", idempotency_key="k"))
    assert (again.run_id, again.deduplicated) == (run_id, True)


async def test_an_invalid_payload_is_nobody_elses(world: World) -> None:
    world.cluster.tasks[SHOP.namespace, "order"] = a_task(payload_schema={"type": "integer"})
    answers = await at_once(world, *(Submission(task="order", payload=payload) for payload in (1, "two", 3)))

    assert isinstance(answers[1], WindlassError)
    assert answers[1].code == "PayloadInvalid"
    assert len(made(answers)) == 2


async def test_crowds_of_two_processes_keep_a_queue_within_its_length(world: World, database: Database) -> None:
    other = World(database)
    other.cluster = world.cluster
    await world.put_queue(paused=True, maxLength=10)
    crowds = [
        at_once(one, *(Submission(task="order", idempotency_key=f"k{n % 8}") for n in range(20)))
        for one in (world, other)
    ]
    await asyncio.gather(*crowds, *(at_once(world, Submission(task="order")) for _ in range(9)))

    assert len(await in_queue(world)) == 10


@pytest.mark.parametrize("world", ["known"], indirect=True)
async def test_where_the_version_is_known_a_crowd_is_one_statement(
    world: World, transactions: list[None], statements: list[str]
) -> None:
    wanted = Submission(task="order")
    answers = await asyncio.gather(*(world.submissions.trigger(SHOP, wanted, shown=False) for _ in range(9)))

    assert statements == ["insert_runs"]
    assert transactions == []
    assert await in_queue(world) == [answer.run_id for answer in answers]


@pytest.mark.parametrize("world", ["known"], indirect=True)
async def test_what_takes_more_is_decided_upon_beside_what_takes_one_statement(world: World) -> None:
    other = a_task(entrypoint="other:main")
    answers = await at_once(
        world,
        Submission(task="order"),
        Submission(task="order", version=1),
        Submission(task="order", idempotency_key="k"),
        Submission(task="order", payload="x" * 70_000),
    )
    world.cluster.tasks[SHOP.namespace, "order"] = other
    answers += await at_once(world, Submission(task="order"))

    rows = [await world.get(run_id) for run_id in made(answers)]
    assert [row["version"] for row in rows] == [1, 1, 1, 1, 2]
    assert [row["payload_sha256"] is not None for row in rows] == [False, False, False, True, False]


@pytest.mark.parametrize("world", ["known"], indirect=True)
async def test_a_namespace_that_was_made_anew_has_none_of_the_versions_of_the_one_before(world: World) -> None:
    anew = Project("uid-of-the-new-one", SHOP.namespace)
    mine = await world.submissions.trigger(SHOP, Submission(task="order"))
    theirs = await world.submissions.trigger(anew, Submission(task="order"))

    rows = await world.database.fetch(
        "SELECT p.uid, v.project_id = run.project_id AS own FROM run JOIN project p ON p.id = run.project_id"
        " JOIN task_version v ON v.id = run.task_version_id WHERE run.id = ANY(%(ids)s) ORDER BY run.id",
        {"ids": [mine.run_id, theirs.run_id]},
    )
    assert [(row["uid"], row["own"]) for row in rows] == [(SHOP.uid, True), (anew.uid, True)]


@pytest.mark.parametrize("world", ["known"], indirect=True)
@pytest.mark.parametrize("error", [LedgerUnavailableError("It is away."), ValueError("a bug")])
async def test_what_is_accepted_stays_so_whatever_becomes_of_the_others_of_its_crowd(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(handles, "take_keys", fails)
    keyed = Submission(task="order", payload="keyed", idempotency_key="k")
    plain = [Submission(task="order", payload=n) for n in range(2)]
    # Prepared in another order than they ask: ids are given in the order of asking.
    prepared = await world.submissions.prepare(SHOP, [keyed, *plain])
    asked = [prepared[2], prepared[0], prepared[1]]
    answers = await asyncio.gather(*(world.submissions._singles(SHOP, one) for one in asked), return_exceptions=True)

    assert answers[1] is error
    accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
    rows = [await world.get(became.run_id) for _, became in accepted]
    assert [row["payload"] for row in rows] == ["1", "0"]
    assert len(await in_queue(world)) == 2


@pytest.mark.parametrize("world", ["known"], indirect=True)
async def test_a_run_that_cannot_be_read_back_is_accepted_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(runs, "new_rows", fails)
    answer = await world.submissions.trigger(SHOP, Submission(task="order"))
    assert answer.row is None
    assert await in_queue(world) == [answer.run_id]
