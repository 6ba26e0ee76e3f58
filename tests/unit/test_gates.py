"""What keeps a queued run from starting."""

from datetime import UTC, datetime, timedelta

from windlass_operator.domain import gates as rules
from windlass_operator.domain.gates import Gate, QueueFacts, RunFacts, Waiting, admitted, gates, may_start
from windlass_operator.resources.reasons import Reason

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def reasons(facts: RunFacts) -> list[str]:
    return [gate.reason for gate in gates(facts, NOW)]


def test_a_run_whose_queue_has_a_free_slot_may_start() -> None:
    assert may_start(RunFacts(NOW, queue=QueueFacts("q", running=1, concurrency=2)), NOW)


def test_every_gate_is_named_and_not_only_the_first() -> None:
    queue = QueueFacts("payments", running=2, concurrency=2, paused=True)
    facts = RunFacts(LATER, queue=queue, held=Gate("ImagePullFailed", "No such image."))

    assert reasons(facts) == ["ImagePullFailed", "Paused", "ConcurrencyLimit", "Delayed"]
    assert not may_start(facts, NOW)


def test_a_pause_before_a_retry_is_no_delay() -> None:
    assert reasons(RunFacts(LATER, attempts=1)) == ["RetryScheduled"]


def test_a_queue_that_a_task_names_and_nobody_made_lets_nothing_start() -> None:
    queue = QueueFacts("payments", missing=True)

    assert reasons(RunFacts(NOW, queue=queue)) == ["QueueNotFound"]
    assert queue.free() == 0


def test_a_run_waits_for_the_pool_that_its_task_names() -> None:
    facts = RunFacts(NOW, queue=QueueFacts("payments", paused=True), missing_pool="fast")

    assert reasons(facts) == ["PoolNotFound", "Paused"]


def test_the_reasons_are_members_of_the_public_list() -> None:
    names = (
        rules.PAUSED,
        rules.CONCURRENCY_LIMIT,
        rules.QUEUE_NOT_FOUND,
        rules.POOL_NOT_FOUND,
        rules.DELAYED,
        rules.RETRY_SCHEDULED,
    )

    assert [Reason(name).value for name in names] == list(names)


def test_free_slots_go_to_the_pod_key_that_has_waited_longest() -> None:
    parts = [
        Waiting("young", 1, 5, NOW),
        Waiting("old", 1, 2, NOW - timedelta(minutes=1)),
        Waiting("old", 2, 4, NOW),
        Waiting("none", 3, 1, NOW),
    ]
    queues = {
        1: QueueFacts("limited", running=1, concurrency=4),
        2: QueueFacts("free"),
        3: QueueFacts("held", paused=True),
    }

    assert admitted(parts, queues) == {"old": 6, "young": 1, "none": 0}


def test_a_limit_that_was_lowered_below_what_runs_leaves_no_slot() -> None:
    assert QueueFacts("q", running=5, concurrency=2).free() == 0
