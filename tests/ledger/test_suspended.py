"""Runs whose code does not fit their history: suspended, and what leads out of that."""

from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError, PayloadInvalidError, TaskNotFoundError
from windlass_operator.domain.pod_key import PodParts
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger import gauges
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.run_lists import RunFilter
from windlass_operator.services.projection import status_of
from windlass_operator.services.resumption import NotSuspendedError
from windlass_operator.services.submitted import Submission


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def divergence(message: str = "At place 1 history has step 'a'.") -> protocol.FailRequest:
    """Return the report of an attempt whose code does not fit."""
    return protocol.FailRequest(
        failure=protocol.Failure(
            type="DivergenceError", message=message, failure_class="permanent", reason="Divergence"
        )
    )


async def suspended(world: World, **changes: Any) -> UUID:
    """Return a run that has one finished step and is suspended."""
    run_id = await world.submit(a_task(**changes), payload={"n": 1})
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("a")]))
    outcome = await world.attempts.fail(attempt.token, divergence())
    assert outcome.state == "Suspended"
    return run_id


async def test_a_divergence_suspends_the_run_and_uses_no_attempt_of_any_budget(world: World) -> None:
    run_id = await suspended(world)
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["user_failures"], row["infra_failures"]) == (
        "Suspended", "Divergence", 0, 0,
    )  # fmt: skip
    assert row["finished_at"] is None
    status = status_of(row)
    assert (status["state"], status["reason"]) == ("Suspended", "Divergence")
    assert "history has step 'a'" in status["message"]
    assert {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]} == {
        "Succeeded": ("Unknown", "Divergence"), "Finished": ("False", "Suspended"),
    }  # fmt: skip
    (attempt,) = await world.runs.attempts(run_id)
    assert attempt["outcome"] == "Suspended"


async def test_a_suspended_run_costs_no_pod_and_is_found_by_its_state(world: World) -> None:
    run_id = await suspended(world)
    pods = len(world.cluster.pods)
    await world.pods.start_due()
    assert len(world.cluster.pods) == pods
    found, _ = await world.runs.list_page(
        SHOP, RunFilter(states=frozenset({RunState.SUSPENDED})), order="created_desc", cursor=None, limit=10
    )
    assert [row["id"] for row in found] == [run_id]
    assert (await gauges.count(world.database)).runs == [(("shop", "order", "Suspended"), 1)]


async def test_resume_goes_on_with_the_newest_version_in_its_pods_and_after_the_finished_steps(world: World) -> None:
    run_id = await suspended(world)
    fixed = a_task(source="x = 2", pod=PodParts(image="runner:new", preload=None, source_hash="1" * 16))
    world.cluster.tasks[(SHOP.namespace, "order")] = fixed
    await world.resumption.resume(SHOP, run_id, "order")
    row = await world.get(run_id)
    assert (row["state"], row["version"], row["reason"], row["message"]) == (
        "Queued", 2, None, "Resumed with version 2 of the Task.",
    )  # fmt: skip
    (attempt,) = await world.claim(claim_id="claim-2")
    assert (attempt.run_id, attempt.source, [s.key for s in attempt.steps]) == (str(run_id), "x = 2", ["a"])
    assert attempt.number == 2
    events = await world.runs.events(run_id, after=0, limit=10)
    assert [e["type"] for e in events] == ["Queued", "Running", "Suspended", "Resumed", "Running"]
    done = protocol.CompleteRequest(result=msgspec.Raw(b"1"))
    assert (await world.attempts.complete(attempt.token, done)).state == "Succeeded"
    assert status_of(await world.get(run_id))["error"] is None


async def test_resume_with_a_version_takes_that_one_even_where_the_task_is_gone(world: World) -> None:
    run_id = await suspended(world)
    del world.cluster.tasks[(SHOP.namespace, "order")]
    with pytest.raises(TaskNotFoundError):
        await world.resumption.resume(SHOP, run_id, "order")
    with pytest.raises(TaskNotFoundError):
        await world.resumption.resume(SHOP, run_id, "order", version=7)
    assert (await world.get(run_id))["state"] == "Suspended"
    await world.resumption.resume(SHOP, run_id, "order", version=1)
    assert (await world.get(run_id))["state"] == "Queued"


@pytest.mark.parametrize("large", [False, True])
async def test_a_payload_that_the_newest_task_refuses_keeps_the_run_suspended(world: World, large: bool) -> None:
    text = "x" * (70_000 if large else 1)
    run_id = await world.submit(a_task(), payload={"n": 1, "text": text})
    (attempt,) = await world.claim()
    await world.attempts.fail(attempt.token, divergence())
    stricter = a_task(payload_schema={"type": "object", "properties": {"n": {"minimum": 2}}})
    world.cluster.tasks[(SHOP.namespace, "order")] = stricter
    with pytest.raises(PayloadInvalidError, match=r"payload\.n: 1 is less than the minimum of 2") as refused:
        await world.resumption.resume(SHOP, run_id, "order")
    assert refused.value.field == "payload.n"
    assert (await world.get(run_id))["state"] == "Suspended"
    await world.submissions.trigger(SHOP, Submission(task="order", payload={"n": 2}))  # so there is a version of it
    with pytest.raises(PayloadInvalidError):
        await world.resumption.resume(SHOP, run_id, "order", version=2)
    await world.resumption.resume(SHOP, run_id, "order", version=1)
    assert (await world.get(run_id))["state"] == "Queued"


async def test_only_a_suspended_run_is_resumed_and_only_once(world: World) -> None:
    run_id = await suspended(world)
    await world.resumption.resume(SHOP, run_id, "order")
    with pytest.raises(NotSuspendedError, match=r"is Queued\. Only a run that is Suspended"):
        await world.resumption.resume(SHOP, run_id, "order")


async def test_a_suspended_run_is_cancelled_at_once_also_with_its_resource_or_its_namespace(world: World) -> None:
    run_id = await suspended(world)
    assert await world.runs.cancel(run_id, reason="Cancelled", message="") is RunState.CANCELLED
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task()
    other = await world.apply_run(name="order-2")
    assert other is not None
    (attempt,) = await world.claim(claim_id="claim-2")
    await world.attempts.fail(attempt.token, divergence())
    await world.runs.resource_gone(other, "uid-of-order-2")
    assert (await world.get(other))["reason"] == "ResourceDeleted"
    third = await suspended(world)
    del world.cluster.namespaces[SHOP.namespace]
    assert await world.namespaces.end_runs() == 1
    assert (await world.get(third))["state"] == "Cancelled"


async def test_a_run_that_is_being_cancelled_is_not_suspended(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    assert (await world.attempts.fail(attempt.token, divergence())).state == "Cancelled"


async def test_a_suspended_attempt_can_write_no_more(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.attempts.fail(attempt.token, divergence())
    with pytest.raises(AttemptClosedError):
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("b")]))


async def test_places_and_code_ids_come_back_with_the_next_claim(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    step = a_step("a")
    step.place, step.code_id = 1, "0123456789ab"
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step, a_step("by-http")]))
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(60 * SECOND)
    (second,) = await world.claim(claim_id="claim-2")
    assert [(s.key, s.place, s.code_id) for s in second.steps] == [("a", 1, "0123456789ab"), ("by-http", None, None)]


async def test_only_what_took_the_place_of_a_dropped_result_overwrites_a_checkpoint_and_only_once(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()

    async def save(result: str, *, replaces: bool) -> str:
        step = a_step("a", result=result)
        step.replaces = replaces
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))
        (row,) = await world.runs.steps(run_id, after=0, limit=10)
        return str(row["result"])

    assert await save("1", replaces=False) == "1"
    assert await save("2", replaces=False) == "1"
    assert await save("3", replaces=True) == "3"
    assert await save("4", replaces=True) == "3"
