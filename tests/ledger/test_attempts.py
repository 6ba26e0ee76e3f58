"""Claims, leases and fences on a real PostgreSQL."""

import asyncio
import contextlib
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator import config
from windlass_operator.domain.errors import (
    AttemptClosedError,
    ForbiddenError,
    PodUnknownError,
    UnauthorizedError,
)
from windlass_operator.domain.retry import INFRA_BUDGET, RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.services.claims import PodIdentity


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def complete(text: str = "42") -> protocol.CompleteRequest:
    return protocol.CompleteRequest(result=msgspec.Raw(text.encode()))


async def serve(world: World, clock: Clock, for_how_long: timedelta) -> None:
    """Let time pass while heartbeats are being served."""
    passed = timedelta(0)
    while passed < for_how_long:
        clock.advance(2 * SECOND)
        passed += 2 * SECOND
        await world.attempts.serve_heartbeats()


async def test_a_claimed_run_succeeds_with_its_result(world: World) -> None:
    run_id = await world.submit(payload={"orderId": 7})
    (attempt,) = await world.claim()
    assert (attempt.run_id, attempt.number, bytes(attempt.payload)) == (str(run_id), 1, b'{"orderId":7}')
    outcome = await world.attempts.complete(attempt.token, complete())
    assert outcome.state == "Succeeded"
    row = await world.get(run_id)
    assert (row["state"], row["result"], row["attempts"]) == ("Succeeded", "42", 1)


async def test_a_repeated_completion_is_answered_as_the_first_was(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    first = await world.attempts.complete(attempt.token, complete())
    assert await world.attempts.complete(attempt.token, complete()) == first


async def test_a_repeated_claim_returns_the_same_attempt_and_a_token_that_works(world: World) -> None:
    await world.submit()
    (first,) = await world.claim()
    seen = next(iter(world.cluster.pods.values()))
    (second,) = await world.attempts.claim(world.identity(seen), "claim-1", 1)
    assert second.attempt_id == first.attempt_id
    with pytest.raises(UnauthorizedError):
        await world.attempts.complete(first.token, complete())
    assert (await world.attempts.complete(second.token, complete())).state == "Succeeded"


async def test_a_pod_claims_once(world: World) -> None:
    await world.submit()
    await world.submit()
    await world.claim()
    for seen in world.cluster.pods.values():  # one has claimed; the other claims now, and then no more
        with contextlib.suppress(ForbiddenError):
            await world.attempts.claim(world.identity(seen), "another", 1)
        with pytest.raises(ForbiddenError):
            await world.attempts.claim(world.identity(seen), "yet another", 1)


async def test_an_unknown_pod_is_told_to_ask_again(world: World) -> None:
    with pytest.raises(PodUnknownError):
        await world.attempts.claim(PodIdentity("nobody", "nobody", secret="x"), "c", 1)


async def test_a_credential_of_another_namespace_is_refused(world: World) -> None:
    await world.submit()
    await world.pods.start_due()
    seen = next(iter(world.cluster.pods.values()))
    with pytest.raises(UnauthorizedError):
        await world.attempts.claim(PodIdentity(seen.uid, seen.name, secret="wlr_other"), "c", 1)


async def test_a_failed_attempt_is_retried_after_its_backoff_and_then_exhausted(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(retry=RetryPolicy(max_attempts=2, jitter="none")))
    (attempt,) = await world.claim()
    outcome = await world.attempts.fail(attempt.token, a_failure())
    assert (outcome.state, outcome.retry_in_ms) == ("Queued", 1000)
    assert await world.pods.start_due() == SECOND  # nothing starts before the backoff is over
    assert len(world.cluster.pods) == 1
    clock.advance(SECOND)
    (second,) = await world.claim(claim_id="claim-2")
    assert second.number == 2
    assert (await world.attempts.fail(second.token, a_failure())).state == "Failed"
    row = await world.get(run_id)
    assert (row["reason"], row["user_failures"], row["infra_failures"]) == ("AttemptsExhausted", 2, 0)


async def test_a_permanent_failure_is_not_retried(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    assert (await world.attempts.fail(attempt.token, a_failure("permanent"))).state == "Failed"
    assert (await world.get(run_id))["reason"] == "ValueError"


async def test_a_step_is_saved_once_and_rides_along_with_the_next_claim(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge", result='"first"')]))
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge", result='"second"')]))
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(SECOND)
    (second,) = await world.claim(claim_id="claim-2")
    assert [(s.key, bytes(s.result)) for s in second.steps] == [("charge", b'"first"')]


async def test_a_step_that_was_running_is_forgotten_when_its_attempt_ends(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("slow", state="running")]))
    assert (await world.get(run_id))["current_step"] == "slow"
    await world.attempts.fail(attempt.token, a_failure())
    assert (await world.get(run_id))["steps_running"] == 0


async def test_a_closed_attempt_can_write_nothing_but_its_last_log_lines(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.attempts.fail(attempt.token, a_failure())
    with pytest.raises(AttemptClosedError):
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("late")]))
    assert not (await beat(world, attempt.token)).open
    line = protocol.LogLine(seq=1, stream="stdout", text="why it failed")
    await world.steps.log(attempt.token, protocol.LogsRequest(lines=[line]))
    clock.advance(timedelta(minutes=11))
    with pytest.raises(AttemptClosedError):
        await world.steps.log(attempt.token, protocol.LogsRequest(lines=[line]))


async def beat(world: World, token: str) -> protocol.BeatAnswer:
    answer = await world.attempts.heartbeat(protocol.HeartbeatRequest(beats=[protocol.Beat(token=token)]))
    return answer.answers[0]


async def test_a_silent_runner_loses_its_attempt_and_uses_no_attempt_of_the_user(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    assert (await beat(world, attempt.token)).open
    await serve(world, clock, config.LEASE - 2 * SECOND)
    assert await world.attempts.reap() == 0
    await serve(world, clock, 4 * SECOND)
    assert await world.attempts.reap() == 1
    row = await world.get(run_id)
    assert (row["state"], row["user_failures"], row["infra_failures"]) == ("Queued", 0, 1)
    with pytest.raises(AttemptClosedError):
        await world.attempts.complete(attempt.token, complete())


async def test_no_attempt_is_reaped_for_a_gap_in_the_heartbeat_service(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    clock.advance(timedelta(minutes=5))  # nobody could heartbeat: Postgres or the API was away
    assert await world.attempts.reap() == 0
    await world.attempts.serve_heartbeats()
    assert await world.attempts.reap() == 0
    await serve(world, clock, 10 * SECOND)
    assert (await beat(world, attempt.token)).open
    await serve(world, clock, 25 * SECOND)
    assert await world.attempts.reap() == 0
    assert (await world.attempts.complete(attempt.token, complete())).state == "Succeeded"


async def test_infrastructure_failures_have_a_budget_of_their_own(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(retry=RetryPolicy(max_attempts=1)))
    for number in range(INFRA_BUDGET + 1):
        clock.advance(timedelta(minutes=1))
        (attempt,) = await world.claim(claim_id=f"claim-{number}")
        assert await world.attempts.lose(_id(attempt), reason="PodDeleted", message="gone")
    row = await world.get(run_id)
    assert (row["state"], row["reason"], row["infra_failures"]) == ("Failed", "AttemptsExhausted", INFRA_BUDGET + 1)


def _id(attempt: protocol.ClaimedAttempt) -> UUID:
    return UUID(attempt.attempt_id)


async def test_a_released_run_is_queued_at_once_and_uses_no_budget(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    outcome = await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    row = await world.get(run_id)
    assert (outcome.state, row["user_failures"], row["infra_failures"]) == ("Queued", 0, 0)
    (second,) = await world.claim(claim_id="claim-2")
    assert second.number == 2


async def test_a_running_run_is_cancelled_when_its_runner_confirms(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await world.runs.cancel(run_id, reason="Cancelled", message="by a test")
    assert (await beat(world, attempt.token)).cancel
    report = a_failure()
    report.cancelled = True
    assert (await world.attempts.fail(attempt.token, report)).state == "Cancelled"


async def test_a_queued_run_is_cancelled_at_once_and_never_claimed(world: World) -> None:
    run_id = await world.submit()
    await world.pods.start_due()
    assert await world.runs.cancel(run_id, reason="Cancelled", message="by a test") == "Cancelled"
    seen = next(iter(world.cluster.pods.values()))
    assert await world.attempts.claim(world.identity(seen), "claim-1", 1) == []


async def test_running_time_over_all_attempts_ends_the_run(world: World, clock: Clock) -> None:
    run_id = await world.submit(a_task(timeout=timedelta(minutes=1)))
    (attempt,) = await world.claim()
    assert attempt.timeout_ms == 60_000
    clock.advance(timedelta(seconds=40))
    await world.attempts.fail(attempt.token, a_failure())
    clock.advance(SECOND)
    (second,) = await world.claim(claim_id="claim-2")
    assert second.timeout_ms == 20_000
    clock.advance(timedelta(seconds=21))
    assert (await world.attempts.fail(second.token, a_failure())).state == "TimedOut"
    assert (await world.get(run_id))["reason"] == "TimedOut"


async def test_of_eight_concurrent_ends_exactly_one_counts(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    calls = [world.attempts.complete(attempt.token, complete(str(n))) for n in range(4)]
    losses = [world.attempts.lose(_id(attempt), reason="PodDeleted", message="gone") for _ in range(4)]
    answers = await asyncio.gather(*calls, *losses, return_exceptions=True)
    row = await world.get(run_id)
    events = [e["type"] for e in await world.runs.events(run_id, after=0, limit=100)]
    if row["state"] == "Succeeded":
        assert events == ["Queued", "Running", "Succeeded"]
        assert answers[4:] == [False] * 4
    else:
        assert events == ["Queued", "Running", "RetryScheduled"]
        assert all(isinstance(a, AttemptClosedError) for a in answers[:4])
        assert sum(a is True for a in answers[4:]) == 1


async def test_two_pods_never_claim_one_run(world: World) -> None:
    for _ in range(20):
        await world.submit()
    await world.pods.start_due()
    pods = list(world.cluster.pods.values())
    assert len(pods) == 20
    claims = await asyncio.gather(*(world.attempts.claim(world.identity(p), "c", 1) for p in pods))
    runs = [attempt.run_id for claim in claims for attempt in claim]
    assert len(runs) == len(set(runs)) == 20


async def test_steps_of_many_attempts_share_a_commit_and_are_fenced_singly(world: World) -> None:
    for _ in range(10):
        await world.submit()
    await world.pods.start_due()
    pods = list(world.cluster.pods.values())
    attempts = [(await world.attempts.claim(world.identity(p), "c", 1))[0] for p in pods]
    await world.attempts.fail(attempts[3].token, a_failure())
    saves = [world.steps.save(a.token, protocol.SaveStepsRequest(steps=[a_step("s")])) for a in attempts]
    answers = await asyncio.gather(*saves, return_exceptions=True)
    assert [i for i, answer in enumerate(answers) if answer is not None] == [3]
    assert isinstance(answers[3], AttemptClosedError)


async def test_a_request_that_was_held_up_takes_no_checkpoint_back(world: World) -> None:
    """The runner repeats what got no answer and goes on; the first request arrives then, in one batch with the rest."""
    run_id = await world.submit()
    (attempt,) = await world.claim()
    done = protocol.SaveStepsRequest(steps=[a_step("charge", result='"first"')])
    late = protocol.SaveStepsRequest(steps=[a_step("charge", state="running")])
    other = protocol.SaveStepsRequest(steps=[a_step("other")])  # under way while the two wait for the next batch
    await asyncio.gather(*(world.steps.save(attempt.token, request) for request in (other, done, late)))
    steps = {step["key"]: step for step in await world.runs.steps(run_id, after=0, limit=10)}
    assert (steps["charge"]["state"], steps["charge"]["result"]) == ("succeeded", '"first"')
