"""Four API processes, pods with several slots, answers that get lost: nothing is taken twice, every limit holds."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from tests.ledger.test_queue_races import _most_at_once
from tests.ledger.test_reusable_pods import ask, next_claim, with_session
from tests.support.failing import lose_reply
from tests.support.world import SHOP, World
from windlass import protocol
from windlass_operator.ledger.database import Database
from windlass_operator.services.claim_desk import ClaimDesk
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.invariants import InvariantService
from windlass_operator.services.submitted import Submission

_RUNS = int(os.environ.get("CLAIM_RUNS", "60"))
_REPLICAS = 4
_PODS = 3
_SLOTS = 2
_LIMIT = 4


@pytest.fixture
async def replicas(ledger_uri: str) -> AsyncIterator[list[World]]:
    """Processes that tell each other nothing, on the server's own clock: the order of events is what is tested."""
    databases = [Database(ledger_uri, size=6) for _ in range(_REPLICAS)]
    worlds = []
    for database in databases:
        await database.open()
        world = World(database)
        world.desk = ClaimDesk(world.attempts.claims, every=timedelta(milliseconds=50))
        world.attempts.take_next = world.desk.next
        database.on_startable(world.desk.wake)
        worlds.append(world)
    yield worlds
    for world, database in zip(worlds, databases, strict=True):
        await world.desk.close()
        await database.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_what_pods_hold_and_queues_admit_is_exact_whatever_gets_lost(replicas: list[World], seed: int) -> None:
    first = await replicas[0].start()
    await first.put_queue(concurrency=_LIMIT)
    pods = [await with_session(first, await first.reusable_pod(slots=_SLOTS)) for _ in range(_PODS)]
    await first.submissions.trigger_all(SHOP, [Submission(task="order") for _ in range(_RUNS)])
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    ends: list[str] = []

    async def slot(pod: PodIdentity) -> None:
        """One of the threads of a runner: claims at any process, loses answers, and ends what it has."""
        have: list[protocol.ClaimedAttempt] = []
        while len(ends) < _RUNS:
            world = draw.choice(replicas)
            if not have:
                have = await _claim(world, pod, str(uuid4()))
                continue
            attempt, claim_id = have.pop(), str(uuid4())
            outcome = await world.attempts.complete(attempt.token, next_claim(claim_id))
            ends.append(attempt.run_id)
            have = list(outcome.attempts)
            if draw.random() < 0.3:  # its answer was lost
                again = await draw.choice(replicas).attempts.complete(attempt.token, next_claim(claim_id))
                assert (again.state, again.attempts) == ("Succeeded", [])
                have = await _claim(draw.choice(replicas), pod, claim_id)

    async def _claim(world: World, pod: PodIdentity, claim_id: str) -> list[protocol.ClaimedAttempt]:
        found = await world.desk.ask(pod, claim_id, 1, wait=timedelta(milliseconds=100))
        if draw.random() < 0.3:
            found = await draw.choice(replicas).desk.ask(pod, claim_id, 1, wait=timedelta(milliseconds=100))
        return found.attempts

    await asyncio.gather(*(slot(pod) for pod in pods for _ in range(_SLOTS)))

    assert len(set(ends)) == len(ends) == _RUNS
    rows = await first.database.fetch("SELECT pod_id, started_at, closed_at, outcome FROM attempt")
    assert [row["outcome"] for row in rows] == ["Succeeded"] * _RUNS
    assert _most_at_once([(row["started_at"], row["closed_at"]) for row in rows]) <= _LIMIT
    for pod_id in {row["pod_id"] for row in rows}:
        spans = [(row["started_at"], row["closed_at"]) for row in rows if row["pod_id"] == pod_id]
        assert _most_at_once(spans) <= _SLOTS
    assert await InvariantService(first.database).check() == []


async def test_two_that_claim_for_the_same_pods_in_other_orders_never_wait_in_a_circle(replicas: list[World]) -> None:
    world = await replicas[0].start()
    pods = [await with_session(world, await world.reusable_pod(slots=100)) for _ in range(6)]
    await world.submissions.trigger_all(SHOP, [Submission(task="order") for _ in range(100)])

    async def claims(order: list[PodIdentity], through: World) -> int:
        answers = [await asyncio.gather(*(through.desk.ask(p, str(uuid4()), 1, wait=timedelta(0)) for p in order))]
        return sum(len(answer.attempts) for batch in answers for answer in batch)

    orders = [pods, pods[::-1], *(one + two for one, two in pairwise([pods[3:], pods[:3], pods[3:]]))]
    assert sum(await asyncio.gather(*map(claims, orders, replicas))) == 24


@pytest.mark.parametrize("call", ["claim_runs", "commit of pods_claimed"])
async def test_a_claim_whose_reply_from_the_ledger_is_lost_takes_what_it_asked_for_and_no_more(
    database: Database, call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = await World(database).start()
    pod = await with_session(world, await world.reusable_pod(slots=3))
    for _ in range(5):
        await world.submit()
    struck = lose_reply(monkeypatch, tmp_path, f"ledger {call}|1")
    taken = (await ask(world, pod, "claim-1", slots=2)).attempts
    assert struck.exists()
    assert len(taken) == 2
    open_now = await database.fetch("SELECT id FROM attempt WHERE closed_at IS NULL")
    assert {str(row["id"]) for row in open_now} == {attempt.attempt_id for attempt in taken}
    for attempt in taken:
        assert (await world.attempts.complete(attempt.token, next_claim(f"after-{attempt.run_id}"))).attempts


async def test_two_claims_at_once_get_what_waits_in_two_queues(replicas: list[World]) -> None:
    """What one of them does not take it does not keep from the other."""
    world = await replicas[0].start()
    pods = [await with_session(world, await world.reusable_pod(slots=50)) for _ in range(2)]
    for round_ in range(10):
        runs = {str(await world.submit(name=name)) for name in ("one", "other")}
        answers = await asyncio.gather(*(ask(world, pod, f"claim-{round_}") for pod in pods))
        assert {attempt.run_id for answer in answers for attempt in answer.attempts} == runs
