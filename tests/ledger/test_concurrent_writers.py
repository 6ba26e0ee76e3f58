"""Eight writers on one run at once, many rounds: exactly one ends the attempt, and every record agrees on it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.ledger.test_attempts import beat, complete
from tests.support.clock import Clock
from tests.support.world import World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.domain.run_state import RunState
from windlass_operator.ledger.database import Database

_ROUNDS = 25
_ENDS = {"complete", "fail", "lose", "release", "withdraw"}
_OUTCOMES = {"Succeeded", "Failed", "Lost", "Released", "Cancelled"}


@pytest.fixture
async def world(database: Database) -> World:
    world = await World(database).start()
    world.cluster.tasks["shop", "order"] = a_task(retry=RetryPolicy(max_attempts=4, jitter="none"))
    return world


def _writers(world: World, attempt: protocol.ClaimedAttempt, number: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    token, attempt_id, run_id = attempt.token, UUID(attempt.attempt_id), UUID(attempt.run_id)
    pod = world.identity(list(world.cluster.pods.values())[-1])
    steps = protocol.SaveStepsRequest(steps=[a_step(f"step-{number}"), a_step("always", result=str(number))])
    return {
        "complete": lambda: world.attempts.complete(token, complete()),
        "fail": lambda: world.attempts.fail(token, a_failure()),
        "cancel": lambda: world.runs.cancel(run_id, reason="Cancelled", message="by a test"),
        "lose": lambda: world.attempts.lose(attempt_id, reason="PodDeleted", message="gone"),
        "release": lambda: world.attempts.release(token, protocol.ReleaseRequest()),
        "withdraw": lambda: world.attempts.withdraw(pod, f"claim-{number}"),
        "heartbeat": lambda: beat(world, token),
        "save": lambda: world.steps.save(token, steps),
    }


async def _race(draw: random.Random, writers: dict[str, Callable[[], Awaitable[Any]]]) -> dict[str, Any]:
    """Let all writers go, in an order and with head starts that the seed decides."""

    async def late(writer: Callable[[], Awaitable[Any]], by: int) -> Any:
        for _ in range(by):
            await asyncio.sleep(0)
        return await writer()

    names = draw.sample(sorted(writers), len(writers))
    answers = await asyncio.gather(*(late(writers[name], draw.randrange(40)) for name in names), return_exceptions=True)
    return dict(zip(names, answers, strict=True))


async def _check(world: World, run_id: UUID, number: int, answers: dict[str, Any]) -> RunState:
    """Hold every record of the run to every other, and to what the writers were told."""
    for name, answer in answers.items():
        assert not isinstance(answer, BaseException) or isinstance(answer, AttemptClosedError), (name, answer)
    run = await world.get(run_id)
    state = RunState(run["state"])
    attempts = await world.database.fetch("SELECT * FROM attempt WHERE run_id = %(id)s ORDER BY number", {"id": run_id})
    events = await world.runs.events(run_id, after=0, limit=1000)
    queued = await world.database.fetch("SELECT 1 FROM queue_entry WHERE run_id = %(id)s", {"id": run_id})
    assert [a["number"] for a in attempts] == list(range(1, run["attempts"] + 1))
    assert all(a["closed_at"] is not None and a["outcome"] in _OUTCOMES for a in attempts), "each ended, and once"
    assert state.final or state is RunState.QUEUED
    assert bool(queued) == (state is RunState.QUEUED)
    assert (run["finished_at"] is not None) == state.final
    assert [e["n"] for e in events] == list(range(1, run["revision"] + 1)), "one event for each change"
    of_this = [e["type"] for e in events if e["attempt"] == run["attempts"]]
    assert len(of_this) == 2, f"it began and ended: {of_this}"
    assert [RunState(e["type"]).final for e in events if e["type"] != "RetryScheduled"].count(True) == int(state.final)
    # One of those who could end the attempt did; a runner that was told so is told what the ledger has.
    told = [a for a in answers.values() if isinstance(a, protocol.Outcome)]
    assert all(outcome == told[0] for outcome in told)
    if told and answers["cancel"] is not RunState.CANCELLED:  # a queued run was cancelled after that
        assert told[0].state == state
    assert not (told and answers["lose"] is True), "two of them ended it"
    failures = sum(a["outcome"] == "Failed" for a in attempts), sum(a["outcome"] == "Lost" for a in attempts)
    if state is RunState.QUEUED:
        assert (run["user_failures"], run["infra_failures"]) == failures
    # What was answered is kept, and nothing else.
    saved = {s["key"]: s["result"] for s in await world.runs.steps(run_id, after=0, limit=1000)}
    assert (f"step-{number}" in saved) == (answers["save"] is None)
    return state


@pytest.mark.parametrize("seed", range(6))
async def test_of_eight_writers_exactly_one_ends_the_attempt(world: World, clock: Clock, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - a test's seed
    run_id, always = await world.submit(world.cluster.tasks["shop", "order"]), None
    seen: set[RunState] = set()
    for number in range(_ROUNDS):
        clock.advance(timedelta(minutes=2))
        (attempt,) = await world.claim(claim_id=f"claim-{number}")
        assert attempt.run_id == str(run_id), "the only run that may start"
        first = {step.key: bytes(step.result) for step in attempt.steps}
        assert first.get("always") == always, "a checkpoint is never overwritten"
        answers = await _race(draw, _writers(world, attempt, number))
        state = await _check(world, run_id, number, answers)
        seen.add(state)
        if always is None and answers["save"] is None:
            always = str(number).encode()
        if state.final:
            run_id, always = await world.submit(world.cluster.tasks["shop", "order"]), None
    assert len(seen) > 1, "the race is one: it does not always end alike"
