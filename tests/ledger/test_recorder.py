"""What is counted, and when: after the commit, once, and by who has to answer."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator import metrics
from windlass_operator.domain.errors import AttemptClosedError
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.metrics import LEDGER_GAUGES
from windlass_operator.services.gauges import GaugeService
from windlass_operator.services.recorder import Recorder
from windlass_operator.services.spans import Span


class Counted:
    """Values of metrics since it was made: the registry belongs to the process, and other tests count too."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in metrics.REGISTRY.collect()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return self._now().get(key, 0) - self._before.get(key, 0)


@pytest.fixture
def spans() -> list[Span]:
    return []


@pytest.fixture
async def world(database: Database, spans: list[Span]) -> World:
    return await World(database, Recorder(spans.extend)).start()


@pytest.fixture
def counted() -> Counted:
    return Counted()


OF: dict[str, str] = {"namespace": "shop", "task": "order"}


async def test_a_run_is_counted_from_its_acceptance_over_a_retry_to_its_end(
    world: World, clock: Clock, counted: Counted
) -> None:
    retry = RetryPolicy(max_attempts=2, min_delay=timedelta(seconds=5), jitter="none")
    await world.submit(a_task(retry=retry))
    (first,) = await world.claim()
    await world.attempts.fail(first.token, a_failure())
    assert counted("windlass_retries_total", **OF, **{"class": "user"}) == 1
    clock.advance(timedelta(seconds=8))
    (second,) = await world.claim(claim_id="claim-2")
    await world.attempts.complete(second.token, protocol.CompleteRequest())
    assert counted("windlass_runs_accepted_total", **OF, source="rest") == 1
    assert counted("windlass_runs_finished_total", **OF, state="Succeeded", **{"class": "none"}) == 1
    assert counted("windlass_attempts_ended_total", **OF, outcome="Failed") == 1
    assert counted("windlass_attempts_ended_total", **OF, outcome="Succeeded") == 1
    assert counted("windlass_run_duration_seconds_count", **OF) == 1
    assert counted("windlass_queue_wait_seconds_count", **OF) == 2
    # The retry's delay of 5 s is no wait for a pod; the 3 s after it are.
    assert counted("windlass_queue_wait_seconds_sum", **OF) == pytest.approx(3, abs=0.5)


async def test_a_repeated_report_is_counted_once(world: World, counted: Counted) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    for _ in range(3):
        await world.attempts.complete(attempt.token, protocol.CompleteRequest())
    assert counted("windlass_runs_finished_total", **OF, state="Succeeded", **{"class": "none"}) == 1


async def test_a_repeated_claim_is_counted_once(world: World, counted: Counted) -> None:
    await world.submit()
    await world.claim()
    seen = next(iter(world.cluster.pods.values()))
    await world.attempts.claim(world.identity(seen), "claim-1", 1)
    assert counted("windlass_queue_wait_seconds_count", **OF) == 1


async def test_the_writes_of_a_zombie_are_refused_and_counted(
    world: World, clock: Clock, counted: Counted, spans: list[Span]
) -> None:
    await world.submit()
    (attempt,) = await world.claim()
    await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge", state="running")]))
    for _ in range(30):  # heartbeats are served, and this runner sends none
        clock.advance(2 * SECOND)
        await world.attempts.serve_heartbeats()
    assert await world.attempts.reap() == 1
    assert counted("windlass_attempts_lost_total", reason="LeaseExpired") == 1
    with pytest.raises(AttemptClosedError):
        await world.steps.save(attempt.token, protocol.SaveStepsRequest(steps=[a_step("charge")]))
    with pytest.raises(AttemptClosedError):
        await world.attempts.complete(attempt.token, protocol.CompleteRequest())
    await world.attempts.heartbeat(protocol.HeartbeatRequest(beats=[protocol.Beat(token=attempt.token)]))
    for operation in ("steps", "end", "heartbeat"):
        assert counted("windlass_fenced_refusals_total", operation=operation) == 1, operation
    lost = {span.name: span for span in spans}
    assert lost["attempt 1"].error == "LeaseExpired"
    assert lost["step charge"].error == "cut short"


async def test_bad_input_ends_a_run_that_never_started(world: World, counted: Counted) -> None:
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task(payload_schema={"type": "integer"})
    await world.apply_run(payload="seven")
    assert counted("windlass_runs_accepted_total", **OF, source="resource") == 1
    assert counted("windlass_runs_finished_total", **OF, state="Failed", **{"class": "permanent"}) == 1
    assert counted("windlass_run_duration_seconds_count", **OF) == 0


async def test_a_gap_in_the_heartbeat_service_is_counted_with_its_length(
    world: World, clock: Clock, counted: Counted
) -> None:
    clock.advance(timedelta(seconds=90))
    await world.attempts.serve_heartbeats()
    assert counted("windlass_heartbeat_gaps_total") == 1
    assert counted("windlass_heartbeat_gap_seconds_total") == pytest.approx(90, abs=5)


async def test_one_look_counts_what_is_unfinished(world: World, clock: Clock, database: Database) -> None:
    await world.submit()
    await world.submit(name="slow")
    await world.claim()
    await world.apply_run(task="later", name="early")
    clock.advance(timedelta(seconds=40))
    looker = GaugeService(database)
    await looker.look()
    try:
        seen = shown()
    finally:
        looker.forget()
    running = [key for key in seen["windlass_runs"] if key[2] == "Running"]
    assert len(running) == 1
    assert sum(seen["windlass_runs"].values()) == 3
    assert seen["windlass_runs"]["shop", "later", "Queued"] == 1
    assert seen["windlass_runs_held"] == {("TaskNotFound",): 1}
    assert seen["windlass_pods"][("Claimed",)] == 1
    assert seen["windlass_queue_oldest_seconds"][()] == pytest.approx(40, abs=5)
    assert seen["windlass_projection_backlog"][()] == 1
    assert seen["windlass_projection_lag_seconds"][()] == pytest.approx(40, abs=5)
    assert seen["windlass_leader"] == {(): 1}
    assert shown() == {}, "who does not lead shows nothing"


async def test_the_delay_of_a_status_counts_from_the_first_change_it_did_not_show(
    world: World, clock: Clock, counted: Counted
) -> None:
    world.cluster.tasks[(SHOP.namespace, "order")] = a_task()
    await world.apply_run()
    clock.advance(timedelta(seconds=7))
    await world.claim()
    clock.advance(timedelta(seconds=2))
    while await world.projection.project_due():
        pass
    assert counted("windlass_projection_delay_seconds_count") == 1
    assert counted("windlass_projection_delay_seconds_sum") == pytest.approx(9, abs=1)


def shown() -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, Any] = {}
    for family in metrics.ledger_look.collect():
        order = next(gauge.labels for gauge in LEDGER_GAUGES if gauge.name == family.name)
        found[family.name] = {tuple(s.labels[name] for name in order): s.value for s in family.samples}
    return found
