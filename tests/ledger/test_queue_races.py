"""A limit holds at every instant: four API replicas, attempts that end in every way, and the history replayed."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from tests.ledger.test_attempts import complete
from tests.support.world import SHOP, World, a_failure, a_task
from windlass import protocol
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.services.attempts import AttemptService
from windlass_operator.services.claims import PodIdentity
from windlass_operator.services.invariants import InvariantService
from windlass_operator.services.queues import QueueService
from windlass_operator.services.submitted import Submission
from windlass_operator.services.waits import WaitService

_RUNS = int(os.environ.get("QUEUE_RUNS", "60"))
_LIMIT = 3
_REPLICAS = 4
_RUNNERS = 8


@pytest.fixture
async def replicas(ledger_uri: str) -> AsyncIterator[list[Database]]:
    """Databases that run on the server's own clock: the order of events is what is tested."""
    databases = [Database(ledger_uri, size=6) for _ in range(_REPLICAS)]
    for database in databases:
        await database.open()
    yield databases
    for database in databases:
        await database.close()


async def _new_pod(database: Database) -> PodIdentity:
    uid = str(uuid4())
    await database.fetch(
        "INSERT INTO pod (id, project_id, pod_key, name, namespace, state, uid)"
        " SELECT %(uid)s::uuid, project_id, key, %(uid)s, 'shop', 'Created', %(uid)s FROM pod_key LIMIT 1 RETURNING id",
        {"uid": uid},
    )
    return PodIdentity(uid, uid, vouched=True)


async def _end(
    draw: random.Random, attempts: AttemptService, waits: WaitService, taken: protocol.ClaimedAttempt
) -> None:
    """End an attempt in one of the ways in which attempts end."""
    how = draw.choice(("complete", "complete", "fail", "lose", "release", "wait"))
    if how == "lose" and taken.number > 1:
        how = "complete"  # the platform's own backoff grows to a minute
    if how == "complete":
        await attempts.complete(taken.token, complete())
    elif how == "fail":
        await attempts.fail(taken.token, a_failure())
    elif how == "lose":
        await attempts.lose(UUID(taken.attempt_id), reason="PodDeleted", message="gone")
    elif how == "release":
        await attempts.release(taken.token, protocol.ReleaseRequest())
    else:
        key = f"nap-{taken.number}"
        nap = protocol.Wait(key=key, name=key, args_hash="a", kind="sleep", due_in_ms=1)
        await waits.register(taken.token, protocol.WaitsRequest(waits=[nap]))
        if not (await waits.suspend(taken.token, protocol.SuspendRequest(waits=[key]))).suspended:
            await attempts.complete(taken.token, complete())  # it has slept already


def _most_at_once(spans: list[tuple[datetime, datetime]]) -> int:
    """Replay history: how many attempts were open at the busiest instant. One that ends as another begins has ended."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans], key=lambda c: (c[0], c[1]))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_no_instant_of_the_history_has_more_open_attempts_than_the_limit(
    replicas: list[Database], seed: int
) -> None:
    world = await World(replicas[0]).start()
    retry = RetryPolicy(max_attempts=1000, min_delay=RetryPolicy().min_delay * 0, jitter="none")
    world.cluster.tasks[SHOP.namespace, "order"] = a_task(retry=retry)
    await world.put_queue(concurrency=_LIMIT)
    await world.submissions.trigger_all(SHOP, [Submission(task="order") for _ in range(_RUNS)])
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    seen: list[int] = []

    async def runner(number: int) -> None:
        database = replicas[number % _REPLICAS]
        attempts = AttemptService(database)
        waits = WaitService(database, attempts, kinds={})
        while True:
            pod = await _new_pod(database)
            taken = await attempts.claim(pod, str(uuid4()), 1)
            if taken:
                seen.append(1)
                await _end(draw, attempts, waits, taken[0])
            else:
                await asyncio.sleep(0.02)
            await waits.fire_due()
            left = await database.fetch("SELECT 1 FROM run WHERE finished_at IS NULL LIMIT 1")
            if not left:
                return

    async def resize() -> None:
        """The limit itself moves, within what is asserted below."""
        service = QueueService(replicas[1], world.cluster, world.queue_objects, changed=lambda: None)
        for _ in range(20):
            await asyncio.sleep(0.05)
            limit = draw.choice((1, 2, _LIMIT))
            body = world.queue_objects.apply(SHOP.namespace, "order", {"concurrency": limit})
            await service.observe(body)

    await asyncio.gather(resize(), *(runner(number) for number in range(_RUNNERS)))

    rows = await replicas[0].fetch("SELECT started_at, closed_at FROM attempt")
    assert all(row["closed_at"] is not None for row in rows)
    assert len(rows) == len(seen) >= _RUNS
    assert await InvariantService(replicas[0]).check() == []
    assert 1 < _most_at_once([(row["started_at"], row["closed_at"]) for row in rows]) <= _LIMIT


def test_the_replay_sees_an_overlap() -> None:
    def at(second: int) -> datetime:
        return datetime(2030, 1, 1, 0, 0, second)  # noqa: DTZ001 - compared with each other only

    assert _most_at_once([(at(0), at(2)), (at(1), at(3)), (at(3), at(4))]) == 2
