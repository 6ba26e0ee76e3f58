"""Submission, import, pods and projection on a real PostgreSQL."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import PayloadInvalidError, TaskNotFoundError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.kube.errors import ForbiddenByPolicyError, KubeUnavailableError
from windlass_operator.ledger.database import Database
from windlass_operator.ledger.projection import LeadershipLostError, take_epoch


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


SCHEMA = {"type": "object", "required": ["orderId"], "properties": {"orderId": {"type": "integer"}}}


async def test_a_task_that_does_not_exist_is_refused_at_once_by_the_api(world: World) -> None:
    from windlass_operator.services.submitted import Submission

    with pytest.raises(TaskNotFoundError, match="kubectl get tasks"):
        await world.submissions.trigger(SHOP, Submission(task="nothing"))


async def test_a_payload_that_breaks_the_schema_names_the_place(world: World) -> None:
    with pytest.raises(PayloadInvalidError, match=r"payload\.orderId") as caught:
        await world.submit(a_task(payload_schema=SCHEMA), payload={"orderId": "seven"})
    assert caught.value.field == "payload.orderId"


async def test_a_run_resource_with_a_bad_payload_fails_visibly(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task(payload_schema=SCHEMA)
    run_id = await world.apply_run(payload={})
    assert run_id is not None
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "PayloadInvalid")
    assert "orderId" in row["message"]


async def test_a_run_resource_is_imported_once(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task()
    assert await world.apply_run() is not None
    assert await world.apply_run() is None


async def test_a_run_waits_for_its_task_and_goes_on_when_that_appears(world: World) -> None:
    run_id = await world.apply_run()
    assert run_id is not None
    assert (await world.get(run_id))["reason"] == "TaskNotFound"
    world.cluster.tasks["shop", "order"] = a_task()
    assert await world.submissions.task_seen(SHOP, "order") == 1
    (attempt,) = await world.claim()
    assert attempt.run_id == str(run_id)
    assert await world.submissions.task_seen(SHOP, "order") == 0


async def test_a_run_whose_task_never_appears_fails_after_the_start_timeout(world: World, clock: Clock) -> None:
    run_id = await world.apply_run()
    assert run_id is not None
    clock.advance(timedelta(minutes=9))
    assert await world.runs.fail_held() == 0
    clock.advance(timedelta(minutes=2))
    assert await world.runs.fail_held() == 1
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "TaskNotFound")


async def test_the_same_spec_is_the_same_version_and_an_edit_is_the_next(world: World) -> None:
    first = await world.submit()
    second = await world.submit()
    third = await world.submit(a_task(retry=RetryPolicy(max_attempts=9)))
    versions = [(await world.get(run))["version"] for run in (first, second, third)]
    assert versions == [1, 1, 2]


async def test_an_edit_of_retry_keeps_the_pod_key(world: World) -> None:
    await world.submit()
    await world.submit(a_task(retry=RetryPolicy(max_attempts=9)))
    await world.pods.start_due()
    keys = await world.database.fetch("SELECT count(DISTINCT pod_key) AS n FROM task_version")
    assert keys[0]["n"] == 1


async def test_one_pod_starts_for_each_run_and_no_second_one(world: World) -> None:
    for _ in range(3):
        await world.submit()
    await world.pods.start_due()
    await world.pods.start_due()
    assert len(world.cluster.pods) == 3


async def test_a_pod_whose_post_was_not_answered_is_created_under_the_same_name(world: World, clock: Clock) -> None:
    await world.submit()
    world.cluster.refuse = KubeUnavailableError("away")
    await world.pods.start_due()
    planned = await world.database.fetch("SELECT name FROM pod")
    world.cluster.refuse = None
    clock.advance(6 * SECOND)
    await world.pods.resume_plans()
    assert [p.name for p in world.cluster.pods.values()] == [planned[0]["name"]]


async def test_a_refused_pod_is_the_reason_of_its_runs_and_backs_off(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    world.cluster.refuse = ForbiddenByPolicyError("violates PodSecurity", policy="pod-security")
    assert await world.pods.start_due() is None
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["message"]) == ("Queued", "ForbiddenByPolicy", "violates PodSecurity")
    world.cluster.refuse = None
    assert await world.pods.start_due() == SECOND
    assert not world.cluster.pods
    clock.advance(SECOND)
    (attempt,) = await world.claim()
    assert (await world.get(run_id))["reason"] is None
    assert attempt.number == 1


async def test_an_image_that_cannot_be_pulled_is_the_reason_of_its_runs(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    await world.pods.start_due()
    seen = next(iter(world.cluster.pods.values()))
    await world.pods.observe(replace(seen, reason="ImagePullFailed", message="no such image"))
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Queued", "ImagePullFailed")
    clock.advance(timedelta(minutes=11))
    assert await world.runs.fail_held() == 1
    assert (await world.get(run_id))["state"] == "Failed"


async def test_a_deleted_pod_gives_its_run_to_another_one_at_once(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("one")]))
    seen = world.cluster.pods.popitem()[1]
    await world.pods.observe(replace(seen, exists=False, ended=True))
    row = await world.get(run_id)
    assert (row["state"], row["infra_failures"]) == ("Queued", 1)
    (second,) = await world.claim(claim_id="claim-2")
    assert ([s.key for s in second.steps], second.number) == (["one"], 2)


async def test_a_pod_whose_deletion_nobody_saw_is_missed_by_the_resync(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    await world.claim()
    world.cluster.pods.clear()
    clock.advance(31 * SECOND)
    await world.pods.resync()
    assert (await world.get(run_id))["state"] == "Queued"


async def test_a_predecessor_plans_no_pods_after_another_operator_took_the_lead(world: World) -> None:
    await world.submit()
    await take_epoch(world.database, "successor")
    with pytest.raises(LeadershipLostError):
        await world.pods.start_due()
    assert not world.cluster.pods


async def test_ended_pods_are_deleted_soon_after_success_and_late_after_failure(world: World, clock: Clock) -> None:
    await world.submit()
    await world.pods.start_due()
    seen = next(iter(world.cluster.pods.values()))
    await world.pods.observe(replace(seen, ended=True, succeeded=True, exit_code=0))
    clock.advance(61 * SECOND)
    await world.pods.delete_due()
    assert not world.cluster.pods


async def test_the_status_of_a_resource_follows_its_run(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task()
    run_id = await world.apply_run()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["state"] == "Queued"
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("one")]))
    await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b'{"ok":true}')))
    await world.projection.project_due()
    status = world.cluster.statuses["order-1"]
    assert (status["state"], status["result"], status["runId"]) == ("Succeeded", {"ok": True}, str(run_id))
    assert status["steps"] == {"succeeded": 1, "failed": 0, "running": 0, "waiting": 0}
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [("Succeeded", "True"), ("Finished", "True")]
    assert await world.projection.project_due() == 0


async def test_a_change_during_projection_is_projected_again(world: World) -> None:
    from windlass_operator.ledger import projection

    world.cluster.tasks["shop", "order"] = a_task()
    await world.apply_run()
    ((run_id, revision),) = await projection.due(world.database, 10)
    await world.claim()
    await projection.done(world.database, {run_id: revision})
    assert [due for due, _ in await projection.due(world.database, 10)] == [run_id]


async def test_a_resource_that_our_ttl_removed_binds_again_and_never_runs_twice(world: World, clock: Clock) -> None:
    world.cluster.tasks["shop", "order"] = a_task(ttl_seconds=60)
    first = await world.apply_run()
    (attempt,) = await world.claim()
    await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))
    await world.projection.project_due()
    assert await world.projection.remove_expired() == 0
    clock.advance(61 * SECOND)
    assert await world.projection.remove_expired() == 1
    assert world.cluster.deleted_runs == ["order-1"]
    assert await world.apply_run(uid=str(uuid4())) == first
    assert await world.pods.start_due() is None
    assert (await world.get(first))["state"] == "Succeeded"  # type: ignore[arg-type]  # it was imported


async def test_a_task_whose_source_has_a_nul_keeps_no_resource_beyond_its_time(world: World, clock: Clock) -> None:
    """Nor those of other Tasks, which are looked for with it. The schema names a field like ours."""
    schema = {"default": {"ttl_seconds": 7200}}
    world.cluster.tasks["shop", "order"] = a_task(ttl_seconds=60, source="x = '\0'", payload_schema=schema)
    await world.apply_run()
    (attempt,) = await world.claim()
    await world.attempts.complete(attempt.token, protocol.CompleteRequest())
    await world.projection.project_due()
    clock.advance(59 * SECOND)
    assert await world.projection.remove_expired() == 0
    clock.advance(2 * SECOND)
    assert await world.projection.remove_expired() == 1


async def test_a_resource_that_a_person_deleted_and_created_again_runs_again(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task()
    first = await world.apply_run()
    (attempt,) = await world.claim()
    await world.attempts.complete(attempt.token, protocol.CompleteRequest(result=msgspec.Raw(b"1")))
    second = await world.apply_run(uid=str(uuid4()))
    assert second not in (None, first)


async def test_the_status_says_which_generation_of_the_resource_was_seen(world: World) -> None:
    from windlass_operator.ledger import runs

    world.cluster.tasks["shop", "order"] = a_task()
    await world.apply_run()
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["observedGeneration"] == 1
    await runs.see_generation(world.database, "uid-of-order-1", 2, "hash")
    await world.projection.project_due()
    assert world.cluster.statuses["order-1"]["observedGeneration"] == 2
    await runs.see_generation(world.database, "uid-of-order-1", 2, "hash")
    assert await world.projection.project_due() == 0


async def test_a_schema_cannot_make_us_read_files_or_urls(world: World) -> None:
    task = a_task(payload_schema={"$ref": "file:///etc/hostname"})
    with pytest.raises(
        PayloadInvalidError, match=r"payloadSchema is not a JSON schema: .*only point into the schema"
    ) as e:
        await world.submit(task, payload=1)
    assert e.value.hint == "Correct the Task; `$ref` may point to its own `$defs` only."


async def test_a_run_is_not_failed_for_a_problem_that_its_pods_no_longer_have(world: World, clock: Clock) -> None:
    """The pod that first started claimed at once: nobody saw it started and without a claim."""
    await world.submit()
    await world.pods.start_due()
    (seen,) = world.cluster.pods.values()
    waiting = await world.submit()
    await world.pods.observe(replace(seen, reason="ImagePullFailed", message="no such image"))
    await world.attempts.claim(world.identity(seen), "claim-1", 1)
    await world.pods.observe(replace(seen, started=True))
    clock.advance(timedelta(minutes=11))
    assert await world.runs.fail_held() == 0
    row = await world.get(waiting)
    assert (row["state"], row["reason"], row["held_since"]) == ("Queued", None, None)


async def test_a_pod_that_we_deleted_does_not_count_as_on_its_way_if_nobody_saw_it_go(
    world: World, clock: Clock
) -> None:
    run_id = await world.submit()
    await world.pods.start_due()
    await world.runs.cancel(run_id, reason="Cancelled", message="")
    clock.advance(61 * SECOND)
    await world.pods.delete_due()
    assert not world.cluster.pods
    await world.submit()
    await world.pods.start_due()
    assert len(world.cluster.pods) == 1


async def test_a_run_that_changes_often_is_projected_before_younger_ones(world: World, clock: Clock) -> None:
    from windlass_operator.ledger import projection

    world.cluster.tasks["shop", "order"] = a_task()
    busy = await world.apply_run()
    await world.claim()
    clock.advance(SECOND)
    await world.apply_run(name="order-2")
    assert await projection.due(world.database, 1) == [(busy, 2)]
