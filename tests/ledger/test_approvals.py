"""Approvals on a real PostgreSQL: the first decision ends the wait, whoever races for it."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.support.approvals import a_question, asking
from tests.support.clock import Clock
from tests.support.contention import holding
from tests.support.world import SECOND, SHOP, World
from windlass import protocol
from windlass_operator.domain.approvals import Approval, ApprovalNotFoundError, ApprovalOverError, ApprovalState
from windlass_operator.domain.errors import InvalidRequestError, PayloadTooLargeError, WindlassError
from windlass_operator.domain.project import Project
from windlass_operator.ledger.database import Database
from windlass_operator.services.approvals import Verdict

_LOCK_RUN = "SELECT 1 FROM run WHERE id = %s FOR UPDATE"
HOUR = timedelta(hours=1)
ALICE = Verdict("Approved", "alice", "fine", "api")
BOB = Verdict("Refused", "bob", None, "resource")


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def listed(world: World, *states: ApprovalState) -> list[Approval]:
    found, _ = await world.approvals.list_page(SHOP, frozenset(states), before=None, limit=50)
    return found


async def only(world: World) -> Approval:
    (found,) = await listed(world)
    return found


async def what_the_code_gets(world: World, claim_id: str = "claim-2") -> protocol.Step:
    (attempt,) = await world.claim(claim_id=claim_id)
    (step,) = attempt.steps
    return step


async def test_a_run_that_asks_holds_nothing_and_names_its_approval(world: World) -> None:
    run_id, _ = await asking(world, a_question(details={"order": 7}))
    found = await only(world)
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Waiting", "WaitingForApproval")
    assert row["message"].startswith(f"Waiting for approval {found.name} until 2030-01-01T13:00:00Z")
    assert (found.question, found.details, found.state) == ("Refund 80 EUR?", '{"order":7}', "Pending")
    assert (found.task, found.run_id, found.key) == ("order", run_id, "approval")
    assert found.name.startswith("order-")


async def test_a_decision_wakes_the_run_and_is_what_its_code_gets(world: World, clock: Clock) -> None:
    run_id, _ = await asking(world)
    clock.advance(SECOND)
    decided = await world.approvals.decide(await only(world), ALICE)
    assert (decided.state, decided.by, decided.comment) == ("Approved", "alice", "fine")
    assert (await world.get(run_id))["state"] == "Queued"
    step = await what_the_code_gets(world)
    assert (step.kind, step.state) == ("approval", "succeeded")
    assert json.loads(bytes(step.result)) == {
        "approved": True,
        "by": "alice",
        "comment": "fine",
        "at": "2030-01-01T12:00:01+00:00",
    }


async def test_the_first_decision_counts_and_later_ones_are_told_whose_it_was(world: World) -> None:
    await asking(world)
    found = await only(world)
    await world.approvals.decide(found, ALICE)
    with pytest.raises(ApprovalOverError, match="approved by alice at 2030-01-01T12:00:00Z") as refused:
        await world.approvals.decide(found, BOB)
    assert refused.value.code == "ApprovalDecided"
    assert (await only(world)).by == "alice"


async def test_to_say_the_same_again_changes_nothing(world: World) -> None:
    await asking(world)
    found = await only(world)
    first = await world.approvals.decide(found, ALICE)
    assert await world.approvals.decide(found, ALICE) == first


async def test_two_who_decide_at_once_agree_on_one(world: World, ledger_uri: str) -> None:
    run_id, _ = await asking(world)
    found = await only(world)
    async with holding(ledger_uri, _LOCK_RUN, run_id) as holder:
        racing = asyncio.gather(
            world.approvals.decide(found, ALICE), world.approvals.decide(found, BOB), return_exceptions=True
        )
        await holder.waited_for(by=2)
    results = await racing
    assert sorted(type(result).__name__ for result in results) == ["Approval", "ApprovalOverError"]
    decided = next(result for result in results if isinstance(result, Approval))
    step = await what_the_code_gets(world)
    assert json.loads(bytes(step.result))["by"] == decided.by == (await only(world)).by


async def test_nobody_in_time_is_a_failure_of_its_own_and_a_later_decision_is_refused(
    world: World, clock: Clock
) -> None:
    await asking(world)
    found = await only(world)
    clock.advance(HOUR)
    await world.waits.fire_due()
    assert (await only(world)).state == "Expired", "at once, whatever the loops have done"
    with pytest.raises(ApprovalOverError) as refused:
        await world.approvals.decide(found, ALICE)
    assert refused.value.code == "ApprovalExpired"
    step = await what_the_code_gets(world)
    assert (step.state, step.durable) == ("failed", True)
    assert step.error is not None
    assert step.error.type == "WaitTimeoutError"


@pytest.mark.parametrize("timer_first", [True, False])
async def test_a_decision_and_the_timeout_at_once_agree_on_one(
    world: World, clock: Clock, ledger_uri: str, *, timer_first: bool
) -> None:
    run_id, _ = await asking(world)
    found = await only(world)
    clock.advance(HOUR)
    if timer_first:
        await world.waits.fire_due()
        with pytest.raises(ApprovalOverError):
            await world.approvals.decide(found, ALICE)
    else:
        async with holding(ledger_uri, _LOCK_RUN, run_id) as holder:
            deciding = asyncio.create_task(world.approvals.decide(found, ALICE))
            await holder.waited_for()
            await world.waits.fire_due()  # leaves alone what somebody else has in hand
        assert (await deciding).state == "Approved"
        await world.waits.fire_due()
    await world.approval_resources.keep_house()
    step = await what_the_code_gets(world)
    assert (step.state, (await only(world)).state) in {("failed", "Expired"), ("succeeded", "Approved")}
    assert (step.state == "failed") is timer_first


async def test_a_cancelled_run_asks_no_more(world: World) -> None:
    run_id, _ = await asking(world)
    found = await only(world)
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    assert (await only(world)).state == "Withdrawn"
    with pytest.raises(ApprovalOverError) as refused:
        await world.approvals.decide(found, ALICE)
    assert refused.value.code == "ApprovalWithdrawn"


async def test_a_decision_and_a_cancellation_at_once_agree_on_one(world: World, ledger_uri: str) -> None:
    run_id, _ = await asking(world)
    found = await only(world)
    async with holding(ledger_uri, _LOCK_RUN, run_id) as holder:
        racing = asyncio.gather(
            world.approvals.decide(found, ALICE),
            world.runs.cancel(run_id, reason="Cancelled", message=""),
            return_exceptions=True,
        )
        await holder.waited_for(by=2)
    decided, _ = await racing
    assert (await world.get(run_id))["state"] == "Cancelled"
    assert (await only(world)).state == ("Approved" if isinstance(decided, Approval) else "Withdrawn")


async def test_a_run_that_is_being_cancelled_asks_no_more(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question()]))
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    assert (await world.get(run_id))["state"] == "Cancelling"
    with pytest.raises(ApprovalOverError):
        await world.approvals.decide(await only(world), ALICE)


async def test_a_decision_reaches_code_that_still_runs(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question()]))
    await world.approvals.decide(await only(world), BOB)
    (step,) = (await world.waits.register(attempt.token, protocol.WaitsRequest(keys=["approval"]))).over
    assert json.loads(bytes(step.result))["approved"] is False


async def test_to_ask_again_makes_no_second_approval(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    for _ in range(3):
        await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question()]))
    assert len(await listed(world)) == 1


async def test_two_questions_of_one_run_are_two_approvals(world: World) -> None:
    run_id, _ = await asking(world, a_question("approval"), a_question("approval#2"))
    first, second = await listed(world)
    assert first.name != second.name
    await world.approvals.decide(first, ALICE)
    assert [found.name for found in await listed(world, ApprovalState.PENDING)] == [second.name]
    assert (await world.get(run_id))["state"] == "Queued"


async def test_pages_of_a_list_miss_nothing(world: World) -> None:
    await asking(world, *(a_question(f"q{number}") for number in range(5)))
    names: list[str] = []
    before: int | None = None
    while True:
        found, before = await world.approvals.list_page(SHOP, frozenset(), before=before, limit=2)
        names += [approval.key for approval in found]
        if before is None:
            break
    assert names == ["q4", "q3", "q2", "q1", "q0"]


async def test_a_project_sees_its_own_approvals_only(world: World) -> None:
    await asking(world)
    found = await only(world)
    successor = Project(uid="another", namespace=SHOP.namespace)
    with pytest.raises(ApprovalNotFoundError):
        await world.approvals.get(successor, found.name)
    assert await world.approvals.list_page(successor, frozenset(), before=None, limit=9) == ([], None)
    assert await world.approvals.get(SHOP, found.name) == found


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        ({"question": ""}, InvalidRequestError),
        ({"question": "x" * 1025}, InvalidRequestError),
        ({"question": 7}, InvalidRequestError),
        ({"details": "x" * 16_384}, PayloadTooLargeError),
    ],
)
async def test_a_question_that_cannot_be_asked_is_refused_and_leaves_nothing(
    world: World, detail: dict[str, Any], error: type[WindlassError]
) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    with pytest.raises(error):
        await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question(**detail)]))
    assert await listed(world) == []
    assert await world.database.fetch("SELECT * FROM wait") == []


async def test_what_postgres_cannot_hold_does_not_lose_a_decision(world: World) -> None:
    await asking(world, a_question(question="a\0b"))
    odd = Verdict("Approved", "al\0ice", "half \ud800", "resource")
    decided = await world.approvals.decide(await only(world), odd)
    assert (decided.by, decided.comment) == ("al\ufffdice", "half ?")
