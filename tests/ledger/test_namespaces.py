"""A namespace that is deleted takes its runs along, and one that comes later under its name sees nothing of them."""

from datetime import timedelta

import pytest

from tests.support.clock import Clock
from tests.support.world import SHOP, World, a_task
from windlass_operator.ledger.database import Database


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task()
    return world


async def _states(world: World) -> list[tuple[str, str]]:
    rows = await world.database.fetch("SELECT state, coalesce(reason, '') AS reason FROM run ORDER BY id")
    return [(row["state"], row["reason"]) for row in rows]


async def test_runs_without_a_resource_end_with_their_namespace(world: World) -> None:
    await world.submit()
    await world.submit()
    await world.claim()
    assert await world.namespaces.end_runs() == 0
    del world.cluster.namespaces[SHOP.namespace]
    world.cluster.pods.clear()
    assert await world.namespaces.end_runs() == 2
    assert await world.namespaces.end_runs() == 0, "one that is being cancelled waits for its pod only"
    assert await _states(world) == [("Cancelling", "ResourceDeleted"), ("Cancelled", "ResourceDeleted")]


async def test_the_attempt_in_a_pod_that_went_with_its_namespace_ends_the_run(world: World, clock: Clock) -> None:
    await world.submit()
    await world.claim()
    del world.cluster.namespaces[SHOP.namespace]
    world.cluster.pods.clear()
    clock.advance(timedelta(minutes=1))
    await world.namespaces.end_runs()
    await world.pods.resync()
    assert [state for state, _ in await _states(world)] == ["Cancelled"]


async def test_many_runs_of_a_namespace_that_went_unseen_are_no_fault_of_ours(world: World, clock: Clock) -> None:
    """The operator was down: the resources are gone, and no event tells so."""
    for number in range(30):
        await world.imports.observe(world.create_run(f"order-{number}"))
    await world.claim()
    clock.advance(timedelta(minutes=1))
    world.cluster.runs.clear()
    world.cluster.pods.clear()
    del world.cluster.namespaces[SHOP.namespace]
    await world.namespaces.end_runs()
    await world.imports.resync()
    await world.pods.resync()
    assert {state for state, _ in await _states(world)} == {"Cancelled"}


async def test_a_successor_of_the_same_name_runs_nothing_of_its_predecessors(world: World) -> None:
    await world.submit()
    world.cluster.namespaces[SHOP.namespace] = "another-uid"
    await world.pods.start_due()
    assert world.cluster.pods == {}
    await world.namespaces.end_runs()
    assert await _states(world) == [("Cancelled", "ResourceDeleted")]


async def test_an_api_server_that_does_not_know_us_ends_nothing(world: World) -> None:
    """It is empty, or another cluster's: what it does not know may be there all the same."""
    await world.submit()
    world.cluster.namespaces.clear()
    assert await world.namespaces.end_runs() == 0
    assert await _states(world) == [("Queued", "")]


async def test_a_pod_whose_labels_were_taken_off_is_not_lost(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    await world.claim()
    world.cluster.unlabelled, world.cluster.pods = world.cluster.pods, {}
    clock.advance(timedelta(minutes=1))
    await world.pods.resync()
    assert (await world.get(run_id))["state"] == "Running"
    world.cluster.unlabelled = {}
    await world.pods.resync()
    assert (await world.get(run_id))["infra_failures"] == 1
