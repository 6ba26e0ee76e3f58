"""Failed steps that are history, and those that a retry runs again, on a real PostgreSQL."""

from uuid import UUID

import msgspec
import pytest

from tests.support.clock import Clock
from tests.support.eventually import eventually
from tests.support.world import SECOND, World, a_failure, a_step
from windlass import protocol
from windlass.failures import failure_of
from windlass.restoring import exception_of
from windlass_operator.ledger.database import Database
from windlass_operator.services.steps import StepService


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


def failed(key: str, error: Exception, *, tries: int = 1) -> protocol.Step:
    failure = failure_of(error, key, durable=True)
    return a_step(key, state="failed", error=failure, durable=True, tries=tries)


async def save(world: World, token: str, *steps: protocol.Step) -> None:
    await world.steps.save(token, protocol.SaveStepsRequest(steps=list(steps)))


async def test_a_durable_failure_rides_along_with_the_next_claim(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt.token, a_step("a"), failed("b", LookupError("card", 7), tries=3), a_step("c"))
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    (again,) = await world.claim(claim_id="claim-2")
    assert [(s.key, s.state, s.durable, s.tries) for s in again.steps] == [
        ("a", "succeeded", False, 1), ("b", "failed", True, 3), ("c", "succeeded", False, 1),
    ]  # fmt: skip
    told = again.steps[1].error
    assert told is not None
    assert told.traceback is None
    assert repr(exception_of(told)) == "LookupError('card', 7)"


async def test_a_durable_failure_is_never_overwritten(world: World) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt.token, failed("b", ValueError("first")), a_step("b"))
    await save(world, attempt.token, a_step("b"))
    await save(world, attempt.token, failed("b", ValueError("second")))
    (row,) = await world.runs.steps(run_id, after=0, limit=10)
    assert (row["state"], msgspec.json.decode(row["error"])["message"]) == ("failed", "first")


async def test_failures_that_ended_the_attempt_are_no_history_and_the_others_stay(world: World, clock: Clock) -> None:
    run_id = await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt.token, failed("caught", ValueError()), failed("fatal", ValueError()), a_step("fatal#2"))
    await world.attempts.fail(attempt.token, msgspec.structs.replace(a_failure(), rerun=["fatal", "fatal#2", "never"]))
    clock.advance(SECOND)
    (again,) = await world.claim(claim_id="claim-2")
    assert [s.key for s in again.steps] == ["caught", "fatal#2"]
    await save(world, again.token, a_step("fatal"))
    rows = await world.runs.steps(run_id, after=0, limit=10)
    assert {row["key"]: row["state"] for row in rows} == {
        "caught": "failed", "fatal": "succeeded", "fatal#2": "succeeded",
    }  # fmt: skip


async def test_a_refused_end_keeps_history_as_it_is(world: World) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await save(world, attempt.token, failed("a", ValueError()))
    await world.attempts.release(attempt.token, protocol.ReleaseRequest())
    late = msgspec.structs.replace(a_failure(), rerun=["a"])
    assert (await world.attempts.fail(attempt.token, late)).state == "Queued"  # the answer to the release, repeated
    (again,) = await world.claim(claim_id="claim-2")
    assert [s.key for s in again.steps] == ["a"]


async def test_the_pauses_between_tries_go_with_the_failure(world: World, clock: Clock) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    pauses = [protocol.Wait(key=f"{key}~try1", name="w", args_hash="h", kind="sleep", due_in_ms=1) for key in "ab"]
    await world.waits.register(attempt.token, protocol.WaitsRequest(waits=pauses))
    clock.advance(SECOND)
    await world.waits.fire_due()
    await save(world, attempt.token, failed("a", ValueError(), tries=2))
    await world.attempts.fail(attempt.token, msgspec.structs.replace(a_failure(), rerun=["a"]))
    clock.advance(SECOND)
    (again,) = await world.claim(claim_id="claim-2")
    assert [s.key for s in again.steps] == ["b~try1"]


async def test_a_step_wakes_nobody_who_has_nothing_to_do(world: World) -> None:
    """Woken by each step, all processes would look for work all the time; a resource shows it soon after."""
    woken: list[UUID | None] = []
    steps = StepService(world.database, woken.append, protection=world.protection, progress_every=0)
    run_ids: list[UUID | None] = [await world.submit()]
    attempts = await world.claim(claim_id="of a row")
    run_ids.append(await world.apply_run(name="shown"))
    attempts += await world.claim(claim_id="of a resource")
    assert [attempt.run_id for attempt in attempts] == [str(run_id) for run_id in run_ids]

    for attempt in attempts:
        await steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("s")]))

    async def noted() -> bool:
        return not steps._noted

    await eventually(noted)
    assert woken == run_ids[1:]
