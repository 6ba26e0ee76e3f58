"""The rules of the ledger: none is broken by what the services do, and each break by hand is reported."""

from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest

from tests.ledger.test_children import child, start
from tests.ledger.test_compensation import fails_after, undo, undoable
from tests.ledger.test_events import a_wait
from tests.ledger.test_waits import a_sleep, begin, suspend
from tests.support.clock import Clock
from tests.support.world import SECOND, SHOP, World, a_failure, a_step, a_task
from windlass import protocol
from windlass_operator.domain.retry import RetryPolicy
from windlass_operator.ledger.database import Database
from windlass_operator.services.invariants import CHECKS, WHOLE, InvariantService, Violation
from windlass_operator.services.submitted import Submission

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(database: Database) -> World:
    return await World(database).start()


@pytest.fixture
def service(database: Database) -> InvariantService:
    return InvariantService(database, again=0)


async def _claim(world: World) -> protocol.ClaimedAttempt:
    (attempt,) = await world.claim(claim_id=str(uuid4()))
    return attempt


async def _full_of_life(world: World) -> dict[str, UUID]:
    """Return runs in every state, by what they are in."""
    runs: dict[str, UUID] = {}
    retried = a_task(retry=RetryPolicy(max_attempts=2, min_delay=timedelta(0), jitter="none"))
    runs["failed"] = await world.submit(retried)
    for _ in range(2):
        await world.attempts.fail((await _claim(world)).token, a_failure())
    runs["compensated"] = await fails_after(world, undoable("charge"))
    again = await _claim(world)
    await undo(world, again, "charge")
    await world.attempts.complete(again.token, protocol.CompleteRequest())
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    keyed = Submission(task="order", idempotency_key="7")
    runs["succeeded"] = (await world.submissions.trigger(SHOP, keyed)).run_id
    done = await _claim(world)
    await world.steps.save(done.token, protocol.SaveStepsRequest(steps=[a_step("a"), a_step("b")]))
    lines = [protocol.LogLine(seq=n, stream="stdout", text=str(n)) for n in (1, 2, 3)]
    await world.steps.log(done.token, protocol.LogsRequest(lines=lines))
    await world.attempts.complete(done.token, protocol.CompleteRequest())
    runs["waiting"] = await world.submit()
    asleep = await _claim(world)
    await begin(world, asleep.token, a_sleep(lasts=HOUR), a_wait("w", name="paid"))
    await suspend(world, asleep.token, "sleep", "w")
    runs["parent"] = await world.submit()
    parent = await _claim(world)
    world.cluster.tasks[SHOP.namespace, "part"] = a_task()
    (runs["child"],) = await start(world, parent.token, child("part-1"))
    await suspend(world, parent.token, "part-1")
    runs["child attempt"] = UUID((await _claim(world)).attempt_id)
    runs["running"] = await world.submit()
    running = await _claim(world)
    await world.steps.save(running.token, protocol.SaveStepsRequest(steps=[a_step("now", state="running")]))
    world.cluster.tasks[SHOP.namespace, "order"] = a_task()
    resource = await world.apply_run()
    assert resource is not None
    runs["queued"] = resource
    return runs


_BREAKS: dict[str, tuple[str, LiteralString, str]] = {
    # what is broken: the run that is named, how it is broken, what is said of it
    "one_end": ("succeeded", "DELETE FROM event WHERE run_id = %(run)s AND type = 'Succeeded'", "0 ends"),
    "one_end of one that goes on": (
        "running",
        (
            "INSERT INTO event (run_id, n, type) VALUES (%(run)s, 99, 'Failed');"
            "UPDATE run SET revision = 99 WHERE id = %(run)s"
        ),
        "Failed",
    ),
    "queue_entries": ("queued", "DELETE FROM queue_entry WHERE run_id = %(run)s", "in no queue"),
    "queue_entries of one that runs": (
        "running",
        "INSERT INTO queue_entry SELECT id, 'key', created_at, available_at, 1 FROM run WHERE id = %(run)s",
        "is Running and in a queue",
    ),
    "queue_entries of other pods": (
        "queued",
        "UPDATE queue_entry SET pod_key = 'other' WHERE run_id = %(run)s",
        "not those of its Task version",
    ),
    "late": (
        "waiting",
        "UPDATE wait SET due_at = ledger_now() - interval '1 day' WHERE run_id = %(run)s",
        "was due at",
    ),
    "late end of a child": (
        "parent",
        "UPDATE run SET state = 'Failed', finished_at = ledger_now() - interval '1 day' WHERE id = %(child)s",
        "is not over",
    ),
    "checkpoints": (
        "succeeded",
        "UPDATE step SET finished_at = NULL WHERE run_id = %(run)s AND key = 'a'",
        "Step 'a' is succeeded and has no end",
    ),
    "checkpoints of no attempt": (
        "succeeded",
        "UPDATE step SET attempt = 7 WHERE run_id = %(run)s AND key = 'a'",
        "attempt 7, which there never was",
    ),
    "fence": (
        "succeeded",
        "UPDATE step SET state = 'running', finished_at = NULL, result = NULL WHERE run_id = %(run)s AND key = 'a'",
        "is running of attempt 1, which is closed",
    ),
    "fence that let a zombie write": (
        "succeeded",
        "UPDATE step SET finished_at = ledger_now() + interval '5 minutes' WHERE run_id = %(run)s AND key = 'b'",
        "had been closed before",
    ),
    "attempt_ends": (
        "succeeded",
        "UPDATE attempt SET outcome = NULL WHERE run_id = %(run)s",
        "closed and has no outcome",
    ),
    "attempt_numbers": (
        "failed",
        "UPDATE attempt SET number = 3 WHERE run_id = %(run)s AND number = 2",
        "counts 2 attempts and has 2, numbered 1 to 3",
    ),
    "open_attempts": (
        "running",
        "UPDATE attempt SET closed_at = ledger_now(), outcome = 'Lost' WHERE run_id = %(run)s",
        "is Running and has 0 open attempts",
    ),
    "revisions": ("succeeded", "UPDATE run SET revision = 1 WHERE id = %(run)s", "its last event is at 3"),
    "revisions of what is shown": (
        "queued",
        "UPDATE projection_entry SET revision = 9 WHERE run_id = %(run)s",
        "what its status is to show is at 9",
    ),
    "logs": (
        "succeeded",
        "DELETE FROM log USING attempt a WHERE a.id = attempt_id AND a.run_id = %(run)s AND seq = 2",
        "lacks the log lines 2 to 2",
    ),
    "waits": (
        "waiting",
        "DELETE FROM wait WHERE run_id = %(run)s AND key = 'w'",
        "a step that waits, and nothing ends it",
    ),
    "waits for nothing": (
        "waiting",
        "DELETE FROM wait WHERE run_id = %(run)s; DELETE FROM step WHERE run_id = %(run)s",
        "Waiting, and for nothing",
    ),
    "waits without a step": (
        "waiting",
        "DELETE FROM step WHERE run_id = %(run)s AND key = 'w'",
        "Wait 'w' has no step",
    ),
    "events_taken": (
        "waiting",
        (
            "INSERT INTO event_name (project_id, name) SELECT id, 'paid' FROM project ON CONFLICT DO NOTHING;"
            "INSERT INTO sent_event (project_id, name, id, payload) SELECT project.id, 'paid', i, '1'"
            " FROM project, unnest('{a,b}'::text[]) i; INSERT INTO event_taken SELECT %(run)s, seq, 'w' FROM sent_event"
        ),
        "Wait 'w' has taken",
    ),
    "idempotency": ("succeeded", "UPDATE idempotency_key SET run_id = gen_random_uuid()", "stands for run"),
    "keys": ("", "UPDATE idempotency_key SET run_id = gen_random_uuid()", "is not in the ledger"),
    "charges": (
        "failed",
        "UPDATE run SET user_failures = 1, infra_failures = 1 WHERE id = %(run)s",
        "counts 1 failures of its code and 1 of the infrastructure; its attempts have 2 and 0",
    ),
    "budgets": ("failed", "UPDATE run SET user_failures = 3 WHERE id = %(run)s", "failed 3 times"),
    "transitions": (
        "succeeded",
        "DELETE FROM event WHERE run_id = %(run)s AND type = 'Running'",
        "Event 3 (Succeeded) came when it was Queued",
    ),
    "last_event": (
        "waiting",
        "UPDATE run SET state = 'Suspended' WHERE id = %(run)s",
        "is Suspended, and its last change was: Waiting",
    ),
    "children": ("child", "UPDATE run SET depth = 3 WHERE id = %(run)s", "at level 3 below a run at level 0"),
    "children that no step has started": (
        "child",
        "UPDATE step SET child_id = NULL WHERE child_id = %(run)s",
        "none of its steps knows",
    ),
    "compensations": (
        "compensated",
        "DELETE FROM step WHERE run_id = %(run)s AND key LIKE 'compensate/%%'",
        "step 'charge' was not undone",
    ),
    "values": (
        "succeeded",
        "ALTER TABLE run DROP CONSTRAINT run_result_stored; UPDATE run SET result_sha256 = 'abc' WHERE id = %(run)s",
        "Its result refers to value abc",
    ),
    "orphans": (
        "",
        (
            "ALTER TABLE event DROP CONSTRAINT event_run_id_fkey;"
            "INSERT INTO event (run_id, n, type) VALUES (gen_random_uuid(), 1, 'Held')"
        ),
        "1 rows of event",
    ),
    "schema": ("", "DROP INDEX attempt_open", "Index attempt_open is missing"),
}


def test_every_rule_has_a_test_that_breaks_it() -> None:
    assert {name.split()[0] for name in _BREAKS} == {check.name for check in (*CHECKS, *WHOLE)}


async def test_runs_in_every_state_break_no_rule(world: World, service: InvariantService) -> None:
    await _full_of_life(world)
    reports = [report async for report in service.examine()]
    assert (reports[-1].violations, reports[-1].runs) == ([], 8)


@pytest.mark.parametrize("broken", _BREAKS)
async def test_a_ledger_that_was_broken_by_hand_is_seen_through(
    world: World, service: InvariantService, broken: str
) -> None:
    runs = await _full_of_life(world)
    named, statements, says = _BREAKS[broken]
    ids = {"run": runs.get(named), "child": runs["child"]}
    for statement in statements.split(";"):
        await world.database.fetch(statement, ids)
    found = [violation for violation in await service.check() if violation.check == broken.split(maxsplit=1)[0]]
    assert found, broken
    assert says in " ".join(violation.message for violation in found)
    if named:
        assert runs[named] in [violation.run_id for violation in found]
    assert all(violation.mend and violation.code for violation in found)


async def test_pages_of_any_size_find_the_same(world: World, database: Database) -> None:
    runs = await _full_of_life(world)
    await world.database.fetch("UPDATE run SET attempts = attempts + 1")
    small, large = [await InvariantService(database, page=page, again=0).check() for page in (1, 5000)]

    def shape(found: list[Violation]) -> set[tuple[Any, ...]]:
        return {(violation.check, violation.run_id) for violation in found}

    assert shape(small) == shape(large)
    assert {violation.run_id for violation in small if violation.check == "attempt_numbers"} >= {runs["queued"]}


async def test_what_is_gone_at_a_second_look_was_only_changing(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that holds the entry of a run leaves it there for a moment after somebody else has cancelled the run."""
    run_id = await world.submit()
    entries = await database.fetch("DELETE FROM queue_entry RETURNING *")
    put_back = "INSERT INTO queue_entry VALUES (%(run_id)s, %(pod_key)s, %(rank)s, %(available_at)s, %(queue_id)s)"
    service = InvariantService(database)
    waited: list[float] = []

    async def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            await database.fetch(put_back, entries[0])

    monkeypatch.setattr("windlass_operator.services.invariants.asyncio.sleep", meanwhile)
    assert await service.check() == []
    await database.fetch("DELETE FROM queue_entry")
    assert [violation.run_id for violation in await service.check()] == [run_id]
    assert len(waited) == 2


async def test_a_late_run_is_none_while_nobody_served_heartbeats(
    world: World, service: InvariantService, clock: Clock
) -> None:
    await world.submit()
    await _claim(world)
    clock.advance(HOUR)
    assert await service.check() == []
    await world.attempts.serve_heartbeats()
    for _ in range(301):
        clock.advance(2 * SECOND)
        await world.attempts.serve_heartbeats()
    clock.advance(2 * SECOND)
    await world.attempts.serve_heartbeats()
    assert [violation.message[:20] for violation in await service.check()] == ["The lease of attempt"]
