"""Approval resources: made once, read for decisions, shown, removed; whatever is lost or made up in between."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.support.approvals import a_question, asking
from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_task
from windlass import protocol
from windlass_operator.domain.approvals import Approval
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeUnavailableError
from windlass_operator.ledger import approvals
from windlass_operator.ledger.database import Database
from windlass_operator.resources.base import ResourceInvalidError
from windlass_operator.services.approvals import Verdict

HOUR = timedelta(hours=1)
ALICE = Verdict("Approved", "alice", "fine", "api")


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


async def made(world: World) -> tuple[Approval, dict[str, Any]]:
    """Have the operator look once, and return the only approval with its resource."""
    await world.approval_resources.make_and_show()
    (found,) = (await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9))[0]
    body = world.approval_objects.named(found.name)
    assert body is not None
    return found, body


async def look(world: World) -> None:
    """Have the operator do all that it does by itself."""
    await world.approval_resources.resync()
    await world.approval_resources.keep_house()
    await world.approval_resources.make_and_show()


def conditions(body: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in body["status"]["conditions"]}


async def test_a_question_becomes_a_resource_that_says_all_of_it(world: World) -> None:
    run_id, _ = await asking(world, a_question(details={"order": 7}))
    found, body = await made(world)
    assert body["spec"] == {
        "runId": str(run_id),
        "task": "order",
        "step": "approval",
        "question": "Refund 80 EUR?",
        "details": {"order": 7},
        "expiresAt": "2030-01-01T13:00:00Z",
    }
    assert body["metadata"]["labels"]["windlass.dev/run-id"] == str(run_id)
    assert (body["status"]["state"], body["status"]["summary"]) == ("Pending", "Refund 80 EUR?")
    assert conditions(body) == {"Approved": "Unknown", "Finished": "False"}
    assert found.uid == body["metadata"]["uid"]


async def test_a_resource_belongs_to_the_run_resource_and_goes_with_it(world: World) -> None:
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task()
    await world.apply_run(name="order-1")
    (attempt,) = await world.claim()
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question()]))
    _, body = await made(world)
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Run", "order-1", "uid-of-order-1")
    assert "controller" not in owner
    assert body["spec"]["runRef"] == {"name": "order-1"}


async def test_an_answer_that_was_lost_makes_no_second_resource(world: World, clock: Clock) -> None:
    await asking(world)
    world.approval_objects.lost_answers.append(KubeUnavailableError("no answer"))
    await world.approval_resources.make_and_show()
    clock.advance(30 * SECOND)
    found, body = await made(world)
    assert (world.approval_objects.posts, len(world.approval_objects.objects)) == (2, 1)
    assert found.uid == body["metadata"]["uid"]


async def test_a_decision_in_the_resource_wakes_the_run_and_is_shown(world: World) -> None:
    run_id, _ = await asking(world)
    found, _ = await made(world)
    body = world.approval_objects.decide(found.name, "Refused", "bob", "too much")
    await world.approval_resources.observe(body)
    assert (await world.get(run_id))["state"] == "Queued"
    found, body = await made(world)
    status = body["status"]
    assert (status["state"], status["by"], status["comment"]) == ("Refused", "bob", "too much")
    assert status["decidedAt"] == "2030-01-01T12:00:00Z"
    assert status["observedGeneration"] == body["metadata"]["generation"]
    assert conditions(body) == {"Approved": "False", "Finished": "True"}
    assert found.through == "resource"


async def test_a_decision_that_no_watch_reported_is_found(world: World) -> None:
    run_id, _ = await asking(world)
    found, _ = await made(world)
    world.approval_objects.decide(found.name, "Approved", "bob")
    await look(world)
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_decision_by_the_api_is_written_into_the_resource(world: World) -> None:
    await asking(world)
    found, _ = await made(world)
    await world.approvals.decide(found, ALICE)
    _, body = await made(world)
    assert (body["spec"]["decision"], body["spec"]["by"]) == ("Approved", "alice")
    assert (body["status"]["state"], body["status"]["by"]) == ("Approved", "alice")
    await look(world)
    assert "DecisionIgnored" not in conditions(body), "what we wrote ourselves is no second decision"


async def test_a_decision_that_comes_too_late_is_shown_as_ignored(world: World) -> None:
    await asking(world)
    found, _ = await made(world)
    world.approval_objects.decide(found.name, "Refused", "bob")
    await world.approvals.decide(found, ALICE)
    await look(world)
    await look(world)
    _, body = await made(world)
    assert (body["status"]["state"], body["status"]["by"]) == ("Approved", "alice")
    assert conditions(body)["DecisionIgnored"] == "True"


async def test_two_doors_at_once_agree_on_one_decision(world: World) -> None:
    for _ in range(5):
        await asking_again(world)
    await world.approval_resources.make_and_show()
    found, _ = await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9)
    for approval in found:
        body = world.approval_objects.decide(approval.name, "Refused", "bob")
        await asyncio.gather(
            world.approval_resources.observe(body), world.approvals.decide(approval, ALICE), return_exceptions=True
        )
    await look(world)
    await look(world)
    for approval in (await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9))[0]:
        shown = world.approval_objects.named(approval.name)
        assert shown is not None
        assert shown["status"]["by"] == approval.by in {"alice", "bob"}
        assert ("DecisionIgnored" in conditions(shown)) is (approval.by == "alice")


async def asking_again(world: World) -> None:
    """Have one run more that asks."""
    await world.submit()
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    (attempt,) = await world.attempts.claim(world.identity(seen), f"claim-{seen.uid}", 1)
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=[a_question()]))


async def test_a_resource_that_somebody_deletes_is_made_again_while_the_run_waits(world: World) -> None:
    await asking(world)
    found, body = await made(world)
    await world.approval_objects.delete(SHOP.namespace, found.name, str(found.uid))
    await world.approval_resources.observe(body, deleted=True)
    again, body = await made(world)
    assert (again.name, again.state) == (found.name, "Pending")
    assert again.uid not in (None, found.uid)
    assert body["status"]["state"] == "Pending"


async def test_an_old_event_of_a_deletion_changes_nothing(world: World) -> None:
    await asking(world)
    found, body = await made(world)
    await world.approval_resources.observe(body, deleted=True)
    assert (await made(world))[0].uid == found.uid


async def test_a_resource_that_went_unseen_is_made_again(world: World, clock: Clock) -> None:
    await asking(world)
    found, _ = await made(world)
    await world.approval_objects.delete(SHOP.namespace, found.name, str(found.uid))
    clock.advance(60 * SECOND)
    await look(world)
    assert world.approval_objects.named(found.name) is not None


async def test_what_nobody_decided_in_time_is_shown_as_expired(world: World, clock: Clock) -> None:
    await asking(world)
    await made(world)
    clock.advance(HOUR)
    await world.waits.fire_due()
    await look(world)
    _, body = await made(world)
    assert body["status"]["state"] == "Expired"
    assert "by" not in {key for key, value in body["status"].items() if value is not None}


async def test_a_run_that_ends_withdraws_its_question_and_the_resource_goes_later(world: World, clock: Clock) -> None:
    run_id, _ = await asking(world)
    found, _ = await made(world)
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    await look(world)
    _, body = await made(world)
    assert body["status"]["state"] == "Withdrawn"
    clock.advance(HOUR - SECOND)
    await look(world)
    assert world.approval_objects.named(found.name) is not None
    clock.advance(2 * SECOND)
    await look(world)
    await look(world)
    assert world.approval_objects.objects == {}


async def test_a_question_that_is_over_before_the_operator_looks_gets_no_resource(world: World) -> None:
    run_id, _ = await asking(world)
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    await look(world)
    assert world.approval_objects.posts == 0


async def test_a_resource_that_is_seen_while_its_uid_is_written_down_is_not_disowned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asking(world)
    real = approvals.is_being_made
    (found,) = (await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9))[0]
    uid = await world.approval_objects.create(found)
    body = world.approval_objects.named(found.name)
    assert body is not None

    async def written_meanwhile(*asked: Any) -> bool:
        await approvals.created(world.database, found, uid)
        return await real(*asked)

    monkeypatch.setattr(approvals, "is_being_made", written_meanwhile)
    await world.approval_resources.observe(body)
    assert world.approval_objects.disowned == []


async def test_an_approval_that_no_run_asks_for_is_told_so_and_decides_nothing(world: World) -> None:
    run_id, _ = await asking(world)
    found, body = await made(world)
    fake = {"metadata": {"name": "fake"}, "spec": {**body["spec"], "decision": "Approved", "by": "mallory"}}
    uid = world.approval_objects.add(fake, SHOP.namespace)
    for _ in range(3):
        await look(world)
    stranger = world.approval_objects.objects[uid]
    assert (stranger["status"]["state"], world.approval_objects.disowned) == ("Withdrawn", ["fake"])
    assert stranger["status"]["conditions"][0]["reason"] == "ApprovalUnknown"
    assert (await world.get(run_id))["state"] == "Waiting"
    assert (await made(world))[0].uid == found.uid


async def test_a_name_that_something_else_has_is_given_up(world: World) -> None:
    run_id, _ = await asking(world)
    ((found,), _) = await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9)
    world.approval_objects.add({"metadata": {"name": found.name}, "spec": {"runId": "another"}}, SHOP.namespace)
    await world.approval_resources.make_and_show()
    again, body = await made(world)
    assert again.name != found.name
    assert body["spec"]["runId"] == str(run_id)


async def test_one_that_is_refused_waits_and_keeps_no_other_from_its_turn(world: World, clock: Clock) -> None:
    await asking_again(world)
    await asking_again(world)
    (second, first), _ = await world.approvals.list_page(SHOP, frozenset(), before=None, limit=9)
    world.approval_objects.refuse[first.name] = ForbiddenByPolicyError("no", policy="namespace-terminating")
    for _ in range(5):
        await world.approval_resources.make_and_show()
    assert world.approval_objects.named(second.name) is not None
    assert world.approval_objects.posts == 2, "the refused one is not tried each second"
    del world.approval_objects.refuse[first.name]
    clock.advance(30 * SECOND)
    await world.approval_resources.make_and_show()
    assert world.approval_objects.named(first.name) is not None


JUNK: list[Any] = [
    {"decision": 7, "by": "bob"},
    {"decision": "Maybe", "by": "bob"},
    {"decision": "Approved", "by": {"a": 1}},
    ["decision"],
    "Approved",
]


@pytest.mark.parametrize("spec", JUNK)
async def test_junk_in_a_spec_is_an_error_with_words_and_decides_nothing(world: World, spec: Any) -> None:
    run_id, _ = await asking(world)
    _, body = await made(world)
    with pytest.raises(ResourceInvalidError):
        await world.approval_resources.observe({**body, "spec": spec})
    world.approval_objects.objects[body["metadata"]["uid"]] = {**body, "spec": spec}
    await look(world)
    assert (await world.get(run_id))["state"] == "Waiting"


async def test_a_decision_without_a_name_counts_where_no_policy_asks_for_one(world: World) -> None:
    await asking(world)
    found, body = await made(world)
    await world.approval_resources.observe({**body, "spec": {**body["spec"], "decision": "Approved"}})
    assert (await made(world))[0].by == "unknown"
    assert found.state == "Pending"


@pytest.mark.parametrize("body", [{}, {"metadata": None}, {"metadata": {"uid": 7, "name": None}}])
async def test_objects_that_are_hardly_any_stop_nothing(world: World, body: dict[str, Any]) -> None:
    await world.approval_resources.observe(body, deleted=True)


async def test_a_status_that_somebody_else_wrote_is_written_again(world: World) -> None:
    await asking(world)
    _, body = await made(world)
    body["status"] = {"state": "Approved"}
    await look(world)
    assert body["status"]["state"] == "Pending"
