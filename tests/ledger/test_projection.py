"""Statuses are written together, and what could not be written stays due."""

from uuid import UUID

import pytest

from tests.support.world import World, a_task
from windlass_operator.kube.errors import KubeInvalidError, KubeUnavailableError
from windlass_operator.ledger import projection
from windlass_operator.ledger.database import Connection, Database

COUNT = 30


@pytest.fixture
async def world(database: Database) -> World:
    """Many runs whose resources show nothing yet."""
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task()
    for number in range(COUNT):
        await world.imports.observe(world.create_run(f"order-{number}"))
    return world


async def _due(world: World) -> list[UUID]:
    return [run_id for run_id, _ in await projection.due(world.database, 1000)]


async def test_all_statuses_that_are_due_are_written(world: World) -> None:
    assert await world.projection.project_due() == COUNT
    assert len(world.cluster.statuses) == COUNT
    assert await world.projection.project_due() == 0


async def test_a_status_that_is_refused_keeps_no_other_back(world: World) -> None:
    world.cluster.refuse_status["order-7"] = KubeInvalidError("The schema refuses it.")
    assert await world.projection.project_due() == COUNT
    assert len(world.cluster.statuses) == COUNT - 1
    assert await _due(world) == []


async def test_a_status_that_cannot_be_made_stays_due_and_keeps_no_other_back(world: World) -> None:
    world.cluster.refuse_status["order-7"] = RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError):
        await world.projection.project_due()
    assert len(world.cluster.statuses) == COUNT - 1
    assert len(await _due(world)) == 1


async def test_while_the_api_server_is_away_what_was_not_written_stays_due(world: World) -> None:
    world.cluster.refuse_status["order-7"] = KubeUnavailableError("It does not answer.")
    with pytest.raises(KubeUnavailableError):
        await world.projection.project_due()
    assert len(await _due(world)) == COUNT - len(world.cluster.statuses)
    assert len(world.cluster.statuses) < COUNT


async def test_an_entry_that_is_being_asked_for_again_is_neither_waited_for_nor_lost(world: World) -> None:
    asked = dict(await projection.due(world.database, 1000))
    again = next(iter(asked))

    async def change(connection: Connection) -> None:
        await connection.execute("UPDATE projection_entry SET revision = revision + 1 WHERE run_id = %s", (again,))
        assert len(await projection.done(world.database, asked)) == COUNT - 1

    await world.database.transaction(change)
    assert await _due(world) == [again]
