"""Run resources become runs, whatever events arrive, come twice, or never come."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SHOP, World, a_task
from windlass import protocol
from windlass_operator.domain.errors import TaskInvalidError
from windlass_operator.ledger import runs
from windlass_operator.ledger.database import Database


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task()
    return world


async def _states(world: World) -> dict[str, str]:
    rows = await world.database.fetch("SELECT resource_name, state FROM run ORDER BY resource_name")
    return {row["resource_name"]: row["state"] for row in rows}


async def test_a_run_whose_event_never_came_is_imported_by_the_resync(world: World) -> None:
    world.create_run("order-1")
    world.create_run("order-2")
    await world.imports.resync()
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Queued", "order-2": "Queued"}


async def test_hundreds_of_runs_that_are_seen_at_once_are_all_imported_once(world: World) -> None:
    bodies = [world.create_run(f"order-{number}") for number in range(250)]
    seen = [world.imports.observe(body) for body in bodies]
    await asyncio.gather(*seen, world.imports.resync())
    assert set((await _states(world)).values()) == {"Queued"}
    assert len(await _states(world)) == 250


async def test_runs_that_are_known_cost_a_resync_one_question_for_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        await world.imports.observe(world.create_run(f"order-{number}"))
    asked: list[int] = []
    ask = runs.by_resources

    async def counted(database: Database, uids: list[str]) -> dict[str, UUID]:
        asked.append(len(uids))
        return await ask(database, uids)

    monkeypatch.setattr(runs, "by_resources", counted)
    await world.imports.resync()
    assert sum(asked) == 150
    assert len(asked) <= 4


async def test_a_run_reaches_its_end_when_no_event_ever_arrives(world: World, clock: Clock) -> None:
    """Watches are wake-ups: import, the lost pod, the next attempt, the end and the status come by looking alone."""
    world.create_run("order-1")
    await world.imports.resync()
    (first,) = await world.claim()
    world.cluster.pods.clear()  # the node is gone, and nobody says so
    clock.advance(timedelta(minutes=1))
    await world.pods.resync()
    (second,) = await world.claim(claim_id="claim-2")
    assert (second.run_id, second.number) == (first.run_id, 2)
    await world.attempts.complete(second.token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))
    await world.projection.project_due()
    status = world.cluster.statuses["order-1"]
    assert (status["state"], status["result"], status["failures"]) == ("Succeeded", 1, {"user": 0, "infra": 1})


async def test_a_deletion_that_nobody_saw_cancels_the_run_at_the_next_resync(world: World, clock: Clock) -> None:
    await world.imports.observe(world.create_run())
    clock.advance(timedelta(minutes=1))
    world.cluster.runs.clear()
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Cancelled"}


async def test_a_young_run_that_a_list_does_not_show_yet_is_not_cancelled(world: World) -> None:
    await world.imports.observe(world.create_run())
    world.cluster.runs.clear()
    await world.imports.resync()
    assert await _states(world) == {"order-1": "Queued"}


async def test_a_deletion_event_counts_only_if_the_resource_is_gone(world: World) -> None:
    """A late event of another watch must not cancel a run whose resource is there."""
    body = world.create_run()
    await world.imports.observe(body)
    await world.imports.observe(body, deleted=True)
    assert await _states(world) == {"order-1": "Queued"}
    world.cluster.runs.clear()
    await world.imports.observe(body, deleted=True)
    assert await _states(world) == {"order-1": "Cancelled"}


async def test_nothing_is_cancelled_when_most_resources_seem_to_be_gone(world: World, clock: Clock) -> None:
    for number in range(30):
        await world.imports.observe(world.create_run(f"order-{number}"))
    clock.advance(timedelta(minutes=1))
    world.cluster.runs.clear()
    await world.imports.resync()
    assert set((await _states(world)).values()) == {"Queued"}


async def test_a_status_that_names_an_unknown_run_is_not_run_again(world: World) -> None:
    """A restored, older ledger: what the lost run did cannot be known, so a person decides."""
    await world.imports.observe(world.create_run(status={"runId": str(uuid4())}))
    reason, message = world.cluster.rejected["order-1"]
    assert reason == "LedgerRegressed"
    assert "delete and re-create the Run" in message
    assert await _states(world) == {}


@pytest.mark.parametrize("status", [{"runId": 7}, {"runId": "junk"}, {"runId": None}, "junk", [], {"state": {}}])
async def test_junk_in_a_status_decides_nothing(world: World, status: object) -> None:
    body = world.create_run()
    body["status"] = status
    await world.imports.observe(body)
    assert await _states(world) == {"order-1": "Queued"}


async def test_a_status_that_somebody_overwrote_is_written_again(world: World) -> None:
    body = world.create_run()
    await world.imports.observe(body)
    await world.projection.project_due()
    ours = world.cluster.statuses.pop("order-1")
    body["status"] = ours
    await world.imports.observe(body)
    assert await world.projection.project_due() == 0, "ours is left as it is"
    body["status"] = {"runId": "junk", "state": "Succeeded", "result": ["junk"]}
    await world.imports.observe(body)
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"] == ours
    assert await _states(world) == {"order-1": "Queued"}


@pytest.mark.parametrize("spec", [None, "junk", {}, {"taskRef": 7}, {"taskRef": {"name": "order"}, "tags": [["a"]]}])
async def test_a_junk_spec_is_refused_visibly_and_keeps_nobody_else_from_running(world: World, spec: object) -> None:
    world.create_run("junk")["spec"] = spec
    world.create_run("good")
    await world.imports.resync()
    assert world.cluster.rejected["junk"][0] == "SpecInvalid"
    assert await _states(world) == {"good": "Queued"}


async def test_a_changed_spec_is_ignored_and_the_status_says_so(world: World) -> None:
    body = world.create_run(payload={"amount": 1})
    await world.imports.observe(body)
    body["metadata"]["generation"] = 2
    body["spec"]["payload"] = {"amount": 1000}
    await world.imports.observe(body)
    await world.projection.project_due()
    status = world.cluster.statuses["order-1"]
    assert status["observedGeneration"] == 2
    ignored = next(c for c in status["conditions"] if c["type"] == "SpecChangeIgnored")
    assert ignored["status"] == "True"
    rows = await world.database.fetch("SELECT payload FROM run")
    assert rows[0]["payload"] == '{"amount":1}'
    body["metadata"]["generation"] = 3
    body["spec"]["payload"] = {"amount": 1}
    await world.imports.observe(body)
    await world.projection.project_due()
    assert [c["type"] for c in world.cluster.statuses["order-1"]["conditions"]] == ["Succeeded", "Finished"]


async def test_a_cancellation_is_no_change_of_the_spec(world: World) -> None:
    body = world.create_run()
    await world.imports.observe(body)
    body["metadata"]["generation"] = 2
    body["spec"]["cancel"] = True
    await world.imports.observe(body)
    await world.projection.project_due()
    assert await _states(world) == {"order-1": "Cancelled"}
    assert [c["type"] for c in world.cluster.statuses["order-1"]["conditions"]] == ["Succeeded", "Finished"]


async def test_defaults_that_a_newer_schema_fills_in_change_nothing(world: World, clock: Clock) -> None:
    """A Run re-created after its TTL is the same one, although the schema writes defaults into it now."""
    await world.imports.observe(world.create_run())
    await world.imports.observe(world.create_run() | {"metadata": {**world.create_run()["metadata"], "generation": 2}})
    run_id = (await world.database.fetch("SELECT id FROM run"))[0]["id"]
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    await world.projection.project_due()
    clock.advance(timedelta(days=1))
    await world.projection.remove_expired()
    body = world.create_run(tags=[], cancel=False)
    body["metadata"]["uid"] = "another"
    await world.imports.observe(body)
    rows = await world.database.fetch("SELECT id, resource_uid FROM run")
    assert [(row["id"], row["resource_uid"]) for row in rows] == [(run_id, "another")]


async def test_a_task_that_cannot_run_is_stalled_until_it_is_mended(world: World) -> None:
    body = {"metadata": {"name": "order", "namespace": SHOP.namespace, "uid": "u", "generation": 1}}
    world.cluster.broken_task = TaskInvalidError("spec.env[0].name belongs to the runner", field="spec.env[0].name")
    await world.tasks.observe(body)
    conditions = {c["type"]: c["status"] for c in world.cluster.task_statuses[-1]["conditions"]}
    assert conditions == {"Ready": "False", "Stalled": "True"}
    await world.tasks.observe({**body, "status": world.cluster.task_statuses[-1]})
    assert len(world.cluster.task_statuses) == 1, "the same status is not written twice"
    world.cluster.broken_task = None
    await world.tasks.observe({**body, "status": world.cluster.task_statuses[-1]})
    assert [c["type"] for c in world.cluster.task_statuses[-1]["conditions"]] == ["Ready"]
