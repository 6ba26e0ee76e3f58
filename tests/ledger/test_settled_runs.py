"""Run resources that need no second look: nothing that anybody does to them afterwards goes unseen."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from tests.support.world import SHOP, World, a_task
from windlass_operator.context import read_run
from windlass_operator.domain.errors import LedgerUnavailableError
from windlass_operator.services.imports import Asked
from windlass_operator.services.settled import Settled


@pytest.fixture
async def world(database: Any) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task()
    return world


async def _shown(world: World, body: dict[str, Any]) -> dict[str, Any]:
    """Import a Run and write its status, as its resource shows it then."""
    await world.imports.observe(body)
    await world.projection.project_due()
    body["status"] = world.cluster.statuses[body["metadata"]["name"]]
    return body


def nothing_new(world: World, body: Mapping[str, Any]) -> bool:
    meta = body["metadata"]
    return world.imports.shows_nothing_new(meta["uid"], meta["generation"], body["status"].get("runId"))


async def _states(world: World) -> dict[str, str]:
    return {row["resource_name"]: row["state"] for row in await world.database.fetch("SELECT * FROM run")}


async def test_a_status_of_ours_says_nothing_new_and_one_that_names_another_run_does(world: World) -> None:
    body = world.create_run()
    assert not nothing_new(world, body), "nobody has looked at it"
    await _shown(world, body)
    assert nothing_new(world, body)
    for junk in ("junk", None, body["status"]["runId"].upper()):
        body["status"] = {**body["status"], "runId": junk}
        assert not nothing_new(world, body)


async def test_a_changed_spec_is_news_until_it_was_acted_upon(world: World) -> None:
    body = await _shown(world, world.create_run())
    body["metadata"]["generation"] = 2
    body["spec"]["cancel"] = True
    assert not nothing_new(world, body)
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Cancelled"}
    assert nothing_new(world, body)


async def test_what_failed_is_looked_at_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    body = await _shown(world, world.create_run())
    body["metadata"]["generation"] = 2
    body["spec"]["cancel"] = True

    async def away(*_: object, **__: object) -> None:
        raise LedgerUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(world.runs, "cancel", away)
        with pytest.raises(LedgerUnavailableError):
            await world.imports.observe(body)
    assert not nothing_new(world, body)
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Cancelled"}


async def test_a_refused_run_is_never_settled(world: World) -> None:
    body = world.create_run("junk", tags=[["a"]])
    await world.imports.observe(body)
    assert not nothing_new(world, {**body, "status": {"runId": None}})


async def test_a_deleted_run_is_forgotten_and_a_new_one_of_its_name_is_another(world: World) -> None:
    body = await _shown(world, world.create_run())
    world.cluster.runs.clear()
    await world.imports.observe(body, deleted=True)
    assert not nothing_new(world, body)
    successor = world.create_run()
    successor["metadata"]["uid"] = "another"
    successor["status"] = dict(body["status"])
    assert not nothing_new(world, successor)


async def test_a_run_that_is_being_deleted_is_looked_at_though_its_spec_is_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held back by somebody's finalizer it is still listed, with the time of its deletion."""
    body = await _shown(world, world.create_run())
    body["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"

    async def gone(*_: str) -> None:
        return None

    monkeypatch.setattr(world.cluster, "run_uid", gone)  # a moment later a GET finds nothing any more
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Cancelled"}


async def test_a_resync_reads_no_spec_again_that_has_not_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(body: Mapping[str, Any]) -> Asked:
        read.append(body["metadata"]["name"])
        return read_run(body)

    monkeypatch.setattr(world.imports, "_parse", counted)
    for name in ("order-1", "order-2"):
        await _shown(world, world.create_run(name))
    for _ in range(3):
        await world.imports.resync()
    assert sorted(read) == ["order-1", "order-2"]
    world.cluster.runs["uid-of-order-2"]["metadata"]["generation"] = 2
    await world.imports.resync()
    assert sorted(read) == ["order-1", "order-2", "order-2"]


async def test_a_resync_mends_the_status_of_a_run_that_needs_no_look(world: World) -> None:
    body = await _shown(world, world.create_run())
    ours = world.cluster.statuses.pop("order-1")
    body["status"] = {"runId": "junk"}
    await world.imports.resync()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"] == ours


async def test_an_older_ledger_is_noticed_though_every_run_was_settled(world: World) -> None:
    """What was remembered is not taken for granted: a restored ledger does not know the run any more."""
    await _shown(world, world.create_run())
    await world.database.fetch("TRUNCATE run CASCADE")
    await world.imports.resync()
    assert world.cluster.rejected["order-1"][0] == "LedgerRegressed"
    assert await _states(world) == {}


async def test_a_second_resource_of_a_run_is_settled_with_the_run_that_it_shows(world: World) -> None:
    first = await _shown(world, world.create_run("first", idempotencyKey="7"))
    second = world.create_run("second", idempotencyKey="7")
    await world.imports.observe(second)
    second["status"] = first["status"]
    assert nothing_new(world, second)
    world.cluster.runs.pop(first["metadata"]["uid"])
    await world.imports.observe(first, deleted=True)
    assert await _states(world) == {"second": "Queued"}
    assert SHOP.namespace == second["metadata"]["namespace"]


async def test_no_more_resources_are_remembered_than_there_is_room_for() -> None:
    settled, run_id = Settled(limit=2), UUID(int=1)
    for uid in ("a", "b", "c"):
        settled.note(uid, 1, run_id)
    assert [settled.run_of(uid, 1) for uid in ("a", "b", "c")] == [run_id, run_id, None]
    settled.note("a", 2, run_id)
    assert (settled.run_of("a", 1), settled.run_of("a", 2)) == (None, run_id)
    settled.keep({"b"})
    settled.note("c", 1, run_id)
    assert [settled.run_of(uid, 1) for uid in ("a", "b", "c")] == [None, run_id, run_id]
    settled.note("b", "1", run_id)
    settled.note("b", True, run_id)
    assert settled.run_of("b", 1) == run_id
    assert settled.run_of(["junk"], 1) is None
