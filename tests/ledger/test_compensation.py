"""Runs that end without success after steps that can be undone, on a real PostgreSQL."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.ledger.test_suspended import divergence
from tests.ledger.test_waits import a_sleep, begin, suspend
from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.compensation import COMPENSATION_BUDGET
from windlass_operator.domain.errors import AttemptClosedError, PayloadTooLargeError
from windlass_operator.domain.pods import PodSeen
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Database
from windlass_operator.services.projection import status_of

ONCE = RetryPolicy(max_attempts=1, jitter="none")
DONE = protocol.CompleteRequest(result=msgspec.Raw(b"null"))


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def undoable(key: str, **changes: Any) -> protocol.Step:
    """Return a finished step with a compensation."""
    step = a_step(key, **changes)
    step.compensation = msgspec.Raw(json.dumps({"module": "order", "arguments": {"id": key}}).encode())
    return step


async def save(world: World, attempt: protocol.ClaimedAttempt, *steps: protocol.Step) -> None:
    for step in steps:
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[step]))


async def undo(world: World, attempt: protocol.ClaimedAttempt, *keys: str) -> None:
    await save(world, attempt, *(a_step(f"compensate/{key}") for key in keys))


async def fails_after(world: World, *steps: protocol.Step, **task: Any) -> UUID:
    """Submit a run that finishes steps and then fails for good."""
    run_id = await world.submit(a_task(**{"retry": ONCE, **task}))
    (attempt,) = await world.claim()
    await save(world, attempt, *steps)
    assert (await world.attempts.fail(attempt.token, a_failure())).state == "Compensating"
    return run_id


async def cancel(world: World, run_id: UUID) -> RunState | None:
    return await world.runs.cancel(run_id, reason="Cancelled", message="by a test")


async def test_a_failed_run_undoes_its_steps_last_first_and_then_fails_as_it_would_have(world: World) -> None:
    run_id = await fails_after(world, undoable("charge", result='"ch_1"'), a_step("look"), undoable("ship"))
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["message"]) == ("Compensating", "AttemptsExhausted", "boom")
    assert row["finished_at"] is None
    (attempt,) = await world.claim(claim_id="claim-2")
    assert (attempt.compensating, attempt.steps, attempt.number) == (True, [], 2)
    assert [(c.key, bytes(c.result)) for c in attempt.compensate] == [("ship", b"1"), ("charge", b'"ch_1"')]
    assert json.loads(bytes(attempt.compensate[1].compensation))["arguments"] == {"id": "charge"}
    assert (await world.get(run_id))["state"] == "Compensating", "a claim makes it none that runs"
    await undo(world, attempt, "ship", "charge")
    assert (await world.attempts.complete(attempt.token, DONE)).state == "Failed"
    row = await world.get(run_id)
    assert (row["reason"], row["message"], row["result"]) == ("AttemptsExhausted", "boom", None)
    assert (json.loads(row["error"])["type"], row["user_failures"]) == ("ValueError", 1)
    events = [(e["type"], e["reason"]) for e in await world.runs.events(run_id, after=0, limit=20)]
    assert events[-3:] == [
        ("Compensating", "AttemptsExhausted"), ("Compensating", None), ("Failed", "AttemptsExhausted"),
    ]  # fmt: skip
    assert [a["outcome"] for a in await world.runs.attempts(run_id)] == ["Failed", "Compensated"]


async def test_a_run_whose_steps_have_nothing_to_undo_ends_at_once(world: World) -> None:
    run_id = await world.submit(a_task(retry=ONCE))
    (attempt,) = await world.claim()
    failed = undoable("charge")
    failed.state = "failed"
    await save(world, attempt, a_step("look"), failed)
    assert (await world.attempts.fail(attempt.token, a_failure())).state == "Failed"
    assert (await world.get(run_id))["ends_as"] is None


async def test_a_run_that_succeeds_undoes_nothing(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    assert (await world.attempts.complete(attempt.token, DONE)).state == "Succeeded"


async def test_steps_of_one_commit_are_undone_against_the_order_in_which_they_were_sent(world: World) -> None:
    await world.submit(a_task(retry=ONCE))
    (attempt,) = await world.claim()
    slow, fast = undoable("slow"), undoable("fast")
    await save(world, attempt, a_step("slow", state="running"))
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[fast, slow]))
    await world.attempts.fail(attempt.token, a_failure())
    (undoing,) = await world.claim(claim_id="claim-2")
    assert [c.key for c in undoing.compensate] == ["slow", "fast"]


async def test_a_running_run_is_cancelled_then_compensated_then_cancelled(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    assert await cancel(world, run_id) is RunState.CANCELLING
    beat = protocol.HeartbeatRequest(beats=[protocol.Beat(token=attempt.token)])
    assert (await world.attempts.heartbeat(beat)).answers[0].cancel
    confirmed = protocol.FailRequest(failure=a_failure().failure, cancelled=True)
    assert (await world.attempts.fail(attempt.token, confirmed)).state == "Compensating"
    (undoing,) = await world.claim(claim_id="claim-2")
    beat = protocol.HeartbeatRequest(beats=[protocol.Beat(token=undoing.token)])
    (answer,) = (await world.attempts.heartbeat(beat)).answers
    assert (answer.open, answer.cancel) == (True, False), "what undoes is not to be stopped"
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Cancelled"
    assert (await world.get(run_id))["reason"] == "Cancelled"


async def test_a_run_that_waits_for_its_retry_is_compensated_at_once_when_it_is_cancelled(world: World) -> None:
    run_id = await world.submit(a_task(retry=RetryPolicy(min_delay=timedelta(minutes=1), jitter="none")))
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.fail(attempt.token, a_failure())
    assert await cancel(world, run_id) is RunState.COMPENSATING
    (undoing,) = await world.claim(claim_id="claim-2")
    assert [c.key for c in undoing.compensate] == ["charge"]
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Cancelled"
    assert (await world.get(run_id))["message"] == "by a test"


async def test_a_cancellation_changes_nothing_of_a_run_that_is_being_undone(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"))
    before = await world.get(run_id)
    assert await cancel(world, run_id) is RunState.COMPENSATING
    assert await world.get(run_id) == before


async def test_a_timed_out_run_has_its_time_back_for_undoing(world: World, clock: Clock) -> None:
    task = a_task(timeout=timedelta(seconds=5), attempt_timeout=timedelta(seconds=60))
    await world.submit(task)
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    clock.advance(6 * SECOND)
    spent = protocol.FailRequest(failure=a_failure("timeout").failure, timed_out="run")
    assert (await world.attempts.fail(attempt.token, spent)).state == "Compensating"
    (undoing,) = await world.claim(claim_id="claim-2")
    assert (undoing.timeout_ms, undoing.attempt_timeout_ms) == (None, 60_000)
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "TimedOut"


async def test_what_an_attempt_undid_is_not_undone_by_the_next(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"), undoable("ship"))
    (first,) = await world.claim(claim_id="claim-2")
    await undo(world, first, "ship")
    await world.attempts.lose(UUID(first.attempt_id), reason="PodDeleted", message="gone")
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["compensation_failures"]) == ("Compensating", "AttemptsExhausted", 1)
    (second,) = await world.claim(claim_id="claim-3")
    assert [c.key for c in second.compensate] == ["charge"]


async def test_the_budget_for_undoing_is_its_own_and_ends_in_the_state_the_run_was_going_to(
    world: World, clock: Clock
) -> None:
    run_id = await fails_after(world, undoable("charge"), undoable("ship"), undoable("mail"))
    for n in range(COMPENSATION_BUDGET):
        clock.advance(30 * SECOND)
        (undoing,) = await world.claim(claim_id=f"undo-{n}")
        if n == 0:
            await undo(world, undoing, "mail")
        outcome = await world.attempts.fail(undoing.token, a_failure("infra" if n % 2 else "user"))
        assert outcome.state == ("Compensating" if n < COMPENSATION_BUDGET - 1 else "Failed")
    row = await world.get(run_id)
    assert (row["reason"], row["user_failures"], row["infra_failures"]) == ("CompensationFailed", 1, 0)
    assert row["message"] == (
        "Not undone: 'ship', 'charge'. ValueError: boom. The run ended for AttemptsExhausted: boom"
    )
    assert json.loads(row["error"])["message"] == "boom"


async def test_a_permanent_failure_to_undo_is_not_tried_again(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"))
    (undoing,) = await world.claim(claim_id="claim-2")
    assert (await world.attempts.fail(undoing.token, a_failure("permanent"))).state == "Failed"
    assert (await world.get(run_id))["reason"] == "CompensationFailed"


async def test_a_runner_that_says_it_is_done_is_not_believed_while_something_is_left(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"))
    (undoing,) = await world.claim(claim_id="claim-2")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Compensating"
    assert (await world.get(run_id))["compensation_failures"] == 1


async def test_a_pod_that_must_stop_hands_back_what_is_left_without_using_the_budget(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"), undoable("ship"))
    (undoing,) = await world.claim(claim_id="claim-2")
    await undo(world, undoing, "ship")
    assert (await world.attempts.release(undoing.token, protocol.ReleaseRequest())).state == "Compensating"
    row = await world.get(run_id)
    assert (row["compensation_failures"], row["reason"]) == (0, "AttemptsExhausted")
    (again,) = await world.claim(claim_id="claim-3")
    assert [c.key for c in again.compensate] == ["charge"]


async def test_a_closed_attempt_undoes_nothing_more(world: World) -> None:
    await fails_after(world, undoable("charge"))
    (undoing,) = await world.claim(claim_id="claim-2")
    await world.attempts.lose(UUID(undoing.attempt_id), reason="LeaseExpired", message="silent")
    with pytest.raises(AttemptClosedError):
        await undo(world, undoing, "charge")
    with pytest.raises(AttemptClosedError):
        await world.attempts.complete(undoing.token, DONE)


async def test_many_steps_to_undo_come_in_pages_of_what_is_left(world: World) -> None:
    large = json.dumps("x" * 60_000)
    await fails_after(world, *(undoable(f"s{n}", result=large) for n in range(20)))
    (undoing,) = await world.claim(claim_id="claim-2")
    assert undoing.more_compensations
    first = [c.key for c in undoing.compensate]
    await undo(world, undoing, *first)
    writer = await world.attempts.authenticate(undoing.token)
    rest = await world.attempts.compensations(writer)
    assert first + [c.key for c in rest.compensations] == [f"s{n}" for n in reversed(range(20))]
    assert not rest.more


async def test_arguments_that_fit_no_row_are_refused(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    step = undoable("charge")
    step.compensation = msgspec.Raw(json.dumps("x" * 70_000).encode())
    with pytest.raises(PayloadTooLargeError, match="compensation of step 'charge'"):
        await save(world, attempt, step)


async def test_a_config_problem_shows_while_it_holds_a_run_back_from_being_undone(world: World, clock: Clock) -> None:
    run_id = await fails_after(world, undoable("charge"), start_timeout=timedelta(minutes=1))
    await world.pods.start_due()
    seen = list(world.cluster.pods.values())[-1]
    await world.pods.observe(_waiting(seen))
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Compensating", "ImagePullFailed")
    (undoing,) = await world.claim(claim_id="claim-2")
    assert (await world.get(run_id))["reason"] == "AttemptsExhausted", "it is being undone, and shows why it ends"
    await world.pods.observe(_waiting(seen))
    clock.advance(timedelta(minutes=2))
    assert await world.runs.fail_held() == 0
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Failed"


async def test_a_config_problem_that_outlasts_start_timeout_ends_the_undoing(world: World, clock: Clock) -> None:
    run_id = await fails_after(world, undoable("charge"), start_timeout=timedelta(minutes=1))
    await world.pods.start_due()
    await world.pods.observe(_waiting(list(world.cluster.pods.values())[-1]))
    clock.advance(timedelta(minutes=2))
    assert await world.runs.fail_held() == 1
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "CompensationFailed")
    assert "Not undone: 'charge'. no such image" in row["message"]
    assert await world.database.fetch("SELECT * FROM queue_entry") == []


async def test_a_config_problem_that_ends_a_queued_run_leaves_its_steps_to_be_undone(
    world: World, clock: Clock
) -> None:
    run_id = await world.submit(a_task(start_timeout=timedelta(minutes=1)))
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    await world.pods.start_due()
    await world.pods.observe(_waiting(list(world.cluster.pods.values())[-1]))
    clock.advance(timedelta(minutes=2))
    assert await world.runs.fail_held() == 1
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["held_since"]) == ("Compensating", "ImagePullFailed", None)
    assert await world.runs.fail_held() == 0, "it has a startTimeout of its own"
    (undoing,) = await world.claim(claim_id="claim-2")
    await undo(world, undoing, "charge")
    before = _finished("Failed", "config")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Failed"
    assert (await world.get(run_id))["reason"] == "ImagePullFailed"
    assert _finished("Failed", "config") == before + 1, "who answers for the end is not forgotten meanwhile"


async def test_a_suspended_run_is_compensated_when_it_is_cancelled(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    assert (await world.attempts.fail(attempt.token, divergence())).state == "Suspended"
    assert await cancel(world, run_id) is RunState.COMPENSATING
    (undoing,) = await world.claim(claim_id="claim-2")
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Cancelled"


async def test_total_timeout_lets_a_run_undo_its_steps_in_its_own_time(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(total_timeout=timedelta(minutes=1)))
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    clock.advance(timedelta(minutes=2))
    before = _finished("TimedOut", "timeout")
    assert await world.progress.end_overdue() == 1
    assert (await world.get(run_id))["state"] == "Compensating"
    assert _finished("TimedOut", "timeout") == before, "it has not ended yet"
    (undoing,) = await world.claim(claim_id="claim-2")
    assert undoing.deadline_ms is None
    assert await world.progress.end_overdue() == 0
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "TimedOut"
    assert (await world.get(run_id))["reason"] == "TotalTimedOut"
    assert _finished("TimedOut", "timeout") == before + 1


def _finished(state: str, failure_class: str) -> float:
    labels = {"namespace": "shop", "task": "order", "state": state, "class": failure_class}
    return metrics.REGISTRY.get_sample_value("windlass_runs_finished_total", labels) or 0


async def test_a_waiting_run_is_compensated_when_it_is_cancelled_and_waits_no_more(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await begin(world, attempt.token, a_sleep())
    assert (await suspend(world, attempt.token, "sleep")).suspended
    assert await cancel(world, run_id) is RunState.COMPENSATING
    assert await world.database.fetch("SELECT * FROM wait") == []
    assert [s["key"] for s in await world.runs.steps(run_id, after=0, limit=10)] == ["charge"]
    (undoing,) = await world.claim(claim_id="claim-2")
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Cancelled"


def _waiting(seen: PodSeen) -> PodSeen:
    return replace(seen, reason="ImagePullFailed", message="no such image")


async def test_deleting_the_resource_while_it_is_undone_changes_nothing(world: World) -> None:
    world.cluster.tasks["shop", "order"] = a_task(retry=ONCE)
    body = world.create_run("order-1")
    await world.imports.observe(body)
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.fail(attempt.token, a_failure())
    del world.cluster.runs["uid-of-order-1"]
    await world.imports.observe(body, deleted=True)
    row = await world.runs.get(SHOP, "order-1")
    assert (row["state"], row["reason"]) == ("Compensating", "AttemptsExhausted")
    (undoing,) = await world.claim(claim_id="claim-2")
    await undo(world, undoing, "charge")
    assert (await world.attempts.complete(undoing.token, DONE)).state == "Failed"


async def test_a_run_of_a_deleted_namespace_ends_with_what_nobody_can_undo_any_more(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"))
    (undoing,) = await world.claim(claim_id="claim-2")
    del world.cluster.namespaces[SHOP.namespace]
    await world.namespaces.end_runs()
    assert (await world.get(run_id))["state"] == "Compensating", "its attempt may still finish"
    await world.attempts.lose(UUID(undoing.attempt_id), reason="PodDeleted", message="gone")
    await world.namespaces.end_runs()
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Failed", "CompensationFailed")
    assert "Its namespace was deleted" in row["message"]


async def test_a_run_that_is_cancelled_with_its_namespace_ends_in_one_go(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt, undoable("charge"))
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    del world.cluster.namespaces[SHOP.namespace]
    await world.namespaces.end_runs()
    row = await world.get(run_id)
    assert (row["state"], row["reason"]) == ("Cancelled", "CompensationFailed")


async def test_the_status_says_when_the_next_attempt_to_undo_may_start(world: World) -> None:
    run_id = await fails_after(world, undoable("charge"))
    (undoing,) = await world.claim(claim_id="claim-2")
    assert status_of(await world.get(run_id))["nextAttemptAt"] is None
    await world.attempts.fail(undoing.token, a_failure())
    shown = status_of(await world.get(run_id))
    assert shown["nextAttemptAt"] is not None
    assert (shown["state"], shown["reason"]) == ("Compensating", "AttemptsExhausted")
    conditions = {c["type"]: c["status"] for c in shown["conditions"]}
    assert conditions == {"Succeeded": "Unknown", "Finished": "False"}
